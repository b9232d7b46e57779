# One origin in front of the public functions: HTTPS load balancer, paths as in docs/architecture.md.

variable "domain" {
  description = "Public host name."
  type        = string
}

variable "labels" {
  description = "Labels."
  type        = map(string)
  default     = {}
}

variable "location" {
  description = "Region of the services."
  type        = string
}

variable "project_id" {
  description = "Project."
  type        = string
}

variable "protection" {
  description = "Cloud Armor: requests per minute and address. Null: none."
  type        = object({ requests_per_minute = number })
  default     = null
}

variable "services" {
  description = "Cloud Run service by function."
  type        = map(string)
}

locals {
  # What is not listed is answered by publish_metadata, which says 404 as JSON.
  paths = {
    mint_assertion   = ["/edge/token"]
    exchange_token   = ["/oauth2/token", "/oauth2/introspect", "/oauth2/revoke", "/oauth2/outcomes"]
    call_tool        = ["/tools", "/tools/call", "/mcp", "/.well-known/oauth-protected-resource/mcp"]
    publish_metadata = ["/health", "/.well-known/*", "/oauth2/.well-known/*", "/edge/.well-known/*", "/oauth2/jwks.json", "/edge/jwks.json", "/oauth2/authorization-details-types", "/oauth2/openapi.json"]
    connect_account  = ["/connect", "/connect/*", "/approvals/*", "/me", "/me/*", "/login", "/login/*", "/logout", "/ssf/events"]
  }
}

resource "google_compute_region_network_endpoint_group" "this" {
  for_each              = var.services
  project               = var.project_id
  region                = var.location
  name                  = "cab-${each.value}"
  network_endpoint_type = "SERVERLESS"
  cloud_run {
    service = each.value
  }
}

# A first line only: the functions hold their own limits, which know clients and users. Addresses are all that is known here.
resource "google_compute_security_policy" "this" {
  count       = var.protection == null ? 0 : 1
  project     = var.project_id
  name        = "cab"
  description = "Floods and oversized bodies end at the edge."
  labels      = var.labels

  rule {
    action      = "deny(403)"
    priority    = 1000
    description = "No endpoint takes a body over 64 KiB."
    match {
      expr {
        expression = "has(request.headers['content-length']) && int(request.headers['content-length']) > 65536"
      }
    }
  }
  rule {
    action      = "throttle"
    priority    = 2000
    description = "One address, one share."
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
    rate_limit_options {
      conform_action = "allow"
      exceed_action  = "deny(429)"
      enforce_on_key = "IP"
      rate_limit_threshold {
        count        = var.protection.requests_per_minute
        interval_sec = 60
      }
    }
  }
  rule {
    action      = "allow"
    priority    = 2147483647
    description = "Everybody else."
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
  }
}

resource "google_compute_backend_service" "this" {
  for_each              = var.services
  project               = var.project_id
  name                  = "cab-${each.value}"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  enable_cdn            = false
  security_policy       = one(google_compute_security_policy.this[*].id)
  backend {
    group = google_compute_region_network_endpoint_group.this[each.key].id
  }
  log_config {
    # Callback URLs carry authorization codes, and this log would keep them. Which lines of the others are kept: request_logs.
    enable = each.key != "connect_account"
  }
}

resource "google_compute_url_map" "this" {
  project         = var.project_id
  name            = "cab"
  default_service = google_compute_backend_service.this["publish_metadata"].id

  host_rule {
    hosts        = [var.domain]
    path_matcher = "cab"
  }
  path_matcher {
    name            = "cab"
    default_service = google_compute_backend_service.this["publish_metadata"].id
    dynamic "path_rule" {
      for_each = local.paths
      content {
        paths   = path_rule.value
        service = google_compute_backend_service.this[path_rule.key].id
      }
    }
  }
}

resource "google_compute_managed_ssl_certificate" "this" {
  project = var.project_id
  name    = "cab"
  managed {
    domains = [var.domain]
  }
}

resource "google_compute_ssl_policy" "this" {
  project         = var.project_id
  name            = "cab"
  profile         = "RESTRICTED"
  min_tls_version = "TLS_1_2"
}

resource "google_compute_target_https_proxy" "this" {
  project          = var.project_id
  name             = "cab"
  url_map          = google_compute_url_map.this.id
  ssl_certificates = [google_compute_managed_ssl_certificate.this.id]
  ssl_policy       = google_compute_ssl_policy.this.id
}

resource "google_compute_global_address" "this" {
  project = var.project_id
  name    = "cab"
  labels  = var.labels
}

# There is no listener on port 80: a token sent over http must fail, not be redirected.
resource "google_compute_global_forwarding_rule" "this" {
  project               = var.project_id
  name                  = "cab"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  ip_address            = google_compute_global_address.this.id
  port_range            = "443"
  labels                = var.labels
  target                = google_compute_target_https_proxy.this.id
}

output "address" {
  description = "IP address of the origin."
  value       = google_compute_global_address.this.address
}

output "requests_per_minute" {
  description = "What one address may send in a minute, or null."
  value       = try([for rule in google_compute_security_policy.this[0].rule : rule.rate_limit_options[0].rate_limit_threshold[0].count if rule.action == "throttle"][0], null)
}

output "logged" {
  description = "Functions whose requests the load balancer logs."
  value       = sort([for name, service in google_compute_backend_service.this : name if service.log_config[0].enable])
}

output "url_map" {
  description = "Name that the load balancer's log lines carry."
  value       = google_compute_url_map.this.name
}
