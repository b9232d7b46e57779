# The smallest deployment: one project, one domain, one connection's client secret. Copy it beside your configuration; `source` leads to the
# folder terraform/ of a checkout.
terraform {
  backend "gcs" {
    bucket = "example-cab-source"
    prefix = "state"
  }
}

module "cab" {
  source = "../.."

  project_id       = "example-cab"
  location         = "europe-west1"
  domain           = "cab.example.com"
  source_archive   = { bucket = "example-cab-source", object = "cab-0123456789abcdef.zip" }
  provider_secrets = ["cab-provider-crm", "cab-idp-example"]
}

output "address" {
  value = module.cab.address
}

output "register_at_providers" {
  value = "${module.cab.redirect_uri_prefix}crm"
}

output "trial_name" {
  value = module.cab.trial_name
}
