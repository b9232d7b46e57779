# Cloud Run logs the URL of every request, and callback URLs carry authorization codes: such lines are never kept.
resource "google_logging_project_exclusion" "callbacks" {
  project     = var.project_id
  name        = "cab-callbacks"
  description = "Request log lines of login and connect callbacks, whose URLs carry authorization codes."
  filter      = "resource.type = \"cloud_run_revision\" AND log_id(\"run.googleapis.com/requests\") AND httpRequest.requestUrl =~ \"/(login|connect)/callback\""
  depends_on  = [google_project_service.this]
}
