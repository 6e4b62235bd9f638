# Watching the watcher: what tells people that whosigned itself is in trouble, by
# Google's alerting and never through whosigned's own email. Everything here lives
# on the lines that the function logs; none on HTTP codes, since 409 and 429 are
# normal when two deliveries of one schedule overlap.

locals {
  # The same lines as local.run_lines, of another event: one line a log and run, one a finding.
  log_lines     = "${local.lines} AND jsonPayload.event=\"log\""
  finding_lines = "${local.lines} AND jsonPayload.event=\"finding\""

  counters = {
    runs = {
      description = "Runs of ${var.name} that did their job, by outcome."
      filter      = "${local.run_lines} AND jsonPayload.failed=false AND jsonPayload.outcome!=\"busy\""
      label       = { key = "outcome", value = "EXTRACT(jsonPayload.outcome)", description = "How the run ended: clean, findings or tamper." }
    }
    attempts = {
      description = "Runs of ${var.name}, whatever came of them, by outcome."
      filter      = local.run_lines
      label       = { key = "outcome", value = "EXTRACT(jsonPayload.outcome)", description = "How the run ended: clean, findings, tamper, failed, unusable, busy or config." }
    }
    findings = {
      description = "Findings of ${var.name}: WARNING, or INFO if expected."
      filter      = local.finding_lines
      label       = { key = "severity", value = "EXTRACT(severity)", description = "INFO for an expected finding." }
    }
  }

  # Each run, or each log in a run, adds one value, so the mean over one gap is that value.
  distributions = {
    duration = {
      description = "How long runs of ${var.name} took."
      filter      = local.run_lines
      value       = "EXTRACT(jsonPayload.duration_seconds)"
      unit        = "s"
      by_origin   = false
      scale       = 1
    }
    memory = {
      description = "Peak memory of runs of ${var.name}."
      filter      = local.run_lines
      value       = "EXTRACT(jsonPayload.memory_bytes)"
      unit        = "By"
      by_origin   = false
      scale       = 1048576
    }
    log_size = {
      description = "Tree size of each log that ${var.name} watches."
      filter      = local.log_lines
      value       = "EXTRACT(jsonPayload.size)"
      unit        = "1"
      by_origin   = true
      scale       = 1
    }
    log_lag = {
      description = "How far reading is behind each log that ${var.name} watches."
      filter      = local.log_lines
      value       = "EXTRACT(jsonPayload.lag_seconds)"
      unit        = "s"
      by_origin   = true
      scale       = 1
    }
  }
}

resource "google_logging_metric" "counter" {
  for_each = local.counters

  project          = var.project_id
  name             = "${local.metric_prefix}_${each.key}"
  description      = each.value.description
  filter           = each.value.filter
  label_extractors = { (each.value.label.key) = each.value.label.value }

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"

    labels {
      key         = each.value.label.key
      value_type  = "STRING"
      description = each.value.label.description
    }
  }

  depends_on = [time_sleep.apis]
}

resource "google_logging_metric" "distribution" {
  for_each = local.distributions

  project          = var.project_id
  name             = "${local.metric_prefix}_${each.key}"
  description      = each.value.description
  filter           = each.value.filter
  value_extractor  = each.value.value
  label_extractors = each.value.by_origin ? { origin = "EXTRACT(jsonPayload.origin)" } : null

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "DISTRIBUTION"
    unit        = each.value.unit

    dynamic "labels" {
      for_each = each.value.by_origin ? ["origin"] : []
      content {
        key         = labels.value
        value_type  = "STRING"
        description = "The log's origin."
      }
    }
  }

  bucket_options {
    exponential_buckets {
      num_finite_buckets = 64
      growth_factor      = 1.6
      scale              = each.value.scale
    }
  }

  depends_on = [time_sleep.apis]
}

resource "google_monitoring_notification_channel" "email" {
  count = var.alert_email == null ? 0 : 1

  project      = var.project_id
  display_name = "${var.name}: alerts about the monitor itself"
  type         = "email"
  labels       = { email_address = var.alert_email }
  user_labels  = local.labels

  # Google deletes no channel that a policy still names, so the policies change first.
  lifecycle {
    create_before_destroy = true
  }

  depends_on = [time_sleep.apis]
}

locals {
  # PromQL alerts look back at most 25 h on log-based metrics, and the query below
  # looks at two windows. A schedule with wider gaps can only report on itself.
  watchable_gap_minutes = 720
  watchable             = local.gap_minutes <= local.watchable_gap_minutes

  # One gap and the longest run: every window of this length holds a good run while
  # runs succeed. Monitoring shows a logged line up to 10 min late.
  window_minutes = max(local.gap_minutes + 30, 60)

  # For a first apply: the first delivery comes within a gap, may take 30 min, fail, be
  # retried after 5 min and take 30 min again; the line may show up 10 min after that.
  no_run_minutes = local.gap_minutes + 90

  # What lasts is what outlives patience, and the next run too.
  failing_minutes = max(var.patience_hours * 60, local.gap_minutes + 60)

  # How many runs a counter saw in the window, 0 if there is no such series. increase() does
  # not count the line a series is born with, and each revision is a series of its own; so a
  # series also counts that stands higher than in the window before, or was not there.
  seen = {
    for metric, matchers in {
      runs     = "monitored_resource=\"cloud_run_revision\""
      attempts = "monitored_resource=\"cloud_run_revision\",outcome!=\"busy\""
    } :
    metric => replace(replace(
      "((sum(increase(SERIES[WINDOW])) or vector(0)) + (count(max_over_time(SERIES[WINDOW]) unless (max_over_time(SERIES[WINDOW]) <= max_over_time(SERIES[WINDOW] offset WINDOW))) or vector(0)))",
      "SERIES", "logging_googleapis_com:user_${google_logging_metric.counter[metric].name}{${matchers}}"),
    "WINDOW", "${local.window_minutes}m")
  }

  queries = {
    for key, query in {
      no_run = {
        made     = var.no_run_alert
        enabled  = !var.paused
        title    = "no successful run"
        severity = "CRITICAL"
        query    = "${local.seen.runs} < 0.5"
        duration = local.no_run_minutes
        runbook  = local.runbook.no_run
      }
      failing = {
        made     = local.watchable
        enabled  = true # without attempts it is quiet, so pausing needs no switch
        title    = "runs keep failing"
        severity = "ERROR"
        query    = "${local.seen.attempts} >= 0.5 and ${local.seen.runs} < 0.5"
        duration = local.failing_minutes
        runbook  = local.runbook.failing
      }
    } : key => query if query.made
  }

  # What the function decides by itself and says in its run line. An incident has a line
  # of its own as well, written at once: a run that is killed has no run line.
  reports = {
    for key, report in {
      tamper = {
        made     = true
        title    = "a log was tampered with"
        severity = "CRITICAL"
        filter   = "((jsonPayload.event=\"run\" AND jsonPayload.tamper=true) OR jsonPayload.event=\"incident\")"
        remind   = "21600s" # every run says it until it is accepted
        runbook  = local.runbook.tamper
      }
      falling_behind = {
        made     = true
        title    = "reading falls behind a log"
        severity = "WARNING"
        filter   = "jsonPayload.event=\"run\" AND jsonPayload.falling_behind=true"
        remind   = "86400s"
        runbook  = local.runbook.falling_behind
      }
      undelivered = {
        made     = true
        title    = "alerts are not delivered"
        severity = "CRITICAL"
        filter   = "jsonPayload.event=\"run\" AND jsonPayload.undelivered=true"
        remind   = "86400s"
        runbook  = local.runbook.undelivered
      }
      # Too sparse for a query: the function's own word, and at once where it could
      # not read for how long it has been failing.
      failing = {
        made     = !local.watchable
        title    = "runs keep failing"
        severity = "ERROR"
        filter   = "jsonPayload.event=\"run\" AND (jsonPayload.overdue=true OR jsonPayload.outcome=\"unusable\")"
        remind   = "86400s"
        runbook  = local.runbook.failing
      }
    } : key => report if report.made
  }

  channels    = concat(google_monitoring_notification_channel.email[*].name, var.notification_channels)
  runbook_url = coalesce(var.runbook_url, "https://github.com/whosigned/whosigned#3-am")
}

resource "google_monitoring_alert_policy" "query" {
  for_each = local.queries

  project               = var.project_id
  display_name          = "${var.name}: ${each.value.title}"
  enabled               = each.value.enabled
  severity              = each.value.severity
  combiner              = "OR"
  notification_channels = local.channels
  user_labels           = merge(local.labels, { alert = each.key })

  conditions {
    display_name = each.value.title

    condition_prometheus_query_language {
      query               = each.value.query
      duration            = "${each.value.duration * 60}s"
      evaluation_interval = "300s"
      # The metrics are minutes old at best on a first apply, and validation would not find them.
      disable_metric_validation = true
    }
  }

  alert_strategy {
    auto_close = "604800s"
  }

  documentation {
    subject   = "${var.name}: ${each.value.title}"
    mime_type = "text/markdown"
    content   = each.value.runbook

    links {
      display_name = "Runbook"
      url          = local.runbook_url
    }
  }
}

resource "google_monitoring_alert_policy" "report" {
  for_each = local.reports

  project               = var.project_id
  display_name          = "${var.name}: ${each.value.title}"
  severity              = each.value.severity
  combiner              = "OR"
  notification_channels = local.channels
  user_labels           = merge(local.labels, { alert = each.key })

  conditions {
    display_name = each.value.title

    condition_matched_log {
      filter = "${local.lines} AND ${each.value.filter}"
    }
  }

  alert_strategy {
    auto_close = "86400s"

    notification_rate_limit {
      period = each.value.remind
    }
  }

  documentation {
    subject   = "${var.name}: ${each.value.title}"
    mime_type = "text/markdown"
    content   = each.value.runbook

    links {
      display_name = "Runbook"
      url          = local.runbook_url
    }
  }
}

resource "google_monitoring_dashboard" "whosigned" {
  project = var.project_id

  # Only what the API gives back unchanged: it drops zeros and empty fields, which
  # would then show up as a change in every plan.
  dashboard_json = jsonencode({
    displayName = "${var.name}: the monitor itself"
    gridLayout = {
      columns = "2"
      widgets = [for chart in local.charts : {
        title = chart.title
        xyChart = {
          chartOptions = { mode = "COLOR" }
          dataSets = [{
            plotType   = chart.bars ? "STACKED_BAR" : "LINE"
            targetAxis = "Y1"
            timeSeriesQuery = {
              timeSeriesFilter = {
                filter = "metric.type=\"logging.googleapis.com/user/${chart.metric}\" resource.type=\"cloud_run_revision\""
                aggregation = merge({
                  alignmentPeriod    = "${max(local.gap_minutes, 5) * 60}s"
                  perSeriesAligner   = "ALIGN_DELTA"
                  crossSeriesReducer = chart.bars ? "REDUCE_SUM" : "REDUCE_MEAN"
                }, chart.by == null ? {} : { groupByFields = [chart.by] })
              }
            }
          }]
          yAxis = { label = chart.axis, scale = "LINEAR" }
        }
      }]
    }
  })
}

locals {
  charts = [
    { title = "Runs by outcome", metric = google_logging_metric.counter["attempts"].name, axis = "runs", bars = true, by = "metric.label.outcome" },
    { title = "Findings (INFO: expected)", metric = google_logging_metric.counter["findings"].name, axis = "findings", bars = true, by = "metric.label.severity" },
    { title = "Lag by log", metric = google_logging_metric.distribution["log_lag"].name, axis = "seconds", bars = false, by = "metric.label.origin" },
    { title = "Size by log", metric = google_logging_metric.distribution["log_size"].name, axis = "entries", bars = false, by = "metric.label.origin" },
    { title = "Duration of a run", metric = google_logging_metric.distribution["duration"].name, axis = "seconds", bars = false, by = null },
    { title = "Memory of a run", metric = google_logging_metric.distribution["memory"].name, axis = "bytes", bars = false, by = null },
  ]
}

# What the alerts say, with the commands to look and to act. The function's own mails
# tell of the logs; these tell of the function.
locals {
  gcloud = {
    job     = "gcloud scheduler jobs describe ${google_cloud_scheduler_job.hourly.name} --location=${google_cloud_scheduler_job.hourly.region} --project=${var.project_id} --format='yaml(state,status,lastAttemptTime)'"
    run_now = "gcloud scheduler jobs run ${google_cloud_scheduler_job.hourly.name} --location=${google_cloud_scheduler_job.hourly.region} --project=${var.project_id}"
    runs    = "gcloud logging read '${local.run_lines}' --project=${var.project_id} --freshness=2d --limit=48 --format='table(timestamp,jsonPayload.outcome,jsonPayload.duration_seconds,jsonPayload.pending,jsonPayload.errors)'"
    calls   = "gcloud logging read 'resource.type=\"cloud_scheduler_job\" AND resource.labels.job_id=\"${google_cloud_scheduler_job.hourly.name}\"' --project=${var.project_id} --freshness=1d --limit=5"
    build   = "gcloud functions describe ${var.name} --region=${var.region} --project=${var.project_id} --format='yaml(state,stateMessages,updateTime)'"
    trouble = "gcloud logging read '${local.lines} AND severity>=WARNING' --project=${var.project_id} --freshness=1d --limit=20"
    logs    = "gcloud logging read '${local.log_lines}' --project=${var.project_id} --freshness=1d --limit=50 --format='table(timestamp,jsonPayload.origin,jsonPayload.status,jsonPayload.size,jsonPayload.scanned,jsonPayload.lag_seconds)'"
    status  = "whosigned status --state gs://${google_storage_bucket.state.name}"
    alert   = "gcloud storage cat gs://${google_storage_bucket.state.name}/alerts/ALERT_ID.json"
    config  = "gcloud storage ls --all-versions --long gs://${google_storage_bucket.source.name}/${local.config_folder}/whosigned.yaml"
    accept  = "whosigned accept --config gs://${google_storage_bucket.source.name}/${local.config_folder}/whosigned.yaml --state gs://${google_storage_bucket.state.name} --log LOG_ID --incident INCIDENT_ID --reason 'WHY'"
  }

  runbook = {
    no_run = <<-EOT
      **What it means.** No run of ${var.name} has succeeded for ${format("%.3g", (local.window_minutes + local.no_run_minutes) / 60)} hours, or none since it was deployed or resumed ${format("%.3g", local.no_run_minutes / 60)} hours ago. Nothing is watched meanwhile: a signature in your name goes unnoticed. Nothing is lost either: the next good run goes on where the last one ended.

      **Look here.**

      1. Is the job enabled, and does its call get through?

             ${local.gcloud.job}

         PAUSED: somebody paused it by hand. `status.code` 7: the invoking account lost roles/run.invoker on the service ${var.name}; 4, 13 or 14: the function did not answer.
      2. Do runs leave a line, and which outcome?

             ${local.gcloud.runs}

         With lines, go by `outcome` and `errors`: the alert "runs keep failing" says what each means. Only `busy`: a run holds the lease, and it expires by itself.
      3. Without lines, why does it not start or end?

             ${local.gcloud.trouble}

         A container that does not start, memory exceeded, a missing secret, a permission taken away. A build that failed, and calls that were refused, are not among these lines, but here:

             ${local.gcloud.build}

             ${local.gcloud.calls}

      **Do this.** Mend what you found (`terraform apply` puts permissions, the job and the function back), then start a run:

          ${local.gcloud.run_now}

      The incident closes by itself about ten minutes after a run succeeds. To stop on purpose set `paused = true`, which turns this alert off.
    EOT

    failing = <<-EOT
      **What it means.** ${local.watchable ? "Runs of ${var.name} are started, and for ${format("%.3g", local.failing_minutes / 60)} hours none has done its job" : "A run of ${var.name} says that it has been failing for longer than its patience, or that it cannot use its state"}: a log could not be checked, an alert was not delivered, or the run could not begin.

      **Look here.** The outcomes, and the reasons:

          ${local.gcloud.runs}

          ${local.gcloud.trouble}

      - `failed`: `errors` names the log or the sink, and what it answered.
      - `config`: the configuration is invalid; the error names file, line and key.
      - `unusable`: the state bucket cannot be read or written, or an object in it is damaged; the error names the object and the remedy.
      - `tamper`: see the alert "a log was tampered with".

      **Do this.** For a log that is down, wait, or ask who runs it. For `config`, correct it and apply; these are the versions to go back to:

          ${local.gcloud.config}

      For `unusable`, check that gs://${google_storage_bucket.state.name} is there and that the run account still has its roles on it (`terraform plan` shows both); restore a damaged object from its older version. Never empty the bucket: that would forget which history was proven. Then:

          ${local.gcloud.run_now}
    EOT

    tamper = <<-EOT
      **What it means.** A log that ${var.name} watches contradicts what it signed (a proof), or serves what does not verify (a suspicion). Until that is resolved, do not take its word that a signature is, or is not, in it.

      **Look here.** Which log, and the evidence: notes, proofs and leaves that anybody can check.

          ${local.gcloud.runs}

          gcloud storage ls --recursive gs://${google_storage_bucket.state.name}/incidents/

      `kind` and `proof` in the file say which it is. A suspicion shows only what was served to us; a broken mirror or proxy between us and the log does that too.

      **Do this.**

      1. Keep the evidence, copy the incident's file elsewhere, and do not delete state.
      2. Fetch the log's checkpoint from another network, and compare it with the notes in the file.
      3. Tell the log's operator; for the public good instance security@sigstore.dev.
      4. Look at what was signed in your name since the last checkpoint both sides agree on.
      5. Only when it is understood, record why:

             ${local.gcloud.accept}

      Every run repeats this alert's line until then; you are reminded every six hours.
    EOT

    falling_behind = <<-EOT
      **What it means.** A log grows faster than ${var.name} reads it: the lag has grown over six runs and exceeds a day. Findings come late, and ever later. Nothing is skipped.

      **Look here.** Which log, and by how much:

          ${local.gcloud.logs}

      Steady errors or waits there mean that the log slows us down; runs that use up their ${var.timeout_seconds} seconds mean that we need more time:

          ${local.gcloud.runs}

      **Do this.** What helps, in this order: a shorter `schedule` or a longer `timeout_seconds` (at most 1800); more `cpu`, if the log answers quickly; a narrower `coverage` for that log. A keyless identity is watched best in the certificate transparency log, at a hundredth of the requests.
    EOT

    undelivered = <<-EOT
      **What it means.** ${var.name} has had something to tell you for three hours or more, and a sink has not taken it. It may be a finding: read it now.

      **Look here.** Which alerts wait (of run and of each log), for which sink, and what it answered:

          ${local.gcloud.status}

          ${local.gcloud.runs}

      401 or 403 from SendGrid: the key is wrong, revoked or lacks Mail Send, or the sender is not verified. 429 or "credits exceeded": the plan's limit. A refused connection: egress.

      **Do this.** Read each alert that waits (the bucket keeps all that were ever sent, so go by the IDs above):

          ${local.gcloud.alert}

      Then mend the sink: a new key goes in with `sendgrid_api_key_version` raised by one, or as a new version of your own secret; neither needs a redeploy. Then:

          ${local.gcloud.run_now}

      Each run tries again; an alert leaves the outbox only when every sink of its own has taken it.
    EOT
  }
}
