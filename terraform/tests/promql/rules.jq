# From what `terraform test -json -verbose` prints to one Prometheus rule file: the PromQL
# conditions of the run $input, as Cloud Monitoring would evaluate them. A policy that is
# not enabled is not evaluated. JSON is YAML.

[ .[]
  | select(.type == "test_plan" and .["@testrun"] == $input)
  | .test_plan.resource_changes[]
  | select(.type == "google_monitoring_alert_policy")
  | select(.change.after.enabled != false)
  | { alert: .change.after.user_labels.alert, condition: .change.after.conditions[].condition_prometheus_query_language[] }
]
| if length == 0 then error("the run \($input) has no policy with a PromQL condition") else . end
| {
    groups: map({
      name: .alert,
      interval: .condition.evaluation_interval,
      rules: [{ alert, expr: .condition.query, for: .condition.duration }]
    })
  }
