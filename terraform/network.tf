# The way from function to function. refresh_grants and ingest_audit take internal traffic only, and exchange_token is called by
# call_tool past the load balancer, where the route of its decisions on calls is not. Pub/Sub and Cloud Scheduler
# of the project count as internal; another function does only when its call comes through a VPC network (Cloud Run,
# "Restrict network ingress"). So with `internal_calls = "network"` the callers send what goes to private ranges through this
# network, and in it the names below run.app lead to private.googleapis.com, four addresses that Direct VPC egress treats as
# private ("Private networking and Cloud Run"). Everything else, such as calls to providers and IdPs, leaves as before: no NAT.

locals {
  # Which functions call which other one. Operators come from their own place in this network.
  internal_calls    = { exchange_token = "refresh_grants", connect_account = "refresh_grants", call_tool = "exchange_token" }
  internal_callers  = toset(keys(local.internal_calls))
  internally_called = toset(values(local.internal_calls))
  _network          = var.internal_calls == "network" ? 1 : 0
  # Documented addresses of private.googleapis.com ("Configure Private Google Access").
  _private_google_apis = ["199.36.153.8", "199.36.153.9", "199.36.153.10", "199.36.153.11"]
}

resource "google_compute_network" "this" {
  count                   = local._network
  project                 = var.project_id
  name                    = "cab"
  auto_create_subnetworks = false
  depends_on              = [google_project_service.this]
}

resource "google_compute_subnetwork" "this" {
  count                    = local._network
  project                  = var.project_id
  name                     = "cab-${var.location}"
  region                   = var.location
  network                  = google_compute_network.this[0].id
  ip_cidr_range            = var.network_range
  private_ip_google_access = true # without it run.app cannot be reached from addresses of this network
}

resource "google_dns_managed_zone" "run_app" {
  count       = local._network
  project     = var.project_id
  name        = "cab-run-app"
  description = "Inside this network, functions are reached through Private Google Access."
  dns_name    = "run.app."
  visibility  = "private"
  labels      = var.labels
  private_visibility_config {
    networks {
      network_url = google_compute_network.this[0].id
    }
  }
  depends_on = [google_project_service.this]
}

resource "google_dns_record_set" "run_app" {
  for_each     = local._network == 0 ? {} : { apex = "run.app.", names = "*.run.app." }
  project      = var.project_id
  managed_zone = google_dns_managed_zone.run_app[0].name
  name         = each.value
  type         = "A"
  ttl          = 300
  rrdatas      = local._private_google_apis
}

# Nothing in this network is called from outside, and from inside only Google's APIs are: 443 to those four addresses.
resource "google_compute_firewall" "to_google" {
  count              = local._network
  project            = var.project_id
  name               = "cab-to-google-apis"
  network            = google_compute_network.this[0].id
  direction          = "EGRESS"
  priority           = 1000
  destination_ranges = ["199.36.153.8/30"]
  allow {
    protocol = "tcp"
    ports    = ["443"]
  }
}

resource "google_compute_firewall" "nowhere_else" {
  count              = local._network
  project            = var.project_id
  name               = "cab-nowhere-else"
  network            = google_compute_network.this[0].id
  direction          = "EGRESS"
  priority           = 65000
  destination_ranges = ["0.0.0.0/0"]
  deny {
    protocol = "all"
  }
}
