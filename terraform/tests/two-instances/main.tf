# Two instances in one project and one root, and two of everything. The first one mails
# with a secret that the root makes, parts of which plan does not know yet.

terraform {
  required_version = ">= 1.11"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.50, < 9"
    }
  }
}

resource "google_secret_manager_secret" "mail" {
  project   = "acme-security"
  secret_id = "mail"

  replication {
    auto {}
  }
}

module "first" {
  source = "../.."

  project_id  = "acme-security"
  region      = "europe-west1"
  name        = "first"
  config      = "alerts: {email: {via: sendgrid}}"
  alert_email = "s@acme.example"

  sendgrid_secret = {
    project = "acme-security"
    secret  = basename(google_secret_manager_secret.mail.id)
  }
}

module "second" {
  source = "../.."

  project_id  = "acme-security"
  region      = "europe-west1"
  name        = "second"
  config      = "watch: []"
  alert_email = "s@acme.example"
}

output "first" {
  description = "All outputs of the first instance."
  value       = module.first
}

output "second" {
  description = "All outputs of the second instance."
  value       = module.second
}
