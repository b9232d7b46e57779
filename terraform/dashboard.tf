# One page for whoever is on call: what users feel, whether decisions are recorded, and what waits for people.
locals {
  _charts = {
    "Answers by function"                     = { filter = "metric.type=\"run.googleapis.com/request_count\" resource.type=\"cloud_run_revision\"", aligner = "ALIGN_RATE", reducer = "REDUCE_SUM", by = ["resource.label.service_name", "metric.label.response_code_class"] }
    "Slowest hundredth of answers, ms"        = { filter = "metric.type=\"run.googleapis.com/request_latencies\" resource.type=\"cloud_run_revision\"", aligner = "ALIGN_PERCENTILE_99", reducer = "REDUCE_MAX", by = ["resource.label.service_name"] }
    "Instances"                               = { filter = "metric.type=\"run.googleapis.com/container/instance_count\" resource.type=\"cloud_run_revision\"", aligner = "ALIGN_MAX", reducer = "REDUCE_SUM", by = ["resource.label.service_name"] }
    "Credentials refused"                     = { filter = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.credentials_refused.name}\" resource.type=\"cloud_run_revision\"", aligner = "ALIGN_RATE", reducer = "REDUCE_SUM", by = ["resource.label.service_name"] }
    "Users who must connect again"            = { filter = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.counted["needs-reauth"].name}\" resource.type=\"cloud_run_revision\"", aligner = "ALIGN_DELTA", reducer = "REDUCE_SUM", by = ["metric.label.connection"] }
    "Provider unavailable"                    = { filter = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.counted["provider-unavailable"].name}\" resource.type=\"cloud_run_revision\"", aligner = "ALIGN_DELTA", reducer = "REDUCE_SUM", by = ["metric.label.connection"] }
    "Oldest event that is not in BigQuery, s" = { filter = "metric.type=\"pubsub.googleapis.com/subscription/oldest_unacked_message_age\" resource.type=\"pubsub_subscription\"", aligner = "ALIGN_MAX", reducer = "REDUCE_MAX", by = ["resource.label.subscription_id"] }
    "Messages that wait for people"           = { filter = "metric.type=\"pubsub.googleapis.com/subscription/num_undelivered_messages\" resource.type=\"pubsub_subscription\"", aligner = "ALIGN_MAX", reducer = "REDUCE_MAX", by = ["resource.label.subscription_id"] }
  }
}

resource "google_monitoring_dashboard" "this" {
  project = var.project_id
  dashboard_json = jsonencode({
    displayName = "CAB"
    gridLayout = {
      columns = "2"
      widgets = [for title, chart in local._charts : {
        title = title
        xyChart = { dataSets = [{
          plotType = "LINE"
          timeSeriesQuery = { timeSeriesFilter = {
            filter      = chart.filter
            aggregation = { alignmentPeriod = "60s", perSeriesAligner = chart.aligner, crossSeriesReducer = chart.reducer, groupByFields = chart.by }
          } }
        }] }
      }]
    }
  })
  depends_on = [google_project_service.this]
}
