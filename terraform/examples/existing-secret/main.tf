# SendGrid's key is in a secret that somebody else looks after, here in another project.
# Terraform never sees the key, and a new version of the secret is used from the next
# run on, without an apply.
#
#   printf %s "$SENDGRID_API_KEY" | gcloud secrets versions add sendgrid-api-key --data-file=- --project=acme-secrets
#   terraform init
#   terraform apply -var project_id=acme-security -var secret_project=acme-secrets -var alert_email=security@acme.example
#
# The secret has a version before the apply, or the function does not start. Whoever
# applies grants the function access to it, and needs roles/secretmanager.admin on the
# secret; with grant = false its owner does so:
#
#   gcloud secrets add-iam-policy-binding sendgrid-api-key --project=acme-secrets \
#     --role=roles/secretmanager.secretAccessor --member=serviceAccount:whosigned-run@acme-security.iam.gserviceaccount.com

terraform {
  required_version = ">= 1.11"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.50, < 9"
    }
  }
}

provider "google" {
  project = var.project_id
  region  = var.region
}

module "whosigned" {
  source = "../.." # from elsewhere: "git::https://github.com/whosigned/whosigned//terraform?ref=TAG"

  project_id = var.project_id
  region     = var.region

  config       = file("${path.module}/whosigned.yaml")
  config_files = { "rekor.pub" = file("${path.module}/rekor.pub") }

  sendgrid_secret = {
    project = var.secret_project
    secret  = var.secret
  }
  alert_email = var.alert_email
}
