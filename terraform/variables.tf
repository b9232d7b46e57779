variable "audit_access" {
  description = "Who may read the audit dataset, as IAM members. Analysts read views; nobody needs more."
  type        = set(string)
  default     = []
  nullable    = false
}

variable "audit_retention_days" {
  description = "How long audit rows are kept. Partitions older than this are dropped by BigQuery."
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
  description = "Values of the names that broker.yaml declares in environment_variables. Never secrets."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "domain" {
  description = "Public host name of the broker. Issuers derive from it, so it can never change for a live deployment."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", var.domain)) && strcontains(var.domain, ".")
    error_message = "domain must be a host name such as cab.example.com, without scheme or path."
  }
}

variable "functions" {
  description = "Sizes by function; what is not given keeps its default."
  type = map(object({
    min_instances = optional(number, 0)
    max_instances = optional(number, 20)
    concurrency   = optional(number, 40)
    memory        = optional(string, "512Mi")
  }))
  default  = {}
  nullable = false

  validation {
    condition = alltrue([for name in keys(var.functions) : contains([
      "mint_assertion", "exchange_token", "publish_metadata", "refresh_grants", "connect_account", "ingest_audit"
    ], name)])
    error_message = "functions names a function that does not exist."
  }
}

variable "location" {
  description = "Region of the functions, the databases and the audit dataset."
  type        = string
  default     = "europe-west1"
  nullable    = false
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

variable "source_archive" {
  description = "The deployed source: bucket and object, named by content hash so that a change is always seen (terraform/package makes it)."
  type = object({
    bucket = string
    object = string
  })
  nullable = false
}
