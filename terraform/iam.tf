# Who may touch what. Each block is one row of docs/architecture.md; a wider grant here breaks a promise made there.

locals {
  _member = { for name, account in google_service_account.function : name => account.member }

  # Firestore roles go to one database each, by condition.
  database_grants = {
    mint_assertion   = { guards = "write", approvals = "read", keys = "read", unsent = "write" }
    exchange_token   = { guards = "write", grants = "read", approvals = "read", keys = "read", unsent = "write" }
    call_tool        = { keys = "read" }
    publish_metadata = { keys = "read" }
    refresh_grants   = { grants = "write", keys = "read", unsent = "write" }
    connect_account  = { guards = "read", grants = "write", approvals = "write", unsent = "write" }
  }
  _firestore_role = { read = "roles/datastore.viewer", write = "roles/datastore.user" }
  firestore = merge([for function, databases in local.database_grants : {
    for database, right in databases : "${function}/${database}" => {
      function = function, database = database, role = local._firestore_role[right]
    }
  }]...)

  # Secrets: fixed ones by name on the secret itself, grants by prefix with a condition on the project.
  secret_readers = {
    mint_assertion = ["cab-edge-signing"]
    exchange_token = concat(["cab-sts-signing"], [for name in var.provider_secrets : name if startswith(name, "cab-client-")])
    # Whoever reads an assertion key can name any user at that system: refresh_grants alone.
    refresh_grants = concat(["cab-escrow-key", "cab-grant-data-key"], [
      for name in var.provider_secrets : name if startswith(name, "cab-provider-") || startswith(name, "cab-assertion-")
    ])
    connect_account = concat(["cab-grant-data-key"], [
      for name in var.provider_secrets : name if startswith(name, "cab-provider-") || startswith(name, "cab-idp-")
    ])
  }
  secret_access = merge([for function, names in local.secret_readers : {
    for name in names : "${function}/${name}" => { function = function, secret = name }
  }]...)
  _grant_secrets = "resource.name.startsWith(\"projects/${data.google_project.this.number}/secrets/cab-grant-\") && !resource.name.startsWith(\"projects/${data.google_project.this.number}/secrets/cab-grant-data-key\")"

  audit_publishers = toset(["mint_assertion", "exchange_token", "call_tool", "refresh_grants", "connect_account"])
}

resource "google_project_iam_member" "firestore" {
  for_each = local.firestore
  project  = var.project_id
  role     = each.value.role
  member   = local._member[each.value.function]
  condition {
    title      = "database ${each.value.database}"
    expression = "resource.name == \"projects/${var.project_id}/databases/${each.value.database}\""
  }
  depends_on = [google_firestore_database.this]
}

resource "google_secret_manager_secret_iam_member" "reader" {
  for_each   = local.secret_access
  project    = var.project_id
  secret_id  = each.value.secret
  role       = "roles/secretmanager.secretAccessor"
  member     = local._member[each.value.function]
  depends_on = [google_secret_manager_secret.broker, google_secret_manager_secret.clients]
}

# Creating a secret is checked on the project, so a name condition cannot bound it: a role with that one permission.
resource "google_project_iam_custom_role" "grant_secret_creator" {
  project     = var.project_id
  role_id     = "cabGrantSecretCreator"
  title       = "CAB: create grant secrets"
  permissions = ["secretmanager.secrets.create"]
  depends_on  = [google_project_service.this]
}

resource "google_project_iam_custom_role" "grant_secret_adder" {
  project     = var.project_id
  role_id     = "cabGrantSecretAdder"
  title       = "CAB: add grant secret versions"
  permissions = ["secretmanager.versions.add", "secretmanager.secrets.getIamPolicy"]
  depends_on  = [google_project_service.this]
}

resource "google_project_iam_custom_role" "grant_secret_keeper" {
  project     = var.project_id
  role_id     = "cabGrantSecretKeeper"
  title       = "CAB: read, add and destroy grant secret versions"
  permissions = ["secretmanager.versions.access", "secretmanager.versions.add", "secretmanager.versions.destroy"]
  depends_on  = [google_project_service.this]
}

resource "google_project_iam_member" "connect_creates" {
  project = var.project_id
  role    = google_project_iam_custom_role.grant_secret_creator.id
  member  = local._member["connect_account"]
}

# A move to `secret_per_grant` makes secrets too (docs/grants.md).
resource "google_project_iam_member" "refresh_creates" {
  project = var.project_id
  role    = google_project_iam_custom_role.grant_secret_creator.id
  member  = local._member["refresh_grants"]
}

# connect_account adds grants and can never read one back.
resource "google_project_iam_member" "connect_adds" {
  project = var.project_id
  role    = google_project_iam_custom_role.grant_secret_adder.id
  member  = local._member["connect_account"]
  condition {
    title      = "grant secrets"
    expression = local._grant_secrets
  }
}

# refresh_grants is the only reader of grant secrets there is.
resource "google_project_iam_member" "refresh_keeps" {
  project = var.project_id
  role    = google_project_iam_custom_role.grant_secret_keeper.id
  member  = local._member["refresh_grants"]
  condition {
    title      = "grant secrets"
    expression = local._grant_secrets
  }
}

resource "google_pubsub_topic_iam_member" "audit_publisher" {
  for_each = local.audit_publishers
  project  = var.project_id
  topic    = google_pubsub_topic.audit.name
  role     = "roles/pubsub.publisher"
  member   = local._member[each.key]
}

resource "google_pubsub_topic_iam_member" "quarantine_publisher" {
  project = var.project_id
  topic   = google_pubsub_topic.audit_quarantine.name
  role    = "roles/pubsub.publisher"
  member  = local._member["ingest_audit"]
}

resource "google_pubsub_topic_iam_member" "grants_due_publisher" {
  project = var.project_id
  topic   = google_pubsub_topic.grants_due.name
  role    = "roles/pubsub.publisher"
  member  = local._member["refresh_grants"]
}

# Only the ingest identity ever writes audit rows.
resource "google_bigquery_table_iam_binding" "audit_writer" {
  project    = var.project_id
  dataset_id = google_bigquery_dataset.audit.dataset_id
  table_id   = google_bigquery_table.events_raw.table_id
  role       = "roles/bigquery.dataEditor"
  members    = [local._member["ingest_audit"]]
}

# Pub/Sub's own agent signs push tokens as pubsub_push, and moves what it cannot deliver.
locals {
  _pubsub_agent = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}

resource "google_service_account_iam_member" "push_token_creator" {
  service_account_id = google_service_account.pubsub_push.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = local._pubsub_agent
}

resource "google_pubsub_topic_iam_member" "dead_letter_publisher" {
  project = var.project_id
  topic   = google_pubsub_topic.audit_dead_letter.name
  role    = "roles/pubsub.publisher"
  member  = local._pubsub_agent
}

resource "google_pubsub_subscription_iam_member" "dead_letter_subscriber" {
  project      = var.project_id
  subscription = google_pubsub_subscription.audit_ingest.name
  role         = "roles/pubsub.subscriber"
  member       = local._pubsub_agent
}

# Spans hold names, times and statuses, and no content; whoever may write them can read none.
resource "google_project_iam_member" "traces" {
  for_each = var.trace_ratio == 0 ? {} : local._member
  project  = var.project_id
  role     = "roles/telemetry.tracesWriter"
  member   = each.value
}

resource "google_project_iam_member" "build" {
  for_each = toset(["roles/logging.logWriter", "roles/storage.objectViewer", "roles/artifactregistry.writer"])
  project  = var.project_id
  role     = each.key
  member   = google_service_account.build.member
}
