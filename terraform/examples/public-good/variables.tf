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

variable "sendgrid_api_key" {
  description = "SendGrid API key with the permission Mail Send."
  type        = string
  ephemeral   = true
  sensitive   = true
}
