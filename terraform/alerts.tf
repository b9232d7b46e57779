# Each alert names its runbook in docs/runbooks/. `aligner`: how a series becomes one value a minute; `reducer` and `by`: over which series.
locals {
  alerts = {
    audit-dead-letter = {
      what      = "Audit events could not be delivered and wait in the dead letter subscription."
      filter    = "resource.type = \"pubsub_subscription\" AND resource.labels.subscription_id = \"cab-audit-dead-letter-keep\" AND metric.type = \"pubsub.googleapis.com/subscription/num_undelivered_messages\""
      threshold = 0
    }
    audit-quarantine = {
      what      = "Messages that are no events of ours arrived at the audit topic."
      filter    = "resource.type = \"pubsub_subscription\" AND resource.labels.subscription_id = \"cab-audit-quarantine-keep\" AND metric.type = \"pubsub.googleapis.com/subscription/num_undelivered_messages\""
      threshold = 0
    }
    audit-late = {
      what      = "Decisions reach the audit table minutes late."
      filter    = "resource.type = \"pubsub_subscription\" AND resource.labels.subscription_id = \"cab-audit-ingest\" AND metric.type = \"pubsub.googleapis.com/subscription/oldest_unacked_message_age\""
      threshold = 300
    }
    function-errors = {
      what      = "A function answers with 5xx again and again."
      filter    = "resource.type = \"cloud_run_revision\" AND resource.labels.service_name = one_of(${local._services}) AND metric.type = \"run.googleapis.com/request_count\" AND metric.labels.response_code_class = \"5xx\""
      threshold = 0.1 # a second, for two minutes
      aligner   = "ALIGN_RATE"
      reducer   = "REDUCE_SUM"
      by        = ["resource.label.service_name"]
    }
    function-slow = {
      what      = "One in a hundred answers of a function takes longer than five seconds."
      filter    = "resource.type = \"cloud_run_revision\" AND resource.labels.service_name = one_of(${local._services}) AND metric.type = \"run.googleapis.com/request_latencies\""
      threshold = 5000
      aligner   = "ALIGN_PERCENTILE_99"
      reducer   = "REDUCE_MAX"
      by        = ["resource.label.service_name"]
    }
    credentials-refused = {
      what      = "Credentials are refused far more often than people mistype: somebody guesses, or a client's key is wrong."
      filter    = "resource.type = \"cloud_run_revision\" AND metric.type = \"logging.googleapis.com/user/${google_logging_metric.credentials_refused.name}\""
      threshold = var.refusals_per_minute / 60
      aligner   = "ALIGN_RATE"
      reducer   = "REDUCE_SUM"
      by        = ["resource.label.service_name"]
    }
    probe-failed = {
      what      = "From several places of the world the deployment does not answer as itself."
      filter    = "resource.type = \"uptime_url\" AND resource.labels.host = \"${local.domain}\" AND metric.type = \"monitoring.googleapis.com/uptime_check/check_passed\""
      threshold = 1 # place, beside which a single one may be cut off by itself
      aligner   = "ALIGN_NEXT_OLDER"
      reducer   = "REDUCE_COUNT_FALSE"
      by        = ["metric.label.check_id"]
    }
    certificate = {
      what       = "The certificate of the origin ends in less than two weeks."
      filter     = "resource.type = \"uptime_url\" AND resource.labels.host = \"${local.domain}\" AND metric.type = \"monitoring.googleapis.com/uptime_check/time_until_ssl_cert_expires\""
      comparison = "COMPARISON_LT"
      threshold  = 14 # days
      aligner    = "ALIGN_NEXT_OLDER"
      reducer    = "REDUCE_MIN"
      by         = ["resource.label.host"]
    }
  }
  _services = join(", ", [for name in sort(keys(local.functions)) : "\"${replace(name, "_", "-")}\""])
}

# One line for each refused credential (transport/logs.py): its number is the measure, its text stays in the log.
resource "google_logging_metric" "credentials_refused" {
  project     = var.project_id
  name        = "cab-credentials-refused"
  description = "Credentials that a function refused."
  filter      = "resource.type = \"cloud_run_revision\" AND jsonPayload.message = \"credential refused\""
  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
  }
  depends_on = [google_project_service.this]
}

# What a function says in its log when only an operator can help. Each name is a runbook too.
locals {
  said = {
    client-refused = {
      what   = "A provider refuses our own client: its secret is wrong or has expired."
      filter = "resource.type = \"cloud_run_revision\" AND severity >= ERROR AND jsonPayload.message =~ \"refuses our client\""
    }
    unread-answer = {
      what   = "A provider's answer, or the refresh token in it, cannot be read or kept."
      filter = "resource.type = \"cloud_run_revision\" AND severity >= ERROR AND jsonPayload.message =~ \"answer of .* (cannot be read and is kept|is too large to be kept)|gave a refresh token that cannot be read\""
    }
  }
}

resource "google_monitoring_alert_policy" "said" {
  for_each              = local.said
  project               = var.project_id
  display_name          = "CAB: ${each.value.what}"
  combiner              = "OR"
  notification_channels = var.notification_channels
  documentation {
    content   = "Runbook: docs/runbooks/${each.key}.md"
    mime_type = "text/markdown"
  }
  conditions {
    display_name = each.value.what
    condition_matched_log {
      filter = each.value.filter
    }
  }
  alert_strategy {
    notification_rate_limit {
      period = "3600s"
    }
  }
  depends_on = [google_project_service.this]
}

resource "google_monitoring_alert_policy" "this" {
  for_each              = local.alerts
  project               = var.project_id
  display_name          = "CAB: ${each.value.what}"
  combiner              = "OR"
  notification_channels = var.notification_channels
  documentation {
    content   = "Runbook: docs/runbooks/${each.key}.md"
    mime_type = "text/markdown"
  }
  conditions {
    display_name = each.value.what
    condition_threshold {
      filter          = each.value.filter
      comparison      = try(each.value.comparison, "COMPARISON_GT")
      threshold_value = each.value.threshold
      duration        = "120s"
      aggregations {
        alignment_period     = "60s"
        per_series_aligner   = try(each.value.aligner, "ALIGN_MAX")
        cross_series_reducer = try(each.value.reducer, null)
        group_by_fields      = try(each.value.by, null)
      }
    }
  }
  depends_on = [google_project_service.this]
}
