# The largest gap between two runs, which the function and the no-run alert go by, in
# minutes, as computed from the schedule.

mock_provider "google" {
  source = "./tests/mocks"
}
mock_provider "archive" {}
mock_provider "time" {}

variables {
  project_id      = "acme-security"
  region          = "europe-west1"
  config          = "watch: []"
  alert_email     = "s@acme.example"
  no_run_alert    = false
  timeout_seconds = 180
}

run "a_step_that_does_not_divide_the_hour" {
  command = plan
  variables {
    schedule = "*/25 * * * *"
  }
  assert {
    condition     = local.gap_minutes == 25
    error_message = "gap_minutes: got ${local.gap_minutes}, want 25"
  }
}

run "a_step_that_leaves_the_rest_of_the_day" {
  command = plan
  variables {
    schedule = "0 */7 * * *"
  }
  assert {
    condition     = local.gap_minutes == 420
    error_message = "gap_minutes: got ${local.gap_minutes}, want 420"
  }
}

run "lists_of_ranges" {
  command = plan
  variables {
    schedule = "0-20/10,55 0-2,12 * * *"
  }
  assert {
    condition     = local.gap_minutes == 665
    error_message = "gap_minutes: got ${local.gap_minutes}, want 665"
  }
}

run "leading_zeros_and_spaces" {
  command = plan
  variables {
    schedule = " 07  00,08,16 * * * "
  }
  assert {
    condition     = local.gap_minutes == 480
    error_message = "gap_minutes: got ${local.gap_minutes}, want 480"
  }
}

run "the_same_minute_twice" {
  command = plan
  variables {
    schedule = "7,7 * * * *"
  }
  assert {
    condition     = local.gap_minutes == 60
    error_message = "gap_minutes: got ${local.gap_minutes}, want 60"
  }
}

# Warnings, which do not stop a plan.
run "runs_that_overlap_and_a_monitor_that_nobody_watches" {
  command = plan
  variables {
    schedule        = "*/15 * * * *"
    timeout_seconds = 1740
    alert_email     = null
  }
  expect_failures = [check.runs_do_not_overlap, check.somebody_is_told]
}
