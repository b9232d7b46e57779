# Signed heads of the audit chains, every five minutes, into a bucket whose retention nobody can shorten: whoever may write the
# audit table can remove the end of a chain, but not the note of how far it had come. `cab audit verify-chain --heads` reads them.
locals {
  _heads      = var.audit_heads[*]
  _heads_keys = join(",", [for version in flatten(local._heads[*].key_versions) : "${one(google_kms_crypto_key.heads[*].id)}/cryptoKeyVersions/${version}"])
}

resource "google_service_account" "heads" {
  count        = length(local._heads)
  project      = var.project_id
  account_id   = "audit-heads"
  display_name = "CAB: notes how far each audit chain has come"
  depends_on   = [google_project_service.this]
}

resource "google_storage_bucket" "heads" {
  count                       = length(local._heads)
  project                     = var.project_id
  name                        = "${var.project_id}-cab-audit-heads"
  location                    = var.location
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  labels                      = var.labels
  dynamic "encryption" {
    for_each = var.kms_key[*]
    content {
      default_kms_key_name = encryption.value
    }
  }
  retention_policy {
    retention_period = var.audit_retention_days * 24 * 3600
    is_locked        = var.deletion_protection
  }
  lifecycle_rule {
    condition { age = var.audit_retention_days + 1 }
    action { type = "Delete" }
  }
  depends_on = [google_project_service.this, google_kms_crypto_key_iam_member.agent]
}

resource "google_kms_key_ring" "heads" {
  count      = length(local._heads)
  project    = var.project_id
  name       = "cab-audit-heads"
  location   = var.location
  depends_on = [google_project_service.this]
}

resource "google_kms_crypto_key" "heads" {
  count    = length(local._heads)
  name     = "heads"
  key_ring = google_kms_key_ring.heads[0].id
  purpose  = "ASYMMETRIC_SIGN"
  labels   = var.labels
  version_template {
    algorithm = "EC_SIGN_P256_SHA256"
  }
}

# It reads the table, signs, and adds to the bucket. It can write no row and replace no note.
resource "google_bigquery_dataset_iam_member" "heads" {
  count      = length(local._heads)
  project    = var.project_id
  dataset_id = google_bigquery_dataset.audit.dataset_id
  role       = "roles/bigquery.dataViewer"
  member     = google_service_account.heads[0].member
}

resource "google_project_iam_member" "heads" {
  count   = length(local._heads)
  project = var.project_id
  role    = "roles/bigquery.jobUser"
  member  = google_service_account.heads[0].member
}

resource "google_storage_bucket_iam_member" "heads" {
  for_each = toset(length(local._heads) == 0 ? [] : ["roles/storage.objectCreator", "roles/storage.objectViewer"])
  bucket   = google_storage_bucket.heads[0].name
  role     = each.key
  member   = google_service_account.heads[0].member
}

resource "google_kms_crypto_key_iam_member" "heads" {
  count         = length(local._heads)
  crypto_key_id = google_kms_crypto_key.heads[0].id
  role          = "roles/cloudkms.signerVerifier"
  member        = google_service_account.heads[0].member
}

resource "google_cloud_run_v2_job" "heads" {
  count               = length(local._heads)
  project             = var.project_id
  location            = var.location
  name                = "cab-audit-heads"
  deletion_protection = false
  labels              = var.labels
  template {
    template {
      service_account = google_service_account.heads[0].email
      max_retries     = 1
      timeout         = "240s"
      containers {
        image   = local._heads[0].image
        command = ["cab"]
        args    = ["audit", "note-heads"]
        dynamic "env" {
          for_each = {
            GOOGLE_CLOUD_PROJECT = var.project_id
            CAB_AUDIT_DATASET    = google_bigquery_dataset.audit.dataset_id
            CAB_AUDIT_HEADS      = "gs://${google_storage_bucket.heads[0].name}"
            CAB_AUDIT_HEADS_KEY  = local._heads_keys
          }
          content {
            name  = env.key
            value = env.value
          }
        }
      }
    }
  }
  depends_on = [
    google_bigquery_dataset_iam_member.heads, google_project_iam_member.heads, google_storage_bucket_iam_member.heads,
    google_kms_crypto_key_iam_member.heads,
  ]
}

resource "google_cloud_run_v2_job_iam_member" "heads" {
  count    = length(local._heads)
  project  = var.project_id
  location = var.location
  name     = google_cloud_run_v2_job.heads[0].name
  role     = "roles/run.invoker"
  member   = google_service_account.heads[0].member
}

resource "google_cloud_scheduler_job" "heads" {
  count            = length(local._heads)
  project          = var.project_id
  region           = var.location
  name             = "cab-audit-heads"
  description      = "Signs how far each audit chain has come."
  schedule         = "*/5 * * * *"
  attempt_deadline = "60s"
  http_target {
    uri         = "https://run.googleapis.com/v2/${google_cloud_run_v2_job.heads[0].id}:run"
    http_method = "POST"
    oauth_token {
      service_account_email = google_service_account.heads[0].email
    }
  }
}

# Asked for what is well, as of the doctor: a chain that became shorter makes each run fail for a day, and a note that is not made
# is no run at all.
resource "google_monitoring_alert_policy" "heads" {
  count                 = length(local._heads)
  project               = var.project_id
  display_name          = "CAB: The heads of the audit chains are not noted, or a chain became shorter."
  combiner              = "OR"
  notification_channels = var.notification_channels
  user_labels           = var.labels
  documentation {
    content   = "Runbook: docs/runbooks/audit-heads.md"
    mime_type = "text/markdown"
  }
  conditions {
    display_name = "No run of the last quarter of an hour noted heads that had only grown."
    condition_prometheus_query_language {
      query                     = "(sum(increase(run_googleapis_com:job_completed_execution_count{monitored_resource=\"cloud_run_job\", job_name=\"cab-audit-heads\", result=\"succeeded\"}[16m])) or vector(0)) < 1"
      duration                  = "900s"
      evaluation_interval       = "60s"
      disable_metric_validation = true
    }
  }
  depends_on = [google_project_service.this]
}
