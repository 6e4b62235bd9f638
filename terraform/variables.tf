# What every deployment decides.

variable "project_id" {
  description = "ID of the project to deploy to. Billing is on, and serviceusage.googleapis.com and cloudresourcemanager.googleapis.com are enabled."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][-a-z0-9]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id is not a project ID (6 to 30 lower-case letters, digits and hyphens; not the number, not the display name): gcloud projects list shows it."
  }
}

variable "region" {
  description = "Region of the function and, unless said otherwise, of everything else."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region is not a region such as europe-west1 (a zone has a letter behind it; leave that out)."
  }
}

variable "name" {
  description = "What every resource is named after: 3 to 20 characters, kebab-case. Two instances in one project have two names."
  type        = string
  default     = "whosigned"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9]*(-[a-z0-9]+)*$", var.name)) && length(var.name) >= 3 && length(var.name) <= 20
    error_message = "name must be 3 to 20 lower-case letters, digits and single hyphens, and begin with a letter: accounts and buckets are named after it and have little room."
  }
  validation {
    condition     = !strcontains(var.name, "google") && !startswith(var.name, "goog")
    error_message = "name must not contain \"google\" or begin with \"goog\": Cloud Storage refuses such bucket names. Choose another."
  }
}

variable "labels" {
  description = "Labels on every resource that takes them."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for k, v in var.labels : can(regex("^[a-z][-_a-z0-9]{0,62}$", k)) && can(regex("^[-_a-z0-9]{0,63}$", v))]) && length(var.labels) <= 60
    error_message = "labels: at most 60; keys and values are up to 63 lower-case letters, digits, _ and -, and a key begins with a letter."
  }
}

# What is watched.

variable "config" {
  description = "whosigned's configuration, as YAML text: file(\"whosigned.yaml\"). Changing it does not rebuild the function: the next run reads it."
  type        = string
  nullable    = false

  validation {
    condition     = can(keys(yamldecode(var.config)))
    error_message = "config is not YAML with keys at its top level. Give the file's text, config = file(\"whosigned.yaml\"), not its name, and try it with: whosigned check --config whosigned.yaml"
  }
  validation {
    condition     = length(base64encode(var.config)) <= 1398100 # 1 MiB in base64
    error_message = "config must be smaller than 1 MiB, which is all that the function reads."
  }
}

variable "config_files" {
  description = "Files that the configuration names, such as keys and trusted roots: from the name in the configuration to its content. Each is put beside the configuration."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition = alltrue([for name in keys(var.config_files) :
      length(name) <= 200 && can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$", name))
    ])
    error_message = "config_files: a name must be relative, up to 200 letters, digits, dots, _ and -, with / between folders, no .. and no part that begins with a dot: rekor.pub or keys/rekor.pub."
  }
  validation {
    condition     = !contains(keys(var.config_files), "whosigned.yaml")
    error_message = "config_files must not have a whosigned.yaml: that is where config itself is stored. Rename the file, also in the configuration."
  }
  validation {
    condition     = alltrue([for content in values(var.config_files) : length(base64encode(content)) <= 1398100])
    error_message = "config_files: each file must be smaller than 1 MiB."
  }
}

# What the sinks log in with.

variable "sendgrid_api_key" {
  description = "SendGrid API key with the permission Mail Send. Write-only: it is in neither plan nor state, so every plan and apply needs it. Set it by TF_VAR_sendgrid_api_key, or use sendgrid_secret."
  type        = string
  default     = null
  ephemeral   = true
  sensitive   = true

  validation {
    condition     = var.sendgrid_api_key != null || !local.sendgrid_own
    error_message = "config mails via: sendgrid, but there is no key. Set TF_VAR_sendgrid_api_key (it is needed at every plan and apply, since it is never stored), or name an existing secret in sendgrid_secret."
  }
  validation {
    condition     = var.sendgrid_api_key == null || can(regex("^SG\\.[A-Za-z0-9_.-]+$", var.sendgrid_api_key))
    error_message = "sendgrid_api_key is not a SendGrid API key: it begins with SG. and has no spaces or line breaks (trimspace(file(…)) takes one off the end). The key's ID is not the key."
  }
}

variable "sendgrid_api_key_version" {
  description = "Raise it by one to store a new sendgrid_api_key. The next run uses it; nothing is redeployed. The old version is destroyed first: if the apply fails after that, no run starts until one succeeds."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.sendgrid_api_key_version >= 1 && floor(var.sendgrid_api_key_version) == var.sendgrid_api_key_version
    error_message = "sendgrid_api_key_version must be a whole number from 1."
  }
}

variable "sendgrid_secret" {
  description = "An existing Secret Manager secret with SendGrid's key, in any project, instead of sendgrid_api_key. Its version latest is read in each run. A change from sendgrid_api_key to it removes the own secret first: no run starts until that apply succeeds. With grant = false the run account is given access to it elsewhere; of instances that share run account and secret only one may grant, since its removal revokes."
  type = object({
    project = string
    secret  = string
    grant   = optional(bool, true)
  })
  default = null

  validation {
    condition     = var.sendgrid_secret == null || can(regex("^[A-Za-z0-9_-]{1,255}$", var.sendgrid_secret.secret))
    error_message = "sendgrid_secret.secret must be the secret's short ID, such as sendgrid-api-key, not projects/…/secrets/…; its project goes to sendgrid_secret.project."
  }
  validation {
    condition     = var.sendgrid_secret == null || can(regex("^([a-z][-a-z0-9]{4,28}[a-z0-9]|[0-9]+)$", var.sendgrid_secret.project))
    error_message = "sendgrid_secret.project must be the ID or number of the project that has the secret."
  }
}

variable "mailgun_secret" {
  description = "An existing Secret Manager secret with Mailgun's API key, for via: mailgun, in any project; grant as in sendgrid_secret. A domain's sending key is enough."
  type = object({
    project = string
    secret  = string
    grant   = optional(bool, true)
  })
  default = null

  validation {
    condition     = var.mailgun_secret != null || !local.sinks_used.mailgun
    error_message = "config mails via: mailgun, but there is no key: name an existing secret that holds it in mailgun_secret."
  }
  validation {
    condition     = var.mailgun_secret == null || can(regex("^[A-Za-z0-9_-]{1,255}$", var.mailgun_secret.secret))
    error_message = "mailgun_secret.secret must be the secret's short ID, such as mailgun-api-key, not projects/…/secrets/…; its project goes to mailgun_secret.project."
  }
  validation {
    condition     = var.mailgun_secret == null || can(regex("^([a-z][-a-z0-9]{4,28}[a-z0-9]|[0-9]+)$", var.mailgun_secret.project))
    error_message = "mailgun_secret.project must be the ID or number of the project that has the secret."
  }
}

variable "github_secret" {
  description = "An existing Secret Manager secret with the token for alerts: {github: …}, in any project; grant as in sendgrid_secret. A fine-grained token with Issues: read and write on that repository is enough."
  type = object({
    project = string
    secret  = string
    grant   = optional(bool, true)
  })
  default = null

  validation {
    condition     = var.github_secret != null || !local.sinks_used.github
    error_message = "config opens GitHub issues, but there is no token: name an existing secret that holds it in github_secret."
  }
  validation {
    condition     = var.github_secret == null || can(regex("^[A-Za-z0-9_-]{1,255}$", var.github_secret.secret))
    error_message = "github_secret.secret must be the secret's short ID, such as github-token, not projects/…/secrets/…; its project goes to github_secret.project."
  }
  validation {
    condition     = var.github_secret == null || can(regex("^([a-z][-a-z0-9]{4,28}[a-z0-9]|[0-9]+)$", var.github_secret.project))
    error_message = "github_secret.project must be the ID or number of the project that has the secret."
  }
}

variable "smtp_secrets" {
  description = "Existing Secret Manager secrets with the login for via: smtp; grant as in sendgrid_secret. A relay that needs none needs no secret."
  type = object({
    username = object({ project = string, secret = string, grant = optional(bool, true) })
    password = object({ project = string, secret = string, grant = optional(bool, true) })
  })
  default = null

  validation {
    condition     = var.smtp_secrets == null ? true : alltrue([for s in values(var.smtp_secrets) : can(regex("^[A-Za-z0-9_-]{1,255}$", s.secret))])
    error_message = "smtp_secrets: secret must be the secret's short ID, such as smtp-password, not projects/…/secrets/…; its project goes to project."
  }
  validation {
    condition     = var.smtp_secrets == null ? true : alltrue([for s in values(var.smtp_secrets) : can(regex("^([a-z][-a-z0-9]{4,28}[a-z0-9]|[0-9]+)$", s.project))])
    error_message = "smtp_secrets: project must be the ID or number of the project that has the secret."
  }
}

variable "secret_locations" {
  description = "Regions that keep a copy of the secret made for sendgrid_api_key. Null: region alone; never automatic replication, which organisations with gcp.resourceLocations refuse. To change it later, run apply with -destroy -target=…google_secret_manager_secret.sendgrid first."
  type        = list(string)
  default     = null

  validation {
    condition     = var.secret_locations == null || length(coalesce(var.secret_locations, [])) > 0
    error_message = "secret_locations must list at least one region, or be null for the function's own."
  }
  validation {
    condition     = alltrue([for l in coalesce(var.secret_locations, []) : can(regex("^[a-z]+-[a-z]+[0-9]+$", l))])
    error_message = "secret_locations must be regions such as europe-west1: Secret Manager has no multi-regions here."
  }
}

# When it runs.

variable "schedule" {
  description = "When it runs: five cron fields. Minute and hour may be numbers, lists, ranges and steps; the other three are *."
  type        = string
  default     = "7 * * * *"
  nullable    = false

  validation {
    condition = can(regex(join("", [
      "^\\s*", "(\\*(/[1-9][0-9]?)?|[0-5]?[0-9](-[0-5]?[0-9](/[1-9][0-9]?)?)?)(,(\\*(/[1-9][0-9]?)?|[0-5]?[0-9](-[0-5]?[0-9](/[1-9][0-9]?)?)?))*",
      "\\s+", "(\\*(/[1-9][0-9]?)?|([01]?[0-9]|2[0-3])(-([01]?[0-9]|2[0-3])(/[1-9][0-9]?)?)?)(,(\\*(/[1-9][0-9]?)?|([01]?[0-9]|2[0-3])(-([01]?[0-9]|2[0-3])(/[1-9][0-9]?)?)?))*",
      "\\s+\\*\\s+\\*\\s+\\*\\s*$",
    ]), var.schedule))
    error_message = "schedule must be five cron fields: minute (0-59) and hour (0-23) as *, numbers, lists (7,37), ranges (8-18) or steps (*/15, 8-18/2), then * * * (every day; a day without a run cannot be told from a dead monitor). Hourly is \"7 * * * *\"."
  }
  validation {
    condition     = alltrue([for r in regexall("([0-9]+)-([0-9]+)", var.schedule) : tonumber(r[0]) <= tonumber(r[1])])
    error_message = "schedule has a range that ends before it begins: write 22-23,0-5, not 22-5."
  }
}

variable "time_zone" {
  description = "Time zone of the schedule. Etc/UTC has no hour that is missing or doubled."
  type        = string
  default     = "Etc/UTC"
  nullable    = false

  validation {
    condition     = can(regex("^(UTC|[A-Z][A-Za-z_]+(/[A-Za-z0-9_+-]+)+)$", var.time_zone))
    error_message = "time_zone must be a name from the tz database, such as Europe/Berlin or Etc/UTC."
  }
}

variable "paused" {
  description = "Stop the schedule, and the alert that waits for its runs. Nothing is watched while it is true."
  type        = bool
  default     = false
  nullable    = false
}

variable "scheduler_region" {
  description = "Region of the Cloud Scheduler job, where region has no Scheduler. Null: region."
  type        = string
  default     = null

  validation {
    condition     = var.scheduler_region == null || can(regex("^[a-z]+-[a-z]+[0-9]+$", var.scheduler_region))
    error_message = "scheduler_region must be a region such as europe-west1; gcloud scheduler locations list shows those that have Scheduler."
  }
}

variable "timeout_seconds" {
  description = "How long one run may take; also Scheduler's deadline. Work ends, committed, 60 s before it."
  type        = number
  default     = 1740
  nullable    = false

  validation {
    condition     = var.timeout_seconds >= 180 && var.timeout_seconds <= 1800 && floor(var.timeout_seconds) == var.timeout_seconds
    error_message = "timeout_seconds must be a whole number from 180 to 1800: Scheduler waits 30 minutes at most. A run that needs longer goes on in the next one."
  }
}

# The function.

variable "memory" {
  description = "Memory of the function, in Mi or Gi."
  type        = string
  default     = "512Mi"
  nullable    = false

  validation {
    condition     = can(regex("^([1-9][0-9]*Gi|[1-9][0-9]{3,}Mi|(25[6-9]|2[6-9][0-9]|[3-9][0-9]{2})Mi)$", var.memory))
    error_message = "memory must be like 512Mi or 1Gi, and 256Mi or more: a run keeps up to 48 MiB of read-ahead beside what it works on."
  }
}

variable "cpu" {
  description = "CPUs of the function: 1, 2 or 4."
  type        = string
  default     = "1"
  nullable    = false

  validation {
    condition     = contains(["1", "2", "4"], var.cpu)
    error_message = "cpu must be 1, 2 or 4."
  }
  validation {
    condition     = local.memory_mib <= try(tonumber(var.cpu), 0) * 4096 && (var.cpu != "4" || local.memory_mib >= 2048)
    error_message = "cpu and memory do not fit: Cloud Run gives at most 4Gi for each CPU, and wants 2Gi or more for four. Change cpu or memory."
  }
}

variable "runtime" {
  description = "Go runtime of Cloud Functions: go126 or go127. One below go.mod's go line cannot build."
  type        = string
  default     = "go126"
  nullable    = false

  validation {
    condition     = contains(["go126", "go127"], var.runtime)
    error_message = "runtime must be go126 or go127: go.mod asks for Go 1.26, so an older one cannot build, and a newer one has not been tried."
  }
}

variable "environment" {
  description = "More environment variables for the function, such as SENDGRID_HOST. Not for secrets: Terraform stores them."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition = alltrue([for k in keys(var.environment) : can(regex("^[A-Za-z_][A-Za-z0-9_]*$", k)) &&
      !can(regex("^(PORT|K_.*|FUNCTION_.*|GOOGLE_CLOUD_PROJECT|GOMEMLIMIT|CLOUD_RUN_.*|X_GOOGLE_.*|WHOSIGNED_.*|(SENDGRID_API_KEY|MAILGUN_API_KEY|GITHUB_TOKEN|SMTP_USERNAME|SMTP_PASSWORD)_FILE|LOG_EXECUTION_ID)$", k))
    ])
    error_message = "environment has a name that the module or Cloud Run sets itself (WHOSIGNED_*, PORT, K_*, FUNCTION_*, GOMEMLIMIT, …), or that is none: remove it, and use the module's own variables."
  }
  validation {
    condition     = length(setintersection(keys(var.environment), ["SENDGRID_API_KEY", "MAILGUN_API_KEY", "GITHUB_TOKEN", "SMTP_USERNAME", "SMTP_PASSWORD"])) == 0
    error_message = "environment must not hold secrets, which would be in Terraform's state: use sendgrid_api_key, sendgrid_secret, mailgun_secret, github_secret or smtp_secrets."
  }
}

variable "build_environment" {
  description = "Environment variables for Cloud Build, such as GOPROXY and GOSUMDB of a closed network. Not for secrets."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for k in keys(var.build_environment) : can(regex("^[A-Za-z_][A-Za-z0-9_]*$", k)) && !startswith(k, "GOOGLE_FUNCTION_") && !startswith(k, "FUNCTION_")])
    error_message = "build_environment has a name that is none, or that the builder sets itself (GOOGLE_FUNCTION_*, FUNCTION_*): remove it."
  }
}

# Closed organisations.

variable "enable_apis" {
  description = "Enable the APIs that are needed. False where that is done centrally; README lists them. They stay enabled after destroy."
  type        = bool
  default     = true
  nullable    = false
}

variable "build_service_account" {
  description = "Email of an account to build with. Null: an own one. A given one needs roles/logging.logWriter on its project, and roles/storage.objectViewer on the bucket gcf-v2-sources-PROJECT_NUMBER-REGION; the rest is granted here. In another project its owner also grants roles/iam.serviceAccountTokenCreator on it to the Cloud Build and Cloud Functions agents of project_id."
  type        = string
  default     = null

  validation {
    condition     = var.build_service_account == null || can(regex("^[^@/: ]+@[a-z0-9.-]+\\.gserviceaccount\\.com$", var.build_service_account))
    error_message = "build_service_account must be the email of a service account, NAME@PROJECT.iam.gserviceaccount.com."
  }
}

variable "run_service_account" {
  description = "Email of an account for the function to run as. Null: an own one. All that a given one needs is granted here, but for secrets with grant = false; give it nothing else. In another project its owner also grants roles/iam.serviceAccountTokenCreator on it to the Cloud Run agent of project_id, and turns iam.disableCrossProjectServiceAccountUsage off there."
  type        = string
  default     = null

  validation {
    condition     = var.run_service_account == null || can(regex("^[^@/: ]+@[a-z0-9.-]+\\.gserviceaccount\\.com$", var.run_service_account))
    error_message = "run_service_account must be the email of a service account, NAME@PROJECT.iam.gserviceaccount.com."
  }
}

variable "invoke_service_account" {
  description = "Email of an account of this project for Scheduler to call as. Null: an own one. All that a given one needs is granted here."
  type        = string
  default     = null

  validation {
    condition     = var.invoke_service_account == null || can(regex("^[^@/: ]+@${var.project_id}\\.iam\\.gserviceaccount\\.com$", var.invoke_service_account))
    error_message = "invoke_service_account must be NAME@PROJECT_ID.iam.gserviceaccount.com of this very project: Scheduler takes no other."
  }
}

variable "invokers" {
  description = "Who else may call the function, such as user:alice@example.com. Nobody by default; never the public."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for m in var.invokers : can(regex("^(user|group|serviceAccount|domain|principal|principalSet):[^ ]+$", m)) && !strcontains(m, "//goog/public")])
    error_message = "invokers must be IAM members such as user:alice@example.com or group:secops@example.com. allUsers, allAuthenticatedUsers and principalSet://goog/public:all are refused: the function must not be public."
  }
}

variable "ingress_settings" {
  description = "Where calls may come from: ALLOW_ALL (with IAM), ALLOW_INTERNAL_ONLY or ALLOW_INTERNAL_AND_GCLB."
  type        = string
  default     = "ALLOW_ALL"
  nullable    = false

  validation {
    condition     = contains(["ALLOW_ALL", "ALLOW_INTERNAL_ONLY", "ALLOW_INTERNAL_AND_GCLB"], var.ingress_settings)
    error_message = "ingress_settings must be ALLOW_ALL, ALLOW_INTERNAL_ONLY or ALLOW_INTERNAL_AND_GCLB."
  }
}

variable "vpc" {
  description = "Serverless VPC Access connector for outgoing calls: projects/PROJECT/locations/REGION/connectors/NAME. egress is PRIVATE_RANGES_ONLY or ALL_TRAFFIC; with the latter the VPC must reach the hosts that README lists (Cloud NAT)."
  type = object({
    connector = string
    egress    = optional(string, "PRIVATE_RANGES_ONLY")
  })
  default = null

  validation {
    condition     = var.vpc == null || can(regex("^projects/[^/]+/locations/[^/]+/connectors/[^/]+$", var.vpc.connector))
    error_message = "vpc.connector must be projects/PROJECT/locations/REGION/connectors/NAME."
  }
  validation {
    condition     = var.vpc == null || contains(["PRIVATE_RANGES_ONLY", "ALL_TRAFFIC"], try(var.vpc.egress, ""))
    error_message = "vpc.egress must be PRIVATE_RANGES_ONLY or ALL_TRAFFIC."
  }
}

variable "worker_pool" {
  description = "Cloud Build private pool to build in: projects/PROJECT/locations/REGION/workerPools/NAME. Null: Google's."
  type        = string
  default     = null

  validation {
    condition     = var.worker_pool == null || can(regex("^projects/[^/]+/locations/[^/]+/workerPools/[^/]+$", var.worker_pool))
    error_message = "worker_pool must be projects/PROJECT/locations/REGION/workerPools/NAME."
  }
}

variable "kms_key" {
  description = "Cloud KMS key for buckets, secret, repository and function: projects/…/locations/REGION/keyRings/…/cryptoKeys/…. Google's own agents of the project must exist first: for artifactregistry, cloudfunctions, run and secretmanager, gcloud beta services identity create --service=SERVICE.googleapis.com --project=PROJECT. A key that the same root makes: terraform apply -target=KEY first, since plan must know its name."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key == null || can(regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", var.kms_key))
    error_message = "kms_key must be projects/PROJECT/locations/REGION/keyRings/RING/cryptoKeys/KEY, without a version."
  }
  validation {
    condition     = var.kms_key == null || try(split("/", var.kms_key)[3], "") == var.region
    error_message = "kms_key must be of the function's region: a function, a repository and a secret take no key of another location."
  }
  validation {
    condition = var.kms_key == null || (
      try(lower(coalesce(var.state_bucket_location, var.region)) == var.region, true) &&
      alltrue([for l in coalesce(var.secret_locations, []) : l == var.region])
    )
    error_message = "with kms_key, state_bucket_location and secret_locations must be null or the function's region: the key is of that region."
  }
}

variable "grant_kms_key" {
  description = "Let Google's agents use kms_key. False where whoever owns the key has done so; README lists them. Of instances that share a key only one may grant, better none: its removal takes the key from the others."
  type        = bool
  default     = true
  nullable    = false
}

# What is kept.

variable "state_bucket_location" {
  description = "Location of the state and evidence buckets, a region, dual-region or multi-region. Null: region."
  type        = string
  default     = null

  validation {
    condition     = var.state_bucket_location == null || can(regex("^[A-Za-z]+[A-Za-z0-9-]*$", var.state_bucket_location))
    error_message = "state_bucket_location must be a Cloud Storage location such as europe-west1 or EU."
  }
}

variable "soft_delete_days" {
  description = "How long a deleted object can be restored: 7 to 90 days, or 0 for never."
  type        = number
  default     = 7
  nullable    = false

  validation {
    condition     = var.soft_delete_days == 0 || (var.soft_delete_days >= 7 && var.soft_delete_days <= 90 && floor(var.soft_delete_days) == var.soft_delete_days)
    error_message = "soft_delete_days must be 0, or whole days from 7 to 90: Cloud Storage takes no other."
  }
}

variable "evidence_retention_days" {
  description = "With 1 or more: a second bucket gets a copy of what proves tampering, which nobody can delete for so many days. 0: none. To remove what holds some: set it to 1 with force_destroy = true, apply, wait a day, destroy; a locked one leaves by terraform state rm."
  type        = number
  default     = 0
  nullable    = false

  validation {
    condition     = var.evidence_retention_days >= 0 && var.evidence_retention_days <= 24855 && floor(var.evidence_retention_days) == var.evidence_retention_days
    error_message = "evidence_retention_days must be whole days from 0 (no such bucket) to 24855, the most that the google provider takes in seconds."
  }
}

variable "evidence_retention_locked" {
  description = "Lock the evidence bucket's retention. It can never be shortened or taken off again, not even by Google."
  type        = bool
  default     = false
  nullable    = false

  validation {
    condition     = !var.evidence_retention_locked || var.evidence_retention_days > 0
    error_message = "evidence_retention_locked needs evidence_retention_days: there is no bucket to lock."
  }
}

variable "force_destroy" {
  description = "Let destroy delete buckets that are not empty, state and evidence included. What is under retention stays until that ends. While it is true, a new name, region or state_bucket_location deletes all state too, in one apply."
  type        = bool
  default     = false
  nullable    = false
}

# Watching the watcher.

variable "alert_email" {
  description = "Address that Google Cloud Monitoring mails, by itself, when the monitor fails. Null: no channel is made."
  type        = string
  default     = null

  validation {
    condition     = var.alert_email == null || can(regex("^[^@\\s<>]+@[^@\\s<>]+\\.[^@\\s<>]+$", var.alert_email))
    error_message = "alert_email must be one bare address, such as security@example.com."
  }
}

variable "notification_channels" {
  description = "Existing Monitoring notification channels to alert as well: projects/PROJECT/notificationChannels/ID."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for c in var.notification_channels : can(regex("^projects/[^/]+/notificationChannels/[^/]+$", c))])
    error_message = "notification_channels must be projects/PROJECT/notificationChannels/ID: gcloud beta monitoring channels list shows them."
  }
}

variable "no_run_alert" {
  description = "Alert when no run has succeeded for too long. It can watch schedules with at most six hours between two runs."
  type        = bool
  default     = true
  nullable    = false

  validation {
    condition     = !var.no_run_alert || local.gap_minutes <= 360
    error_message = "schedule leaves ${local.gap_minutes} minutes between two runs, and the no-run alert can watch 360 at most. Run at least every six hours (schedule = \"7 */6 * * *\"), or set no_run_alert = false and see to it by other means that a monitor that stopped is noticed."
  }
}

variable "patience_hours" {
  description = "How many hours a failure lasts before it is alerted: 1 to 12. The configuration's patience is the function's own; keep them alike."
  type        = number
  default     = 3
  nullable    = false

  validation {
    condition     = var.patience_hours >= 1 && var.patience_hours <= 12 && floor(var.patience_hours) == var.patience_hours
    error_message = "patience_hours must be whole hours from 1 to 12: the alerts look back less than a day."
  }
}

variable "runbook_url" {
  description = "Your own runbook, linked in each alert. Null: the README's."
  type        = string
  default     = null

  validation {
    condition     = var.runbook_url == null || can(regex("^https?://[^\\s]+$", var.runbook_url))
    error_message = "runbook_url must begin with https:// or http://."
  }
}
