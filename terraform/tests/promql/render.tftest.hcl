# Not a test by itself: .ci/promql plans the module once for each of these inputs, and
# hands the queries that come out to promtool. Nothing is created.

mock_provider "google" {}
mock_provider "archive" {}
mock_provider "time" {}

variables {
  project_id            = "acme-security"
  region                = "europe-west1"
  config                = "logs: []"
  notification_channels = ["projects/acme-security/notificationChannels/1"]
}

run "hourly" {
  command = plan
}

run "half_hourly" {
  command = plan

  variables {
    schedule = "7,37 * * * *"
  }
}

run "six_hourly" {
  command = plan

  variables {
    schedule = "7 */6 * * *"
  }
}

run "paused" {
  command = plan

  variables {
    paused = true
  }
}
