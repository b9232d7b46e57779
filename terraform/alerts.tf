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

# One line for each refusal that matters and each grant whose user must connect again (use_cases/audit/lines.py): their number is the
# measure, their text stays in the log. tests/functions/test_log_lines.py holds that these filters find the lines that are written.
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

# `least`: how many in an hour are worth an alert, where they are also three times the usual number of an hour. `by`: a member of the line.
locals {
  counted = {
    needs-reauth = {
      what    = "At one connection more users than usual must connect again."
      message = "grant needs reauth"
      by      = "connection"
      least   = 5
    }
    provider-unavailable = {
      what    = "A provider cannot be reached far more often than usual."
      message = "provider unavailable"
      by      = "connection"
      least   = 20
    }
    idp-unavailable = {
      what    = "Keys or logins of an identity provider cannot be had."
      message = "identity provider unavailable"
      by      = "tenant"
      least   = 5
    }
    spent-again = {
      what    = "Credentials that may be used once were presented again, more often than usual."
      message = "spent again"
      by      = "reason_code"
      least   = 10
    }
    rate-limited = {
      what    = "Agents reach their rate limits more often than usual."
      message = "rate limited"
      by      = "tenant"
      least   = 60
    }
    policy-error = {
      what    = "A policy cannot be evaluated: what it would have permitted is refused."
      message = "policy error"
      by      = "tenant"
      least   = 0
    }
  }
}

resource "google_logging_metric" "counted" {
  for_each         = local.counted
  project          = var.project_id
  name             = "cab-${each.key}"
  description      = each.value.what
  filter           = "resource.type = \"cloud_run_revision\" AND jsonPayload.message = \"${each.value.message}\""
  label_extractors = { (each.value.by) = "EXTRACT(jsonPayload.${each.value.by})" }
  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    labels {
      key        = each.value.by
      value_type = "STRING"
    }
  }
  depends_on = [google_project_service.this]
}

# Alerts on metrics of the log are asked in PromQL: another condition is refused (404) until Google knows the metric, up to ten minutes after
# Terraform has made it, and the first apply would end there.
locals {
  _user_metric = { for name in concat(keys(local.counted), keys(local.frequent)) :
    name => "logging_googleapis_com:user_${replace("cab-${name}", "-", "_")}{monitored_resource=\"cloud_run_revision\"}"
  }
  frequent = {
    credentials-refused = {
      what = "Credentials are refused far more often than people mistype: somebody guesses, or a client's key is wrong."
    }
  }
  queries = merge(
    { for name, it in local.frequent : name => {
      what  = it.what
      query = "sum by (service_name) (rate(${local._user_metric[name]}[2m])) * 60 > ${var.refusals_per_minute}"
    } },
    # The usual is the mean of the last 23 hours, which the hour itself is part of: a fault of a new deployment alerts too.
    { for name, it in local.counted : name => {
      what = it.what
      query = join(" and ", [for right in [it.least, "3 * sum by (${it.by}) (increase(${local._user_metric[name]}[23h])) / 23"] :
        "sum by (${it.by}) (increase(${local._user_metric[name]}[1h])) > ${right}"
      ])
    } }
  )
}

resource "google_monitoring_alert_policy" "counted" {
  for_each              = local.queries
  project               = var.project_id
  display_name          = "CAB: ${each.value.what}"
  combiner              = "OR"
  notification_channels = var.notification_channels
  user_labels           = var.labels
  documentation {
    content   = "Runbook: docs/runbooks/${each.key}.md"
    mime_type = "text/markdown"
  }
  conditions {
    display_name = each.value.what
    condition_prometheus_query_language {
      query                     = each.value.query
      duration                  = "60s"
      evaluation_interval       = "60s"
      disable_metric_validation = true
    }
  }
  depends_on = [google_logging_metric.counted, google_logging_metric.credentials_refused]
}

# What a function says in its log when only an operator can help. Each name is a runbook too.
locals {
  said = {
    permission-denied = {
      what   = "A function may not do what it needs to: somebody took a permission away, or an apply is not complete."
      filter = "resource.type = \"cloud_run_revision\" AND jsonPayload.message =~ \"ended with PERMISSION_DENIED\""
    }
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
  user_labels           = var.labels
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
  user_labels           = var.labels
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
