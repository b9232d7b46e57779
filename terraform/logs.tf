# Cloud Run logs the URL of every request, and callback URLs carry authorization codes: such lines are never kept.
resource "google_logging_project_exclusion" "callbacks" {
  project     = var.project_id
  name        = "cab-callbacks"
  description = "Request log lines of login and connect callbacks, whose URLs carry authorization codes."
  filter      = "resource.type = \"cloud_run_revision\" AND log_id(\"run.googleapis.com/requests\") AND httpRequest.requestUrl =~ \"/(login|connect)/callback\""
  depends_on  = [google_project_service.this]
}

# A line for each request costs as much as a tenth of what it stands for, and nobody reads it: what was decided is in the audit, how
# many and how fast in the metrics, which do not come from these lines.
resource "google_logging_project_exclusion" "requests" {
  count       = var.request_logs == "all" ? 0 : 1
  project     = var.project_id
  name        = "cab-requests"
  description = "Request log lines of CAB's functions that were answered below 500."
  filter      = "resource.type = \"cloud_run_revision\" AND log_id(\"run.googleapis.com/requests\") AND httpRequest.status < 500 AND resource.labels.service_name = (${join(" OR ", [for name in sort(keys(local.functions)) : "\"${replace(name, "_", "-")}\""])})"
  depends_on  = [google_project_service.this]
}
