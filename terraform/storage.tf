locals {
  root          = "${path.module}/.."
  config_folder = "config/${var.name}"

  # What is deployed, from its name in the zip to the file. Tests stay out: the
  # builder's go mod tidy would pull in what they need. cmd stays in: without it
  # tidy would choose other versions of modules.
  source_files = merge(
    { for f in fileset(local.root, "function/*.go") : trimprefix(f, "function/") => f if !endswith(f, "_test.go") },
    { for f in fileset(local.root, "function/cmd/whosigned/*.go") : trimprefix(f, "function/") => f if !endswith(f, "_test.go") },
    { for f in fileset(local.root, "pkg/**/*.{go,html}") : f => f if !endswith(f, "_test.go") && !can(regex("/(testdata|notifytest|buckettest|trusttest)/", f)) },
    { for f in fileset(local.root, "go.{mod,sum}") : f => f },
  )
  source_hash = substr(sha256(jsonencode({ for name, f in local.source_files : name => filesha256("${local.root}/${f}") })), 0, 16)
}

# The name has the hash, so that the function is rebuilt when its source changes and
# never else.
data "archive_file" "source" {
  type        = "zip"
  output_path = "${path.module}/.build/${var.name}-${local.source_hash}.zip"

  # Blocks, not source_dir: they carry no file modes, so the bytes are the same everywhere.
  dynamic "source" {
    for_each = local.source_files
    content {
      filename = source.key
      content  = file("${local.root}/${source.value}")
    }
  }

  lifecycle {
    precondition {
      condition     = contains(keys(local.source_files), "go.mod") && length([for name in keys(local.source_files) : name if !strcontains(name, "/") && endswith(name, ".go")]) > 0
      error_message = "The function's source is not beside the module, in ${local.root}. Take the module with its repository: source = \"git::https://github.com/whosigned/whosigned//terraform?ref=…\", with the two slashes."
    }
  }
}

# What the function is built from and configured by. It may only read here, and only
# the configuration, so it cannot silence itself.
resource "google_storage_bucket" "source" {
  project                     = var.project_id
  name                        = "${var.project_id}-${var.name}-source"
  location                    = var.region
  force_destroy               = var.force_destroy
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  labels                      = local.labels

  # The versions are the configuration's rollback.
  versioning {
    enabled = true
  }

  soft_delete_policy {
    retention_duration_seconds = var.soft_delete_days * 86400
  }

  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      num_newer_versions         = 20
      days_since_noncurrent_time = 365
      matches_prefix             = ["config/"]
    }
  }

  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      days_since_noncurrent_time = 90
      matches_prefix             = ["source/"]
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key[*]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [time_sleep.apis, time_sleep.kms_key]
}

resource "google_storage_bucket_object" "source" {
  bucket       = google_storage_bucket.source.name
  name         = "source/${basename(data.archive_file.source.output_path)}"
  source       = data.archive_file.source.output_path
  content_type = "application/zip"
}

resource "google_storage_bucket_object" "config" {
  bucket       = google_storage_bucket.source.name
  name         = "${local.config_folder}/whosigned.yaml"
  content      = var.config
  content_type = "application/yaml"

  # What it names is there before it.
  depends_on = [google_storage_bucket_object.config_files]
}

resource "google_storage_bucket_object" "config_files" {
  for_each = var.config_files

  bucket       = google_storage_bucket.source.name
  name         = "${local.config_folder}/${each.key}"
  content      = each.value
  content_type = "text/plain"
}

# What outlives runs. No retention policy: it would forbid the overwriting that every
# commit is.
resource "google_storage_bucket" "state" {
  project                     = var.project_id
  name                        = "${var.project_id}-${var.name}-state"
  location                    = coalesce(var.state_bucket_location, var.region)
  force_destroy               = var.force_destroy
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  labels                      = local.labels

  versioning {
    enabled = true
  }

  soft_delete_policy {
    retention_duration_seconds = var.soft_delete_days * 86400
  }

  # Only what is overwritten in every run ages out. Checkpoints, findings, incidents,
  # signings and decisions are never deleted by age.
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      num_newer_versions         = 20
      days_since_noncurrent_time = 7
      matches_prefix             = ["run.json", "state/", "alerts/", "trust/", "report/"]
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key[*]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [time_sleep.apis, time_sleep.kms_key]
}

# Copies of incidents that nobody can delete before their time.
resource "google_storage_bucket" "evidence" {
  count = var.evidence_retention_days > 0 ? 1 : 0

  project                     = var.project_id
  name                        = "${var.project_id}-${var.name}-evidence"
  location                    = coalesce(var.state_bucket_location, var.region)
  force_destroy               = var.force_destroy
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  labels                      = local.labels

  retention_policy {
    retention_period = var.evidence_retention_days * 86400
    is_locked        = var.evidence_retention_locked
  }

  soft_delete_policy {
    retention_duration_seconds = var.soft_delete_days * 86400
  }

  dynamic "encryption" {
    for_each = var.kms_key[*]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [time_sleep.apis, time_sleep.kms_key]
}
