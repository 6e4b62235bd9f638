output "run_now" {
  description = "Command that starts a run."
  value       = module.whosigned.run_now
}

output "last_result" {
  description = "Command that prints the last run's result."
  value       = module.whosigned.last_result
}

output "logs" {
  description = "Command that prints the last day's runs."
  value       = module.whosigned.logs
}

output "function_uri" {
  description = "Where the function is called; it needs an ID token of an invoker."
  value       = module.whosigned.function_uri
}

output "config_versions" {
  description = "Command that lists the configuration's versions."
  value       = module.whosigned.config_versions
}
