# The Sigstore that everybody uses: every Rekor v2 shard and CT log in full, Rekor v1 by
# its search index, keys by TUF, alerts by SendGrid. whosigned.yaml says it all; there
# are no keys to fetch.
#
#   export TF_VAR_sendgrid_api_key=SG.…      # at every plan and apply: it is never stored
#   terraform init
#   terraform apply -var project_id=acme-security -var alert_email=security@acme.example
#
# Put your own subjects and addresses into whosigned.yaml first. Changing it later, and
# applying, does not rebuild the function.

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

  config           = file("${path.module}/whosigned.yaml")
  sendgrid_api_key = var.sendgrid_api_key
  alert_email      = var.alert_email
}
