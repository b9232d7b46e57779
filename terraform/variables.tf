variable "audit_access" {
  description = "Who may read the audit dataset, as IAM members. Analysts read views; nobody needs more."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for member in var.audit_access : can(regex("^(user|group|serviceAccount|domain|principal|principalSet):.+$", member))])
    error_message = "audit_access are IAM members such as group:audit@example.com; nobody publishes an audit (allUsers, allAuthenticatedUsers)."
  }
}

variable "audit_replay_days" {
  description = "How long the audit topic keeps events that ingest_audit has taken, so that they can be replayed after a mistake of ours. Costs about US$ 0.004 per million events and day (0.5 KB each in full messages, US$ 0.27 per GiB and month): 0.03 for a week, 0.13 for 31 days."
  type        = number
  default     = 7
  nullable    = false

  validation {
    condition     = var.audit_replay_days >= 1 && var.audit_replay_days <= 31
    error_message = "Pub/Sub keeps messages of a topic for 1 to 31 days; a day is the least in which anybody notices."
  }
}

variable "audit_retention_days" {
  description = "How long audit rows are kept. Partitions older than this are dropped by BigQuery. Costs about US$ 0.05 per million events and month for three months and half of that afterwards (2.6 KB a row): 0.43 for 400 days."
  type        = number
  default     = 400
  nullable    = false

  validation {
    condition     = var.audit_retention_days >= 30
    error_message = "Keep audit rows for at least 30 days: the views look back that far."
  }
}

variable "config_dir" {
  description = "Path of the deployment's configuration folder inside the source archive."
  type        = string
  default     = "config"
  nullable    = false
}

variable "configuration_variables" {
  description = "Values of the names that broker.yaml declares in environment_variables, and SSL_CERT_FILE where authorities are private. Never secrets."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "deletion_protection" {
  description = "Whether databases, the secrets of the broker's own keys and the audit table refuse to be deleted. Off only for a trial that is thrown away."
  type        = bool
  default     = true
  nullable    = false
}

variable "doctor" {
  description = "Runs `cab doctor` every quarter of an hour as an identity that may only look, and alerts (docs/doctor.md). `image` is the container image of this source, by digest: the same as the variable `image` takes. Null: nobody looks but the uptime checks."
  type        = object({ image = string })
  default     = null

  validation {
    condition     = var.doctor == null ? true : can(regex("@sha256:[0-9a-f]{64}$", var.doctor.image))
    error_message = "Name the image by digest (...@sha256:...): a tag can be moved to other code."
  }
}

variable "domain" {
  description = "Public host name of the broker. Issuers derive from it, so it can never change for a live deployment. Null for a trial: cab.endpoints.PROJECT.cloud.goog, a name that Google keeps for every project (output trial_name)."
  type        = string
  default     = null

  validation {
    condition     = var.domain == null || (can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z]([a-z0-9-]*[a-z0-9])$", var.domain)))
    error_message = "domain must be a host name such as cab.example.com, without scheme or path."
  }
}

variable "edge_protection" {
  description = "Cloud Armor in front of the origin: how many requests one address may send in a minute before it gets 429. Bodies over 64 KiB are refused there too. Null: the functions' own limits alone."
  type        = object({ requests_per_minute = optional(number, 1200) })
  default     = null

  validation {
    condition     = try(var.edge_protection.requests_per_minute >= 60, true)
    error_message = "Below 60 requests a minute an office behind one address would be locked out."
  }
}

variable "functions" {
  description = "Sizes by function; what is not given stays as it is without."
  type = map(object({
    min_instances = optional(number)
    max_instances = optional(number)
    concurrency   = optional(number)
    memory        = optional(string)
  }))
  default  = {}
  nullable = false

  validation {
    condition = alltrue([for name in keys(var.functions) : contains([
      "mint_assertion", "exchange_token", "call_tool", "publish_metadata", "refresh_grants", "connect_account", "ingest_audit"
    ], name)])
    error_message = "functions names a function that does not exist."
  }
  validation {
    condition     = alltrue([for size in values(var.functions) : try(size.min_instances, null) == null ? true : size.min_instances <= coalesce(size.max_instances, 20)])
    error_message = "A function cannot have more instances at least than at most (20 where max_instances is not given)."
  }
}

variable "image" {
  description = "Container image of this source by digest (docs/deploying.md, From an image). With it the functions run as Cloud Run services of that image, which need no permission for allUsers: for organisations whose policies forbid it. Null: Google builds the functions from source_archive."
  type        = string
  default     = null

  validation {
    condition     = var.image == null || can(regex("@sha256:[0-9a-f]{64}$", var.image))
    error_message = "Name the image by digest (...@sha256:...): a tag can be moved to other code."
  }
}

variable "internal_calls" {
  description = "How exchange_token and connect_account reach refresh_grants, and call_tool reaches exchange_token. network: refresh_grants takes internal traffic only, exchange_token that and the load balancer's, and they are called through a VPC network that this module makes. invoker_only: both can be reached from the internet; Cloud Run turns away from refresh_grants, and exchange_token from its internal route, whoever is not a named identity."
  type        = string
  default     = "network"
  nullable    = false

  validation {
    condition     = contains(["network", "invoker_only"], var.internal_calls)
    error_message = "internal_calls is network or invoker_only."
  }
}

variable "kms_key" {
  description = "Cloud KMS key (projects/.../cryptoKeys/...) in the same location, under which databases, secrets, topics and the audit dataset are encrypted. Null: Google's own keys. It cannot be changed for databases that exist."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key == null || can(regex("^projects/[^/]+/locations/${var.location}/keyRings/[^/]+/cryptoKeys/[^/]+$", var.kms_key))
    error_message = "kms_key is projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY, and its LOCATION is `location`."
  }
}

variable "labels" {
  description = "Labels of everything that can carry them, e.g. cost centre."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "location" {
  description = "Region of the functions, the databases and the audit dataset. Databases cannot leave it: another region is another deployment (docs/operations.md)."
  type        = string
  default     = "europe-west1"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.location))
    error_message = "location is one region such as europe-west1: functions have no multi-region such as eur3 or EU."
  }
}

variable "network_range" {
  description = "Addresses of the subnetwork for internal calls, /26 or larger: Direct VPC egress takes two addresses per instance."
  type        = string
  default     = "10.8.0.0/24"
  nullable    = false

  validation {
    condition     = try(cidrsubnet(var.network_range, 0, 0) == var.network_range && tonumber(split("/", var.network_range)[1]) <= 26, false)
    error_message = "network_range is a range such as 10.8.0.0/24, from its first address on, /26 or larger."
  }
}

variable "notification_channels" {
  description = "Cloud Monitoring channels that alerts go to."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "operators" {
  description = "Service accounts, by e-mail address, that may end grants with `cab grants`. They call from inside the project's network."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for email in var.operators : can(regex("^[a-z0-9-]+@[a-z0-9.-]+\\.gserviceaccount\\.com$", email))])
    error_message = "operators are e-mail addresses of service accounts, without a prefix."
  }
}

variable "project_id" {
  description = "Google Cloud project of the broker. Use one of its own: permissions are granted per database and project."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id is the project's id such as example-cab, not its number or name."
  }
}

variable "provider_secrets" {
  description = "Names of the secrets that hold provider and IdP client secrets and assertion keys, as the configuration refers to them. Created empty."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for name in var.provider_secrets : can(regex("^cab-(provider|assertion|idp|client)-[a-z0-9-]+$", name))])
    error_message = "Name these secrets cab-provider-..., cab-assertion-..., cab-idp-... or cab-client-...: permissions go by the prefix."
  }
}

variable "refusals_per_minute" {
  description = "How many refused credentials in a minute, at one function, are worth an alert."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = var.refusals_per_minute >= 1
    error_message = "Below one a minute every mistyped secret would wake somebody."
  }
}

variable "grants_are_spread" {
  description = "Whether `cab grants spread` has said `left 0`: then the index of grants' `due_at` alone goes, which some 125 refreshes a second would fill. Before that, sweeps would fail."
  type        = bool
  default     = false
  nullable    = false
}

variable "request_logs" {
  description = "Which request log lines of the functions and of the load balancer are kept. failures: answers with 500 and above. all: every request, about US$ 0.93 per million that come from outside (a line of 1 KB from each of the two, US$ 0.50 per GiB), 0.47 of those that functions and Pub/Sub make; metrics, alerts and the dashboard need none of them, and who did what stands in the audit. Callbacks, whose URLs carry codes, are kept by neither."
  type        = string
  default     = "failures"
  nullable    = false

  validation {
    condition     = contains(["failures", "all"], var.request_logs)
    error_message = "request_logs is failures or all."
  }
}

variable "source_archive" {
  description = "The deployed source: bucket and object, named by content hash so that a change is always seen (terraform/package makes it, and another beside it for call_tool). Not used with `image`."
  type = object({
    bucket = string
    object = string
  })
  default = null

  validation {
    condition     = (var.source_archive == null) == (var.image != null)
    error_message = "Give source_archive or image, and not both."
  }
  validation {
    condition     = var.source_archive == null ? true : can(regex("^[a-z0-9][a-z0-9._-]+$", var.source_archive.bucket)) && can(regex("^[^.][^.]*\\.zip$", var.source_archive.object))
    error_message = "source_archive is the name of the bucket, without gs://, and of the first archive in it, such as cab-0123456789abcdef.zip."
  }
}

variable "audit_heads" {
  description = "Signs how far each audit chain has come, every five minutes, into a bucket with retention lock (docs/audit.md). `image` holds the command `cab`, by digest; of `key_versions` the first signs and notes of each are believed. Null: no notes, and a removed end of a chain is not proven."
  type        = object({ image = string, key_versions = optional(list(number), [1]) })
  default     = null

  validation {
    condition     = var.audit_heads == null ? true : can(regex("@sha256:[0-9a-f]{64}$", var.audit_heads.image))
    error_message = "Name the image by digest (...@sha256:...): a tag can be moved to other code."
  }
}

variable "trace_ratio" {
  description = "Which part of all traces is recorded with Cloud Trace, from 0 (none) to 1. Above 0 the source archive must be made by terraform/package --traces."
  type        = number
  default     = 0
  nullable    = false

  validation {
    condition     = var.trace_ratio >= 0 && var.trace_ratio <= 1
    error_message = "trace_ratio is a part: from 0 to 1."
  }
}
