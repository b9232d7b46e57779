# CAB on Google Cloud. What each function may touch is the point of this module: read iam.tf beside docs/architecture.md.

data "google_project" "this" {
  project_id = var.project_id
}

locals {
  domain    = coalesce(var.domain, "cab.endpoints.${var.project_id}.cloud.goog")
  origin    = "https://${local.domain}"
  databases = toset(["guards", "approvals", "grants", "keys", "unsent"])

  _common_environment = merge(var.configuration_variables, {
    CAB_CONFIG_DIR       = var.config_dir
    GOOGLE_CLOUD_PROJECT = var.project_id
    CAB_AUDIT_TOPIC      = google_pubsub_topic.audit.name
    CAB_ORIGIN           = local.origin
    LOG_EXECUTION_ID     = "true"
    CAB_SECRET_LOCATION  = var.location
  }, var.kms_key == null ? {} : { CAB_KMS_KEY = var.kms_key }, var.trace_ratio == 0 ? {} : { CAB_TRACE_RATIO = tostring(var.trace_ratio) })

  # Its requirements are more than those of the others (terraform/package makes both archives).
  call_tool_archive = var.source_archive == null ? null : {
    bucket = var.source_archive.bucket
    object = replace(var.source_archive.object, "/\\.zip$/", ".call_tool.zip")
  }

  # What is neither given nor usual for a function has its default in modules/function. Most of a call is waiting for a platform.
  usual_sizes = { call_tool = { concurrency = 250, memory = "1Gi" } }
  sizes = { for name in keys(local.functions) : name => {
    for what in ["min_instances", "max_instances", "concurrency", "memory"] : what => try(coalesce(var.functions[name][what]), local.usual_sizes[name][what], null)
  } }

  # Every function by name: who calls it, and what it is told beside the common settings.
  functions = {
    mint_assertion = { public = true, environment = {} }
    exchange_token = { public = true, environment = {
      CAB_REFRESH_GRANTS_URL = local.refresh_grants_url
      CAB_EXCHANGE_TOKEN_URL = local.exchange_token_url
      CAB_CALL_CALLERS       = google_service_account.function["call_tool"].email
    } }
    call_tool        = { public = true, environment = { CAB_EXCHANGE_TOKEN_URL = local.exchange_token_url } }
    publish_metadata = { public = true, environment = {} }
    connect_account  = { public = true, environment = { CAB_REFRESH_GRANTS_URL = local.refresh_grants_url } }
    refresh_grants = { public = false, environment = {
      CAB_REFRESH_GRANTS_URL = local.refresh_grants_url
      CAB_GRANTS_DUE_TOPIC   = google_pubsub_topic.grants_due.name
      CAB_TOKEN_CALLERS      = google_service_account.function["exchange_token"].email
      CAB_REVOKE_CALLERS     = join(",", concat([google_service_account.function["connect_account"].email], sort(var.operators)))
      CAB_SWEEP_CALLERS      = join(",", [google_service_account.scheduler.email, google_service_account.pubsub_push.email])
    } }
    ingest_audit = { public = false, environment = {
      CAB_INGEST_AUDIT_URL   = local.ingest_audit_url
      CAB_PUSH_ACCOUNT       = google_service_account.pubsub_push.email
      CAB_AUDIT_SUBSCRIPTION = "projects/${var.project_id}/subscriptions/cab-audit-ingest"
      CAB_QUARANTINE_TOPIC   = google_pubsub_topic.audit_quarantine.name
      CAB_AUDIT_DATASET      = google_bigquery_dataset.audit.dataset_id
      CAB_AUDIT_TABLE        = "events_raw"
    } }
  }

  # Every function as it is deployed.
  deployed = merge(module.function, { ingest_audit = module.ingest_audit })

  # Known before the service exists, so that a function can be told its own address (the audience of its callers' tokens).
  exchange_token_url = "https://exchange-token-${data.google_project.this.number}.${var.location}.run.app"
  refresh_grants_url = "https://refresh-grants-${data.google_project.this.number}.${var.location}.run.app"
  ingest_audit_url   = "https://ingest-audit-${data.google_project.this.number}.${var.location}.run.app"
}

resource "google_service_account" "function" {
  for_each     = toset(["mint_assertion", "exchange_token", "call_tool", "publish_metadata", "refresh_grants", "connect_account", "ingest_audit"])
  project      = var.project_id
  account_id   = replace(each.key, "_", "-")
  display_name = "CAB ${each.key}"
  depends_on   = [google_project_service.this]
}

resource "google_service_account" "pubsub_push" {
  project      = var.project_id
  account_id   = "pubsub-push"
  display_name = "CAB: identity of Pub/Sub pushes"
  depends_on   = [google_project_service.this]
}

resource "google_service_account" "scheduler" {
  project      = var.project_id
  account_id   = "scheduler"
  display_name = "CAB: identity of the grant sweep"
  depends_on   = [google_project_service.this]
}

resource "google_service_account" "build" {
  project      = var.project_id
  account_id   = "cab-build"
  display_name = "CAB: builds the functions"
  depends_on   = [google_project_service.this]
}

# Upgrades go in this order, so that nothing that is published finds an older reader: the table, who writes to it, and then, with their
# indexes, all who publish (docs/operations.md).
module "ingest_audit" {
  source = "./modules/function"

  project_id            = var.project_id
  location              = var.location
  name                  = "ingest_audit"
  service_account_email = google_service_account.function["ingest_audit"].email
  build_service_account = google_service_account.build.id
  source_archive        = var.source_archive
  image                 = var.image
  labels                = var.labels
  ingress               = "internal"
  network               = null
  environment           = merge(local._common_environment, local.functions.ingest_audit.environment)
  public                = false
  size                  = local.sizes.ingest_audit
  invokers              = { pubsub_push = google_service_account.pubsub_push.member }

  depends_on = [
    google_dns_record_set.run_app, google_project_iam_member.build, google_project_iam_member.firestore, google_pubsub_topic_iam_member.quarantine_publisher,
    google_bigquery_table.events_raw, google_bigquery_table_iam_binding.audit_writer,
  ]
}

moved {
  from = module.function["ingest_audit"]
  to   = module.ingest_audit
}

module "function" {
  source   = "./modules/function"
  for_each = { for name, function in local.functions : name => function if name != "ingest_audit" }

  project_id            = var.project_id
  location              = var.location
  name                  = each.key
  service_account_email = google_service_account.function[each.key].email
  build_service_account = google_service_account.build.id
  source_archive        = each.key == "call_tool" ? local.call_tool_archive : var.source_archive
  image                 = var.image
  labels                = var.labels
  ingress               = var.internal_calls == "invoker_only" && contains(local.internally_called, each.key) ? "all" : each.value.public ? "load_balancer" : "internal"
  network               = contains(local.internal_callers, each.key) && var.internal_calls == "network" ? { network = google_compute_network.this[0].id, subnetwork = google_compute_subnetwork.this[0].id } : null
  environment           = merge(local._common_environment, each.value.environment)
  public                = each.value.public
  size                  = local.sizes[each.key]
  invokers = each.key == "refresh_grants" ? merge({
    exchange_token  = google_service_account.function["exchange_token"].member
    connect_account = google_service_account.function["connect_account"].member
    scheduler       = google_service_account.scheduler.member
    pubsub_push     = google_service_account.pubsub_push.member
  }, { for email in var.operators : email => "serviceAccount:${email}" }) : {}

  # A function that starts before it may do its work fails its first calls.
  depends_on = [
    google_dns_record_set.run_app, google_project_iam_member.build, google_project_iam_member.firestore, google_secret_manager_secret_iam_member.reader,
    google_pubsub_topic_iam_member.audit_publisher, google_pubsub_topic_iam_member.grants_due_publisher,
    google_project_iam_member.connect_creates, google_project_iam_member.connect_adds, google_project_iam_member.refresh_creates,
    google_project_iam_member.refresh_keeps,
    module.ingest_audit, google_firestore_index.this, google_firestore_field.indexed,
  ]
}

module "origin" {
  source = "./modules/origin"

  project_id = var.project_id
  location   = var.location
  domain     = local.domain
  labels     = var.labels
  protection = var.edge_protection
  services   = { for name, function in local.functions : name => module.function[name].service_name if function.public }
}

resource "google_cloud_scheduler_job" "sweep" {
  project          = var.project_id
  region           = var.location
  name             = "cab-grants-sweep"
  description      = "Finds grants that want attention; each is visited through Pub/Sub."
  schedule         = "* * * * *"
  attempt_deadline = "60s"

  http_target {
    uri         = "${local.refresh_grants_url}/grants/sweep"
    http_method = "POST"
    headers     = { "Content-Type" = "application/json" }
    body        = base64encode("{}")
    oidc_token {
      service_account_email = google_service_account.scheduler.email
      audience              = local.refresh_grants_url
    }
  }
}
