# Cloud Run logs the URL of every request, and callback URLs carry authorization codes: such lines are never kept.
resource "google_logging_project_exclusion" "callbacks" {
  project     = var.project_id
  name        = "cab-callbacks"
  description = "Request log lines of login and connect callbacks, whose URLs carry authorization codes."
  filter      = "resource.type = \"cloud_run_revision\" AND log_id(\"run.googleapis.com/requests\") AND httpRequest.requestUrl =~ \"/(login|connect)/callback\""
  depends_on  = [google_project_service.this]
}

# A line for each request costs as much as a tenth of what it stands for, and nobody reads it: what was decided is in the audit, how
# many and how fast in the metrics, which do not come from these lines. What comes from outside leaves two: the load balancer's, which
# alone tells of an answer that no function gave, and Cloud Run's.
resource "google_logging_project_exclusion" "requests" {
  for_each = var.request_logs == "all" ? {} : {
    functions     = "resource.type = \"cloud_run_revision\" AND log_id(\"run.googleapis.com/requests\") AND resource.labels.service_name = (${join(" OR ", [for name in sort(keys(local.functions)) : "\"${replace(name, "_", "-")}\""])})"
    load_balancer = "resource.type = \"http_load_balancer\" AND log_id(\"requests\") AND resource.labels.url_map_name = \"${module.origin.url_map}\""
  }
  project     = var.project_id
  name        = "cab-requests-${replace(each.key, "_", "-")}"
  description = "Request log lines of CAB's ${replace(each.key, "_", " ")} that were answered below 500."
  filter      = "${each.value} AND httpRequest.status < 500"
  depends_on  = [google_project_service.this]
}
