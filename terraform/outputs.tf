output "function_name" {
  description = "Name of the Cloud Function, of its Cloud Run service and of its Scheduler job."
  value       = google_cloudfunctions2_function.monitor.name
}

output "function_uri" {
  description = "Where Scheduler calls it. Calls need an ID token of an account with roles/run.invoker."
  value       = google_cloudfunctions2_function.monitor.service_config[0].uri
}

output "scheduler_job" {
  description = "Full name of the Cloud Scheduler job."
  value       = google_cloud_scheduler_job.hourly.id
}

output "state_bucket" {
  description = "Bucket with everything that outlives runs."
  value       = google_storage_bucket.state.name
}

output "source_bucket" {
  description = "Bucket with the function's source and configuration."
  value       = google_storage_bucket.source.name
}

output "evidence_bucket" {
  description = "Bucket with copies of incidents under retention; null without evidence_retention_days."
  value       = one(google_storage_bucket.evidence[*].name)
}

output "config_uri" {
  description = "The configuration that runs read, as a gs:// URI."
  value       = "gs://${google_storage_bucket.source.name}/${google_storage_bucket_object.config.name}"
}

output "service_accounts" {
  description = "Emails of the accounts that build, run and invoke the function."
  value = {
    build  = local.build_email
    run    = local.run_email
    invoke = local.invoke_email
  }
}

output "sendgrid_secret" {
  description = "The secret made for sendgrid_api_key; null if there is none. The run after gcloud secrets versions add uses the new key."
  value       = one(google_secret_manager_secret.sendgrid[*].id)
}

output "run_now" {
  description = "Command that starts a run."
  value       = "gcloud scheduler jobs run ${google_cloud_scheduler_job.hourly.name} --location=${google_cloud_scheduler_job.hourly.region} --project=${var.project_id}"
}

output "last_result" {
  description = "Command that prints the last run's result."
  value       = "gcloud storage cat gs://${google_storage_bucket.state.name}/run.json"
}

output "logs" {
  description = "Command that prints the last day's runs, newest first."
  value       = "gcloud logging read '${local.run_lines}' --project=${var.project_id} --freshness=1d --format=json"
}

output "config_versions" {
  description = "Command that lists the configuration's versions; copying an older one over it rolls back until the next apply."
  value       = "gcloud storage ls --all-versions --long gs://${google_storage_bucket.source.name}/${google_storage_bucket_object.config.name}"
}
