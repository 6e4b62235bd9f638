# Secrets are mounted as files and named by NAME_FILE in the environment.
locals {
  # What the configuration sends by. rekor-monitor's keys stand at its top level.
  parsed   = try(yamldecode(var.config), null)
  mail_via = [for e in flatten([try(local.parsed.alerts.email, [])]) : try(e.via, "")]
  sinks_used = {
    sendgrid = contains(local.mail_via, "sendgrid") || try(local.parsed.emailNotificationSendGrid != null, false)
    mailgun  = contains(local.mail_via, "mailgun") || try(local.parsed.emailNotificationMailgun != null, false)
    smtp     = contains(local.mail_via, "smtp") || try(local.parsed.emailNotificationSMTP != null, false)
    github   = anytrue([for s in flatten([try(local.parsed.alerts.github, null), try(local.parsed.githubIssue, null), try(local.parsed.gitHubIssue, null)]) : s != null])
  }
  sendgrid_own = local.sinks_used.sendgrid && var.sendgrid_secret == null

  # By whether they are given, without can or try: a secret that the same root makes has
  # parts that are not known yet, and for_each must know its keys.
  given_secrets = {
    for key, s in {
      sendgrid      = merge({ given = var.sendgrid_secret != null, variable = "SENDGRID_API_KEY_FILE", file = "api-key" }, var.sendgrid_secret)
      mailgun       = merge({ given = var.mailgun_secret != null, variable = "MAILGUN_API_KEY_FILE", file = "api-key" }, var.mailgun_secret)
      github        = merge({ given = var.github_secret != null, variable = "GITHUB_TOKEN_FILE", file = "token" }, var.github_secret)
      smtp-username = merge({ given = var.smtp_secrets != null, variable = "SMTP_USERNAME_FILE", file = "username" }, var.smtp_secrets == null ? null : var.smtp_secrets.username)
      smtp-password = merge({ given = var.smtp_secrets != null, variable = "SMTP_PASSWORD_FILE", file = "password" }, var.smtp_secrets == null ? null : var.smtp_secrets.password)
    } : key => merge(s, { mount = "/secrets/${key}" }) if s.given
  }
  own_secrets = {
    for s in google_secret_manager_secret.sendgrid : "sendgrid" => {
      variable = "SENDGRID_API_KEY_FILE", file = "api-key", mount = "/secrets/sendgrid", project = var.project_id, secret = s.secret_id
    }
  }
  secrets = merge(local.given_secrets, local.own_secrets)

  # Variables whose secret the function could read, and has no sink for.
  unused_secrets = sort([
    for variable, unused in {
      github_secret   = var.github_secret != null && !local.sinks_used.github
      mailgun_secret  = var.mailgun_secret != null && !local.sinks_used.mailgun
      sendgrid_secret = var.sendgrid_secret != null && !local.sinks_used.sendgrid
      smtp_secrets    = var.smtp_secrets != null && !local.sinks_used.smtp
    } : variable if unused
  ])
}

check "secrets_are_used" {
  assert {
    condition     = length(local.unused_secrets) == 0
    error_message = "${join(", ", local.unused_secrets)}: config has no sink that uses it, and yet the function may read it. Add the sink to alerts in config, or remove the variable."
  }
}

resource "google_secret_manager_secret" "sendgrid" {
  count = local.sendgrid_own ? 1 : 0

  project   = var.project_id
  secret_id = "${var.name}-sendgrid-api-key"
  labels    = local.labels

  replication {
    user_managed {
      dynamic "replicas" {
        for_each = coalesce(var.secret_locations, [var.region])
        content {
          location = replicas.value
          dynamic "customer_managed_encryption" {
            for_each = var.kms_key[*]
            content {
              kms_key_name = customer_managed_encryption.value
            }
          }
        }
      }
    }
  }

  depends_on = [time_sleep.apis, time_sleep.kms_key]
}

resource "google_secret_manager_secret_version" "sendgrid" {
  count = local.sendgrid_own ? 1 : 0

  secret                 = google_secret_manager_secret.sendgrid[0].id
  secret_data_wo         = var.sendgrid_api_key
  secret_data_wo_version = var.sendgrid_api_key_version

  # No create_before_destroy: it would spread to all that this depends on, and a grant
  # that is replaced so ends up revoked.
}

resource "google_secret_manager_secret_iam_member" "run_sendgrid" {
  count = local.sendgrid_own ? 1 : 0

  project   = var.project_id
  secret_id = google_secret_manager_secret.sendgrid[0].secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = local.run_member
}

resource "google_secret_manager_secret_iam_member" "run_given" {
  for_each = { for key, s in local.given_secrets : key => s if s.grant }

  project   = each.value.project
  secret_id = each.value.secret
  role      = "roles/secretmanager.secretAccessor"
  member    = local.run_member

  depends_on = [time_sleep.apis]
}
