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
