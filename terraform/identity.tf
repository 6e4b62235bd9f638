# Three accounts, each with the least it needs. No role that reads or writes a whole
# project's storage, and nobody public.
locals {
  build_email  = var.build_service_account != null ? var.build_service_account : one(google_service_account.build[*].email)
  run_email    = var.run_service_account != null ? var.run_service_account : one(google_service_account.run[*].email)
  invoke_email = var.invoke_service_account != null ? var.invoke_service_account : one(google_service_account.invoke[*].email)

  build_member  = "serviceAccount:${local.build_email}"
  run_member    = "serviceAccount:${local.run_email}"
  invoke_member = "serviceAccount:${local.invoke_email}"

  # Cloud Build wants the account's full name, which has the project it belongs to.
  build_account = "projects/${try(regex("@([^.]+)\\.iam\\.gserviceaccount\\.com$", local.build_email)[0], var.project_id)}/serviceAccounts/${local.build_email}"

  # Google's builder keeps a copy of the source here; with a key the name has a suffix.
  builder_bucket = "projects/_/buckets/gcf-v2-sources-${data.google_project.this.number}-${var.region}"

  # Names of objects as IAM conditions see them.
  source_objects = "projects/_/buckets/${google_storage_bucket.source.name}/objects"
  state_objects  = "projects/_/buckets/${google_storage_bucket.state.name}/objects"
}

# Build: writes logs and images, reads source.

resource "google_service_account" "build" {
  count = var.build_service_account == null ? 1 : 0

  project      = var.project_id
  account_id   = "${var.name}-build"
  display_name = "${var.name}: builds the function"

  depends_on = [time_sleep.apis]
}

resource "google_project_iam_member" "build_logs" {
  count = var.build_service_account == null ? 1 : 0

  project = var.project_id
  role    = "roles/logging.logWriter"
  member  = local.build_member
}

resource "google_artifact_registry_repository_iam_member" "build_images" {
  project    = var.project_id
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.repository_id
  role       = "roles/artifactregistry.writer"
  member     = local.build_member
}

resource "google_storage_bucket_iam_member" "build_source" {
  bucket = google_storage_bucket.source.name
  role   = "roles/storage.objectViewer"
  member = local.build_member

  condition {
    title       = "source"
    description = "The function's source, not its configuration."
    expression  = "resource.name.startsWith(\"${local.source_objects}/source/\")"
  }
}

# On the project, since the builder makes the bucket only with the first build.
resource "google_project_iam_member" "build_builder_bucket" {
  count = var.build_service_account == null ? 1 : 0

  project = var.project_id
  role    = "roles/storage.objectViewer"
  member  = local.build_member

  condition {
    title       = "builder_bucket"
    description = "Only the bucket that Google's builder keeps function sources in."
    expression = join(" || ", [
      "resource.name == \"${local.builder_bucket}\"",
      "resource.name.startsWith(\"${local.builder_bucket}/\")",
      "resource.name.startsWith(\"${local.builder_bucket}-\")",
    ])
  }
}

# Run: reads configuration and state; writes what the design lets it.

resource "google_service_account" "run" {
  count = var.run_service_account == null ? 1 : 0

  project      = var.project_id
  account_id   = "${var.name}-run"
  display_name = "${var.name}: what the function runs as"

  depends_on = [time_sleep.apis]
}

resource "google_storage_bucket_iam_member" "run_config" {
  bucket = google_storage_bucket.source.name
  role   = "roles/storage.objectViewer"
  member = local.run_member

  condition {
    title       = "configuration"
    description = "The configuration and the files it names. Read only: a function that was taken over cannot silence itself."
    # With the bucket itself, for its list: without that a missing object would read as a forbidden one.
    expression = join(" || ", [
      "resource.name == \"projects/_/buckets/${google_storage_bucket.source.name}\"",
      "resource.name.startsWith(\"${local.source_objects}/${local.config_folder}/\")",
    ])
  }
}

resource "google_storage_bucket_iam_member" "run_read" {
  bucket = google_storage_bucket.state.name
  role   = "roles/storage.objectViewer"
  member = local.run_member
}

resource "google_storage_bucket_iam_member" "run_append" {
  bucket = google_storage_bucket.state.name
  role   = "roles/storage.objectCreator"
  member = local.run_member

  condition {
    title       = "append_only"
    description = "What was seen can be added to, not altered."
    expression  = join(" || ", [for folder in ["checkpoints", "findings", "incidents", "signings"] : "resource.name.startsWith(\"${local.state_objects}/${folder}/\")"])
  }
}

resource "google_storage_bucket_iam_member" "run_write" {
  bucket = google_storage_bucket.state.name
  role   = "roles/storage.objectUser"
  member = local.run_member

  condition {
    title       = "working_state"
    description = "What every run overwrites. Operators' decisions are not among it."
    expression = join(" || ", concat(
      ["resource.name == \"${local.state_objects}/run.json\""],
      [for folder in ["state", "alerts", "trust", "report"] : "resource.name.startsWith(\"${local.state_objects}/${folder}/\")"],
    ))
  }
}

resource "google_storage_bucket_iam_member" "run_evidence" {
  for_each = toset(var.evidence_retention_days > 0 ? ["roles/storage.objectCreator", "roles/storage.objectViewer"] : [])

  bucket = google_storage_bucket.evidence[0].name
  role   = each.value
  member = local.run_member
}

# Invoke: calls the function. The role is on the Cloud Run service; Cloud Functions'
# own invoker role does not open it. The service's name is taken from the function's
# answer: a function that is made anew has a new service, which has no grants.

resource "google_service_account" "invoke" {
  count = var.invoke_service_account == null ? 1 : 0

  project      = var.project_id
  account_id   = "${var.name}-invoke"
  display_name = "${var.name}: what Scheduler calls the function as"

  depends_on = [time_sleep.apis]
}

resource "google_cloud_run_v2_service_iam_member" "scheduler" {
  project  = var.project_id
  location = var.region
  name     = basename(google_cloudfunctions2_function.monitor.service_config[0].service)
  role     = "roles/run.invoker"
  member   = local.invoke_member
}

resource "google_cloud_run_v2_service_iam_member" "invokers" {
  count = length(var.invokers)

  project  = var.project_id
  location = var.region
  name     = basename(google_cloudfunctions2_function.monitor.service_config[0].service)
  role     = "roles/run.invoker"
  member   = var.invokers[count.index]
}

# A grant takes a while to hold everywhere, and a build that comes too early fails.
resource "time_sleep" "grants" {
  create_duration = "90s"

  # What is granted later is waited for as well.
  triggers = {
    build    = local.build_email
    run      = local.run_email
    evidence = var.evidence_retention_days > 0
    secrets  = jsonencode({ for key, s in local.secrets : key => "${s.project}/${s.secret}" if try(s.grant, true) })
  }

  depends_on = [
    google_artifact_registry_repository_iam_member.build_images,
    google_project_iam_member.build_builder_bucket,
    google_project_iam_member.build_logs,
    google_secret_manager_secret_iam_member.run_given,
    google_secret_manager_secret_iam_member.run_sendgrid,
    google_storage_bucket_iam_member.build_source,
    google_storage_bucket_iam_member.run_append,
    google_storage_bucket_iam_member.run_config,
    google_storage_bucket_iam_member.run_evidence,
    google_storage_bucket_iam_member.run_read,
    google_storage_bucket_iam_member.run_write,
  ]
}

# Google's agents must hold the key before buckets, secret, repository and function
# exist that are encrypted with it.

# Read only because that creates the agent. Its answer is not used: were the read put
# off until apply, every grant would be replaced, and the key be taken away meanwhile.
data "google_storage_project_service_account" "this" {
  count = var.kms_key != null && var.grant_kms_key ? 1 : 0

  project = var.project_id

  depends_on = [time_sleep.apis]
}

resource "google_kms_crypto_key_iam_member" "agents" {
  for_each = var.kms_key != null && var.grant_kms_key ? {
    storage          = "service-${data.google_project.this.number}@gs-project-accounts.iam.gserviceaccount.com"
    secretmanager    = "service-${data.google_project.this.number}@gcp-sa-secretmanager.iam.gserviceaccount.com"
    artifactregistry = "service-${data.google_project.this.number}@gcp-sa-artifactregistry.iam.gserviceaccount.com"
    cloudfunctions   = "service-${data.google_project.this.number}@gcf-admin-robot.iam.gserviceaccount.com"
    run              = "service-${data.google_project.this.number}@serverless-robot-prod.iam.gserviceaccount.com"
  } : {}

  crypto_key_id = var.kms_key
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:${each.value}"

  depends_on = [time_sleep.apis, data.google_storage_project_service_account.this]
}

resource "time_sleep" "kms_key" {
  count = var.kms_key != null && var.grant_kms_key ? 1 : 0

  create_duration = "60s"

  triggers = {
    key = var.kms_key
  }

  depends_on = [google_kms_crypto_key_iam_member.agents]
}
