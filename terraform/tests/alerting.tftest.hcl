# What is watched from outside, and who is told. What the PromQL queries make of runs
# is promtool's to say: .ci/promql.

mock_provider "google" {
  source = "./tests/mocks"
}
mock_provider "archive" {}
mock_provider "time" {}

variables {
  sendgrid_api_key      = "SG.not-a-real-key.x"
  project_id            = "acme-security"
  region                = "europe-west1"
  name                  = "acme-watch"
  config                = "watch: []"
  alert_email           = "s@acme.example"
  notification_channels = ["projects/acme-security/notificationChannels/1"]
}

run "metrics_count_the_lines_of_this_instance_alone" {
  assert {
    condition = toset([for m in concat(values(google_logging_metric.counter), values(google_logging_metric.distribution)) : m.name]) == toset([
      "whosigned_acme_watch_runs", "whosigned_acme_watch_attempts", "whosigned_acme_watch_findings", "whosigned_acme_watch_duration",
      "whosigned_acme_watch_memory", "whosigned_acme_watch_log_size", "whosigned_acme_watch_log_lag",
    ])
    error_message = "names: got ${jsonencode([for m in concat(values(google_logging_metric.counter), values(google_logging_metric.distribution)) : m.name])}"
  }
  assert {
    condition = alltrue([for m in concat(values(google_logging_metric.counter), values(google_logging_metric.distribution)) :
      startswith(m.filter, "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"acme-watch\" AND resource.labels.location=\"europe-west1\" AND jsonPayload.event=")
    ])
    error_message = "filters: got ${jsonencode([for m in concat(values(google_logging_metric.counter), values(google_logging_metric.distribution)) : m.filter])}"
  }
  assert {
    condition     = endswith(google_logging_metric.counter["runs"].filter, " AND jsonPayload.event=\"run\" AND jsonPayload.failed=false AND jsonPayload.outcome!=\"busy\"")
    error_message = "only good runs count as runs: got ${google_logging_metric.counter["runs"].filter}"
  }
  assert {
    condition     = endswith(google_logging_metric.counter["attempts"].filter, " AND jsonPayload.event=\"run\"") && endswith(google_logging_metric.counter["findings"].filter, " AND jsonPayload.event=\"finding\"")
    error_message = "attempts and findings: got ${google_logging_metric.counter["attempts"].filter} and ${google_logging_metric.counter["findings"].filter}"
  }
  assert {
    condition = { for k, m in google_logging_metric.distribution : k => "${regex("event=\"([a-z]+)\"", m.filter)[0]} ${m.value_extractor} ${m.metric_descriptor[0].unit} ${join(",", keys(coalesce(m.label_extractors, {})))}" } == {
      duration = "run EXTRACT(jsonPayload.duration_seconds) s "
      memory   = "run EXTRACT(jsonPayload.memory_bytes) By "
      log_size = "log EXTRACT(jsonPayload.size) 1 origin"
      log_lag  = "log EXTRACT(jsonPayload.lag_seconds) s origin"
    }
    error_message = "distributions: got ${jsonencode(google_logging_metric.distribution)}"
  }
  assert {
    condition = alltrue([for m in concat(values(google_logging_metric.counter), values(google_logging_metric.distribution)) :
      m.metric_descriptor[0].metric_kind == "DELTA" && join(",", keys(coalesce(m.label_extractors, {}))) == join(",", [for l in m.metric_descriptor[0].labels : l.key])
    ])
    error_message = "each extracted label is declared, and nothing else: got ${jsonencode([for m in concat(values(google_logging_metric.counter), values(google_logging_metric.distribution)) : m.metric_descriptor])}"
  }
}

run "policies_go_by_the_runs_log_line_in_ways_that_google_takes" {
  assert {
    condition     = keys(google_monitoring_alert_policy.query) == ["failing", "no_run"] && keys(google_monitoring_alert_policy.report) == ["falling_behind", "tamper", "undelivered"]
    error_message = "policies: got ${jsonencode([keys(google_monitoring_alert_policy.query), keys(google_monitoring_alert_policy.report)])}"
  }
  assert {
    condition = { for k, p in google_monitoring_alert_policy.report : k => trimprefix(p.conditions[0].condition_matched_log[0].filter, "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"acme-watch\" AND resource.labels.location=\"europe-west1\" AND ") } == {
      tamper         = "((jsonPayload.event=\"run\" AND jsonPayload.tamper=true) OR jsonPayload.event=\"incident\")"
      falling_behind = "jsonPayload.event=\"run\" AND jsonPayload.falling_behind=true"
      undelivered    = "jsonPayload.event=\"run\" AND jsonPayload.undelivered=true"
    }
    error_message = "filters: got ${jsonencode([for p in google_monitoring_alert_policy.report : p.conditions[0].condition_matched_log[0].filter])}"
  }
  assert {
    condition = alltrue([for p in google_monitoring_alert_policy.query :
      toset(flatten(regexall("logging_googleapis_com:([a-z_]+)", p.conditions[0].condition_prometheus_query_language[0].query))) == toset(p.user_labels.alert == "no_run" ? ["user_whosigned_acme_watch_runs"] : ["user_whosigned_acme_watch_runs", "user_whosigned_acme_watch_attempts"])
    ])
    error_message = "queries ask other metrics: got ${jsonencode([for p in google_monitoring_alert_policy.query : p.conditions[0].condition_prometheus_query_language[0].query])}"
  }
  # 409 and 429 are normal when deliveries overlap, and a function that is never called has no codes.
  assert {
    condition     = !can(regex("(?i)http|request_count|response_code|status", jsonencode([for p in concat(values(google_monitoring_alert_policy.query), values(google_monitoring_alert_policy.report)) : p.conditions])))
    error_message = "a policy goes by HTTP codes: got ${jsonencode([for p in concat(values(google_monitoring_alert_policy.query), values(google_monitoring_alert_policy.report)) : p.conditions])}"
  }

  # The metrics of a first apply do not exist yet when the policies are made.
  assert {
    condition     = alltrue([for p in google_monitoring_alert_policy.query : p.conditions[0].condition_prometheus_query_language[0].disable_metric_validation])
    error_message = "a query's metrics are validated: a first apply would end with 404"
  }
  assert {
    condition     = alltrue([for p in google_monitoring_alert_policy.report : length(p.conditions) == 1 && can(regex("^[0-9]+s$", p.alert_strategy[0].notification_rate_limit[0].period))])
    error_message = "a matched log must be its policy's only condition, with a rate limit: got ${jsonencode([for p in google_monitoring_alert_policy.report : p.alert_strategy])}"
  }
  assert {
    condition     = alltrue([for p in google_monitoring_alert_policy.query : length(p.alert_strategy[0].notification_rate_limit) == 0])
    error_message = "a rate limit is for matched logs only"
  }
  assert {
    condition     = alltrue([for p in concat(values(google_monitoring_alert_policy.query), values(google_monitoring_alert_policy.report)) : contains(["CRITICAL", "ERROR", "WARNING"], p.severity) && tonumber(trimsuffix(p.alert_strategy[0].auto_close, "s")) >= 1800 && tonumber(trimsuffix(p.alert_strategy[0].auto_close, "s")) <= 604800])
    error_message = "severity and auto_close (30 min to 7 days): got ${jsonencode([for p in concat(values(google_monitoring_alert_policy.query), values(google_monitoring_alert_policy.report)) : [p.severity, p.alert_strategy[0].auto_close]])}"
  }
  assert {
    condition     = google_monitoring_alert_policy.report["tamper"].severity == "CRITICAL" && google_monitoring_alert_policy.query["no_run"].severity == "CRITICAL"
    error_message = "tampering and silence are critical"
  }
  assert {
    condition     = google_monitoring_alert_policy.query["no_run"].conditions[0].condition_prometheus_query_language[0].duration == "9000s" && google_monitoring_alert_policy.query["failing"].conditions[0].condition_prometheus_query_language[0].duration == "10800s"
    error_message = "durations: got ${jsonencode([for p in google_monitoring_alert_policy.query : p.conditions[0].condition_prometheus_query_language[0].duration])}"
  }
}

run "everybody_is_told_and_what_to_do" {
  assert {
    condition = alltrue([for p in concat(values(google_monitoring_alert_policy.query), values(google_monitoring_alert_policy.report)) :
      toset(p.notification_channels) == toset([google_monitoring_notification_channel.email[0].name, "projects/acme-security/notificationChannels/1"])
    ])
    error_message = "channels: got ${jsonencode([for p in google_monitoring_alert_policy.report : p.notification_channels])}"
  }
  assert {
    condition     = google_monitoring_notification_channel.email[0].type == "email" && google_monitoring_notification_channel.email[0].labels.email_address == "s@acme.example"
    error_message = "email channel: got ${jsonencode(google_monitoring_notification_channel.email)}"
  }
  assert {
    condition = alltrue([for p in concat(values(google_monitoring_alert_policy.query), values(google_monitoring_alert_policy.report)) :
      startswith(p.display_name, "acme-watch: ") && startswith(p.documentation[0].subject, "acme-watch: ") && p.user_labels.whosigned == "acme-watch"
    ])
    error_message = "names: got ${jsonencode([for p in google_monitoring_alert_policy.report : p.display_name])}"
  }

  assert {
    condition = alltrue([for p in concat(values(google_monitoring_alert_policy.query), values(google_monitoring_alert_policy.report)) :
      p.documentation[0].mime_type == "text/markdown" && alltrue([for part in ["**What it means.**", "**Look here.**", "**Do this.**", "acme-watch", "--project=acme-security", "gcloud "] : strcontains(p.documentation[0].content, part)])
    ])
    error_message = "runbooks: got ${jsonencode([for p in concat(values(google_monitoring_alert_policy.query), values(google_monitoring_alert_policy.report)) : p.documentation])}"
  }
  # Monitoring takes 8 KiB, and replaces $${…} by variables of its own.
  assert {
    condition = alltrue([for p in concat(values(google_monitoring_alert_policy.query), values(google_monitoring_alert_policy.report)) :
      length(base64encode(p.documentation[0].content)) <= 10920 && !strcontains(p.documentation[0].content, "$${") && length(p.documentation[0].subject) <= 255
    ])
    error_message = "a runbook is too long, or has a variable"
  }
  assert {
    condition = (strcontains(google_monitoring_alert_policy.query["no_run"].documentation[0].content, "gcloud scheduler jobs run acme-watch --location=europe-west1 --project=acme-security") &&
      strcontains(google_monitoring_alert_policy.report["undelivered"].documentation[0].content, "whosigned status --state gs://acme-security-acme-watch-state\n") &&
      strcontains(google_monitoring_alert_policy.query["no_run"].documentation[0].content, "gcloud functions describe acme-watch --region=europe-west1 --project=acme-security") &&
      strcontains(google_monitoring_alert_policy.query["no_run"].documentation[0].content, "resource.type=\"cloud_scheduler_job\" AND resource.labels.job_id=\"acme-watch\"") &&
      strcontains(google_monitoring_alert_policy.report["tamper"].documentation[0].content, "--config gs://acme-security-acme-watch-source/config/acme-watch/whosigned.yaml")
    )
    error_message = "a command in a runbook does not name what it is about"
  }
  # promtool shows that these are the hours.
  assert {
    condition     = strcontains(google_monitoring_alert_policy.query["no_run"].documentation[0].content, "has succeeded for 4 hours, or none since it was deployed or resumed 2.5 hours ago")
    error_message = "no_run's runbook: got ${google_monitoring_alert_policy.query["no_run"].documentation[0].content}"
  }
  assert {
    condition     = google_monitoring_alert_policy.report["tamper"].documentation[0].links[0].url == "https://github.com/whosigned/whosigned#3-am"
    error_message = "link: got ${jsonencode(google_monitoring_alert_policy.report["tamper"].documentation[0].links)}"
  }
}

run "the_dashboard_shows_what_exists" {
  assert {
    condition = toset(flatten(regexall("logging.googleapis.com/user/([a-z_]+)", google_monitoring_dashboard.whosigned.dashboard_json))) == toset(
      [for m in concat([for k, c in google_logging_metric.counter : c if k != "runs"], values(google_logging_metric.distribution)) : m.name]
    )
    error_message = "metrics: got ${jsonencode(regexall("logging.googleapis.com/user/([a-z_]+)", google_monitoring_dashboard.whosigned.dashboard_json))}"
  }
  assert {
    condition     = startswith(jsondecode(google_monitoring_dashboard.whosigned.dashboard_json).displayName, "acme-watch: ") && length(jsondecode(google_monitoring_dashboard.whosigned.dashboard_json).gridLayout.widgets) == 6
    error_message = "dashboard: got ${google_monitoring_dashboard.whosigned.dashboard_json}"
  }
  # What the API leaves out of its answer would be a change in every plan.
  assert {
    condition     = !can(regex(":(0|null|\"\"|\\[\\]|\\{\\}|false)[,}]", google_monitoring_dashboard.whosigned.dashboard_json))
    error_message = "an empty field: ${try(regex("\"[a-zA-Z]+\":(?:0|null|\"\"|\\[\\]|\\{\\}|false)[,}]", google_monitoring_dashboard.whosigned.dashboard_json), "")}"
  }
  # A label of a metric that has none would be an empty chart.
  assert {
    condition = alltrue([for w in jsondecode(google_monitoring_dashboard.whosigned.dashboard_json).gridLayout.widgets : alltrue([for d in w.xyChart.dataSets :
      [for l in try(d.timeSeriesQuery.timeSeriesFilter.aggregation.groupByFields, []) : trimprefix(l, "metric.label.")] ==
      flatten([for m in concat(values(google_logging_metric.counter), values(google_logging_metric.distribution)) : keys(coalesce(m.label_extractors, {})) if strcontains(d.timeSeriesQuery.timeSeriesFilter.filter, "/${m.name}\"")])
    ])])
    error_message = "groupByFields: got ${jsonencode([for w in jsondecode(google_monitoring_dashboard.whosigned.dashboard_json).gridLayout.widgets : try(w.xyChart.dataSets[0].timeSeriesQuery.timeSeriesFilter.aggregation.groupByFields, [])])}"
  }
}

run "a_pause_silences_the_wait_for_runs_and_nothing_else" {
  variables {
    paused = true
  }
  assert {
    condition     = google_monitoring_alert_policy.query["no_run"].enabled == false
    error_message = "no_run is enabled while the schedule is paused"
  }
  assert {
    condition     = alltrue([for k, p in merge(google_monitoring_alert_policy.query, google_monitoring_alert_policy.report) : p.enabled != false if k != "no_run"])
    error_message = "a pause turned off: ${jsonencode([for k, p in merge(google_monitoring_alert_policy.query, google_monitoring_alert_policy.report) : k if p.enabled == false])}"
  }
}

run "without_addresses_there_is_no_channel" {
  variables {
    alert_email           = null
    notification_channels = []
  }
  expect_failures = [check.somebody_is_told]
  assert {
    condition     = length(google_monitoring_notification_channel.email) == 0
    error_message = "channel: got ${jsonencode(google_monitoring_notification_channel.email)}"
  }
}

run "the_wait_for_runs_can_be_left_out" {
  variables {
    no_run_alert = false
  }
  assert {
    condition     = keys(google_monitoring_alert_policy.query) == ["failing"]
    error_message = "queries: got ${jsonencode(keys(google_monitoring_alert_policy.query))}"
  }
}

# PromQL alerts look back 25 h on log-based metrics, and hold for 23.5 h.
run "the_sparsest_schedule_stays_within_the_limits" {
  variables {
    schedule       = "7 */6 * * *"
    patience_hours = 12
  }
  assert {
    condition     = google_monitoring_alert_policy.query["no_run"].enabled
    error_message = "no_run stays disabled after a pause"
  }
  assert {
    condition = alltrue([for p in google_monitoring_alert_policy.query :
      alltrue([for w in flatten(regexall("(?:\\[|offset )([0-9]+)m", p.conditions[0].condition_prometheus_query_language[0].query)) : tonumber(w) * 2 <= 1500]) &&
      tonumber(trimsuffix(p.conditions[0].condition_prometheus_query_language[0].duration, "s")) <= 84600 &&
      tonumber(trimsuffix(p.conditions[0].condition_prometheus_query_language[0].evaluation_interval, "s")) % 30 == 0
    ])
    error_message = "limits: got ${jsonencode([for p in google_monitoring_alert_policy.query : p.conditions])}"
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.query["no_run"].conditions[0].condition_prometheus_query_language[0].query, "[390m]") && google_monitoring_alert_policy.query["failing"].conditions[0].condition_prometheus_query_language[0].duration == "43200s"
    error_message = "windows: got ${jsonencode([for p in google_monitoring_alert_policy.query : p.conditions])}"
  }
}

run "a_schedule_too_sparse_for_queries_reports_on_itself" {
  variables {
    schedule     = "7 3 * * *"
    no_run_alert = false
    runbook_url  = "https://wiki.acme.example/whosigned"
  }
  assert {
    condition     = length(google_monitoring_alert_policy.query) == 0 && endswith(google_monitoring_alert_policy.report["failing"].conditions[0].condition_matched_log[0].filter, " AND jsonPayload.event=\"run\" AND (jsonPayload.overdue=true OR jsonPayload.outcome=\"unusable\")")
    error_message = "policies: got ${jsonencode([keys(google_monitoring_alert_policy.query), [for p in google_monitoring_alert_policy.report : p.conditions]])}"
  }
  assert {
    condition     = google_monitoring_alert_policy.report["failing"].documentation[0].links[0].url == "https://wiki.acme.example/whosigned"
    error_message = "link: got ${jsonencode(google_monitoring_alert_policy.report["failing"].documentation[0].links)}"
  }
}
