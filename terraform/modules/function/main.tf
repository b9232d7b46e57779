# One Cloud Run function from the shared source archive, with its own identity.

variable "build_service_account" {
  description = "Id of the account that builds."
  type        = string
}

variable "environment" {
  description = "Settings, see shared/cab/settings.py. Never secrets."
  type        = map(string)
}

variable "invokers" {
  description = "Who may call a private function: any label to IAM member."
  type        = map(string)
  default     = {}
}

variable "location" {
  description = "Region."
  type        = string
}

variable "name" {
  description = "Folder under functions/, and entry point."
  type        = string
}

variable "project_id" {
  description = "Project."
  type        = string
}

variable "public" {
  description = "Whether the load balancer may call it without a Google identity: the function authenticates its callers itself."
  type        = bool
}

variable "service_account_email" {
  description = "Identity it runs as."
  type        = string
}

variable "size" {
  description = "Instances, concurrency and memory."
  type = object({
    min_instances = optional(number, 0)
    max_instances = optional(number, 20)
    concurrency   = optional(number, 40)
    memory        = optional(string, "512Mi")
  })
  default = {}
}

variable "source_archive" {
  description = "Bucket and object, named by content hash."
  type        = object({ bucket = string, object = string })
}

locals {
  service_name = replace(var.name, "_", "-")
}

resource "google_cloudfunctions2_function" "this" {
  project  = var.project_id
  location = var.location
  name     = local.service_name

  build_config {
    runtime         = "python313"
    entry_point     = var.name
    service_account = var.build_service_account
    environment_variables = {
      GOOGLE_FUNCTION_SOURCE = "functions/${var.name}/main.py"
    }
    source {
      storage_source {
        bucket = var.source_archive.bucket
        object = var.source_archive.object
      }
    }
  }

  service_config {
    service_account_email            = var.service_account_email
    available_cpu                    = "1"
    available_memory                 = var.size.memory
    min_instance_count               = var.size.min_instances
    max_instance_count               = var.size.max_instances
    max_instance_request_concurrency = var.size.concurrency
    timeout_seconds                  = 60
    ingress_settings                 = var.public ? "ALLOW_INTERNAL_AND_GCLB" : "ALLOW_INTERNAL_ONLY"
    all_traffic_on_latest_revision   = true
    environment_variables            = var.environment
  }
}

resource "google_cloud_run_v2_service_iam_binding" "invoker" {
  # A binding, not members: whoever is not named here must not be able to call it.
  project  = var.project_id
  location = var.location
  name     = local.service_name
  role     = "roles/run.invoker"
  members  = var.public ? ["allUsers"] : values(var.invokers)

  depends_on = [google_cloudfunctions2_function.this]

  lifecycle {
    precondition {
      condition     = var.public || length(var.invokers) > 0
      error_message = "The private function ${var.name} has no invoker: nothing could ever call it."
    }
  }
}

output "service_name" {
  description = "Cloud Run service behind the function."
  value       = local.service_name
  depends_on  = [google_cloud_run_v2_service_iam_binding.invoker]
}
