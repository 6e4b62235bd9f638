# Each example is a root that applies.

mock_provider "google" {
  source = "./tests/mocks"
}
mock_provider "time" {}

variables {
  project_id = "acme-security"
}

run "public_good" {
  module {
    source = "./examples/public-good"
  }
  variables {
    alert_email      = "s@acme.example"
    sendgrid_api_key = "SG.not-a-real-key.x"
  }
  assert {
    condition     = output.run_now == "gcloud scheduler jobs run whosigned --location=europe-west1 --project=acme-security" && output.last_result == "gcloud storage cat gs://acme-security-whosigned-state/run.json"
    error_message = "commands: got ${output.run_now} and ${output.last_result}"
  }
  assert {
    condition     = output.function_uri == "https://whosigned-abc123-ew.a.run.app" && endswith(output.config_versions, " gs://acme-security-whosigned-source/config/whosigned/whosigned.yaml")
    error_message = "what the acceptance and the README ask for: got ${output.function_uri} and ${output.config_versions}"
  }
}

run "private" {
  module {
    source = "./examples/private"
  }
  variables {
    alert_email      = "s@acme.example"
    sendgrid_api_key = "SG.not-a-real-key.x"
  }
  assert {
    condition     = output.last_result == "gcloud storage cat gs://acme-security-whosigned-state/run.json"
    error_message = "last_result: got ${output.last_result}"
  }
  assert {
    condition     = output.function_uri == "https://whosigned-abc123-ew.a.run.app" && endswith(output.config_versions, " gs://acme-security-whosigned-source/config/whosigned/whosigned.yaml")
    error_message = "what the acceptance and the README ask for: got ${output.function_uri} and ${output.config_versions}"
  }
}

run "existing_secret" {
  module {
    source = "./examples/existing-secret"
  }
  variables {
    alert_email    = "s@acme.example"
    secret_project = "acme-secrets"
  }
  assert {
    condition     = output.run_now == "gcloud scheduler jobs run whosigned --location=europe-west1 --project=acme-security"
    error_message = "run_now: got ${output.run_now}"
  }
}

run "locked_down" {
  module {
    source = "./examples/locked-down"
  }
  variables {
    build_service_account  = "build@acme-identities.iam.gserviceaccount.com"
    run_service_account    = "run@acme-identities.iam.gserviceaccount.com"
    invoke_service_account = "invoke@acme-security.iam.gserviceaccount.com"
    kms_key                = "projects/acme-keys/locations/europe-west1/keyRings/ring/cryptoKeys/key"
    connector              = "projects/acme-security/locations/europe-west1/connectors/egress"
    worker_pool            = "projects/acme-security/locations/europe-west1/workerPools/private"
    goproxy                = "https://goproxy.corp.acme.example"
    notification_channels  = ["projects/acme-security/notificationChannels/1234"]
  }
  assert {
    condition     = strcontains(output.logs, "service_name=\"whosigned\"")
    error_message = "logs: got ${output.logs}"
  }
}
