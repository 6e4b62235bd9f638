# Who may do what: nobody public, nothing project-wide that need not be, and a function
# that cannot silence itself.

mock_provider "google" {
  source = "./tests/mocks"
}
mock_provider "time" {}

# Three accounts, so that a grant to the wrong one is seen.
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
  sendgrid_api_key        = "SG.not-a-real-key.x"
  project_id              = "acme-security"
  region                  = "europe-west1"
  config                  = "alerts: {email: {via: sendgrid, from: w@acme.example, to: [s@acme.example]}}"
  alert_email             = "s@acme.example"
  evidence_retention_days = 30
}

run "an_own_deployment" {
  variables {
    invokers = ["user:alice@acme.example"]
  }

  # Read from the module's text, so that what is added later is seen as well.
  assert {
    condition     = length(flatten([for f in fileset(path.module, "*.tf") : regexall("\"all(Authenticated)?Users\"", file("${path.module}/${f}"))])) == 0
    error_message = "a .tf file grants something to the public"
  }
  assert {
    condition     = length(flatten([for f in fileset(path.module, "*.tf") : regexall("resource \"google_\\w+_iam_(binding|policy)\"", file("${path.module}/${f}"))])) == 0
    error_message = "a .tf file has an authoritative IAM resource, which takes away what others granted"
  }
  assert {
    condition = toset(flatten([for f in fileset(path.module, "*.tf") : [for m in regexall("resource \"(google_\\w+_iam_member)\" \"(\\w+)\"", file("${path.module}/${f}")) : "${m[0]}.${m[1]}"]])) == toset([
      "google_artifact_registry_repository_iam_member.build_images",
      "google_cloud_run_v2_service_iam_member.invokers",
      "google_cloud_run_v2_service_iam_member.scheduler",
      "google_kms_crypto_key_iam_member.agents",
      "google_project_iam_member.build_builder_bucket",
      "google_project_iam_member.build_logs",
      "google_secret_manager_secret_iam_member.run_given",
      "google_secret_manager_secret_iam_member.run_sendgrid",
      "google_storage_bucket_iam_member.build_source",
      "google_storage_bucket_iam_member.run_append",
      "google_storage_bucket_iam_member.run_config",
      "google_storage_bucket_iam_member.run_evidence",
      "google_storage_bucket_iam_member.run_read",
      "google_storage_bucket_iam_member.run_write",
    ])
    error_message = "the module's grants are no longer those that this file checks: check the new one here too"
  }
  assert {
    condition = {
      build_images         = [google_artifact_registry_repository_iam_member.build_images.member]
      build_builder_bucket = google_project_iam_member.build_builder_bucket[*].member
      build_logs           = google_project_iam_member.build_logs[*].member
      build_source         = [google_storage_bucket_iam_member.build_source.member]
      run_append           = [google_storage_bucket_iam_member.run_append.member]
      run_config           = [google_storage_bucket_iam_member.run_config.member]
      run_evidence         = values(google_storage_bucket_iam_member.run_evidence)[*].member
      run_read             = [google_storage_bucket_iam_member.run_read.member]
      run_sendgrid         = google_secret_manager_secret_iam_member.run_sendgrid[*].member
      run_write            = [google_storage_bucket_iam_member.run_write.member]
      scheduler            = [google_cloud_run_v2_service_iam_member.scheduler.member]
      invokers             = google_cloud_run_v2_service_iam_member.invokers[*].member
      } == {
      build_images         = ["serviceAccount:whosigned-build@acme-security.iam.gserviceaccount.com"]
      build_builder_bucket = ["serviceAccount:whosigned-build@acme-security.iam.gserviceaccount.com"]
      build_logs           = ["serviceAccount:whosigned-build@acme-security.iam.gserviceaccount.com"]
      build_source         = ["serviceAccount:whosigned-build@acme-security.iam.gserviceaccount.com"]
      run_append           = ["serviceAccount:whosigned-run@acme-security.iam.gserviceaccount.com"]
      run_config           = ["serviceAccount:whosigned-run@acme-security.iam.gserviceaccount.com"]
      run_evidence         = ["serviceAccount:whosigned-run@acme-security.iam.gserviceaccount.com", "serviceAccount:whosigned-run@acme-security.iam.gserviceaccount.com"]
      run_read             = ["serviceAccount:whosigned-run@acme-security.iam.gserviceaccount.com"]
      run_sendgrid         = ["serviceAccount:whosigned-run@acme-security.iam.gserviceaccount.com"]
      run_write            = ["serviceAccount:whosigned-run@acme-security.iam.gserviceaccount.com"]
      scheduler            = ["serviceAccount:whosigned-invoke@acme-security.iam.gserviceaccount.com"]
      invokers             = ["user:alice@acme.example"]
    }
    error_message = "a grant is for another account: ${jsonencode([google_project_iam_member.build_logs, google_project_iam_member.build_builder_bucket, google_storage_bucket_iam_member.run_evidence, google_secret_manager_secret_iam_member.run_sendgrid, google_cloud_run_v2_service_iam_member.invokers])}"
  }
  assert {
    condition     = google_cloud_run_v2_service_iam_member.scheduler.role == "roles/run.invoker" && alltrue([for m in google_cloud_run_v2_service_iam_member.invokers : m.role == "roles/run.invoker"])
    error_message = "to call is all that a caller may: got ${jsonencode(google_cloud_run_v2_service_iam_member.scheduler)}"
  }
  # Its name comes with the function, so that the grants are made anew with it.
  assert {
    condition     = alltrue([for m in concat([google_cloud_run_v2_service_iam_member.scheduler], google_cloud_run_v2_service_iam_member.invokers) : m.name == "the-service"])
    error_message = "the service to call: got ${google_cloud_run_v2_service_iam_member.scheduler.name}"
  }

  # A grant, and a key, must be there before what needs it: that no value tells, only the text.
  assert {
    condition = [for resource, wanted in {
      "google_cloudfunctions2_function.monitor"    = ["time_sleep.grants", "google_secret_manager_secret_version.sendgrid", "google_storage_bucket_object.config"]
      "google_cloud_scheduler_job.hourly"          = ["google_cloud_run_v2_service_iam_member.scheduler"]
      "google_artifact_registry_repository.images" = ["time_sleep.apis", "time_sleep.kms_key"]
      "google_secret_manager_secret.sendgrid"      = ["time_sleep.apis", "time_sleep.kms_key"]
      "google_storage_bucket.source"               = ["time_sleep.apis", "time_sleep.kms_key"]
      "google_storage_bucket.state"                = ["time_sleep.apis", "time_sleep.kms_key"]
      "google_storage_bucket.evidence"             = ["time_sleep.apis", "time_sleep.kms_key"]
      "google_service_account.build"               = ["time_sleep.apis"]
      "google_service_account.run"                 = ["time_sleep.apis"]
      "google_service_account.invoke"              = ["time_sleep.apis"]
      "google_kms_crypto_key_iam_member.agents"    = ["time_sleep.apis", "data.google_storage_project_service_account.this"]
      "time_sleep.apis"                            = ["google_project_service.apis"]
      "time_sleep.kms_key"                         = ["google_kms_crypto_key_iam_member.agents"]
      "time_sleep.grants" = [for m in flatten([for f in fileset(path.module, "*.tf") : [for m in regexall("resource \"(google_\\w+_iam_member)\" \"(\\w+)\"", file("${path.module}/${f}")) : "${m[0]}.${m[1]}"]]) :
        m if can(regex("\\.(build|run)_", m))
      ]
      } : resource if length(setsubtract(wanted, try(regexall("[a-z][a-z0-9_.]+",
        regex("(?s)  depends_on = \\[(.*?)\\]", regex("(?s)\nresource \"${replace(resource, ".", "\" \"")}\" \\{\n(.*?)\n\\}\n", join("\n", [for f in fileset(path.module, "*.tf") : file("${path.module}/${f}")]))[0])[0]
    ), []))) > 0] == []
    error_message = "something no longer waits for the grants, the key or the APIs that it needs: compare this assertion with each depends_on"
  }

  # Build.
  assert {
    condition = (google_project_iam_member.build_logs[0].role == "roles/logging.logWriter" && google_project_iam_member.build_builder_bucket[0].role == "roles/storage.objectViewer" &&
      one(google_project_iam_member.build_builder_bucket[0].condition).expression == join(" || ", [
        "resource.name == \"projects/_/buckets/gcf-v2-sources-123456789012-europe-west1\"",
        "resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-123456789012-europe-west1/\")",
        "resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-123456789012-europe-west1-\")",
      ])
    )
    error_message = "project-wide the build may write logs, and read the builder's own bucket: got ${jsonencode([google_project_iam_member.build_logs, google_project_iam_member.build_builder_bucket])}"
  }
  assert {
    condition = (google_storage_bucket_iam_member.build_source.role == "roles/storage.objectViewer" && google_storage_bucket_iam_member.build_source.bucket == google_storage_bucket.source.name &&
      one(google_storage_bucket_iam_member.build_source.condition).expression == "resource.name.startsWith(\"projects/_/buckets/acme-security-whosigned-source/objects/source/\")"
    )
    error_message = "the build reads source only: got ${jsonencode(google_storage_bucket_iam_member.build_source)}"
  }
  assert {
    condition     = google_artifact_registry_repository_iam_member.build_images.role == "roles/artifactregistry.writer" && google_artifact_registry_repository_iam_member.build_images.repository == google_artifact_registry_repository.images.repository_id
    error_message = "the build writes images to its own repository: got ${jsonencode(google_artifact_registry_repository_iam_member.build_images)}"
  }

  # Run.
  assert {
    condition = (google_storage_bucket_iam_member.run_config.role == "roles/storage.objectViewer" && google_storage_bucket_iam_member.run_config.bucket == google_storage_bucket.source.name &&
      one(google_storage_bucket_iam_member.run_config.condition).expression == join(" || ", [
        "resource.name == \"projects/_/buckets/acme-security-whosigned-source\"",
        "resource.name.startsWith(\"projects/_/buckets/acme-security-whosigned-source/objects/config/whosigned/\")",
      ])
    )
    error_message = "the function reads its configuration and nothing more: got ${jsonencode(google_storage_bucket_iam_member.run_config)}"
  }
  assert {
    condition = [for g in [google_storage_bucket_iam_member.run_config, google_storage_bucket_iam_member.run_read, google_storage_bucket_iam_member.run_append, google_storage_bucket_iam_member.run_write] : "${g.role} ${g.bucket}"
      if g.bucket == google_storage_bucket.source.name
    ] == ["roles/storage.objectViewer acme-security-whosigned-source"]
    error_message = "the function can write where its configuration is"
  }
  assert {
    condition     = google_storage_bucket_iam_member.run_read.role == "roles/storage.objectViewer" && google_storage_bucket_iam_member.run_read.bucket == google_storage_bucket.state.name
    error_message = "the function reads all of its state: got ${jsonencode(google_storage_bucket_iam_member.run_read)}"
  }
  assert {
    condition = (google_storage_bucket_iam_member.run_append.role == "roles/storage.objectCreator" && google_storage_bucket_iam_member.run_append.bucket == google_storage_bucket.state.name &&
      one(google_storage_bucket_iam_member.run_append.condition).expression == join(" || ", [
        "resource.name.startsWith(\"projects/_/buckets/acme-security-whosigned-state/objects/checkpoints/\")",
        "resource.name.startsWith(\"projects/_/buckets/acme-security-whosigned-state/objects/findings/\")",
        "resource.name.startsWith(\"projects/_/buckets/acme-security-whosigned-state/objects/incidents/\")",
        "resource.name.startsWith(\"projects/_/buckets/acme-security-whosigned-state/objects/signings/\")",
      ])
    )
    error_message = "what was seen can be added to and not altered: got ${jsonencode(google_storage_bucket_iam_member.run_append)}"
  }
  assert {
    condition = (google_storage_bucket_iam_member.run_write.role == "roles/storage.objectUser" && google_storage_bucket_iam_member.run_write.bucket == google_storage_bucket.state.name &&
      one(google_storage_bucket_iam_member.run_write.condition).expression == join(" || ", [
        "resource.name == \"projects/_/buckets/acme-security-whosigned-state/objects/run.json\"",
        "resource.name.startsWith(\"projects/_/buckets/acme-security-whosigned-state/objects/state/\")",
        "resource.name.startsWith(\"projects/_/buckets/acme-security-whosigned-state/objects/alerts/\")",
        "resource.name.startsWith(\"projects/_/buckets/acme-security-whosigned-state/objects/trust/\")",
        "resource.name.startsWith(\"projects/_/buckets/acme-security-whosigned-state/objects/report/\")",
      ])
    )
    error_message = "the function overwrites its working state, never decisions/: got ${jsonencode(google_storage_bucket_iam_member.run_write)}"
  }
  assert {
    condition     = toset([for g in google_storage_bucket_iam_member.run_evidence : "${g.role} ${g.bucket}"]) == toset(["roles/storage.objectCreator acme-security-whosigned-evidence", "roles/storage.objectViewer acme-security-whosigned-evidence"])
    error_message = "evidence is created and read: got ${jsonencode(google_storage_bucket_iam_member.run_evidence)}"
  }
  assert {
    condition     = google_secret_manager_secret_iam_member.run_sendgrid[0].role == "roles/secretmanager.secretAccessor" && google_secret_manager_secret_iam_member.run_sendgrid[0].secret_id == "whosigned-sendgrid-api-key"
    error_message = "the function reads its key: got ${jsonencode(google_secret_manager_secret_iam_member.run_sendgrid)}"
  }

  # Buckets.
  assert {
    condition     = length(flatten([for f in fileset(path.module, "*.tf") : regexall("resource \"google_storage_bucket\"", file("${path.module}/${f}"))])) == 3
    error_message = "there is a bucket that this file does not check"
  }
  assert {
    condition     = alltrue([for b in concat([google_storage_bucket.state, google_storage_bucket.source], google_storage_bucket.evidence) : b.uniform_bucket_level_access && b.public_access_prevention == "enforced" && !b.force_destroy && b.soft_delete_policy[0].retention_duration_seconds == 604800])
    error_message = "a bucket can be opened to the public, or loses what is deleted"
  }
  assert {
    condition     = alltrue([for b in [google_storage_bucket.state, google_storage_bucket.source] : b.versioning[0].enabled && length(b.retention_policy) == 0])
    error_message = "state and configuration keep versions, and no retention that would stop their being written"
  }
  assert {
    condition     = google_storage_bucket.evidence[0].retention_policy[0].is_locked == false && tonumber(google_storage_bucket.evidence[0].retention_policy[0].retention_period) == 2592000
    error_message = "evidence: got ${jsonencode(google_storage_bucket.evidence[0].retention_policy)}"
  }
  assert {
    condition = length(setintersection(flatten([for r in google_storage_bucket.state.lifecycle_rule : [for c in r.condition : c.matches_prefix]]), ["checkpoints/", "findings/", "incidents/", "signings/", "decisions/"])) == 0 && alltrue([for r in google_storage_bucket.state.lifecycle_rule :
      alltrue([for c in r.condition : length(coalesce(c.matches_prefix, [])) > 0 && c.days_since_noncurrent_time > 0])
    ])
    error_message = "evidence, or what is current, is deleted by age: got ${jsonencode(google_storage_bucket.state.lifecycle_rule)}"
  }

  # The key is in nothing that is stored.
  assert {
    condition     = google_secret_manager_secret_version.sendgrid[0].secret_data == null && google_secret_manager_secret_version.sendgrid[0].secret_data_wo == null
    error_message = "the key is in the state"
  }
  assert {
    condition     = !strcontains(jsonencode(google_cloudfunctions2_function.monitor), "SG.")
    error_message = "the key is in the function's definition"
  }
}

run "what_is_given_gets_what_it_needs_and_what_its_owner_grants_gets_nothing" {
  variables {
    build_service_account  = "build@acme-identities.iam.gserviceaccount.com"
    run_service_account    = "run@acme-identities.iam.gserviceaccount.com"
    invoke_service_account = "invoke@acme-security.iam.gserviceaccount.com"
    config                 = "alerts: {email: [{via: sendgrid}, {via: smtp}, {via: mailgun}], github: {repository: acme/alerts}}"
    sendgrid_secret        = { project = "acme-secrets", secret = "sendgrid" }
    mailgun_secret         = { project = "acme-secrets", secret = "mailgun", grant = false }
    github_secret          = { project = "acme-tokens", secret = "issues" }
    smtp_secrets = {
      username = { project = "acme-secrets", secret = "user", grant = false }
      password = { project = "acme-secrets", secret = "pass", grant = false }
    }
    kms_key       = "projects/acme-keys/locations/europe-west1/keyRings/ring/cryptoKeys/key"
    grant_kms_key = false
  }
  assert {
    condition     = length(google_service_account.build) + length(google_service_account.run) + length(google_service_account.invoke) + length(google_project_iam_member.build_logs) + length(google_project_iam_member.build_builder_bucket) == 0
    error_message = "an account was made, or a given one got a role on the project"
  }
  assert {
    condition = (toset([for g in [google_storage_bucket_iam_member.run_config, google_storage_bucket_iam_member.run_read, google_storage_bucket_iam_member.run_append, google_storage_bucket_iam_member.run_write, google_secret_manager_secret_iam_member.run_given["sendgrid"], google_secret_manager_secret_iam_member.run_given["github"]] : g.member]) == toset(["serviceAccount:run@acme-identities.iam.gserviceaccount.com"]) &&
      toset([for g in [google_storage_bucket_iam_member.build_source, google_artifact_registry_repository_iam_member.build_images] : g.member]) == toset(["serviceAccount:build@acme-identities.iam.gserviceaccount.com"]) &&
      google_cloud_run_v2_service_iam_member.scheduler.member == "serviceAccount:invoke@acme-security.iam.gserviceaccount.com"
    )
    error_message = "a grant is for another account"
  }
  assert {
    condition = (google_cloudfunctions2_function.monitor.build_config[0].service_account == "projects/acme-identities/serviceAccounts/build@acme-identities.iam.gserviceaccount.com" &&
      google_cloudfunctions2_function.monitor.service_config[0].service_account_email == "run@acme-identities.iam.gserviceaccount.com" &&
      google_cloud_scheduler_job.hourly.http_target[0].oidc_token[0].service_account_email == "invoke@acme-security.iam.gserviceaccount.com"
    )
    error_message = "an account is not used: got ${jsonencode(google_cloudfunctions2_function.monitor.build_config)}"
  }
  assert {
    condition = { for k, g in google_secret_manager_secret_iam_member.run_given : k => "${g.role} ${g.project}/${g.secret_id}" } == {
      github   = "roles/secretmanager.secretAccessor acme-tokens/issues"
      sendgrid = "roles/secretmanager.secretAccessor acme-secrets/sendgrid"
    }
    error_message = "secrets: got ${jsonencode(google_secret_manager_secret_iam_member.run_given)}"
  }
  assert {
    condition     = length(google_kms_crypto_key_iam_member.agents) == 0 && google_storage_bucket.state.encryption[0].default_kms_key_name == var.kms_key
    error_message = "a key that its owner grants: got ${jsonencode(google_kms_crypto_key_iam_member.agents)}"
  }
}

run "one_key_encrypts_everything" {
  variables {
    kms_key     = "projects/acme-keys/locations/europe-west1/keyRings/ring/cryptoKeys/key"
    enable_apis = false
  }
  assert {
    condition = alltrue([for got in concat(
      [google_cloudfunctions2_function.monitor.kms_key_name, google_artifact_registry_repository.images.kms_key_name],
      [for b in concat([google_storage_bucket.state, google_storage_bucket.source], google_storage_bucket.evidence) : b.encryption[0].default_kms_key_name],
      [for r in google_secret_manager_secret.sendgrid[0].replication[0].user_managed[0].replicas : r.customer_managed_encryption[0].kms_key_name],
    ) : got == var.kms_key])
    error_message = "something is not encrypted with the key"
  }
  assert {
    condition = { for k, g in google_kms_crypto_key_iam_member.agents : k => "${g.role} ${g.member}" if g.crypto_key_id == var.kms_key } == {
      artifactregistry = "roles/cloudkms.cryptoKeyEncrypterDecrypter serviceAccount:service-123456789012@gcp-sa-artifactregistry.iam.gserviceaccount.com"
      cloudfunctions   = "roles/cloudkms.cryptoKeyEncrypterDecrypter serviceAccount:service-123456789012@gcf-admin-robot.iam.gserviceaccount.com"
      run              = "roles/cloudkms.cryptoKeyEncrypterDecrypter serviceAccount:service-123456789012@serverless-robot-prod.iam.gserviceaccount.com"
      secretmanager    = "roles/cloudkms.cryptoKeyEncrypterDecrypter serviceAccount:service-123456789012@gcp-sa-secretmanager.iam.gserviceaccount.com"
      storage          = "roles/cloudkms.cryptoKeyEncrypterDecrypter serviceAccount:service-123456789012@gs-project-accounts.iam.gserviceaccount.com"
    }
    error_message = "Google's agents: got ${jsonencode(google_kms_crypto_key_iam_member.agents)}"
  }
}

# The one before has applied. A member that plan does not know replaces the grant, which
# takes the key away from what is encrypted with it.
run "a_wait_that_comes_later_leaves_the_grants_on_the_key_alone" {
  command = plan
  variables {
    kms_key     = "projects/acme-keys/locations/europe-west1/keyRings/ring/cryptoKeys/key"
    enable_apis = true
  }
  assert {
    condition     = alltrue([for g in google_kms_crypto_key_iam_member.agents : startswith(g.member, "serviceAccount:service-123456789012@")])
    error_message = "Google's agents: got ${jsonencode(google_kms_crypto_key_iam_member.agents)}"
  }
  assert {
    condition     = length(flatten([for f in fileset(path.module, "*.tf") : regexall("create_before_destroy += +true", file("${path.module}/${f}")) if f != "alerting.tf"])) == 0
    error_message = "create_before_destroy spreads to all that a resource depends on: a grant that is replaced so ends up revoked"
  }
}
