# Decisions travel: topic -> push -> ingest_audit -> BigQuery. Nothing that fails on the way is lost.
resource "google_pubsub_topic" "audit" {
  project                    = var.project_id
  name                       = "cab-audit"
  message_retention_duration = "${var.audit_replay_days * 24 * 3600}s" # beside what is not acknowledged yet, which the subscription keeps
  message_storage_policy {
    allowed_persistence_regions = [var.location]
  }
  kms_key_name = var.kms_key
  labels       = var.labels
  depends_on   = [google_project_service.this, google_kms_crypto_key_iam_member.agent]
}

resource "google_pubsub_topic" "audit_dead_letter" {
  project = var.project_id
  name    = "cab-audit-dead-letter"
  message_storage_policy {
    allowed_persistence_regions = [var.location]
  }
  kms_key_name = var.kms_key
  labels       = var.labels
  depends_on   = [google_project_service.this, google_kms_crypto_key_iam_member.agent]
}

resource "google_pubsub_topic" "audit_quarantine" {
  project = var.project_id
  name    = "cab-audit-quarantine"
  message_storage_policy {
    allowed_persistence_regions = [var.location]
  }
  kms_key_name = var.kms_key
  labels       = var.labels
  depends_on   = [google_project_service.this, google_kms_crypto_key_iam_member.agent]
}

resource "google_pubsub_topic" "grants_due" {
  project = var.project_id
  name    = "cab-grants-due"
  message_storage_policy {
    allowed_persistence_regions = [var.location]
  }
  kms_key_name = var.kms_key
  labels       = var.labels
  depends_on   = [google_project_service.this, google_kms_crypto_key_iam_member.agent]
}

resource "google_pubsub_subscription" "audit_ingest" {
  project                    = var.project_id
  name                       = "cab-audit-ingest"
  topic                      = google_pubsub_topic.audit.id
  ack_deadline_seconds       = 30
  message_retention_duration = "2678400s"
  labels                     = var.labels

  push_config {
    push_endpoint = "${local.ingest_audit_url}/"
    oidc_token {
      service_account_email = google_service_account.pubsub_push.email
      audience              = local.ingest_audit_url
    }
  }
  retry_policy {
    minimum_backoff = "1s"
    maximum_backoff = "60s"
  }
  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.audit_dead_letter.id
    max_delivery_attempts = 20
  }
  expiration_policy {
    ttl = "" # never: the default lets it die after 31 idle days
  }
}

resource "google_pubsub_subscription" "grants_due" {
  project              = var.project_id
  name                 = "cab-grants-due-refresh"
  topic                = google_pubsub_topic.grants_due.id
  ack_deadline_seconds = 60
  labels               = var.labels

  push_config {
    push_endpoint = "${local.refresh_grants_url}/grants/due"
    oidc_token {
      service_account_email = google_service_account.pubsub_push.email
      audience              = local.refresh_grants_url
    }
  }
  retry_policy {
    minimum_backoff = "5s"
    maximum_backoff = "300s"
  }
  expiration_policy {
    ttl = ""
  }
}

# A topic without a subscription drops messages: what was set aside is kept for people.
resource "google_pubsub_subscription" "kept" {
  for_each                   = { dead-letter = google_pubsub_topic.audit_dead_letter.id, quarantine = google_pubsub_topic.audit_quarantine.id }
  project                    = var.project_id
  name                       = "cab-audit-${each.key}-keep"
  topic                      = each.value
  message_retention_duration = "2678400s"
  labels                     = var.labels
  expiration_policy {
    ttl = ""
  }
}

resource "google_bigquery_dataset" "audit" {
  project                         = var.project_id
  dataset_id                      = "cab_audit"
  location                        = var.location
  description                     = "Every decision of the Credential Access Broker. Start with the view events."
  default_partition_expiration_ms = var.audit_retention_days * 24 * 3600 * 1000
  delete_contents_on_destroy      = !var.deletion_protection
  labels                          = var.labels

  dynamic "default_encryption_configuration" {
    for_each = var.kms_key[*]
    content {
      kms_key_name = default_encryption_configuration.value
    }
  }
  depends_on = [google_project_service.this, google_kms_crypto_key_iam_member.agent]
}

resource "google_bigquery_table" "events_raw" {
  project                  = var.project_id
  dataset_id               = google_bigquery_dataset.audit.dataset_id
  table_id                 = "events_raw"
  labels                   = var.labels
  description              = "One row per delivery; use the view events, which keeps one per event."
  schema                   = file("${path.module}/../shared/cab/data/audit_events.schema.json")
  clustering               = ["tenant", "subject_key", "connection", "action"]
  require_partition_filter = true
  deletion_protection      = var.deletion_protection
  time_partitioning {
    type  = "DAY"
    field = "occurred_at"
    # On the table too: a dataset's default is for tables made later, so another number of days would change nothing.
    expiration_ms = var.audit_retention_days * 24 * 3600 * 1000
  }
}

resource "google_bigquery_table" "configuration" {
  project             = var.project_id
  dataset_id          = google_bigquery_dataset.audit.dataset_id
  table_id            = "configuration"
  labels              = var.labels
  description         = "One row for each deployment that `cab config export` wrote; use the views agents, connections, catalog, policy_versions."
  schema              = file("${path.module}/../shared/cab/data/configuration.schema.json")
  deletion_protection = var.deletion_protection
}

locals {
  view_files = { for name in fileset("${path.module}/../shared/cab/data/views", "*.sql") : trimsuffix(name, ".sql") => "${path.module}/../shared/cab/data/views/${name}" }
  view_terms = { project = var.project_id, dataset = google_bigquery_dataset.audit.dataset_id }
  views = { for name, file in local.view_files : name => templatefile(file, merge(local.view_terms, {
    events       = "`${var.project_id}.${google_bigquery_dataset.audit.dataset_id}.events`"
    events_later = "`${var.project_id}.${google_bigquery_dataset.audit.dataset_id}.events`"
    since        = "TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL ${var.audit_retention_days} DAY)"
    until        = "TIMESTAMP '9000-01-01 00:00:00+00'"
  })) }
  # The same questions over the days between two instants: a view reads the whole retention, these read nothing else.
  between = { for name, file in local.view_files : name => templatefile(file, merge(local.view_terms, {
    events       = "`${var.project_id}.${google_bigquery_dataset.audit.dataset_id}`.events_between(period_start, period_end)"
    events_later = "`${var.project_id}.${google_bigquery_dataset.audit.dataset_id}`.events_between(period_start, TIMESTAMP_ADD(period_end, INTERVAL 2 DAY))"
    since        = "period_start"
    until        = "period_end"
  })) if anytrue([for term in ["since", "until", "events"] : strcontains(file(file), "$${${term}}")]) }
}

# Views that others read, so they are there first.
resource "google_bigquery_table" "events" {
  for_each            = toset(["events", "agents"])
  project             = var.project_id
  dataset_id          = google_bigquery_dataset.audit.dataset_id
  table_id            = each.key
  labels              = var.labels
  deletion_protection = false
  view {
    query          = local.views[each.key]
    use_legacy_sql = false
  }
  depends_on = [google_bigquery_table.events_raw, google_bigquery_table.configuration]
}

moved {
  from = google_bigquery_table.events
  to   = google_bigquery_table.events["events"]
}

resource "google_bigquery_table" "view" {
  for_each            = toset([for name in keys(local.views) : name if !contains(["events", "agents"], name)])
  project             = var.project_id
  dataset_id          = google_bigquery_dataset.audit.dataset_id
  table_id            = each.key
  labels              = var.labels
  deletion_protection = false
  view {
    query          = local.views[each.key]
    use_legacy_sql = false
  }
  depends_on = [google_bigquery_table.events]
}

# What the other functions ask, so it is there first.
resource "google_bigquery_routine" "events" {
  for_each        = { for name, query in local.between : name => query if name == "events" }
  project         = var.project_id
  dataset_id      = google_bigquery_dataset.audit.dataset_id
  routine_id      = "${each.key}_between"
  routine_type    = "TABLE_VALUED_FUNCTION"
  language        = "SQL"
  definition_body = "SELECT * FROM (\n${each.value})\n"
  dynamic "arguments" {
    for_each = ["period_start", "period_end"]
    content {
      name      = arguments.value
      data_type = jsonencode({ typeKind = "TIMESTAMP" })
    }
  }
  depends_on = [google_bigquery_table.events]
}

resource "google_bigquery_routine" "between" {
  for_each        = { for name, query in local.between : name => query if name != "events" }
  project         = var.project_id
  dataset_id      = google_bigquery_dataset.audit.dataset_id
  routine_id      = "${each.key}_between"
  routine_type    = "TABLE_VALUED_FUNCTION"
  language        = "SQL"
  definition_body = "SELECT * FROM (\n${each.value})\n"
  dynamic "arguments" {
    for_each = ["period_start", "period_end"]
    content {
      name      = arguments.value
      data_type = jsonencode({ typeKind = "TIMESTAMP" })
    }
  }
  depends_on = [google_bigquery_routine.events]
}

resource "google_bigquery_dataset_iam_member" "analyst" {
  for_each   = var.audit_access
  project    = var.project_id
  dataset_id = google_bigquery_dataset.audit.dataset_id
  role       = "roles/bigquery.dataViewer"
  member     = each.value
}
