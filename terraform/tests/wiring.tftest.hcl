# What is connected to what, and what goes in where.

mock_provider "google" {
  source = "./tests/mocks"
}
mock_provider "time" {}

# Three accounts, so that the use of the wrong one is seen.
override_resource {
  target = google_service_account.build
  values = { email = "whosigned-build@acme-security.iam.gserviceaccount.com" }
}
override_resource {
  target = google_service_account.run
  values = { email = "whosigned-run@acme-security.iam.gserviceaccount.com" }
}
override_resource {
  target = google_service_account.invoke
  values = { email = "whosigned-invoke@acme-security.iam.gserviceaccount.com" }
}

# The key is given even where it is not used: Terraform 1.11 cannot apply in a test with
# an ephemeral variable at its default.
variables {
  sendgrid_api_key = "SG.not-a-real-key.x"
  project_id       = "acme-security"
  region           = "europe-west1"
  config_files     = { "rekor.pub" = "key", "keys/next.pub" = "next" }
  alert_email      = "s@acme.example"

  # One sink of several that is SendGrid's makes the secret.
  config = <<-E
    alerts:
      email:
        - {via: smtp, name: relay, host: "relay.acme.example:587", from: w@acme.example, to: [s@acme.example]}
        - {via: sendgrid, from: w@acme.example, to: [s@acme.example]}
  E
}

run "the_defaults" {
  assert {
    condition = google_cloudfunctions2_function.monitor.service_config[0].environment_variables == tomap({
      GOMEMLIMIT            = "384MiB"
      GOOGLE_CLOUD_PROJECT  = "acme-security"
      SENDGRID_API_KEY_FILE = "/secrets/sendgrid/api-key"
      WHOSIGNED_CONFIG      = "gs://acme-security-whosigned-source/config/whosigned/whosigned.yaml"
      WHOSIGNED_EVERY       = "60m"
      WHOSIGNED_STATE       = "gs://acme-security-whosigned-state"
      WHOSIGNED_TIMEOUT     = "1740s"
      WHOSIGNED_VERSION     = local.source_hash
    })
    error_message = "environment: got ${jsonencode(google_cloudfunctions2_function.monitor.service_config[0].environment_variables)}"
  }
  assert {
    condition = (google_cloudfunctions2_function.monitor.build_config[0].entry_point == "Monitor" &&
      google_cloudfunctions2_function.monitor.build_config[0].runtime == "go126" &&
      google_cloudfunctions2_function.monitor.build_config[0].docker_repository == google_artifact_registry_repository.images.id &&
      google_cloudfunctions2_function.monitor.build_config[0].service_account == "projects/acme-security/serviceAccounts/${google_service_account.build[0].email}"
    )
    error_message = "build: got ${jsonencode(google_cloudfunctions2_function.monitor.build_config)}"
  }
  assert {
    condition = (google_cloudfunctions2_function.monitor.service_config[0].max_instance_count == 1 &&
      google_cloudfunctions2_function.monitor.service_config[0].max_instance_request_concurrency == 1 &&
      google_cloudfunctions2_function.monitor.service_config[0].min_instance_count == 0 &&
      google_cloudfunctions2_function.monitor.service_config[0].service_account_email == google_service_account.run[0].email
    )
    error_message = "one run at a time, as the run account: got ${jsonencode(google_cloudfunctions2_function.monitor.service_config)}"
  }
  assert {
    condition = (one(google_cloudfunctions2_function.monitor.service_config[0].secret_volumes).mount_path == "/secrets/sendgrid" &&
      one(google_cloudfunctions2_function.monitor.service_config[0].secret_volumes).secret == google_secret_manager_secret.sendgrid[0].secret_id &&
      one(google_cloudfunctions2_function.monitor.service_config[0].secret_volumes).versions[0].version == "latest" &&
      one(google_cloudfunctions2_function.monitor.service_config[0].secret_volumes).versions[0].path == "api-key"
    )
    error_message = "the key is a file at latest: got ${jsonencode(google_cloudfunctions2_function.monitor.service_config[0].secret_volumes)}"
  }
  assert {
    condition = (google_cloud_scheduler_job.hourly.schedule == "7 * * * *" &&
      google_cloud_scheduler_job.hourly.paused == false &&
      google_cloud_scheduler_job.hourly.region == "europe-west1" &&
      google_cloud_scheduler_job.hourly.attempt_deadline == "${google_cloudfunctions2_function.monitor.service_config[0].timeout_seconds}s" &&
      google_cloud_scheduler_job.hourly.retry_config[0].retry_count == 1 &&
      google_cloud_scheduler_job.hourly.retry_config[0].min_backoff_duration == "300s"
    )
    error_message = "job: got ${jsonencode(google_cloud_scheduler_job.hourly)}"
  }
  assert {
    condition = (google_cloud_scheduler_job.hourly.http_target[0].http_method == "POST" &&
      google_cloud_scheduler_job.hourly.http_target[0].uri == "https://whosigned-abc123-ew.a.run.app" &&
      google_cloud_scheduler_job.hourly.http_target[0].oidc_token[0].audience == "https://whosigned-abc123-ew.a.run.app" &&
      google_cloud_scheduler_job.hourly.http_target[0].oidc_token[0].service_account_email == google_service_account.invoke[0].email
    )
    error_message = "target: got ${jsonencode(google_cloud_scheduler_job.hourly.http_target)}"
  }
  assert {
    condition     = google_storage_bucket_object.config.name == "config/whosigned/whosigned.yaml" && google_storage_bucket_object.config.content == var.config
    error_message = "configuration: got ${google_storage_bucket_object.config.name}"
  }
  assert {
    condition     = { for k, o in google_storage_bucket_object.config_files : o.name => nonsensitive(o.content) } == { "config/whosigned/rekor.pub" = "key", "config/whosigned/keys/next.pub" = "next" }
    error_message = "files beside it: got ${jsonencode({ for k, o in google_storage_bucket_object.config_files : o.name => nonsensitive(o.content) })}"
  }
  assert {
    condition     = length(google_project_service.apis) == 10 && alltrue([for a in google_project_service.apis : !a.disable_on_destroy])
    error_message = "APIs: got ${jsonencode(keys(google_project_service.apis))}; none may be disabled on destroy"
  }
  assert {
    condition     = google_secret_manager_secret.sendgrid[0].replication[0].user_managed[0].replicas[*].location == tolist(["europe-west1"])
    error_message = "the secret is replicated to: ${jsonencode(google_secret_manager_secret.sendgrid[0].replication)}"
  }
  assert {
    condition = (output.run_now == "gcloud scheduler jobs run whosigned --location=europe-west1 --project=acme-security" &&
      output.last_result == "gcloud storage cat gs://acme-security-whosigned-state/run.json" &&
      strcontains(output.logs, "'${local.run_lines}'") && !strcontains(local.run_lines, "'")
    )
    error_message = "commands: got ${output.run_now}; ${output.last_result}; ${output.logs}"
  }

  assert {
    condition = time_sleep.grants.triggers == tomap({
      build    = "whosigned-build@acme-security.iam.gserviceaccount.com"
      run      = "whosigned-run@acme-security.iam.gserviceaccount.com"
      evidence = "false"
      secrets  = jsonencode({ sendgrid = "acme-security/whosigned-sendgrid-api-key" })
    })
    error_message = "grants that are waited for: got ${jsonencode(time_sleep.grants.triggers)}"
  }
  assert {
    condition = ({ for p in google_artifact_registry_repository.images.cleanup_policies : p.id => "${p.action} ${try(p.most_recent_versions[0].keep_count, "")}${try(p.condition[0].older_than, "")}" } == {
      keep-newest = "KEEP 5"
      delete-old  = "DELETE 2592000s"
    })
    error_message = "old images: got ${jsonencode(google_artifact_registry_repository.images.cleanup_policies)}"
  }
  assert {
    condition = { for r in google_storage_bucket.source.lifecycle_rule : join(",", one(r.condition).matches_prefix) => "${one(r.action).type} ${one(r.condition).days_since_noncurrent_time}" } == {
      "config/" = "Delete 365"
      "source/" = "Delete 90"
    }
    error_message = "old versions of source and configuration: got ${jsonencode(google_storage_bucket.source.lifecycle_rule)}"
  }

  # The zip has what is built, and no test.
  assert {
    condition = alltrue([for f in ["go.mod", "go.sum", "function.go", "cmd/whosigned/main.go", "pkg/monitor/monitor.go", "pkg/report/email.html"] :
    contains(keys(local.source_files), f)])
    error_message = "missing from ${jsonencode(keys(local.source_files))}"
  }
  assert {
    condition     = [for f in keys(local.source_files) : f if can(regex("_test\\.go$|(^|/)(testdata|notifytest|buckettest|trusttest)/", f))] == []
    error_message = "not to be deployed: ${jsonencode([for f in keys(local.source_files) : f if can(regex("_test\\.go$|(^|/)(testdata|notifytest|buckettest|trusttest)/", f))])}"
  }
  assert {
    condition = (google_storage_bucket_object.source.name == "source/whosigned-${local.source_hash}.zip" &&
      google_storage_bucket_object.source.source == "${path.module}/.build/whosigned-${local.source_hash}.zip" &&
      google_cloudfunctions2_function.monitor.build_config[0].source[0].storage_source[0].object == google_storage_bucket_object.source.name
    )
    error_message = "zip: got ${google_storage_bucket_object.source.name} from ${google_storage_bucket_object.source.source}"
  }
}

run "what_the_user_gives_goes_in" {
  variables {
    name             = "two-words"
    schedule         = "*/20 6-8,22 * * *"
    no_run_alert     = false
    paused           = true
    scheduler_region = "europe-west3"
    timeout_seconds  = 600
    memory           = "2Gi"
    cpu              = "2"
    runtime          = "go127"
    labels           = { team = "security" }
    environment      = { SENDGRID_HOST = "https://api.eu.sendgrid.com" }
    secret_locations = ["europe-west1", "europe-west3"]
    invokers         = ["group:secops@acme.example"]
    soft_delete_days = 0
    smtp_secrets = {
      username = { project = "acme-secrets", secret = "user" }
      password = { project = "acme-secrets", secret = "pass", grant = false }
    }
    mailgun_secret            = { project = "acme-secrets", secret = "mailgun" }
    github_secret             = { project = "123456789012", secret = "issues", grant = false }
    config                    = <<-E
      alerts:
        email:
          - {via: smtp, name: relay, host: "relay.acme.example:587", from: w@acme.example, to: [s@acme.example]}
          - {via: sendgrid, from: w@acme.example, to: [s@acme.example]}
          - {via: mailgun, name: eu, domain: mg.acme.example, from: w@acme.example, to: [s@acme.example]}
        github: {repository: acme/alerts}
    E
    state_bucket_location     = "EU"
    evidence_retention_days   = 30
    evidence_retention_locked = true
    force_destroy             = true
    enable_apis               = false
    time_zone                 = "Europe/Berlin"
    ingress_settings          = "ALLOW_INTERNAL_ONLY"
    worker_pool               = "projects/acme-security/locations/europe-west1/workerPools/private"
    build_environment         = { GOPROXY = "https://goproxy.corp.acme.example" }
    vpc                       = { connector = "projects/acme-security/locations/europe-west1/connectors/egress", egress = "ALL_TRAFFIC" }
  }

  assert {
    condition = google_cloudfunctions2_function.monitor.service_config[0].environment_variables == tomap({
      GITHUB_TOKEN_FILE     = "/secrets/github/token"
      GOMEMLIMIT            = "1536MiB"
      GOOGLE_CLOUD_PROJECT  = "acme-security"
      MAILGUN_API_KEY_FILE  = "/secrets/mailgun/api-key"
      SENDGRID_API_KEY_FILE = "/secrets/sendgrid/api-key"
      SENDGRID_HOST         = "https://api.eu.sendgrid.com"
      SMTP_PASSWORD_FILE    = "/secrets/smtp-password/password"
      SMTP_USERNAME_FILE    = "/secrets/smtp-username/username"
      WHOSIGNED_CONFIG      = "gs://acme-security-two-words-source/config/two-words/whosigned.yaml"
      WHOSIGNED_EVERY       = "800m"
      WHOSIGNED_EVIDENCE    = "gs://acme-security-two-words-evidence"
      WHOSIGNED_STATE       = "gs://acme-security-two-words-state"
      WHOSIGNED_TIMEOUT     = "600s"
      WHOSIGNED_VERSION     = local.source_hash
    })
    error_message = "environment: got ${jsonencode(google_cloudfunctions2_function.monitor.service_config[0].environment_variables)}"
  }
  assert {
    condition = (google_cloudfunctions2_function.monitor.name == "two-words" &&
      google_cloudfunctions2_function.monitor.build_config[0].runtime == "go127" &&
      google_cloudfunctions2_function.monitor.service_config[0].available_memory == "2Gi" &&
      google_cloudfunctions2_function.monitor.service_config[0].available_cpu == "2" &&
      google_cloudfunctions2_function.monitor.service_config[0].timeout_seconds == 600
    )
    error_message = "function: got ${jsonencode(google_cloudfunctions2_function.monitor)}"
  }
  assert {
    condition = (google_cloudfunctions2_function.monitor.service_config[0].ingress_settings == var.ingress_settings &&
      google_cloudfunctions2_function.monitor.service_config[0].vpc_connector == var.vpc.connector &&
      google_cloudfunctions2_function.monitor.service_config[0].vpc_connector_egress_settings == "ALL_TRAFFIC" &&
      google_cloudfunctions2_function.monitor.build_config[0].worker_pool == var.worker_pool &&
      google_cloudfunctions2_function.monitor.build_config[0].environment_variables == tomap({ CGO_ENABLED = "0", GOPROXY = "https://goproxy.corp.acme.example" })
    )
    error_message = "a closed organisation's settings: got ${jsonencode(google_cloudfunctions2_function.monitor)}"
  }
  assert {
    condition     = length(google_cloud_run_v2_service_iam_member.invokers) == 1 && google_cloud_run_v2_service_iam_member.invokers[0].member == "group:secops@acme.example"
    error_message = "invokers: got ${jsonencode(google_cloud_run_v2_service_iam_member.invokers)}"
  }
  assert {
    condition = (time_sleep.grants.triggers.evidence == "true" && jsondecode(time_sleep.grants.triggers.secrets) == {
      mailgun       = "acme-secrets/mailgun"
      sendgrid      = "acme-security/two-words-sendgrid-api-key"
      smtp-username = "acme-secrets/user"
    })
    error_message = "grants that are waited for: got ${jsonencode(time_sleep.grants.triggers)}"
  }
  assert {
    condition = { for v in google_cloudfunctions2_function.monitor.service_config[0].secret_volumes : v.mount_path => "${v.project_id}/${v.secret}:${v.versions[0].path}@${v.versions[0].version}" } == {
      "/secrets/github"        = "123456789012/issues:token@latest"
      "/secrets/mailgun"       = "acme-secrets/mailgun:api-key@latest"
      "/secrets/sendgrid"      = "acme-security/two-words-sendgrid-api-key:api-key@latest"
      "/secrets/smtp-password" = "acme-secrets/pass:password@latest"
      "/secrets/smtp-username" = "acme-secrets/user:username@latest"
    }
    error_message = "secrets: got ${jsonencode(google_cloudfunctions2_function.monitor.service_config[0].secret_volumes)}"
  }
  assert {
    condition = (google_cloud_scheduler_job.hourly.schedule == "*/20 6-8,22 * * *" && google_cloud_scheduler_job.hourly.time_zone == "Europe/Berlin" && google_cloud_scheduler_job.hourly.paused &&
      google_cloud_scheduler_job.hourly.region == "europe-west3" && google_cloud_scheduler_job.hourly.attempt_deadline == "600s"
    )
    error_message = "job: got ${jsonencode(google_cloud_scheduler_job.hourly)}"
  }
  assert {
    condition     = google_secret_manager_secret.sendgrid[0].replication[0].user_managed[0].replicas[*].location == tolist(["europe-west1", "europe-west3"])
    error_message = "the secret is replicated to: ${jsonencode(google_secret_manager_secret.sendgrid[0].replication)}"
  }
  assert {
    condition = (google_storage_bucket.state.location == "EU" && google_storage_bucket.evidence[0].location == "EU" && google_storage_bucket.source.location == "europe-west1" &&
      alltrue([for b in concat([google_storage_bucket.state, google_storage_bucket.source], google_storage_bucket.evidence) : b.force_destroy && b.soft_delete_policy[0].retention_duration_seconds == 0])
    )
    error_message = "buckets: got ${jsonencode([google_storage_bucket.state, google_storage_bucket.source])}"
  }
  assert {
    condition     = google_storage_bucket.evidence[0].retention_policy[0].is_locked && tonumber(google_storage_bucket.evidence[0].retention_policy[0].retention_period) == 30 * 86400
    error_message = "retention: got ${jsonencode(google_storage_bucket.evidence[0].retention_policy)}"
  }
  assert {
    condition     = length(google_project_service.apis) + length(time_sleep.apis) == 0
    error_message = "enable_apis = false, and yet: ${jsonencode(keys(google_project_service.apis))}"
  }
  assert {
    condition     = alltrue([for r in [google_cloudfunctions2_function.monitor, google_storage_bucket.state, google_storage_bucket.source, google_artifact_registry_repository.images, google_secret_manager_secret.sendgrid[0]] : r.labels == tomap({ team = "security", whosigned = "two-words" })])
    error_message = "labels: got ${jsonencode(google_cloudfunctions2_function.monitor.labels)}"
  }
}

run "without_sendgrid_there_is_no_secret" {
  command = plan
  variables {
    config = "alerts: {email: [{via: smtp, host: \"relay.acme.example:587\", from: w@acme.example, to: [s@acme.example]}]}"
  }
  assert {
    condition     = length(google_secret_manager_secret.sendgrid) + length(google_secret_manager_secret_version.sendgrid) + length(google_cloudfunctions2_function.monitor.service_config[0].secret_volumes) == 0
    error_message = "a secret was made or mounted, and mail goes by SMTP"
  }
}

# Its sinks stand at the top level, and take the same secrets.
run "a_rekor_monitor_configuration_gets_its_secrets" {
  command = plan
  variables {
    github_secret  = { project = "acme-secrets", secret = "issues" }
    mailgun_secret = { project = "acme-secrets", secret = "mailgun" }
    smtp_secrets = {
      username = { project = "acme-secrets", secret = "user" }
      password = { project = "acme-secrets", secret = "pass" }
    }
    config = <<-E
      githubIssue: {repositoryOwner: acme, repositoryName: alerts}
      emailNotificationMailgun: {recipientEmailAddress: s@acme.example, senderEmailAddress: w@acme.example, mailgunDomainName: mg.acme.example}
      emailNotificationSendGrid: {recipientEmailAddress: s@acme.example, senderEmailAddress: w@acme.example}
      emailNotificationSMTP: {recipientEmailAddress: s@acme.example, senderEmailAddress: w@acme.example, SMTPHostURL: relay.acme.example}
    E
  }
  assert {
    condition     = toset(google_cloudfunctions2_function.monitor.service_config[0].secret_volumes[*].mount_path) == toset(["/secrets/github", "/secrets/mailgun", "/secrets/sendgrid", "/secrets/smtp-password", "/secrets/smtp-username"])
    error_message = "secrets: got ${jsonencode(google_cloudfunctions2_function.monitor.service_config[0].secret_volumes[*].mount_path)}"
  }
}

run "a_rekor_monitor_configuration_without_its_secrets_is_refused" {
  command = plan
  variables {
    config           = "{gitHubIssue: {repositoryOwner: acme}, emailNotificationMailgun: {mailgunDomainName: mg.acme.example}, emailNotificationSendGrid: {senderName: w}}"
    sendgrid_api_key = null
  }
  expect_failures = [var.github_secret, var.mailgun_secret, var.sendgrid_api_key]
}

run "no_secret_is_wanted_for_a_sink_that_is_not_there" {
  command = plan
  variables {
    config = "alerts: {email: [{via: smtp, host: \"relay.acme.example:587\"}], github: [], folder: null}\ngithubIssue:\nemailNotificationMailgun:\n"
  }
  assert {
    condition     = length(google_cloudfunctions2_function.monitor.service_config[0].secret_volumes) == 0 && local.sinks_used == { github = false, mailgun = false, sendgrid = false, smtp = true }
    error_message = "sinks: got ${jsonencode(local.sinks_used)}"
  }
}

run "a_secret_that_no_sink_uses_is_said" {
  command = plan
  variables {
    config          = "alerts: {folder: {path: mails}}"
    sendgrid_secret = { project = "acme-secrets", secret = "sendgrid" }
    mailgun_secret  = { project = "acme-secrets", secret = "mailgun" }
    github_secret   = { project = "acme-secrets", secret = "issues" }
    smtp_secrets = {
      username = { project = "acme-secrets", secret = "user" }
      password = { project = "acme-secrets", secret = "pass" }
    }
  }
  assert {
    condition     = local.unused_secrets == tolist(["github_secret", "mailgun_secret", "sendgrid_secret", "smtp_secrets"])
    error_message = "unused: got ${jsonencode(local.unused_secrets)}"
  }
  expect_failures = [check.secrets_are_used]
}

run "two_instances_share_no_name" {
  module {
    source = "./tests/two-instances"
  }
  assert {
    condition = alltrue([for k in ["function_name", "state_bucket", "source_bucket", "config_uri", "run_now", "last_result", "logs"] :
      output.first[k] != output.second[k] && strcontains(output.first[k], "first") && strcontains(output.second[k], "second")
    ])
    error_message = "two instances share a name: ${jsonencode([output.first, output.second])}"
  }
}
