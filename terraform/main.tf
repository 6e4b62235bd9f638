# whosigned on Google Cloud: a Cloud Function that Cloud Scheduler wakes, what it may
# touch (identity.tf), what it keeps (storage.tf), its mail key (secret.tf), and what
# notices when it stops (alerting.tf).

data "google_project" "this" {
  project_id = var.project_id
}

locals {
  labels     = merge(var.labels, { whosigned = var.name })
  memory_mib = try(tonumber(regex("^[0-9]+", var.memory)) * (endswith(var.memory, "Gi") ? 1024 : 1), 0)

  # The schedule's minutes and hours, spelled out.
  cron = [for field in slice(concat(split(" ", replace(trimspace(var.schedule), "/\\s+/", " ")), ["", ""]), 0, 2) : split(",", field)]
  ticks = [for i, items in local.cron : distinct(flatten([for item in items : try(range(
    startswith(item, "*") ? 0 : tonumber(regex("^[0-9]+", item)),
    1 + (startswith(item, "*") ? [59, 23][i] : tonumber(regex("^(?:[0-9]+-)?([0-9]+)", item)[0])),
    try(tonumber(regex("/([0-9]+)$", item)[0]), 1),
  ), [])]))]
  # Minutes of the day at which it runs, in order, and from each to the next. They
  # are padded, since sort works on text.
  times = [for t in sort(flatten([for h in local.ticks[1] : [for m in local.ticks[0] : format("%04d", h * 60 + m)]])) : tonumber(t)]
  gaps = [for i, t in local.times :
    i + 1 < length(local.times) ? local.times[i + 1] - t : 1440 - t + local.times[0]
  ]
  gap_minutes = max(0, local.gaps...)

  # Finds this instance's lines in Cloud Logging, and among them its one line a run.
  lines = join(" AND ", [
    "resource.type=\"cloud_run_revision\"",
    "resource.labels.service_name=\"${var.name}\"",
    "resource.labels.location=\"${var.region}\"",
  ])
  run_lines     = "${local.lines} AND jsonPayload.event=\"run\""
  metric_prefix = "whosigned_${replace(var.name, "-", "_")}"
}

resource "google_project_service" "apis" {
  for_each = toset(var.enable_apis ? [
    "artifactregistry.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudfunctions.googleapis.com",
    "cloudscheduler.googleapis.com",
    "iam.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "run.googleapis.com",
    "secretmanager.googleapis.com",
    "storage.googleapis.com",
  ] : [])

  project = var.project_id
  service = each.value

  # Others in the project may use them, and destroy itself needs them.
  disable_on_destroy = false
}

# An API answers "has not been used before" for a while after it was enabled.
resource "time_sleep" "apis" {
  count = var.enable_apis ? 1 : 0

  create_duration = "60s"

  depends_on = [google_project_service.apis]
}

resource "google_artifact_registry_repository" "images" {
  project       = var.project_id
  location      = var.region
  repository_id = var.name
  description   = "Images of the Cloud Function ${var.name}, written by its builds."
  format        = "DOCKER"
  kms_key_name  = var.kms_key
  labels        = local.labels

  # Kept wins over deleted: the running image is among the newest.
  cleanup_policies {
    id     = "keep-newest"
    action = "KEEP"
    most_recent_versions {
      keep_count = 5
    }
  }
  cleanup_policies {
    id     = "delete-old"
    action = "DELETE"
    condition {
      tag_state  = "ANY"
      older_than = "2592000s"
    }
  }

  depends_on = [time_sleep.apis, time_sleep.kms_key]
}

resource "google_cloudfunctions2_function" "monitor" {
  project      = var.project_id
  location     = var.region
  name         = var.name
  description  = "whosigned: watches Sigstore's transparency logs and mails when somebody signs as us."
  kms_key_name = var.kms_key
  labels       = local.labels

  build_config {
    runtime           = var.runtime
    entry_point       = "Monitor"
    service_account   = local.build_account
    docker_repository = google_artifact_registry_repository.images.id
    worker_pool       = var.worker_pool

    # What logs serve is not given to C: one of the modules would compile some.
    environment_variables = merge({ CGO_ENABLED = "0" }, var.build_environment)

    source {
      storage_source {
        bucket = google_storage_bucket.source.name
        object = google_storage_bucket_object.source.name
      }
    }
  }

  service_config {
    service_account_email = local.run_email
    available_memory      = var.memory
    available_cpu         = var.cpu
    timeout_seconds       = var.timeout_seconds
    ingress_settings      = var.ingress_settings

    # One run at a time. A second would find the lease taken and do nothing.
    min_instance_count               = 0
    max_instance_count               = 1
    max_instance_request_concurrency = 1
    all_traffic_on_latest_revision   = true

    vpc_connector                 = try(var.vpc.connector, null)
    vpc_connector_egress_settings = try(var.vpc.egress, null)

    environment_variables = merge(
      var.environment,
      {
        GOMEMLIMIT           = "${floor(local.memory_mib * 3 / 4)}MiB"
        GOOGLE_CLOUD_PROJECT = var.project_id
        WHOSIGNED_CONFIG     = "gs://${google_storage_bucket.source.name}/${local.config_folder}/whosigned.yaml"
        WHOSIGNED_EVERY      = "${local.gap_minutes}m"
        WHOSIGNED_STATE      = "gs://${google_storage_bucket.state.name}"
        WHOSIGNED_TIMEOUT    = "${var.timeout_seconds}s"
        WHOSIGNED_VERSION    = local.source_hash
      },
      { for b in google_storage_bucket.evidence : "WHOSIGNED_EVIDENCE" => "gs://${b.name}" },
      { for s in local.secrets : s.variable => "${s.mount}/${s.file}" },
    )

    # A volume at latest is read anew in each run, so a new key needs no redeploy.
    dynamic "secret_volumes" {
      for_each = local.secrets
      content {
        mount_path = secret_volumes.value.mount
        project_id = secret_volumes.value.project
        secret     = secret_volumes.value.secret
        versions {
          version = "latest"
          path    = secret_volumes.value.file
        }
      }
    }
  }

  depends_on = [
    time_sleep.grants,
    google_secret_manager_secret_version.sendgrid,
    google_storage_bucket_object.config,
    google_storage_bucket_object.config_files,
  ]
}

resource "google_cloud_scheduler_job" "hourly" {
  project          = var.project_id
  region           = coalesce(var.scheduler_region, var.region)
  name             = var.name
  description      = "Wakes the Cloud Function ${var.name}."
  schedule         = var.schedule
  time_zone        = var.time_zone
  paused           = var.paused
  attempt_deadline = "${var.timeout_seconds}s"

  retry_config {
    retry_count          = 1
    min_backoff_duration = "300s"
    max_backoff_duration = "300s"
  }

  http_target {
    http_method = "POST"
    uri         = google_cloudfunctions2_function.monitor.service_config[0].uri

    oidc_token {
      service_account_email = local.invoke_email
      audience              = google_cloudfunctions2_function.monitor.service_config[0].uri
    }
  }

  depends_on = [google_cloud_run_v2_service_iam_member.scheduler]
}

check "runs_do_not_overlap" {
  assert {
    condition     = min(1440, local.gaps...) * 60 >= var.timeout_seconds
    error_message = "schedule starts a run ${min(1440, local.gaps...)} minutes after another, which may take ${var.timeout_seconds} s: the later one is answered with 409 or 429 and does nothing. Space them out, or lower timeout_seconds."
  }
}

check "somebody_is_told" {
  assert {
    condition     = var.alert_email != null || length(var.notification_channels) > 0
    error_message = "Nobody is told when the monitor itself stops or fails: set alert_email or notification_channels."
  }
}
