# Applied in full against the mock provider, for tests/terraform/test_rights.py: it reads from the state who may do what.
mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
}

variables {
  project_id       = "test-cab"
  domain           = "cab.example.com"
  source_archive   = { bucket = "source", object = "cab-abc.zip" }
  provider_secrets = ["cab-provider-crm", "cab-assertion-calendar", "cab-idp-acme", "cab-client-ops-bot"]
  edge_protection  = {}
  labels           = { cost-centre = "4711" }
  doctor           = { image = "europe-docker.pkg.dev/p/cab/cab@sha256:0000000000000000000000000000000000000000000000000000000000000000" }
}

run "rights" {
  command = apply

  assert {
    condition     = toset(keys(google_service_account.function)) == toset(keys(local.functions))
    error_message = "Each function runs as an identity of its own."
  }
}

# Another key would mean another database: the provider would give the old one up and stop at a name that is taken.
run "databases_keep_the_key_they_were_created_with" {
  command = plan
  variables {
    kms_key = "projects/test-cab/locations/europe-west1/keyRings/cab/cryptoKeys/cab"
  }
  assert {
    condition     = alltrue([for database in google_firestore_database.this : length(database.cmek_config) == 0]) && google_pubsub_topic.audit.kms_key_name == var.kms_key
    error_message = "A key that is set later is for all that can change to it."
  }
}
