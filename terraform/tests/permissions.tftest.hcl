# Guards the table of docs/architecture.md: a wider permission than it promises fails here.
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
}

run "by_default" {
  command = apply # e-mail addresses are known only then

  # exchange_token can read no grant secret and write no grant and no approval.
  assert {
    condition     = local.database_grants["exchange_token"] == { guards = "write", grants = "read", approvals = "read", keys = "read", unsent = "write" }
    error_message = "exchange_token faces agents: it must not be able to approve or to revive a grant."
  }
  assert {
    condition     = toset(local.secret_readers["exchange_token"]) == toset(["cab-sts-signing", "cab-client-ops-bot"])
    error_message = "exchange_token may read its signing key and client secrets of agents, nothing else."
  }

  # call_tool has three rights.
  assert {
    condition     = local.database_grants["call_tool"] == { keys = "read" } && !contains(keys(local.secret_readers), "call_tool")
    error_message = "call_tool carries tokens of calls in flight to platforms: it reads public keys, and has no secret and no other database."
  }
  assert {
    condition     = contains(local.audit_publishers, "call_tool")
    error_message = "What came of a call is an audit event."
  }
  assert {
    condition     = local.functions["exchange_token"].environment.CAB_CALL_CALLERS == google_service_account.function["call_tool"].email && local.functions["call_tool"].environment.CAB_EXCHANGE_TOKEN_URL == local.functions["exchange_token"].environment.CAB_EXCHANGE_TOKEN_URL
    error_message = "exchange_token decides on calls for exactly this identity, by a token for exactly this address."
  }
  assert {
    condition     = !anytrue([for function in local.deployed : contains(function.invokers, google_service_account.function["call_tool"].member)])
    error_message = "call_tool must not reach a private function: exchange_token asks refresh_grants for it."
  }

  # connect_account adds grants and cannot read them.
  assert {
    condition     = !contains(google_project_iam_custom_role.grant_secret_adder.permissions, "secretmanager.versions.access")
    error_message = "connect_account must not be able to read a grant back."
  }
  assert {
    condition     = alltrue([for name, databases in local.database_grants : lookup(databases, "approvals", "none") != "write" || name == "connect_account"])
    error_message = "Only connect_account writes decisions of people."
  }

  # Keys that can name any user are read by refresh_grants only.
  assert {
    condition     = [for name, secrets in local.secret_readers : name if contains(secrets, "cab-assertion-calendar")] == ["refresh_grants"]
    error_message = "An assertion key speaks for every user at its system: no function that faces anybody may read it."
  }

  # Requests for approval and deferrals are written by token endpoints only.
  assert {
    condition     = toset([for name, databases in local.database_grants : name if lookup(databases, "guards", "none") == "write"]) == toset(["mint_assertion", "exchange_token"])
    error_message = "Whoever writes guards can put words into a question to a person, or a subject into a deferral."
  }
  assert {
    condition     = local.database_grants["refresh_grants"] == { grants = "write", keys = "read", unsent = "write" }
    error_message = "refresh_grants needs grants, public keys and a place for events that are not sent, nothing else."
  }

  # Private functions are called by named identities only.
  assert {
    condition     = local.functions["refresh_grants"].public == false && local.functions["ingest_audit"].public == false
    error_message = "refresh_grants and ingest_audit must stay private."
  }

  # Audit never expires and is written by one identity.
  assert {
    condition     = google_pubsub_subscription.audit_ingest.expiration_policy[0].ttl == ""
    error_message = "An audit subscription that can expire loses the audit."
  }
  assert {
    condition     = length(google_bigquery_table_iam_binding.audit_writer.members) == 1
    error_message = "Only ingest_audit writes audit rows."
  }
  assert {
    condition     = google_bigquery_table.events_raw.require_partition_filter && length(local.views) >= 10
    error_message = "Every query must name its days, and every view must be deployed."
  }

  # Nobody but people on their page ends grants unless named.
  assert {
    condition     = length(var.operators) == 0
    error_message = "Whoever may end grants beside their users is named by the deployment."
  }

  # Authorization codes stay out of request logs.
  assert {
    condition     = strcontains(google_logging_project_exclusion.callbacks.filter, "/(login|connect)/callback") && google_logging_project_exclusion.callbacks.disabled != true
    error_message = "Cloud Run logs whole URLs: those of callbacks must be excluded."
  }
}

run "who_and_what_has_another_form_is_refused" {
  command = plan
  variables {
    operators        = ["alice@example.com"] # no service account
    domain           = "cab.example.com/x"   # a path
    provider_secrets = ["crm-secret"]        # outside of the prefixes
    audit_access     = ["allAuthenticatedUsers"]
  }
  expect_failures = [var.operators, var.domain, var.provider_secrets, var.audit_access]
}
