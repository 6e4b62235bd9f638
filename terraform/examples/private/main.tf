# Your own Sigstore: a Rekor v1 service and a Rekor v2 shard, with keys of your own,
# alerts by SendGrid.
#
#   export TF_VAR_sendgrid_api_key=SG.…      # at every plan and apply: it is never stored
#   terraform init
#   terraform apply -var project_id=acme-security -var alert_email=security@acme.example
#
# whosigned.yaml says what is watched and who is told; keys/ has the logs' public keys.
# Put yours there first. Changing them later, and applying, does not rebuild the function.

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
  config_files = { for name in fileset(path.module, "keys/*.pub") : name => file("${path.module}/${name}") }

  sendgrid_api_key = var.sendgrid_api_key
  alert_email      = var.alert_email

  # Two years of proof of tampering that nobody can delete.
  evidence_retention_days = 730
}
