# Each rule on a variable, broken once. Above a value stands what it is and, behind the colon,
# what the message must say: tests/messages holds it to that, since a test can only ask
# which variable failed.

mock_provider "google" {
  source = "./tests/mocks"
}
mock_provider "archive" {}
mock_provider "time" {}

variables {
  project_id  = "acme-security"
  region      = "europe-west1"
  config      = "watch: []"
  alert_email = "s@acme.example"
}

run "the_first_rule_of_each" {
  command = plan
  variables {
    # a project number: gcloud projects list shows it
    project_id = "123456789012"
    # a zone: is not a region such as europe-west1
    region = "europe-west1-b"
    # a name too long: 3 to 20 lower-case letters
    name = "a-name-of-21-letters-x"
    # a label in upper case: lower-case letters, digits, _ and -
    labels = { Team = "x" }
    # a configuration that is a file name: Give the file's text
    config = "whosigned.yaml"
    # a file outside the folder: no .. and no part that begins with a dot
    config_files = { "../rekor.pub" = "k" }
    # a key version of zero: a whole number from 1
    sendgrid_api_key_version = 0
    # a secret by its full name: secret's short ID
    sendgrid_secret = { project = "acme-secrets", secret = "projects/acme-secrets/secrets/key" }
    # an smtp secret by its full name: smtp_secrets: secret must be the secret's short ID
    smtp_secrets = { username = { project = "acme-secrets", secret = "u" }, password = { project = "acme-secrets", secret = "projects/p/secrets/s" } }
    # no secret location: at least one region
    secret_locations = []
    # a schedule on weekdays: a day without a run cannot be told from a dead monitor
    schedule = "7 * * * 1-5"
    # a time zone by letters: a name from the tz database
    time_zone = "CET+1"
    # a zone for the scheduler: gcloud scheduler locations list
    scheduler_region = "europe-west1-b"
    # a timeout above schedulers: a whole number from 180 to 1800
    timeout_seconds = 1801
    # too little memory: 256Mi or more
    memory = "128Mi"
    # a runtime too old: go126 or go127
    runtime = "go125"
    # a variable that the module sets: use the module's own variables
    environment = { WHOSIGNED_STATE = "gs://x" }
    # a variable that the builder sets: that the builder sets itself
    build_environment = { GOOGLE_FUNCTION_TARGET = "X" }
    # a build account that is a member: build_service_account must be the email
    build_service_account = "serviceAccount:b@acme-security.iam.gserviceaccount.com"
    # a run account that is a person: run_service_account must be the email
    run_service_account = "alice@acme.example"
    # the public as an invoker: the function must not be public
    invokers = ["allUsers"]
    # an unknown ingress: ALLOW_INTERNAL_AND_GCLB
    ingress_settings = "ALLOW_NONE"
    # a connector by its short name: vpc.connector must be projects/
    vpc = { connector = "egress" }
    # a pool by its short name: worker_pool must be projects/
    worker_pool = "pool"
    # a bucket location that is none: such as europe-west1 or EU
    state_bucket_location = "europe west"
    # a soft delete too short: whole days from 7 to 90
    soft_delete_days = 3
    # a negative retention: whole days from 0
    evidence_retention_days = -1
    # two alert addresses: one bare address
    alert_email = "a@acme.example, b@acme.example"
    # a channel by its number: gcloud beta monitoring channels list
    notification_channels = ["1234"]
    # a patience of a day: whole hours from 1 to 12
    patience_hours = 24
    # a runbook that is no link: must begin with https://
    runbook_url = "wiki/whosigned"
  }
  expect_failures = [
    var.project_id,
    var.region,
    var.name,
    var.labels,
    var.config,
    var.config_files,
    var.sendgrid_api_key_version,
    var.sendgrid_secret,
    var.smtp_secrets,
    var.secret_locations,
    var.schedule,
    var.time_zone,
    var.scheduler_region,
    var.timeout_seconds,
    var.memory,
    var.runtime,
    var.environment,
    var.build_environment,
    var.build_service_account,
    var.run_service_account,
    var.invokers,
    var.ingress_settings,
    var.vpc,
    var.worker_pool,
    var.state_bucket_location,
    var.soft_delete_days,
    var.evidence_retention_days,
    var.alert_email,
    var.notification_channels,
    var.patience_hours,
    var.runbook_url,
  ]
}

run "the_second" {
  command = plan
  variables {
    # a name in upper case: 3 to 20 lower-case letters
    name = "Monitor"
    # a configuration that is not yaml: whosigned check --config whosigned.yaml
    config = "a: [b"
    # an absolute file: must be relative
    config_files = { "/rekor.pub" = "k" }
    # a secret of no project: ID or number of the project that has the secret
    sendgrid_secret = { project = "", secret = "key" }
    # an smtp secret of no project: smtp_secrets: project must be
    smtp_secrets = { username = { project = "", secret = "u" }, password = { project = "acme-secrets", secret = "p" } }
    # a secret multi region: must be regions such as
    secret_locations = ["EU"]
    # a schedule of six fields: five cron fields
    schedule = "0 7 * * * *"
    # a timeout too short to work: a whole number from 180 to 1800
    timeout_seconds = 179
    # memory without a unit: like 512Mi or 1Gi
    memory = "512"
    # a secret in the environment: must not hold secrets
    environment = { SENDGRID_API_KEY = "SG.x" }
    # all that are signed in as invokers: the function must not be public
    invokers = ["allAuthenticatedUsers"]
    # an unknown egress: PRIVATE_RANGES_ONLY or ALL_TRAFFIC
    vpc = { connector = "projects/p/locations/europe-west1/connectors/c", egress = "ALL" }
    # an invoke account of another project: of this very project
    invoke_service_account = "i@acme-identities.iam.gserviceaccount.com"
    # a lock on nothing: there is no bucket to lock
    evidence_retention_locked = true
  }
  expect_failures = [
    var.name,
    var.config,
    var.config_files,
    var.sendgrid_secret,
    var.smtp_secrets,
    var.secret_locations,
    var.schedule,
    var.timeout_seconds,
    var.memory,
    var.environment,
    var.invokers,
    var.vpc,
    var.invoke_service_account,
    var.evidence_retention_locked,
  ]
}

run "the_third" {
  command = plan
  variables {
    # a name that cloud storage refuses: Cloud Storage refuses such bucket names
    name = "google-watch"
    # a configuration too large: smaller than 1 MiB
    config = "a: ${join("", [for i in range(550) : format("%02000d", i)])}"
    # a file named as the configuration: Rename the file
    config_files = { "whosigned.yaml" = "k" }
    # a minute 60: minute (0-59)
    schedule = "60 * * * *"
    # a token in the environment: must not hold secrets
    environment = { GITHUB_TOKEN = "ghp_x" }
    # half a cpu: cpu must be 1, 2 or 4
    cpu = "0.5"
    # a version of a key: without a version
    kms_key = "projects/k/locations/europe-west1/keyRings/r/cryptoKeys/c/cryptoKeyVersions/1"
  }
  expect_failures = [
    var.environment,
    var.name,
    var.config,
    var.config_files,
    var.schedule,
    var.cpu,
    var.kms_key,
  ]
}

run "the_fourth" {
  command = plan
  variables {
    # a file too large: each file must be smaller than 1 MiB
    config_files = { "a.json" = join("", [for i in range(550) : format("%02000d", i)]) }
    # an hour 24: hour (0-23)
    schedule = "0 24 * * *"
    # a mailgun key in the environment: must not hold secrets
    environment = { MAILGUN_API_KEY = "key-x" }
    # more memory than the cpu takes: at most 4Gi for each CPU
    memory = "8Gi"
    # a key of another region: must be of the function's region
    kms_key = "projects/k/locations/us-east1/keyRings/r/cryptoKeys/c"
    # a mailgun secret by its full name: mailgun_secret.secret must be the secret's short ID
    mailgun_secret = { project = "acme-secrets", secret = "projects/acme-secrets/secrets/key" }
    # a github secret by its full name: github_secret.secret must be the secret's short ID
    github_secret = { project = "acme-secrets", secret = "projects/acme-secrets/secrets/token" }
    # a key with a line break: no spaces or line breaks
    config           = "alerts: {email: {via: sendgrid}}"
    sendgrid_api_key = "SG.abc.def\n"
  }
  expect_failures = [
    var.environment,
    var.config_files,
    var.schedule,
    var.cpu,
    var.kms_key,
    var.sendgrid_api_key,
    var.mailgun_secret,
    var.github_secret,
  ]
}

run "the_fifth" {
  command = plan
  variables {
    # a schedule in words: Hourly is \"7 * * * *\"
    schedule = "every 1 hours"
    # a file of a token: use the module's own variables
    environment = { GITHUB_TOKEN_FILE = "/mnt/token" }
    # everybody under another name: the function must not be public
    invokers = ["principalSet://goog/public:all"]
    # a retention longer than the provider takes: to 24855
    evidence_retention_days = 24856
    # less memory than the cpus want: 2Gi or more for four
    cpu = "4"
    # a key for a bucket elsewhere: must be null or the function's region
    kms_key               = "projects/k/locations/europe-west1/keyRings/r/cryptoKeys/c"
    state_bucket_location = "EU"
    # a mailgun secret of no project: mailgun_secret.project must be
    mailgun_secret = { project = "", secret = "key" }
    # a github secret of a project by its display name: github_secret.project must be
    github_secret = { project = "Acme Secrets", secret = "token" }
    # the id of a key: The key's ID is not the key
    config           = "alerts: {email: {via: sendgrid}}"
    sendgrid_api_key = "abcdefghijklmnopqrstuv"
  }
  expect_failures = [
    var.environment,
    var.schedule,
    var.invokers,
    var.evidence_retention_days,
    var.cpu,
    var.kms_key,
    var.sendgrid_api_key,
    var.mailgun_secret,
    var.github_secret,
  ]
}

run "the_sixth" {
  command = plan
  variables {
    # a range backwards: write 22-23,0-5, not 22-5
    schedule = "0 22-5 * * *"
    # a file of a key: use the module's own variables
    environment = { MAILGUN_API_KEY_FILE = "/mnt/key" }
    # a key for a secret elsewhere: must be null or the function's region
    kms_key          = "projects/k/locations/europe-west1/keyRings/r/cryptoKeys/c"
    secret_locations = ["europe-west3"]
    # no sendgrid key: Set TF_VAR_sendgrid_api_key
    # no mailgun key: holds it in mailgun_secret
    # no github token: holds it in github_secret
    config = "alerts: {email: [{via: sendgrid}, {via: mailgun}], github: {repository: acme/alerts}}"
  }
  expect_failures = [
    var.environment,
    var.schedule,
    var.kms_key,
    var.sendgrid_api_key,
    var.mailgun_secret,
    var.github_secret,
  ]
}

run "a_schedule_sparser_than_the_alert_can_watch" {
  command = plan
  variables {
    # a schedule sparser than the alert can watch: leaves 1440 minutes between two runs, and the no-run alert can watch 360 at most
    schedule = "7 3 * * *"
  }
  expect_failures = [
    var.no_run_alert,
  ]
}

# On the edge, and accepted.
run "the_limits_themselves" {
  command = plan
  variables {
    project_id              = "abcdefghijklmnopqrstuvwxyz-123"
    name                    = "a-name-of-20-letters"
    config                  = "a: ${join("", [for i in range(524) : format("%02000d", i)])}"
    config_files            = { "a/b_c.d-e/F.json" = "{}" }
    schedule                = "0 */6 * * *"
    time_zone               = "America/Argentina/Buenos_Aires"
    timeout_seconds         = 1800
    memory                  = "256Mi"
    soft_delete_days        = 90
    evidence_retention_days = 24855
    patience_hours          = 12
    vpc                     = { connector = "projects/p/locations/europe-west1/connectors/c" }
    kms_key                 = "projects/k/locations/europe-west1/keyRings/r/cryptoKeys/c"
    state_bucket_location   = "EUROPE-WEST1"
    secret_locations        = ["europe-west1"]
    invokers                = ["principalSet://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/*"]
  }
  assert {
    condition     = max([for n in concat([google_storage_bucket.state.name, google_storage_bucket.source.name], google_storage_bucket.evidence[*].name) : length(n)]...) <= 63
    error_message = "a bucket's name is longer than Cloud Storage takes: ${google_storage_bucket.evidence[0].name}"
  }
  assert {
    condition     = max([for a in concat(google_service_account.build, google_service_account.run, google_service_account.invoke) : length(a.account_id)]...) <= 30
    error_message = "an account's ID is longer than IAM takes: ${google_service_account.invoke[0].account_id}"
  }
}
