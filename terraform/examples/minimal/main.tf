# The smallest deployment: one project, one domain, one connection's client secret.
module "cab" {
  source = "../.."

  project_id       = "example-cab"
  domain           = "cab.example.com"
  source_archive   = { bucket = "example-cab-source", object = "cab-0123456789abcdef.zip" }
  provider_secrets = ["cab-provider-crm", "cab-idp-example"]
  audit_access     = ["group:auditors@example.com"]
}

output "register_at_providers" {
  value = "${module.cab.redirect_uri_prefix}crm"
}
