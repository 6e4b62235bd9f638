# A closed organisation: calls from inside only, everything encrypted with a key of your
# own, outgoing calls through a VPC, builds in a private pool with a module proxy of your
# own, accounts and APIs made centrally, mail by an SMTP relay inside.
#
# Beforehand, by whoever owns the project:
#   - the APIs: gcloud services enable artifactregistry.googleapis.com cloudbuild.googleapis.com \
#       cloudfunctions.googleapis.com cloudscheduler.googleapis.com iam.googleapis.com logging.googleapis.com \
#       monitoring.googleapis.com run.googleapis.com secretmanager.googleapis.com storage.googleapis.com
#   - Google's agents, which the key is granted to:
#       for s in artifactregistry cloudfunctions run secretmanager; do
#         gcloud beta services identity create --service=$s.googleapis.com --project=PROJECT; done
#       gcloud storage service-agent --project=PROJECT
#   - three accounts without roles, but for the build account's two:
#       roles/logging.logWriter on the project, and roles/storage.objectViewer on the project with the condition
#       resource.name.startsWith("projects/_/buckets/gcf-v2-sources-PROJECT_NUMBER-REGION")
#   - a Serverless VPC Access connector whose network reaches the logs, the relay and, with
#     Private Google Access, Cloud Storage and Secret Manager; with trust: {tuf: …} also the
#     TUF repository and each log that it comes to list. README has the hosts' names, those of
#     other sinks too
#   - the login's two secrets, each with a version
#
#   terraform init && terraform apply -var-file=acme.tfvars

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
  labels     = { team = "security" }

  config       = file("${path.module}/whosigned.yaml")
  config_files = { "rekor.pub" = file("${path.module}/rekor.pub") }

  enable_apis            = false
  build_service_account  = var.build_service_account
  run_service_account    = var.run_service_account
  invoke_service_account = var.invoke_service_account

  ingress_settings = "ALLOW_INTERNAL_ONLY"
  kms_key          = var.kms_key
  vpc = {
    connector = var.connector
    egress    = "ALL_TRAFFIC"
  }
  worker_pool = var.worker_pool
  build_environment = {
    GOPROXY = var.goproxy
    GOSUMDB = "off" # the proxy is trusted; go.sum still holds every module to its hash
  }

  smtp_secrets = {
    username = { project = var.project_id, secret = "smtp-username" }
    password = { project = var.project_id, secret = "smtp-password" }
  }

  notification_channels = var.notification_channels
  runbook_url           = "https://wiki.acme.example/whosigned"
}
