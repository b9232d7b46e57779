# One Cloud Run function from the shared source archive, with its own identity.

variable "build_service_account" {
  description = "Id of the account that builds."
  type        = string
}

variable "environment" {
  description = "Settings, see shared/cab/settings.py. Never secrets."
  type        = map(string)
}

variable "image" {
  description = "Container image by digest, or null to build from the source archive."
  type        = string
  default     = null
}

variable "ingress" {
  description = "From where it can be reached: load_balancer, internal, or all."
  type        = string
}

variable "invokers" {
  description = "Who may call a private function: any label to IAM member."
  type        = map(string)
  default     = {}
}

variable "labels" {
  description = "Labels."
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

variable "network" {
  description = "Network and subnetwork through which it calls internal functions, or null."
  type        = object({ network = string, subnetwork = string })
  default     = null
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
  default     = null
}

locals {
  service_name = replace(var.name, "_", "-")
  built        = var.image == null
  # One word for both resources, which spell it differently.
  ingresses = {
    load_balancer = { function = "ALLOW_INTERNAL_AND_GCLB", service = "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER" }
    internal      = { function = "ALLOW_INTERNAL_ONLY", service = "INGRESS_TRAFFIC_INTERNAL_ONLY" }
    all           = { function = "ALLOW_ALL", service = "INGRESS_TRAFFIC_ALL" }
  }
  ingress = local.ingresses[var.ingress]
  # Who is let through by Cloud Run itself. A public function of an image needs nobody: its invoker check is off.
  members = var.public ? (local.built ? ["allUsers"] : []) : values(var.invokers)
}

resource "google_cloudfunctions2_function" "this" {
  count    = local.built ? 1 : 0
  project  = var.project_id
  location = var.location
  name     = local.service_name
  labels   = var.labels

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
    ingress_settings                 = local.ingress.function
    direct_vpc_egress                = var.network == null ? null : "VPC_EGRESS_PRIVATE_RANGES_ONLY"
    all_traffic_on_latest_revision   = true
    environment_variables            = var.environment

    dynamic "direct_vpc_network_interface" {
      for_each = var.network[*]
      content {
        network    = direct_vpc_network_interface.value.network
        subnetwork = direct_vpc_network_interface.value.subnetwork
      }
    }
  }
}

# The same entry point from an image. google_cloudfunctions2_function cannot switch the invoker check off, and the build_config of
# google_cloud_run_v2_service starts no build (provider issues 22263, 23057): so there are two resources for two ways to build.
resource "google_cloud_run_v2_service" "this" {
  count                = local.built ? 0 : 1
  project              = var.project_id
  location             = var.location
  name                 = local.service_name
  labels               = var.labels
  ingress              = local.ingress.service
  invoker_iam_disabled = var.public
  deletion_protection  = false # it holds nothing

  template {
    service_account                  = var.service_account_email
    timeout                          = "60s"
    max_instance_request_concurrency = var.size.concurrency

    scaling {
      min_instance_count = var.size.min_instances
      max_instance_count = var.size.max_instances
    }
    containers {
      image = var.image
      resources {
        limits            = { cpu = "1", memory = var.size.memory }
        cpu_idle          = true
        startup_cpu_boost = true
      }
      dynamic "env" {
        for_each = merge(var.environment, { FUNCTION_TARGET = var.name, FUNCTION_SOURCE = "functions/${var.name}/main.py" })
        content {
          name  = env.key
          value = env.value
        }
      }
    }
    dynamic "vpc_access" {
      for_each = var.network[*]
      content {
        egress = "PRIVATE_RANGES_ONLY"
        network_interfaces {
          network    = vpc_access.value.network
          subnetwork = vpc_access.value.subnetwork
        }
      }
    }
  }
}

resource "google_cloud_run_v2_service_iam_binding" "invoker" {
  count = length(local.members) == 0 && var.public ? 0 : 1

  # A binding, not members: whoever is not named here must not be able to call it.
  project  = var.project_id
  location = var.location
  name     = local.service_name
  role     = "roles/run.invoker"
  members  = local.members

  depends_on = [google_cloudfunctions2_function.this, google_cloud_run_v2_service.this]

  lifecycle {
    precondition {
      condition     = length(local.members) > 0
      error_message = "The private function ${var.name} has no invoker: nothing could ever call it."
    }
  }
}

output "calls_through_network" {
  description = "Whether its calls to private ranges go through the VPC network. Read from the resource, for tests of the plan."
  value = local.built ? (
    length(google_cloudfunctions2_function.this[0].service_config[0].direct_vpc_network_interface) == 1
    ? google_cloudfunctions2_function.this[0].service_config[0].direct_vpc_egress == "VPC_EGRESS_PRIVATE_RANGES_ONLY" : false
    ) : (
    length(google_cloud_run_v2_service.this[0].template[0].vpc_access) == 1
    ? google_cloud_run_v2_service.this[0].template[0].vpc_access[0].egress == "PRIVATE_RANGES_ONLY" : false
  )
}

output "invoker_check" {
  description = "Whether Cloud Run asks callers for an identity that may invoke it."
  value       = local.built ? true : !google_cloud_run_v2_service.this[0].invoker_iam_disabled
}

output "invokers" {
  description = "Who may invoke it."
  value       = flatten([for binding in google_cloud_run_v2_service_iam_binding.invoker : tolist(binding.members)])
}

output "reachable_from" {
  description = "From where it can be reached: load_balancer, internal, or all."
  value = [for name, spelt in local.ingresses : name if(
    local.built ? google_cloudfunctions2_function.this[0].service_config[0].ingress_settings == spelt.function : google_cloud_run_v2_service.this[0].ingress == spelt.service
  )][0]
}

output "size" {
  description = "Instances, concurrency and memory, read from the resource."
  value = local.built ? {
    min_instances = google_cloudfunctions2_function.this[0].service_config[0].min_instance_count
    max_instances = google_cloudfunctions2_function.this[0].service_config[0].max_instance_count
    concurrency   = google_cloudfunctions2_function.this[0].service_config[0].max_instance_request_concurrency
    memory        = google_cloudfunctions2_function.this[0].service_config[0].available_memory
    } : {
    min_instances = google_cloud_run_v2_service.this[0].template[0].scaling[0].min_instance_count
    max_instances = google_cloud_run_v2_service.this[0].template[0].scaling[0].max_instance_count
    concurrency   = google_cloud_run_v2_service.this[0].template[0].max_instance_request_concurrency
    memory        = google_cloud_run_v2_service.this[0].template[0].containers[0].resources[0].limits["memory"]
  }
}

output "source_object" {
  description = "The archive it is built from; null from an image."
  value       = var.image == null ? var.source_archive.object : null
}

output "service_name" {
  description = "Cloud Run service behind the function."
  value       = local.service_name
  depends_on  = [google_cloud_run_v2_service_iam_binding.invoker]
}
