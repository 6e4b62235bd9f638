variable "project_id" {
  description = "ID of the project to deploy to."
  type        = string
}

variable "region" {
  description = "Region to deploy to."
  type        = string
  default     = "europe-west1"
}

variable "alert_email" {
  description = "Address that Google Cloud mails when the monitor itself fails."
  type        = string
}

variable "secret_project" {
  description = "ID of the project that has the secret."
  type        = string
}

variable "secret" {
  description = "Short ID of the secret with SendGrid's key."
  type        = string
  default     = "sendgrid-api-key"
}
