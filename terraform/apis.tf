# Every Google API that the module uses. What stands at the start of a chain of references (accounts, databases, topics,
# secrets, dataset, network) waits for all of them, so the rest does too. Two must be on before Terraform can plan at all,
# because planning reads the project: serviceusage and cloudresourcemanager (docs/deploying.md, step 2).

locals {
  apis = toset(concat([
    "artifactregistry.googleapis.com", # images that the builds make
    "bigquery.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudfunctions.googleapis.com",
    "cloudresourcemanager.googleapis.com", # permissions on the project
    "cloudscheduler.googleapis.com",
    "compute.googleapis.com", # load balancer, network
    "firestore.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com", # identity tokens of pushes and of the scheduler
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "pubsub.googleapis.com",
    "run.googleapis.com",
    "secretmanager.googleapis.com",
    "storage.googleapis.com", # the source archive
    ],
    var.internal_calls == "network" ? ["dns.googleapis.com"] : [],
    var.trace_ratio == 0 ? [] : ["telemetry.googleapis.com"],
    var.kms_key == null && var.audit_heads == null ? [] : ["cloudkms.googleapis.com"],
    # A name below cloud.goog is a record that Cloud Endpoints keeps.
    var.domain == null ? ["endpoints.googleapis.com", "servicecontrol.googleapis.com", "servicemanagement.googleapis.com"] : [],
  ))
}

resource "google_project_service" "this" {
  for_each           = local.apis
  project            = var.project_id
  service            = each.key
  disable_on_destroy = false # others in the project may use it too
}
