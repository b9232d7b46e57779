# What a first apply in a new project needs, and each option. The plan is all that can be seen without a cloud.
mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
}

variables {
  project_id       = "test-cab"
  domain           = "cab.example.com"
  source_archive   = { bucket = "source", object = "cab-abc.zip" }
  provider_secrets = ["cab-provider-crm"]
}

run "by_default" {
  command = apply # who may invoke, and a metric of the module, are known only then

  # call_tool alone is built with its own requirements.
  assert {
    condition     = length(google_project_iam_member.traces) == 0 && !contains(local.apis, "telemetry.googleapis.com") && !contains(keys(local._common_environment), "CAB_TRACE_RATIO")
    error_message = "Nobody asked for traces."
  }

  assert {
    condition     = { for name, function in local.deployed : name => function.source_object if function.source_object != "cab-abc.zip" } == { call_tool = "cab-abc.call_tool.zip" }
    error_message = "call_tool imports packages that the other functions do not carry."
  }
  assert {
    condition = toset(keys(google_logging_project_exclusion.requests)) == toset(["functions", "load_balancer"]) && alltrue([
      for exclusion in google_logging_project_exclusion.requests : endswith(exclusion.filter, " AND httpRequest.status < 500") && exclusion.disabled != true
    ])
    error_message = "Of each request two lines would be kept that nobody reads: failures alone are."
  }
  assert {
    condition     = alltrue([for name in keys(local.functions) : strcontains(google_logging_project_exclusion.requests["functions"].filter, "\"${replace(name, "_", "-")}\"")]) && strcontains(google_logging_project_exclusion.requests["load_balancer"].filter, "resource.type = \"http_load_balancer\" AND log_id(\"requests\") AND resource.labels.url_map_name = \"cab\"")
    error_message = "Lines of every function of ours, and of our load balancer alone."
  }
  assert {
    condition     = toset(module.origin.logged) == toset([for name, function in local.functions : name if function.public && name != "connect_account"])
    error_message = "A failure of the load balancer itself stands in no other log; callbacks stand in none."
  }
  assert {
    condition     = google_pubsub_topic.audit.message_retention_duration == "604800s"
    error_message = "A week of the audit can be replayed."
  }

  # Every caller of an internal function has a way to it.
  assert {
    condition     = local.deployed["refresh_grants"].reachable_from == "internal"
    error_message = "refresh_grants reads every grant: from the internet it cannot even be knocked at."
  }
  assert {
    condition     = alltrue([for name, function in local.deployed : function.calls_through_network if contains(local.internal_callers, name)])
    error_message = "A call between functions is internal only through a VPC network: without it every token of a consented grant fails."
  }
  assert {
    condition = toset([for name, function in local.functions : name if anytrue([
      for called in local.internally_called : called != name && contains(keys(function.environment), "CAB_${upper(called)}_URL")
    ])]) == local.internal_callers
    error_message = "Whoever is told the address of another function calls it, and needs the way."
  }
  assert {
    condition     = google_compute_subnetwork.this[0].private_ip_google_access
    error_message = "Without Private Google Access run.app cannot be reached from the subnetwork."
  }
  assert {
    condition     = google_dns_record_set.run_app["names"].name == "*.run.app." && toset(google_dns_record_set.run_app["names"].rrdatas) == toset(["199.36.153.8", "199.36.153.9", "199.36.153.10", "199.36.153.11"])
    error_message = "In the network run.app must lead to private.googleapis.com."
  }
  assert {
    condition     = alltrue([for name, function in local.deployed : !function.calls_through_network if !contains(local.internal_callers, name)])
    error_message = "Who calls no internal function has no business in the network."
  }

  # Public functions are reached through the load balancer alone.
  assert {
    condition     = alltrue([for name, function in local.deployed : function.reachable_from == "load_balancer" if local.functions[name].public])
    error_message = "Past the load balancer there is no edge protection and no single origin."
  }

  # Every api is enabled and none is switched off again.
  assert {
    condition = length(setsubtract([
      "run.googleapis.com", "cloudfunctions.googleapis.com", "cloudbuild.googleapis.com", "artifactregistry.googleapis.com", "firestore.googleapis.com",
      "secretmanager.googleapis.com", "pubsub.googleapis.com", "bigquery.googleapis.com", "cloudscheduler.googleapis.com", "compute.googleapis.com",
      "dns.googleapis.com", "iam.googleapis.com", "iamcredentials.googleapis.com", "logging.googleapis.com", "monitoring.googleapis.com",
    ], local.apis)) == 0
    error_message = "A first apply fails at the first API that is off."
  }
  assert {
    condition     = alltrue([for api in google_project_service.this : !api.disable_on_destroy])
    error_message = "Destroying CAB must not take an API away from others."
  }

  # Built functions let the load balancer in as all users.
  assert {
    condition     = alltrue([for name, function in local.deployed : contains(function.invokers, "allUsers") == local.functions[name].public])
    error_message = "google_cloudfunctions2_function cannot switch the invoker check off."
  }

  # Nothing can be deleted by accident unless it is a trial.
  assert {
    condition = alltrue([for field in google_firestore_field.others : field.field == "*" && length(field.index_config) == 1 && length(coalesce(field.index_config[0].indexes, [])) == 0]) && alltrue([
      for field in google_firestore_field.indexed : [for index in field.index_config[0].indexes : index.order] == ["ASCENDING"]
    ]) && contains(keys(google_firestore_field.others), "grants/payloads") && contains(keys(google_firestore_field.indexed), "grants/grants/due_at")
    error_message = "Firestore keeps an index of every field unless told otherwise: only what queries ask by has one."
  }
  assert {
    condition     = alltrue([for database in google_firestore_database.this : database.delete_protection_state == "DELETE_PROTECTION_ENABLED"]) && google_bigquery_table.events_raw.deletion_protection
    error_message = "Databases and the audit table are protected by default."
  }
  assert {
    condition     = alltrue([for secret in google_secret_manager_secret.broker : secret.deletion_protection]) && alltrue([for secret in google_secret_manager_secret.clients : secret.deletion_protection != true])
    error_message = "So are the keys without which databases that were kept cannot be read; a client's secret goes with the name in provider_secrets."
  }
  assert {
    condition     = length(google_storage_bucket.heads) == 0 && length(google_cloud_run_v2_job.heads) == 0 && length(google_cloud_run_v2_job.doctor) == 0 && length(google_monitoring_alert_policy.doctor) == 0 && length(google_monitoring_alert_policy.heads) == 0
    error_message = "The jobs need an image, which is a choice."
  }

  # Somebody looks every minute and is heard.
  assert {
    condition = google_monitoring_uptime_check_config.probe["discovery"].content_matchers[0].content == "\"https://cab.example.com/oauth2\"" && alltrue([
      for check in google_monitoring_uptime_check_config.probe : check.http_check[0].validate_ssl && check.period == "60s" && check.monitored_resource[0].labels.host == "cab.example.com"
    ])
    error_message = "The probe asks whether this deployment answers as itself, over a certificate that verifies."
  }
  assert {
    condition     = google_monitoring_uptime_check_config.probe["refusal"].http_check[0].request_method == "POST" && google_monitoring_uptime_check_config.probe["refusal"].http_check[0].accepted_response_status_codes[0].status_class == "STATUS_CLASS_4XX"
    error_message = "What must be refused is, by exchange_token itself."
  }
  assert {
    condition     = length(setsubtract(["probe-failed", "certificate", "function-errors", "function-slow"], keys(google_monitoring_alert_policy.this))) == 0
    error_message = "What hurts users wakes somebody."
  }
  assert {
    condition     = google_monitoring_alert_policy.this["certificate"].conditions[0].condition_threshold[0].comparison == "COMPARISON_LT" && google_monitoring_alert_policy.this["audit-late"].conditions[0].condition_threshold[0].comparison == "COMPARISON_GT"
    error_message = "A certificate ends when its days are few."
  }

  # A dashboard shows what users feel.
  assert {
    condition = length(jsondecode(google_monitoring_dashboard.this.dashboard_json).gridLayout.widgets) == 8 && alltrue([
      for widget in jsondecode(google_monitoring_dashboard.this.dashboard_json).gridLayout.widgets : strcontains(widget.xyChart.dataSets[0].timeSeriesQuery.timeSeriesFilter.filter, "metric.type=")
    ])
    error_message = "Latency, errors, backlog and refusals on one page."
  }
}

run "invoker_only_opens_two_doors_and_makes_no_network" {
  command = apply # who may invoke is known only then
  variables {
    internal_calls = "invoker_only"
  }
  assert {
    condition     = [for name, function in local.deployed : name if function.reachable_from == "all"] == ["exchange_token", "refresh_grants"] && local.deployed["ingest_audit"].reachable_from == "internal"
    error_message = "Only these two are called by other functions: pushes reach ingest_audit from inside."
  }
  assert {
    condition     = length(google_compute_network.this) == 0 && alltrue([for function in local.deployed : !function.calls_through_network])
    error_message = "Without internal calls no network is needed."
  }
  assert {
    condition     = !contains(local.deployed["refresh_grants"].invokers, "allUsers")
    error_message = "Reachable does not mean callable: the named identities remain."
  }
}

run "an_image_needs_no_permission_for_all_users" {
  command = apply # who may invoke is known only then
  variables {
    source_archive = null
    image          = "europe-west1-docker.pkg.dev/test-cab/cab/cab@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  }
  assert {
    condition     = alltrue([for function in local.deployed : !contains(function.invokers, "allUsers")])
    error_message = "Organisations that forbid allUsers could not apply."
  }
  assert {
    condition     = alltrue([for name, function in local.deployed : function.invoker_check == !local.functions[name].public])
    error_message = "Cloud Run checks callers of private functions, and leaves those of public ones to the function."
  }
  assert {
    condition     = local.deployed["exchange_token"].calls_through_network && local.deployed["refresh_grants"].reachable_from == "internal"
    error_message = "The way to refresh_grants is the same for both ways to build."
  }
}

run "a_trial_needs_no_domain_and_can_be_thrown_away" {
  command = plan
  variables {
    domain              = null
    deletion_protection = false
  }
  assert {
    condition     = alltrue([for database in google_firestore_database.this : database.delete_protection_state == "DELETE_PROTECTION_DISABLED" && database.deletion_policy == "DELETE"]) && !google_bigquery_table.events_raw.deletion_protection && alltrue([for secret in google_secret_manager_secret.broker : !secret.deletion_protection])
    error_message = "destroy must leave nothing behind."
  }
  assert {
    condition     = local.origin == "https://cab.endpoints.test-cab.cloud.goog" && output.issuer == "https://cab.endpoints.test-cab.cloud.goog/oauth2"
    error_message = "Without a domain the name that Google keeps for the project is the origin."
  }
  assert {
    condition     = contains(local.apis, "endpoints.googleapis.com")
    error_message = "The record of that name is kept by Cloud Endpoints."
  }
}

run "one_key_encrypts_everything_at_rest" {
  command   = plan
  state_key = "new" # databases that there are keep theirs (rights.tftest.hcl)
  variables {
    kms_key     = "projects/test-cab/locations/europe-west1/keyRings/cab/cryptoKeys/cab"
    audit_heads = { image = "europe-docker.pkg.dev/p/cab/cab@sha256:0000000000000000000000000000000000000000000000000000000000000000" }
  }
  assert {
    condition     = google_storage_bucket.heads[0].encryption[0].default_kms_key_name == var.kms_key && contains(keys(google_kms_crypto_key_iam_member.agent), "storage")
    error_message = "Cloud Storage uses the key as its own agent."
  }
  assert {
    condition     = alltrue([for database in google_firestore_database.this : database.cmek_config[0].kms_key_name == var.kms_key])
    error_message = "Databases hold grants' metadata."
  }
  assert {
    condition = alltrue([for secret in merge(google_secret_manager_secret.broker, google_secret_manager_secret.clients) :
    secret.replication[0].user_managed[0].replicas[0].customer_managed_encryption[0].kms_key_name == var.kms_key])
    error_message = "Secrets hold keys."
  }
  assert {
    condition     = alltrue([for topic in [google_pubsub_topic.audit, google_pubsub_topic.audit_dead_letter, google_pubsub_topic.audit_quarantine, google_pubsub_topic.grants_due] : topic.kms_key_name == var.kms_key])
    error_message = "Topics hold events."
  }
  assert {
    condition     = google_bigquery_dataset.audit.default_encryption_configuration[0].kms_key_name == var.kms_key && local._common_environment.CAB_KMS_KEY == var.kms_key
    error_message = "The audit dataset, and the secrets that connect_account makes later, use it too."
  }
  assert {
    condition     = toset(keys(google_kms_crypto_key_iam_member.agent)) == toset(["bigquery", "firestore", "pubsub", "secretmanager", "storage"])
    error_message = "Each service uses the key as its own agent."
  }
}

run "each_option_reaches_what_it_is_for" {
  command = plan
  variables {
    location                = "europe-west4"
    functions               = { exchange_token = { min_instances = 2, max_instances = 60, concurrency = 20, memory = "1Gi" }, call_tool = { min_instances = 1 } }
    audit_retention_days    = 90
    audit_replay_days       = 31
    request_logs            = "all"
    edge_protection         = {}
    labels                  = { cost-centre = "4711" }
    audit_access            = ["group:auditors@example.com"]
    operators               = ["ops@test-cab.iam.gserviceaccount.com"]
    config_dir              = "other"
    configuration_variables = { ACME_TENANT = "t-1" }
    notification_channels   = ["projects/test-cab/notificationChannels/1"]
    refusals_per_minute     = 5
    network_range           = "10.9.0.0/26"
    trace_ratio             = 0.05
    grants_are_spread       = true
  }
  assert {
    condition     = !contains(keys(google_firestore_field.indexed), "grants/grants/due_at") && contains(keys(google_firestore_field.indexed), "grants/grants/tenant")
    error_message = "The index of due_at goes when nobody asks by it."
  }
  assert {
    condition     = toset(keys(google_project_iam_member.traces)) == toset(keys(local.functions)) && contains(local.apis, "telemetry.googleapis.com") && local._common_environment.CAB_TRACE_RATIO == "0.05"
    error_message = "Traces need a role for each function, an API and one ratio for all, or every function would choose other traces."
  }
  assert {
    condition     = local._common_environment.CAB_SECRET_LOCATION == var.location && !contains(keys(local._common_environment), "CAB_KMS_KEY")
    error_message = "Grants must not leave the region that everything else is bound to."
  }
  assert {
    condition = alltrue([for topic in [google_pubsub_topic.audit, google_pubsub_topic.audit_dead_letter, google_pubsub_topic.audit_quarantine, google_pubsub_topic.grants_due] :
    topic.message_storage_policy[0].allowed_persistence_regions == toset(["europe-west4"])])
    error_message = "A topic without a policy keeps its messages where they were published, anywhere."
  }
  assert {
    condition     = alltrue([for database in google_firestore_database.this : database.location_id == "europe-west4"]) && google_bigquery_dataset.audit.location == "europe-west4" && local.refresh_grants_url == "https://refresh-grants-123456789012.europe-west4.run.app"
    error_message = "One region for everything."
  }
  assert {
    condition     = local.deployed["exchange_token"].size == { min_instances = 2, max_instances = 60, concurrency = 20, memory = "1Gi" }
    error_message = "Whoever cannot wait for a cold start keeps instances."
  }
  assert {
    condition     = local.deployed["mint_assertion"].size == { min_instances = 0, max_instances = 20, concurrency = 40, memory = "512Mi" } && local.deployed["call_tool"].size == { min_instances = 1, max_instances = 20, concurrency = 250, memory = "1Gi" }
    error_message = "The others keep their sizes, and cost nothing while nobody asks."
  }
  assert {
    condition     = google_bigquery_table.events_raw.time_partitioning[0].expiration_ms == 90 * 24 * 3600 * 1000
    error_message = "The dataset's default is for tables made later: a table that exists would keep its old days."
  }
  assert {
    condition     = google_bigquery_dataset_iam_member.analyst["group:auditors@example.com"].role == "roles/bigquery.dataViewer"
    error_message = "Analysts read."
  }
  assert {
    condition     = local._common_environment.CAB_CONFIG_DIR == "other" && local._common_environment.ACME_TENANT == "t-1"
    error_message = "What broker.yaml declares comes from here."
  }
  assert {
    condition     = alltrue([for policy in merge(google_monitoring_alert_policy.this, google_monitoring_alert_policy.counted, google_monitoring_alert_policy.said) : policy.notification_channels == tolist(["projects/test-cab/notificationChannels/1"])])
    error_message = "An alert that nobody hears is none."
  }
  assert {
    condition     = endswith(google_monitoring_alert_policy.counted["credentials-refused"].conditions[0].condition_prometheus_query_language[0].query, "* 60 > 5")
    error_message = "Refusals a minute."
  }
  assert {
    condition     = alltrue([for policy in google_monitoring_alert_policy.counted : policy.conditions[0].condition_prometheus_query_language[0].disable_metric_validation])
    error_message = "A metric that was just made is unknown for ten minutes: the first apply would end there."
  }
  assert {
    condition     = alltrue([for topic in [google_pubsub_topic.audit, google_pubsub_topic.grants_due] : topic.labels["cost-centre"] == "4711"]) && google_bigquery_dataset.audit.labels["cost-centre"] == "4711" && alltrue([for secret in google_secret_manager_secret.broker : secret.labels["cost-centre"] == "4711"])
    error_message = "A bill is read by label."
  }
  assert {
    condition     = length(google_logging_project_exclusion.requests) == 0 && !contains(module.origin.logged, "connect_account") && google_pubsub_topic.audit.message_retention_duration == "2678400s"
    error_message = "Both are choices; callbacks are logged by no choice."
  }
  assert {
    condition     = module.origin.requests_per_minute == 1200
    error_message = "The default lets an office behind one address work."
  }
  assert {
    condition     = google_compute_subnetwork.this[0].ip_cidr_range == "10.9.0.0/26"
    error_message = "Two addresses an instance."
  }
}

run "what_could_not_work_is_refused_by_name" {
  command = plan
  variables {
    project_id           = "123456789012"                                 # its number
    domain               = "https://cab.example.com"                      # no host name
    location             = "EU"                                           # functions have no multi-region
    image                = "europe-west1-docker.pkg.dev/p/cab/cab:latest" # a tag can be moved to other code
    network_range        = "10.8.0.0/28"                                  # too small for the instances
    edge_protection      = { requests_per_minute = 10 }                   # locks an office behind one address out
    functions            = { exchange_tokens = { min_instances = 2 } }    # there is none
    internal_calls       = "internet"
    request_logs         = "some"
    audit_heads          = { image = "cab:latest" }
    doctor               = { image = "cab:latest" }
    audit_replay_days    = 32
    audit_retention_days = 7
    refusals_per_minute  = 0
    operators            = ["user:somebody@example.com"]
    provider_secrets     = ["crm"]
  }
  expect_failures = [
    var.project_id, var.domain, var.location, var.image, var.network_range, var.edge_protection, var.functions, var.internal_calls,
    var.request_logs, var.audit_heads, var.doctor, var.audit_replay_days, var.audit_retention_days, var.refusals_per_minute, var.operators, var.provider_secrets,
  ]
}

run "what_google_would_refuse_in_the_middle_of_an_apply_is_refused_by_the_plan" {
  command = plan
  variables {
    domain         = "cab..example.com"
    network_range  = "10.8.0.5/24"                                                      # not from its first address on
    functions      = { exchange_token = { min_instances = 30 }, refresh_grants = null } # more than at most
    kms_key        = "projects/keys/locations/europe/keyRings/cab/cryptoKeys/cab"       # a database takes one of its own region
    source_archive = { bucket = "gs://source", object = "cab-abc.image.zip" }
  }
  expect_failures = [var.domain, var.network_range, var.functions, var.kms_key, var.source_archive]
}

run "the_archive_of_an_image_is_none_of_functions" {
  command = plan
  variables {
    source_archive = { bucket = "source", object = "cab-abc.call_tool.zip" }
  }
  expect_failures = [var.source_archive]
}

run "source_and_image_together_are_refused" {
  command = plan
  variables {
    image = "europe-west1-docker.pkg.dev/test-cab/cab/cab@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  }
  expect_failures = [var.source_archive]
}

run "the_jobs_note_heads_that_nobody_can_shorten_and_examine_without_changing" {
  command = plan
  variables {
    audit_heads = { image = "europe-docker.pkg.dev/p/cab/cab@sha256:0000000000000000000000000000000000000000000000000000000000000000" }
    doctor      = { image = "europe-docker.pkg.dev/p/cab/cab@sha256:0000000000000000000000000000000000000000000000000000000000000000" }
  }
  assert {
    condition     = google_storage_bucket.heads[0].retention_policy[0].is_locked && google_storage_bucket.heads[0].retention_policy[0].retention_period == tostring(var.audit_retention_days * 24 * 3600)
    error_message = "A note that can be deleted proves nothing."
  }
  assert {
    condition     = google_bigquery_dataset_iam_member.heads[0].role == "roles/bigquery.dataViewer" && toset(keys(google_storage_bucket_iam_member.heads)) == toset(["roles/storage.objectCreator", "roles/storage.objectViewer"])
    error_message = "Who notes heads reads the record and adds notes, and no more."
  }
  assert {
    condition     = google_cloud_scheduler_job.heads[0].schedule == "*/5 * * * *" && google_kms_crypto_key.heads[0].purpose == "ASYMMETRIC_SIGN"
    error_message = "Every five minutes, signed."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.heads[0].conditions[0].condition_prometheus_query_language[0].query, "result=\"succeeded\"}[16m])) or vector(0)) < 1")
    error_message = "A chain that became shorter is told, and notes that are not made."
  }
  assert {
    condition     = google_cloud_run_v2_job.doctor[0].template[0].template[0].containers[0].args == tolist(["doctor"]) && google_cloud_scheduler_job.doctor[0].schedule == "*/15 * * * *"
    error_message = "The doctor comes by itself."
  }
  assert {
    condition = alltrue([for permission in google_project_iam_custom_role.doctor[0].permissions : anytrue([
    for harmless in [".get", ".list", ".getIamPolicy"] : endswith(permission, harmless)])]) && !contains(google_project_iam_custom_role.doctor[0].permissions, "secretmanager.versions.access")
    error_message = "It looks, changes nothing and reads no secret."
  }
  assert {
    condition     = { for env in google_cloud_run_v2_job.doctor[0].template[0].template[0].containers[0].env : env.name => env.value }["CAB_ORIGIN"] == "https://cab.example.com"
    error_message = "It examines this deployment."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.doctor[0].conditions[0].condition_prometheus_query_language[0].query, "or vector(0)) < 1")
    error_message = "A doctor that does not come is noticed too."
  }
}

run "the_key_of_notes_is_rotated_and_older_notes_are_still_believed" {
  command = apply # a key has its name only then
  variables {
    audit_heads = { image = "europe-docker.pkg.dev/p/cab/cab@sha256:0000000000000000000000000000000000000000000000000000000000000000", key_versions = [2, 1] }
  }
  assert {
    condition     = can(regex("^[^,]+/cryptoKeyVersions/2,[^,]+/cryptoKeyVersions/1$", output.audit_heads.CAB_AUDIT_HEADS_KEY)) && contains([for entry in google_cloud_run_v2_job.heads[0].template[0].template[0].containers[0].env : entry.value], output.audit_heads.CAB_AUDIT_HEADS_KEY)
    error_message = "The first version signs, and notes of each are believed, by who notes and by who verifies."
  }
}
