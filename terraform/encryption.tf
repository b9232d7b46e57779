# With `kms_key` everything at rest is encrypted under the organisation's own key. Each service does so as its own service
# agent, which must be allowed to use the key before the first resource is created with it. Enabling an API does not create its agent: the two
# data sources here do, for the others docs/deploying.md, step 2.

data "google_bigquery_default_service_account" "this" {
  count      = var.kms_key == null ? 0 : 1
  project    = var.project_id
  depends_on = [google_project_service.this]
}

data "google_storage_project_service_account" "this" {
  count      = var.kms_key == null || var.audit_heads == null ? 0 : 1
  project    = var.project_id
  depends_on = [google_project_service.this]
}

locals {
  _number = data.google_project.this.number
  _kms_agents = var.kms_key == null ? {} : merge({
    bigquery      = "serviceAccount:${data.google_bigquery_default_service_account.this[0].email}"
    firestore     = "serviceAccount:service-${local._number}@gcp-sa-firestore.iam.gserviceaccount.com"
    pubsub        = "serviceAccount:service-${local._number}@gcp-sa-pubsub.iam.gserviceaccount.com"
    secretmanager = "serviceAccount:service-${local._number}@gcp-sa-secretmanager.iam.gserviceaccount.com"
  }, { for it in data.google_storage_project_service_account.this : "storage" => "serviceAccount:${it.email_address}" })
}

resource "google_kms_crypto_key_iam_member" "agent" {
  for_each      = local._kms_agents
  crypto_key_id = var.kms_key
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = each.value
  depends_on    = [google_project_service.this]
}
