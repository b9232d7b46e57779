# Each alert names its runbook in docs/runbooks/.
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
  }
}

# What a function says in its log when only an operator can help. Each name is a runbook too.
locals {
  said = {
    client-refused = {
      what   = "A provider refuses our own client: its secret is wrong or has expired."
      filter = "resource.type = \"cloud_run_revision\" AND severity >= ERROR AND jsonPayload.message =~ \"refuses our client\""
    }
    unread-answer = {
      what   = "A provider's answer to a refresh cannot be read. It is kept, and the grant waits."
      filter = "resource.type = \"cloud_run_revision\" AND severity >= ERROR AND jsonPayload.message =~ \"cannot be read and is kept\""
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
      comparison      = "COMPARISON_GT"
      threshold_value = each.value.threshold
      duration        = "120s"
      aggregations {
        alignment_period   = "60s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }
  depends_on = [google_project_service.this]
}
