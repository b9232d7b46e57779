# The scheduled probe: from several places of the world, every minute, whether the deployment answers as itself. It needs no
# identity and no code of ours. `cab doctor` looks deeper, as an operator (docs/doctor.md).
locals {
  probes = {
    discovery = { path = "/.well-known/oauth-authorization-server/oauth2", body = null, accepted = ["STATUS_CLASS_2XX"], says = "\"${local.origin}/oauth2\"" }
    keys      = { path = "/oauth2/jwks.json", body = null, accepted = ["STATUS_CLASS_2XX"], says = "\"kid\"" }
    # Refused as it must be, by exchange_token itself: an answer of anything before it carries no reason_code.
    refusal = { path = "/oauth2/token", body = "grant_type=cab-probe", accepted = ["STATUS_CLASS_4XX"], says = "\"reason_code\"" }
  }
}

resource "google_monitoring_uptime_check_config" "probe" {
  for_each     = local.probes
  project      = var.project_id
  display_name = "CAB: ${each.key}"
  timeout      = "10s"
  user_labels  = var.labels
  period       = "60s"

  http_check {
    path           = each.value.path
    port           = 443
    use_ssl        = true
    validate_ssl   = true
    request_method = each.value.body == null ? "GET" : "POST"
    content_type   = each.value.body == null ? null : "URL_ENCODED"
    body           = each.value.body == null ? null : base64encode(each.value.body)

    dynamic "accepted_response_status_codes" {
      for_each = each.value.accepted
      content {
        status_class = accepted_response_status_codes.value
      }
    }
  }
  content_matchers {
    content = each.value.says
    matcher = "CONTAINS_STRING"
  }
  monitored_resource {
    type   = "uptime_url"
    labels = { project_id = var.project_id, host = local.domain }
  }
  depends_on = [google_project_service.this]
}
