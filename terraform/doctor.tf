# `cab doctor` every quarter of an hour, as an identity that may look and change nothing: it reads no secret and no grant's tokens. Each run
# asks for one exchange with a forged signature, and looks for what came of it in the audit tables (docs/doctor.md).
locals {
  _doctor = var.doctor[*]
}

resource "google_service_account" "doctor" {
  count        = length(local._doctor)
  project      = var.project_id
  account_id   = "cab-doctor"
  display_name = "CAB: examines the deployment"
  depends_on   = [google_project_service.this]
}

# By name of what is asked, because the predefined roles for it read far more.
resource "google_project_iam_custom_role" "doctor" {
  count   = length(local._doctor)
  project = var.project_id
  role_id = "cabDoctor"
  title   = "CAB: examine the deployment"
  permissions = [
    "datastore.entities.get", # that each database answers, and the public halves of the signing keys
    "datastore.indexes.list",
    "pubsub.subscriptions.get",
    "pubsub.topics.get",
    "resourcemanager.projects.getIamPolicy",
    "secretmanager.secrets.getIamPolicy",
    "secretmanager.versions.get", # whether it is enabled, not what it holds
    "serviceusage.services.list",
  ]
  depends_on = [google_project_service.this]
}

resource "google_project_iam_member" "doctor" {
  count   = length(local._doctor)
  project = var.project_id
  role    = google_project_iam_custom_role.doctor[0].id
  member  = google_service_account.doctor[0].member
}

# What waits to be published is found by a query; of the other databases it can list nothing.
resource "google_project_iam_custom_role" "doctor_unsent" {
  count       = length(local._doctor)
  project     = var.project_id
  role_id     = "cabDoctorUnsent"
  title       = "CAB: look for unsent audit events"
  permissions = ["datastore.entities.list"]
  depends_on  = [google_project_service.this]
}

resource "google_project_iam_member" "doctor_unsent" {
  count   = length(local._doctor)
  project = var.project_id
  role    = google_project_iam_custom_role.doctor_unsent[0].id
  member  = google_service_account.doctor[0].member
  condition {
    title      = "database unsent"
    expression = "resource.name == \"projects/${var.project_id}/databases/unsent\""
  }
}

resource "google_bigquery_dataset_iam_member" "doctor" {
  count      = length(local._doctor)
  project    = var.project_id
  dataset_id = google_bigquery_dataset.audit.dataset_id
  role       = "roles/bigquery.dataViewer"
  member     = google_service_account.doctor[0].member
}

resource "google_project_iam_member" "doctor_asks" {
  count   = length(local._doctor)
  project = var.project_id
  role    = "roles/bigquery.jobUser"
  member  = google_service_account.doctor[0].member
}

resource "google_cloud_run_v2_job" "doctor" {
  count               = length(local._doctor)
  project             = var.project_id
  location            = var.location
  name                = "cab-doctor"
  deletion_protection = false # it holds nothing
  labels              = var.labels
  template {
    template {
      service_account = google_service_account.doctor[0].email
      max_retries     = 1 # one answer that is lost on the way wakes nobody
      timeout         = "240s"
      containers {
        image   = local._doctor[0].image
        command = ["cab"]
        args    = ["doctor"]
        dynamic "env" {
          for_each = merge(local._common_environment, { CAB_AUDIT_DATASET = google_bigquery_dataset.audit.dataset_id })
          content {
            name  = env.key
            value = env.value
          }
        }
      }
    }
  }
  depends_on = [
    google_project_iam_member.doctor, google_project_iam_member.doctor_unsent, google_project_iam_member.doctor_asks,
    google_bigquery_dataset_iam_member.doctor, module.origin,
  ]
}

resource "google_cloud_run_v2_job_iam_member" "doctor" {
  count    = length(local._doctor)
  project  = var.project_id
  location = var.location
  name     = google_cloud_run_v2_job.doctor[0].name
  role     = "roles/run.invoker"
  member   = google_service_account.scheduler.member
}

resource "google_cloud_scheduler_job" "doctor" {
  count            = length(local._doctor)
  project          = var.project_id
  region           = var.location
  name             = "cab-doctor"
  description      = "Examines the deployment."
  schedule         = "*/15 * * * *"
  attempt_deadline = "60s"
  http_target {
    uri         = "https://run.googleapis.com/v2/${google_cloud_run_v2_job.doctor[0].id}:run"
    http_method = "POST"
    oauth_token {
      service_account_email = google_service_account.scheduler.email
    }
  }
  depends_on = [google_cloud_run_v2_job_iam_member.doctor]
}

# Asked for what is well, because a doctor that does not come finds nothing ill: two runs one after the other that found something, or did not
# come. The metric is known with the first run: hence PromQL, as in alerts.tf, beside which a policy can have no other condition.
resource "google_monitoring_alert_policy" "doctor" {
  count                 = length(local._doctor)
  project               = var.project_id
  display_name          = "CAB: The scheduled doctor does not find the deployment well."
  combiner              = "OR"
  notification_channels = var.notification_channels
  user_labels           = var.labels
  documentation {
    content   = "Runbook: docs/runbooks/doctor.md"
    mime_type = "text/markdown"
  }
  conditions {
    display_name = "No run of the last half hour found everything well."
    condition_prometheus_query_language {
      query                     = "(sum(increase(run_googleapis_com:job_completed_execution_count{monitored_resource=\"cloud_run_job\", job_name=\"cab-doctor\", result=\"succeeded\"}[31m])) or vector(0)) < 1"
      duration                  = "900s"
      evaluation_interval       = "60s"
      disable_metric_validation = true
    }
  }
  depends_on = [google_project_service.this]
}
