output "address" {
  description = "IP address to point the domain at."
  value       = module.origin.address
}

output "edge_issuer" {
  description = "Issuer of assertions."
  value       = "${local.origin}/edge"
}

output "issuer" {
  description = "STS issuer: what clients discover and resources trust."
  value       = "${local.origin}/oauth2"
}

output "redirect_uri_prefix" {
  description = "Register this plus the connection id at each provider."
  value       = "${local.origin}/connect/callback/"
}

output "service_accounts" {
  description = "Identity of each function."
  value       = { for name, account in google_service_account.function : name => account.email }
  depends_on  = [google_project_iam_member.firestore, google_secret_manager_secret_iam_member.reader]
}

output "trial_name" {
  description = "Without a domain: the document that gives the origin its name, for `gcloud endpoints services deploy`. Null with a domain."
  value = var.domain != null ? null : yamlencode({
    swagger              = "2.0"
    info                 = { title = "CAB trial", version = "1" }
    host                 = local.domain
    "x-google-endpoints" = [{ name = local.domain, target = module.origin.address }]
    paths                = {}
  })
}

output "audit_heads" {
  description = "For `cab audit verify-chain`: CAB_AUDIT_HEADS and CAB_AUDIT_HEADS_KEY. Null without audit_heads."
  value = var.audit_heads == null ? null : {
    CAB_AUDIT_HEADS     = "gs://${google_storage_bucket.heads[0].name}"
    CAB_AUDIT_HEADS_KEY = local._heads_keys
  }
}
