variable "project_id" {
  description = "ID of the project to deploy to."
  type        = string
}

variable "region" {
  description = "Region to deploy to; the key's, the connector's and the pool's too."
  type        = string
  default     = "europe-west1"
}

variable "build_service_account" {
  description = "Email of the account that builds."
  type        = string
}

variable "run_service_account" {
  description = "Email of the account that the function runs as."
  type        = string
}

variable "invoke_service_account" {
  description = "Email of the account that Scheduler calls as."
  type        = string
}

variable "kms_key" {
  description = "Cloud KMS key: projects/PROJECT/locations/REGION/keyRings/RING/cryptoKeys/KEY."
  type        = string
}

variable "connector" {
  description = "Serverless VPC Access connector: projects/PROJECT/locations/REGION/connectors/NAME."
  type        = string
}

variable "worker_pool" {
  description = "Cloud Build private pool: projects/PROJECT/locations/REGION/workerPools/NAME."
  type        = string
}

variable "goproxy" {
  description = "Go module proxy that the pool can reach."
  type        = string
}

variable "notification_channels" {
  description = "Monitoring channels to alert: projects/PROJECT/notificationChannels/ID."
  type        = list(string)
}
