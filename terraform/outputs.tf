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
