# With `kms_key` everything at rest is encrypted under the organisation's own key. Each service does so as its own service
# agent, which must be allowed to use the key before the first resource is created with it.

locals {
  _number = data.google_project.this.number
  _kms_agents = var.kms_key == null ? {} : {
    bigquery      = "serviceAccount:bq-${local._number}@bigquery-encryption.iam.gserviceaccount.com"
    firestore     = "serviceAccount:service-${local._number}@gcp-sa-firestore.iam.gserviceaccount.com"
    pubsub        = "serviceAccount:service-${local._number}@gcp-sa-pubsub.iam.gserviceaccount.com"
    secretmanager = "serviceAccount:service-${local._number}@gcp-sa-secretmanager.iam.gserviceaccount.com"
  }
}

resource "google_kms_crypto_key_iam_member" "agent" {
  for_each      = local._kms_agents
  crypto_key_id = var.kms_key
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = each.value
  depends_on    = [google_project_service.this]
}
