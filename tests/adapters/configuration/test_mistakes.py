"""Every mistake is reported with its file, its line and a remedy; the rest of the folder stays valid."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.adapters.configuration.deployment_folder import (
    AGENTS,
    BROKER,
    CONNECTIONS,
    ENVIRONMENT,
    FILES,
    IDENTITY_PROVIDERS,
    check,
    line_of,
    replaced,
    write_folder,
)

from cab.adapters.configuration.loader import inspect_folder


class Mistake(NamedTuple):
    """Change `old` to `new` in `file`; expect exactly this message where `at` (default: `new`) stands."""

    file: str
    old: str
    new: str
    message: str
    remedy: str
    at: str | None = None
    severity: str = "error"


B, P, A, C = "broker.yaml", "identity_providers.yaml", "agents.yaml", "connections.yaml"

MISTAKES = {
    # --- YAML ---
    "a duplicate key": Mistake(B, "tenants:", "origin: https://x.test\ntenants:", "duplicate key `origin`", "remove one of them", at="origin: https://x"),
    "an anchor": Mistake(B, "title: Acme", "title: &a Acme", "anchors and aliases are not accepted", "write the value out where it is used"),
    "an alias": Mistake(B, "title: Acme", "title: *a", "anchors and aliases are not accepted", "write the value out where it is used"),
    "a tag": Mistake(B, "title: Acme", "title: !!python/name:os.system x", "YAML tags are not accepted", "remove the tag (the word after `!`)"),
    "a fraction": Mistake(B, "window_s: 60", "window_s: 60.5", "fractions are not used anywhere", "write a whole number, or quote it if it is text"),
    "a text with a space that quotes keep": Mistake(P, "client_id: cab\n      client_secret: {secret: cab-idp-acme}", "client_id: 'cab '\n      client_secret: {secret: cab-idp-acme}", "white space around a text", "remove it inside the quotes", at="client_id: 'cab '"),
    "a key with a space that quotes keep": Mistake(P, "{S: sales,", "{' S': sales,", "white space around a text", "remove it inside the quotes"),
    "an escape that nobody sees": Mistake(B, "title: Acme", 'title: "Acme\\u202e"', "an invisible character, U+202E", "remove it"),
    "a client without a name": Mistake(P, "client_id: cab\n      client_secret: {secret: cab-idp-acme}", "client_id: ''\n      client_secret: {secret: cab-idp-acme}", "identity_providers.0.login.client_id is out of bounds", "it should have at least 1 character", at="client_id: ''"),
    "scopes of a login in one text": Mistake(P, "client_secret: {secret: cab-idp-acme}", "client_secret: {secret: cab-idp-acme}\n      scopes: [openid profile]", "identity_providers.0.login.scopes.0 does not have the right form", r"it must match ^[\x21\x23-\x5B\x5D-\x7E]+\Z", at="scopes: [openid"),
    "a status of a server in trouble for a dead token": Mistake(C, "narrowing: scope_at_refresh", "narrowing: scope_at_refresh\n    invalid_grant_statuses: [400, 500]", "providers.0.invalid_grant_statuses.1 is out of bounds", "it should be less than or equal to 499", at="invalid_grant_statuses"),
    "a parameter that the broker makes": Mistake(C, "narrowing: scope_at_refresh", "narrowing: scope_at_refresh\n    authorization_parameters: {state: x}", "providers.0.authorization_parameters is not consistent", "authorization_parameters cannot set `state`: the broker makes that itself", at="authorization_parameters"),
    "a request that replaces ours": Mistake(C, "narrowing: scope_at_refresh", "narrowing: scope_at_refresh\n    authorization_parameters: {request_uri: 'https://x.test'}", "providers.0.authorization_parameters is not consistent", "authorization_parameters cannot set `request_uri`: the broker makes that itself", at="authorization_parameters"),
    "an answer that comes another way": Mistake(C, "narrowing: scope_at_refresh", "narrowing: scope_at_refresh\n    authorization_parameters: {response_mode: form_post}", "providers.0.authorization_parameters is not consistent", "authorization_parameters cannot set another response_mode than query", at="authorization_parameters"),
    "a consent that nobody sees": Mistake(C, "narrowing: scope_at_refresh", "narrowing: scope_at_refresh\n    authorization_parameters: {prompt: none}", "providers.0.authorization_parameters is not consistent", "authorization_parameters cannot ask for prompt=none: nobody could agree", at="authorization_parameters"),
    "a whole host for a subdomain": Mistake(C, "provider: own-crm", "provider: zendesk\n    provider_parameters: {subdomain: acme.zendesk.com}", "the value of `subdomain` is a whole host", "write `acme`: the address adds .zendesk.com", at="provider_parameters"),
    "a second document": Mistake(B, "tenants:", "---\ntenants:", "a second YAML document starts here", "keep one document per file"),
    "a key that is a list": Mistake(B, "tenants:", "[a]: b\ntenants:", "a key must be plain text", "write `key: value`", at="[a]"),
    "bad indentation": Mistake(B, "    title: Globex", "   title: Globex", "not valid YAML: did not find expected '-' indicator", "correct the indentation or quoting here"),
    # --- how long tokens are good ---
    "tokens that end soon after one for another action is fetched": Mistake(C, "narrowing: scope_at_refresh", "narrowing: scope_at_refresh\n    rotation: {class: leeway, leeway_s: 60, old_access_token: dies_after_leeway}", "a token of `own-crm` may end 60 s after one for another action is fetched", "lengthen the leeway there to 240 s or more, or split the connection", at="provider: own-crm", severity="warning"),
    "tokens that are too short for common clients": Mistake(C, "narrowing: scope_at_refresh", "narrowing: scope_at_refresh\n    access_token_lifetime_s: 200", "tokens of `own-crm` live 200 s: common clients take less than 225 s for expired", "have the system give tokens for five minutes or more", at="provider: own-crm", severity="warning"),
    # --- private hosts ---
    "a metadata service among the private hosts": Mistake(B, "tenants:", "private_hosts: [169.254.169.254]\ntenants:", "`169.254.169.254` is not in a private network", "remove it: only addresses of private networks need this, and metadata services are never reached", at="private_hosts"),
    "a private host that nothing leads to": Mistake(B, "tenants:", "private_hosts: [keycloak.corp.test]\ntenants:", "no URL of these files leads to `keycloak.corp.test`", "write the host exactly as in its URL, or remove it", at="private_hosts", severity="warning"),
    # --- variables ---
    "an undeclared variable": Mistake(C, "${CRM_ORIGIN}", "${CRM_ORIGINS}", "${CRM_ORIGINS} is not declared", "add it to environment_variables in broker.yaml; did you mean `CRM_ORIGIN`?", at="resource:"),
    "an unclosed variable": Mistake(C, "${CRM_ORIGIN}", "${CRM_ORIGIN", "`${` without `}`", "write ${NAME}", at="resource:"),
    "a variable in a key": Mistake(C, "account:", "${CRM_ORIGIN}:", "variables are not filled in keys", "write the key out"),
    # --- shapes ---
    "a missing key": Mistake(B, "origin: https://cab.test\n", "", "origin is missing", "add it", at="environment_variables"),
    "a missing key in a list": Mistake(B, "    title: Globex\n", "", "tenants.1.title is missing", "add it", at="- id: globex"),
    "an unknown key": Mistake(B, "tenants:", "lifetime: {}\ntenants:", "lifetime is not a key that is known here", "did you mean `lifetimes`?", at="lifetime"),
    "an unknown key inside": Mistake(C, "scopes: [deal.read]", "scope: [deal.read]", "connections.0.actions.0.scope is not a key that is known here", "did you mean `scopes`?"),
    "an alias key misspelt": Mistake(C, "narrowing: scope_at_refresh", "rotation: {clas: strict}", "providers.0.rotation.clas is not a key that is known here", "did you mean `class`?", at="rotation"),
    "a word that is not allowed": Mistake(C, "effect: write", "effect: wirte", "connections.0.actions.1.effect has a value that is not allowed", "allowed: 'read', 'write' or 'destructive'"),
    "a number out of bounds": Mistake(B, "limit: 10,", "limit: 0,", "rate_limits.0.limit is out of bounds", "it should be greater than or equal to 1"),
    "text for a number": Mistake(B, "limit: 10,", "limit: ten,", "rate_limits.0.limit must be a whole number", "write a number without quotes"),
    "a number for text": Mistake(B, "title: Acme", "title: 12", "tenants.0.title must be text", "put it in quotes"),
    "text for a list": Mistake(C, "tenants: [acme]", "tenants: acme", "connections.0.tenants must be a list", "write `- item` lines, or [a, b]"),
    "text for a mapping": Mistake(C, "client_secret: {secret: cab-provider-crm}", "client_secret: cab-provider-crm", "connections.0.client_secret must be a mapping", "write `key: value` lines"),
    "an id of the wrong form": Mistake(C, "- id: crm\n", "- id: CRM\n", "connections.0.id does not have the right form", r"it must match ^[a-z][a-z0-9-]{0,39}\Z"),
    "a domain rule broken": Mistake(B, "origin: https://cab.test", "origin: https://cab.test/", "origin is not consistent", "origin must be scheme://host[:port] with nothing behind it"),
    "an unknown authentication method": Mistake(A, "method: client_secret_basic", "method: client_secret", "agents.1.authentication.0 has a value that is not allowed", "allowed: 'private_key_jwt', 'federated_jwt', 'client_secret_basic', 'client_secret_post'"),
    "a front end's key missing": Mistake(A, '{method: private_key_jwt, jwks_uri: "https://web.test/jwks.json"}', "{method: private_key_jwt}", "front_ends.0.authentication.0 is not consistent", "give exactly one of jwks_uri and jwks"),
    "a front end with a secret": Mistake(A, '{method: private_key_jwt, jwks_uri: "https://web.test/jwks.json"}', "{method: client_secret_basic, secret: {secret: x}}", "front_ends.0.authentication.0 has a value that is not allowed", "allowed: 'private_key_jwt', 'federated_jwt'"),
    "an authentication of no method": Mistake(A, '{method: private_key_jwt, jwks_uri: "https://web.test/jwks.json"}', '{jwks_uri: "https://web.test/jwks.json"}', "front_ends.0.authentication.0 does not say which kind it is", "add 'method'"),
    "an unknown key of an authentication": Mistake(A, "{method: private_key_jwt, jwks_uri:", "{method: private_key_jwt, jwks_url:", "front_ends.0.authentication.0.jwks_url is not a key that is known here", "did you mean `jwks_uri`?"),
    "a text for yes": Mistake(C, "account: {type: string}", "account: {type: string, redact: off}", "connections.0.actions.0.parameters.account.redact must be true or false", "write true or false, without quotes: yes, no, on and off are texts here"),
    "a text for no": Mistake(C, "account: {type: string}", "account: {type: string, required: no}", "connections.0.actions.0.parameters.account.required must be true or false", "write true or false, without quotes: yes, no, on and off are texts here"),
    "a quoted yes": Mistake(B, "tenants:", 'allow_loopback_http: "true"\ntenants:', "allow_loopback_http must be true or false", "write true or false, without quotes: yes, no, on and off are texts here", at="allow_loopback_http"),
    "a number for yes": Mistake(C, "tenants: [acme]", "allow_unnarrowed: 1\n    tenants: [acme]", "connections.0.allow_unnarrowed must be true or false", "write true or false, without quotes: yes, no, on and off are texts here", at="allow_unnarrowed"),
    "a quoted number": Mistake(B, "limit: 10,", 'limit: "10",', "rate_limits.0.limit must be a whole number", "write a number without quotes"),
    "a yes for a number": Mistake(B, "limit: 10,", "limit: true,", "rate_limits.0.limit must be a whole number", "write a number without quotes"),
    "a quoted version": Mistake(P, "{secret: cab-idp-acme}", '{secret: cab-idp-acme, version: "2"}', "identity_providers.0.login.client_secret.version must be a whole number", "write a number without quotes"),
    # --- broker.yaml ---
    "http to the world": Mistake(B, "origin: https://cab.test", "origin: http://cab.test", "origin is not https", "use https; plain http is for 127.0.0.1, localhost and [::1] only"),
    "http to loopback, not allowed": Mistake(B, "origin: https://cab.test", "origin: http://127.0.0.1:8080", "origin is plain http", "use https, or set allow_loopback_http: true in broker.yaml for local development"),
    "a tenant twice": Mistake(B, "id: globex", "id: acme", "tenant `acme` is already used in line 4", "give every tenant an id of its own", at="id: acme\n    title: Globex"),
    "a limit twice": Mistake(B, "rate_limits:", "rate_limits:\n  - {effects: [write], limit: 1, window_s: 60}", "a limit for `effect write` is already used in line 12", "keep one limit for each effect, action or pattern", at="  - {effects: [read, write]"),
    "a limit of nothing": Mistake(B, "{effects: [read, write], limit", "{limit", "rate_limits.0 is not consistent", "give exactly one of effects and actions", at="{limit"),
    "a limit of both kinds": Mistake(B, "{effects: [read, write], limit", "{effects: [read], actions: [crm.deal.list], limit", "rate_limits.0 is not consistent", "give exactly one of effects and actions", at="{effects"),
    "a limit for an action that is not there": Mistake(B, "effects: [read, write], limit", "actions: [crm.del.*], limit", "`crm.del.*` matches no action", "did you mean `crm.deal.list`?", at="actions"),
    "a limit for an action twice": Mistake(B, "rate_limits:", 'rate_limits:\n  - {actions: ["crm.*", "crm.*"], limit: 1, window_s: 60}', "a limit for `action crm.*` is already used in line 12", "keep one limit for each effect, action or pattern", at="  - {actions"),
    "a federated issuer by http": Mistake(B, "jwks_uri: https://spiffe.test/keys", "jwks_uri: http://spiffe.test/keys", "federated_issuers.jwks_uri is not https", "use https; plain http is for 127.0.0.1, localhost and [::1] only"),
    "a variable nobody uses": Mistake(B, "[CRM_ORIGIN]", "[CRM_ORIGIN, OTHER]", "OTHER is declared and never used", "remove it", severity="warning"),
    "a variable twice": Mistake(B, "[CRM_ORIGIN]", "[CRM_ORIGIN, CRM_ORIGIN]", "variable `CRM_ORIGIN` is already used in line 2", "remove one of them"),
    "a tenant without users": Mistake(B, "title: Globex", "title: Globex\n  - id: initech\n    title: Initech", "tenant `initech` has no identity provider", "add one to identity_providers.yaml: nobody can act there", at="id: initech", severity="warning"),
    "a trust zone twice": Mistake(B, "tenants:", "trust_zones: [internal, internal]\ntenants:", "trust zone `internal` is already used in line 3", "remove one of them", at="trust_zones"),
    # --- identity_providers.yaml ---
    "an unknown tenant": Mistake(P, "tenant: acme", "tenant: acne", "tenant `acne` is not in broker.yaml", "did you mean `acme`?"),
    "two logins that look alike": Mistake(P, "issuer: https://idp.globex.test\n    tenant: globex", "issuer: https://idp.globex.test\n    tenant: globex\n    login: {client_id: cab, client_secret: {secret: cab-idp-second}, callback: first}\n  - issuer: https://second.globex.test\n    tenant: globex", "people cannot tell this login from another of tenant `globex`", "give each of them a `title`: the page where people choose shows it", at="issuer: https://second", severity="warning"),
    "logins that share a redirect URI": Mistake(P, "      callback: globex\n", "", "this provider shares its redirect URI with another: whoever runs the one could log in as people of the other", "give it a `login.callback`, and register ORIGIN/login/callback/NAME there", at="login:\n      client_id: cab\n      client_secret: {secret: cab-idp-globex}", severity="warning"),
    "a callback that is no name": Mistake(P, "callback: globex", "callback: a/b", "identity_providers.1.login.callback does not have the right form", r"it must match ^[a-z][a-z0-9-]{0,39}\Z"),
    "an issuer twice, but for a slash": Mistake(P, "https://idp.globex.test", "https://idp.test/", "issuer `https://idp.test` is already used in line 2", "list every issuer once"),
    "an issuer with a slash": Mistake(P, "https://idp.globex.test", "https://idp.globex.test/", "identity_providers.issuer ends with a slash", "keep it only if `issuer` in the provider's discovery document has it too: issuers are compared byte for byte", severity="warning"),
    "an issuer with a query": Mistake(P, "https://idp.globex.test", "https://idp.globex.test?a=b", "identity_providers.issuer has a query", "remove everything from the ? on"),
    "an issuer with capitals": Mistake(P, "https://idp.globex.test", "https://IdP.globex.test", "identity_providers.issuer has capital letters in its host", "write the host in small letters: URLs are compared byte for byte"),
    "an issuer with a user": Mistake(P, "https://idp.globex.test", "https://me@idp.globex.test", "identity_providers.issuer holds a user name", "remove everything before the @"),
    "an issuer with a fragment": Mistake(P, "https://idp.globex.test", "https://idp.globex.test#x", "identity_providers.issuer has a fragment", "remove everything from the # on"),
    "an issuer that is no URL": Mistake(P, "https://idp.globex.test", "https://[idp", "identity_providers.issuer is not a URL", "write https://host/path"),
    "an issuer with a space": Mistake(P, "https://idp.globex.test", "https://idp globex.test", "identity_providers.issuer is not a URL", "write https://host/path"),
    "an issuer with another scheme": Mistake(P, "https://idp.globex.test", "ftp://idp.globex.test", "identity_providers.issuer is not https", "write https://"),
    "the broker as its own IdP": Mistake(P, "https://idp.globex.test", "https://cab.test/edge", "issuer is the broker itself", "name the IdP's issuer: the broker never accepts its own tokens as a login"),
    "a login's secret by another name": Mistake(P, "{secret: cab-idp-globex}", "{secret: globex-idp}", "permissions go by a secret's name, and `globex-idp` does not begin with cab-idp-", "make one that does: else those that need it may not read it, or others may", severity="warning"),
    "a connection's secret where agents' are": Mistake(C, "{secret: cab-provider-crm}", "{secret: cab-client-crm}", "permissions go by a secret's name, and `cab-client-crm` does not begin with cab-provider-", "make one that does: else those that need it may not read it, or others may", severity="warning"),
    "an agent's secret where providers' are": Mistake(A, "{secret: cab-client-assistant}", "{secret: cab-provider-assistant}", "permissions go by a secret's name, and `cab-provider-assistant` does not begin with cab-client-", "make one that does: else those that need it may not read it, or others may", severity="warning"),
    "an assertion key that connect_account could read": Mistake(C, "tenants: [acme]", "grant_kind: jwt_bearer\n    user_map: {a: b}\n    assertion_key: {secret: cab-provider-key}\n    tenants: [acme]", "permissions go by a secret's name, and `cab-provider-key` does not begin with cab-assertion-", "make one that does: else those that need it may not read it, or others may", at="assertion_key", severity="warning"),
    "a login without openid": Mistake(P, "client_secret: {secret: cab-idp-globex}", "client_secret: {secret: cab-idp-globex}\n      scopes: [email]", "login.scopes lacks openid", "add openid: without it there is no ID token", at="scopes: [email]"),
    "a group name of nothing": Mistake(P, "S: sales", 'S: ""', "the group name is not usable", "write a printable name of at most 100 characters"),
    # --- agents.yaml ---
    "a trust zone that nobody declared": Mistake(A, "tenant: acme\n    authentication:\n      - {method: client_secret_basic", "tenant: acme\n    trust_zone: interal\n    authentication:\n      - {method: client_secret_basic", "trust zone `interal` is not declared", "did you mean `internal`?; or list it under trust_zones in broker.yaml", at="trust_zone"),
    "a client id twice": Mistake(A, "client_id: assistant", "client_id: web", "client_id `web` is already used in line 2", "give every front end and agent a client_id of its own", at="client_id: web\n    title"),
    "an unknown agent": Mistake(A, "agents: [helper]", "agents: [helpers]", "there is no agent `helpers`", "did you mean `helper`?"),
    "an agent of another tenant": Mistake(A, "title: Assistant\n    tenant: acme", "title: Assistant\n    tenant: globex", "agent `assistant` belongs to tenant `globex`", "name an agent of the same tenant: nothing crosses tenants", at="delegates_to"),
    "an unknown identity provider": Mistake(A, "https://idp.test", "https://idp.tset", "there is no identity provider with this issuer", "did you mean `https://idp.test`?"),
    "an identity provider of another tenant": Mistake(A, "https://idp.test", "https://idp.globex.test", "the identity provider belongs to tenant `globex`", "name one of the front end's own tenant"),
    "an unknown federated issuer": Mistake(A, "https://spiffe.test", "https://spiffy.test", "the issuer is not in federated_issuers of broker.yaml", "did you mean `https://spiffe.test`?"),
    "one federated identity for two": Mistake(A, "{method: client_secret_basic, secret: {secret: cab-client-assistant}}", '{method: federated_jwt, issuer: "https://spiffe.test", subject: helper}', "the federated identity `https://spiffe.test helper` is already used in line 14", "give it to one client only: it could not be told which one calls", at="      - {method: federated_jwt, issuer: \"https://spiffe.test\", subject: helper}\n    actions: [crm.deal.list]"),
    "a zone whose agents hold no tokens, and one that gets them": Mistake(B, "tenants:", "trust_zones: [{id: internal, mode: call}]\ntenants:", "agents of trust zone `internal` have mode call, this one token", "write mode: call", at="agents.yaml:  - client_id: helper\n    title"),
    "a zone whose hosts leave an agent nothing": Mistake(B, "tenants:", "trust_zones: [{id: internal, hosts: [erp.test]}]\ntenants:", "trust zones keep this agent from everything that `crm.*` matches", "remove the pattern, or widen mode or hosts of the zone in broker.yaml", at='agents.yaml:    actions: ["crm.*"]', severity="warning"),
    "client keys by http": Mistake(A, "https://web.test/jwks.json", "http://web.test/jwks.json", "front_ends.authentication.jwks_uri is not https", "use https; plain http is for 127.0.0.1, localhost and [::1] only"),
    "an action pattern that matches nothing": Mistake(A, '["crm.*"]', '["crm.*", crm.deal.lists]', "`crm.deal.lists` matches no action", "did you mean `crm.deal.list`?"),
    "an action pattern without an effect": Mistake(A, "actions: [crm.deal.list]", "actions: [crm.deal.update]\n    effects: [read]", "everything `crm.deal.update` matches has an effect this agent may not have", "allow the effect, or remove the pattern"),
    "delegation to itself": Mistake(A, "delegates_to: [assistant]", "delegates_to: [helper]", "agent `helper` delegates to itself", "remove it"),
    "delegation to nobody": Mistake(A, "delegates_to: [assistant]", "delegates_to: [butler]", "there is no agent `butler`", "known here: `assistant`, `helper`"),
    "an agent nobody can use": Mistake(A, "    delegates_to: [assistant]\n", "", "nobody can act through agent `assistant`", "list it under a front end's agents or another agent's delegates_to", at="client_id: assistant", severity="warning"),
    "introspection of nothing": Mistake(A, 'introspects: ["https://crm.test"]', 'introspects: ["https://cms.test"]', "no connection has this resource", "did you mean `https://crm.test`?"),
    "a report for nothing": Mistake(A, "    introspects:", '    reports_as: ["https://cms.test"]\n    introspects:', "no connection has this resource", "did you mean `https://crm.test`?", at="reports_as"),
    "a report on a platform's own tokens": Mistake(A, "    introspects:", '    reports_as: ["https://crm.test"]\n    introspects:', "tokens for `crm` are the platform's own, which name no hand-out", "remove it: there the agents report", at="reports_as"),
    "ID-JAG without an IdP for it": Mistake(A, "introspects:", "accepts_id_jag: true\n    introspects:", "accepts_id_jag, but no identity provider of the tenant has id_jag", "set id_jag: true for the identity provider, or remove accepts_id_jag", at="accepts_id_jag", severity="warning"),
    "a default intent for nothing": Mistake(A, '{resource: "https://crm.test",', '{resource: "https://cms.test",', "no connection of the tenant has this resource", "did you mean `https://crm.test`?"),
    "a default intent with no such action": Mistake(A, "action: crm.deal.list,", "action: crm.deal.lists,", "`crm.deal.lists` is no action of `crm`", "did you mean `crm.deal.list`?"),
    "a default intent the agent may not use": Mistake(A, 'scope: deal.read, action: crm.deal.list, identifier: "deal/*"', "scope: deal.write, action: crm.deal.update, identifier: deal/1", "the agent may not use `crm.deal.update`", "add it to the agent's actions and effects"),
    "a default intent with another identifier": Mistake(A, 'identifier: "deal/*"', "identifier: deal/1", "the identifier does not fit the catalog", "it has the form deal/*"),
    "a default intent with another scope": Mistake(A, "scope: deal.read", "scope: deal.raed", "`crm.deal.list` does not need scope `deal.raed`", "did you mean `deal.read`?"),
    "a default intent with an unknown parameter": Mistake(A, 'identifier: "deal/*"', 'identifier: "deal/*", parameters: {acount: x}', "`crm.deal.list` has no parameter `acount`", "did you mean `account`?"),
    "a default intent with a bad value": Mistake(A, 'identifier: "deal/*"', 'identifier: "deal/*", parameters: {account: 3}', "parameter `account` must be a string", "see `crm.deal.list` in connections.yaml"),
    "a default intent without a required parameter": Mistake(C, "account: {type: string}", "account: {type: string, required: true}", "parameter `account` of `crm.deal.list` is required", "add it", at="agents.yaml:      - {resource:"),
    "a default intent twice": Mistake(A, "    introspects:", '      - {resource: "https://crm.test", scope: deal.read, action: crm.deal.list, identifier: "deal/*"}\n    introspects:', "a default intent for `https://crm.test deal.read` is already used in line 24", "keep one default intent per resource and scope", at="      - {resource: \"https://crm.test\", scope: deal.read, action: crm.deal.list, identifier: \"deal/*\"}\n    introspects"),
    # --- connections.yaml ---
    "an unknown provider": Mistake(C, "provider: own-crm", "provider: own-cmr", "there is no provider `own-cmr`", "did you mean `own-crm`?"),
    "a provider that extends nothing": Mistake(C, "extends: generic-oauth2", "extends: generic-oauth", "there is no shipped provider generic-oauth", "did you mean `generic-oauth2`?"),
    "a provider called like a shipped one": Mistake(C, "id: own-crm\n    title: Own CRM", "id: okta\n    title: Own CRM", "provider `okta` is shipped with CAB", "choose another id; `extends: okta` takes over its facts"),
    "an iss without an issuer": Mistake(C, "narrowing: scope_at_refresh", "iss_parameter: required", "iss_parameter needs an issuer", "add issuer"),
    "a provider by http": Mistake(C, "https://login.crm.test/token", "http://login.crm.test/token", "providers.token_endpoint is not https", "use https; plain http is for 127.0.0.1, localhost and [::1] only"),
    "a provider without endpoints": Mistake(C, "    token_endpoint: https://login.crm.test/token\n", "", "provider `own-crm` does not say its token_endpoint", "add a provider of your own: id, title, `extends: own-crm` and its endpoints", at="provider: own-crm"),
    "a provider that says nothing": Mistake(C, "    authorization_endpoint: https://login.crm.test/authorize\n    token_endpoint: https://login.crm.test/token\n", "", "provider `own-crm` does not say its token_endpoint and authorization_endpoint", "add a provider of your own: id, title, `extends: own-crm` and its endpoints", at="provider: own-crm"),
    "a grant kind the provider lacks": Mistake(C, "tenants: [acme]", "grant_kind: broker_jwt\n    tenants: [acme]", "provider `own-crm` has no broker_jwt", "it has: authorization_code, id_jag, jwt_bearer, token_exchange", at="grant_kind"),
    "a user map nobody reads": Mistake(C, "tenants: [acme]", "user_map: {a: b}\n    tenants: [acme]", "user_map belongs to grant_kind jwt_bearer, token_exchange, id_jag or broker_jwt", "remove it", at="user_map"),
    "no user map": Mistake(C, "tenants: [acme]", "grant_kind: jwt_bearer\n    assertion_key: {secret: cab-assertion-crm}\n    tenants: [acme]", "jwt_bearer without user_map serves nobody", "map subject keys to upstream logins: nobody is mapped by guessing", at="grant_kind", severity="warning"),
    "no assertion key": Mistake(C, "tenants: [acme]", "grant_kind: jwt_bearer\n    user_map: {a: b}\n    tenants: [acme]", "jwt_bearer needs an assertion_key", "add assertion_key with the name of the Secret Manager secret that holds the private JWK", at="grant_kind"),
    "no issuer of assertions": Mistake(C, "    client_id: cab\n", "    grant_kind: jwt_bearer\n    user_map: {a: b}\n    assertion_key: {secret: cab-assertion-crm}\n", "jwt_bearer needs a client_id", "add client_id: it is the issuer of the assertions", at="grant_kind"),
    "an assertion key nobody uses": Mistake(C, "tenants: [acme]", "assertion_key: {secret: cab-assertion-crm}\n    tenants: [acme]", "assertion_key belongs to grant_kind jwt_bearer", "remove it", at="assertion_key"),
    "an exchange without an audience": Mistake(C, "narrowing: scope_at_refresh\nconnections:\n  - id: crm\n", "exchange_audience: pool\n    narrowing: scope_at_refresh\nconnections:\n  - id: crm\n    grant_kind: token_exchange\n", "token_exchange needs the subject_token_audience of its provider", "add a provider of your own: id, title, `extends: own-crm` and its subject_token_audience", at="provider: own-crm"),
    "an exchange that the broker itself would take": Mistake(C, "narrowing: scope_at_refresh\nconnections:\n  - id: crm\n", "exchange_audience: pool\n    subject_token_audience: https://cab.test/oauth2\n    narrowing: scope_at_refresh\nconnections:\n  - id: crm\n    grant_kind: token_exchange\n", "the subject_token_audience is one of other tokens of the broker", "register the broker there under a client id of its own", at="provider: own-crm"),
    "an ID-JAG for nobody": Mistake(C, "narrowing: scope_at_refresh\nconnections:\n  - id: crm\n", "issuer: https://login.crm.test\n    narrowing: scope_at_refresh\nconnections:\n  - id: crm\n    grant_kind: id_jag\n", "id_jag without user_map serves nobody", "map subject keys to upstream logins: nobody is mapped by guessing", at="grant_kind", severity="warning"),
    "an ID-JAG without an audience": Mistake(C, "    client_id: cab\n", "    grant_kind: id_jag\n    user_map: {a: b}\n    client_id: cab\n", "id_jag needs the issuer of its provider", "add a provider of your own: id, title, `extends: own-crm` and its issuer", at="provider: own-crm"),
    "an ID-JAG for the broker itself": Mistake(C, "narrowing: scope_at_refresh\nconnections:\n  - id: crm\n", "issuer: https://cab.test/oauth2\n    narrowing: scope_at_refresh\nconnections:\n  - id: crm\n    grant_kind: id_jag\n    user_map: {a: b}\n", "the issuer of provider `own-crm` is the broker itself", "name the issuer of the system's authorization server", at="provider: own-crm"),
    "an ID-JAG for no client": Mistake(C, "    client_id: cab\n", "    grant_kind: id_jag\n    user_map: {a: b}\n", "id_jag needs a client_id", "add client_id: ID-JAGs are made out to this client of the broker", at="grant_kind"),
    "an ID-JAG of a client without a secret": Mistake(C, "    client_id: cab\n    client_secret: {secret: cab-provider-crm}\n", "    grant_kind: id_jag\n    user_map: {a: b}\n    client_id: cab\n", "the client has no client_secret", "add client_secret with the name of the Secret Manager secret", at="client_id"),
    "an ID-JAG that anybody may redeem": Mistake(C, "narrowing: scope_at_refresh\nconnections:\n  - id: crm\n    title: CRM\n    provider: own-crm\n    resource: ${CRM_ORIGIN}\n    tenants: [acme]\n    client_id: cab\n    client_secret: {secret: cab-provider-crm}\n", "issuer: https://login.crm.test\n    token_endpoint_auth_method: none\n    narrowing: scope_at_refresh\nconnections:\n  - id: crm\n    title: CRM\n    provider: own-crm\n    resource: ${CRM_ORIGIN}\n    tenants: [acme]\n    client_id: cab\n    grant_kind: id_jag\n    user_map: {a: b}\n", "anyone who obtains an ID-JAG can redeem it: the client does not authenticate", "register a confidential client there, and write how it authenticates into the provider", at="grant_kind", severity="warning"),
    "an assertion key beside an ID-JAG": Mistake(C, "tenants: [acme]", "assertion_key: {secret: cab-assertion-crm}\n    grant_kind: id_jag\n    user_map: {a: b}\n    tenants: [acme]", "assertion_key belongs to grant_kind jwt_bearer", "remove it", at="assertion_key"),
    "a client without a secret": Mistake(C, "    client_secret: {secret: cab-provider-crm}\n", "", "the client has no client_secret", "add client_secret with the name of the Secret Manager secret", at="client_id"),
    "a secret that is never sent": Mistake(C, "narrowing: scope_at_refresh", "narrowing: scope_at_refresh\n    token_endpoint_auth_method: none", "the client_secret is never sent", "remove it: provider `own-crm` authenticates no client", at="client_secret"),
    "a provider that cannot narrow": Mistake(C, "    narrowing: scope_at_refresh\n", "", "tokens for crm.deal.list would carry more scopes than it needs, so they are refused: `own-crm` cannot narrow", "set allow_unnarrowed: true if that is acceptable, or split the connection", at="provider: own-crm", severity="warning"),
    "on behalf of nobody's consent": Mistake(C, "narrowing: scope_at_refresh", "narrowing: on_behalf_of", "on_behalf_of needs connect_scopes: the user consents to the broker's own API", "add connect_scopes with the scope that your registration exposes, such as api://CLIENT_ID/access", at="provider: own-crm"),
    "on behalf of a user by a public client": Mistake(C, "narrowing: scope_at_refresh", "narrowing: on_behalf_of\n    token_endpoint_auth_method: none", "on_behalf_of needs a client that authenticates", "write client_secret_post or client_secret_basic into the provider", at="provider: own-crm"),
    "a grant that does what its exchange should": Mistake(C, "narrowing: scope_at_refresh\nconnections:\n  - id: crm\n", "narrowing: on_behalf_of\nconnections:\n  - id: crm\n    connect_scopes: [deal.read]\n", "the grant itself would do for crm.deal.list", "name a scope of the broker's own API: tokens for the actions' scopes are made from it", at="connect_scopes"),
    "on behalf of a user at one API": Mistake(C, "narrowing: scope_at_refresh\nconnections:\n  - id: crm\n", "narrowing: on_behalf_of\nconnections:\n  - id: crm\n    connect_scopes: [api://cab/access]\n", "tokens for crm.deal.list would carry more scopes than it needs, so they are refused: `own-crm` cannot narrow within one API", "set allow_unnarrowed: true if that is acceptable, or split the connection", at="provider: own-crm", severity="warning"),
    "a consent that no action has a use for": Mistake(C, "tenants: [acme]", "connect_scopes: [all]\n    tenants: [acme]", "the connect_scopes would give no action its token: `own-crm` does not narrow by exchange", "remove them", at="connect_scopes"),
    "an exchange request that is never sent": Mistake(C, "narrowing: scope_at_refresh", "narrowing: scope_at_refresh\n    narrowing_request: {resource: true}", "narrowing_request belongs to narrowing token_exchange", "remove it", at="narrowing_request"),
    "a connection for an unknown tenant": Mistake(C, "tenants: [acme]", "tenants: [acme, acne]", "tenant `acne` is not in broker.yaml", "did you mean `acme`?"),
    "the broker as a resource": Mistake(C, "${CRM_ORIGIN}", "https://cab.test", "the resource is the broker itself", "name the downstream system: a token for the broker itself is never handed out", at="resource:"),
    "a connection called like an effect": Mistake(C, "- id: crm\n", "- id: write\n", "a connection cannot be called `write`", "choose another id: in policies it would be the action group of an effect"),
    "an API base by http": Mistake(C, "tenants: [acme]", "api_base: http://crm.test\n    tenants: [acme]", "connections.api_base is not https", "use https; plain http is for 127.0.0.1, localhost and [::1] only", at="api_base"),
    "an action without scopes": Mistake(C, "        scopes: [deal.write]\n", "", "crm.deal.update has no scopes", "name the scopes this action needs at the provider", at="- id: crm.deal.update", severity="warning"),
    "an action nobody may use": Mistake(A, '["crm.*"]', "[crm.deal.list]", "no agent may use crm.deal.update", "add it to an agent's actions, or remove it here", severity="warning", at="connections.yaml:- id: crm.deal.update"),
    "an unusable parameter name": Mistake(C, "account:", "ac-count:", "parameter name `ac-count` is not usable", "use letters, digits and _: policies write context.parameters.name"),
    "a required parameter with a default": Mistake(C, "default: open", "default: open, required: true", "parameter `stage` is required and has a default", "remove one of the two"),
    "values of an integer": Mistake(C, "minimum: 0, maximum: 1000", 'values: ["1"]', "`amount` is no string and cannot have values", "use minimum and maximum, or type: string"),
    "a minimum above the maximum": Mistake(C, "minimum: 0,", "minimum: 2000,", "`amount`: minimum is above maximum", "swap them"),
    "a default that does not fit": Mistake(C, "default: open", "default: closed", "connections.0.actions.1.parameters.stage is not consistent", "the default does not fit the parameter's own type or bounds"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_reported_with_file_line_and_remedy(mistake: Mistake, tmp_path: Path) -> None:
    text = replaced(FILES[mistake.file], mistake.old, mistake.new)
    where = mistake.at or mistake.new
    file, place = (mistake.file, where) if ".yaml:" not in where else (where.split(":", 1)[0], where.split(":", 1)[1])
    line = line_of(text if file == mistake.file else FILES[file], place)

    files: dict[str, Any] = {mistake.file.removesuffix(".yaml"): text}
    inspection = check(tmp_path, **files)

    reported = {(p.file, p.line, p.message, p.remedy, p.severity) for p in inspection.problems}
    assert (file, line, mistake.message, mistake.remedy, mistake.severity) in reported, reported
    assert inspection.valid == (mistake.severity == "warning")


def test_the_deployment_without_mistakes_has_neither_errors_nor_warnings(tmp_path: Path) -> None:
    assert check(tmp_path).problems == ()


def test_a_provider_that_narrows_by_exchange_has_nothing_to_be_warned_of(tmp_path: Path) -> None:
    text = replaced(CONNECTIONS, "narrowing: scope_at_refresh", "narrowing: token_exchange")
    assert check(tmp_path, connections=text).problems == ()
    at_two_apis = replaced(text, "token_exchange", "on_behalf_of")
    at_two_apis = replaced(at_two_apis, "[deal.write]", "[https://another.test/write]")
    at_two_apis = replaced(at_two_apis, "tenants: [acme]", "connect_scopes: [api://cab/access]\n    tenants: [acme]")
    assert check(tmp_path, connections=at_two_apis).problems == ()


def test_all_mistakes_of_all_files_are_reported_together(tmp_path: Path) -> None:
    inspection = check(
        tmp_path,
        broker=replaced(BROKER, "id: globex", "id: acme"),
        identity_providers=replaced(IDENTITY_PROVIDERS, "tenant: acme", "tenant: nobody"),
        agents=replaced(AGENTS, "agents: [helper]", "agents: [nobody]"),
        connections=replaced(CONNECTIONS, "provider: own-crm", "provider: nobody"),
        policies__sales='@id("x") permit (principal, action, resource) when { context.nothing };',
    )
    assert {p.file for p in inspection.problems if p.severity == "error"} == set(FILES)


ONE_MISTAKE = {
    "a tenant misspelt by an identity provider": (P, "tenant: acme", "tenant: acne", P, "tenant `acne` is not in broker.yaml"),
    "a tenant misspelt by an agent": (A, "title: Helper\n    tenant: acme", "title: Helper\n    tenant: acne", A, "tenant `acne` is not in broker.yaml"),
    "a tenant misspelt by a front end": (A, "client_id: web\n    tenant: acme", "client_id: web\n    tenant: acne", A, "tenant `acne` is not in broker.yaml"),
    "a tenant misspelt by a connection": (C, "tenants: [acme]", "tenants: [acne]", C, "tenant `acne` is not in broker.yaml"),
    "a tenant misspelt where it is declared": (B, "id: acme", "id: acne", B, "tenant `acne` is declared and never named; `acme` is not declared, and named 5 times"),
    "an agent misspelt by a front end": (A, "agents: [helper]", "agents: [helpr]", A, "there is no agent `helpr`"),
    "an agent misspelt where it is declared": (A, "- client_id: helper\n", "- client_id: helpr\n", A, "there is no agent `helper`"),
    "an action id twice": (C, "id: crm.deal.update", "id: crm.deal.list", C, "action `crm.deal.list` is already used in line 17"),
    "an action misspelt by a policy": ("policies/sales.cedar", "crm.deal.update", "crm.deal.updat", "policies/sales.cedar", 'sales-update: unrecognized action `CAB::Action::"crm.deal.updat"`'),
    "a group misspelt where it is mapped": (P, "S: sales", "S: sale", "policies/sales.cedar", 'sales-read: entity `CAB::Group::"sales"` is of an enumerated entity type, but `"sales"` is not declared as a valid eid; 1 more policies name it'),
    "a preset misspelt": (C, "extends: generic-oauth2", "extends: generic-oauht2", C, "there is no shipped provider generic-oauht2"),
    "a policy without its end": ("policies/sales.cedar", "resource);\n", "resource)\n", "policies/sales.cedar", "not valid Cedar: unexpected token `@`"),
    "a variable that is not declared": (B, "environment_variables: [CRM_ORIGIN]\n", "", C, "${CRM_ORIGIN} is not declared"),
    "a zone in capital letters": (B, "tenants:", "trust_zones: [Internal]\ntenants:", B, "trust_zones.0 does not have the right form"),
    "a zone with a mode that there is not": (B, "tenants:", "trust_zones: [{id: internal, mode: never}]\ntenants:", B, "trust_zones.0.mode has a value that is not allowed"),
    "a byte order mark": (A, "front_ends:", "\ufefffront_ends:", A, "the file begins with a byte order mark"),
    "agents.yaml in disorder": (A, "title: Helper", 'title: "Helper', A, "not valid YAML: did not find expected key"),
    "broker.yaml in disorder": (B, "title: Acme", 'title: "Acme', B, "not valid YAML: found unexpected end of stream"),
    "identity_providers.yaml in disorder": (P, "groups: {", "groups: [{", P, "not valid YAML: did not find expected ',' or ']'"),
    "connections.yaml in disorder": (C, "connections:", "connections: [", C, "not valid YAML: did not find expected node content"),
    "agents.yaml with a wrong value": (A, "title: Helper", "title: 5", A, "agents.0.title must be text"),
    "broker.yaml with a wrong value": (B, "title: Acme", "title: 5", B, "tenants.0.title must be text"),
}  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "at", "message"), ONE_MISTAKE.values(), ids=ONE_MISTAKE.keys())
def test_one_mistake_is_one_message_that_names_its_cause(
    file: str, old: str, new: str, at: str, message: str, tmp_path: Path
) -> None:
    write_folder(tmp_path)
    text = FILES[file]
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    inspection = inspect_folder(tmp_path, ENVIRONMENT)
    assert [(problem.file, problem.message) for problem in inspection.problems] == [(at, message)]
    assert not inspection.valid


@pytest.mark.parametrize("broken", [name for name in FILES if name.endswith(".yaml")])
def test_a_file_in_disorder_hides_no_mistake_of_the_others(broken: str, tmp_path: Path) -> None:
    """Each of the others has one mistake that can be told without it."""
    mistakes = {
        B: ("origin: https://cab.test", "origin: http://cab.test", "origin is not https"),
        P: ("https://idp.globex.test", "http://idp.globex.test", "identity_providers.issuer is not https"),
        A: ("delegates_to: [assistant]", "delegates_to: [assistnt]", "there is no agent `assistnt`"),
        C: ("provider: own-crm", "provider: own-cmr", "there is no provider `own-cmr`"),
        "policies/sales.cedar": ('== "within"', '== "within" && context.trigger == "evnt"', "sales-update: context.trigger is never `evnt`"),
    }  # fmt: skip
    write_folder(tmp_path)
    for file, (old, new, _) in mistakes.items():
        (tmp_path / file).write_text("[" if file == broken else replaced(FILES[file], old, new))
    told = {problem.message for problem in inspect_folder(tmp_path, ENVIRONMENT).problems if problem.file != broken}
    # Without the catalog nothing is known about what policies may name.
    hidden = {broken} | ({"policies/sales.cedar"} if broken == C else set())
    assert told == {message for file, (_, _, message) in mistakes.items() if file not in hidden}


@pytest.mark.parametrize("missing", [name for name in FILES if name.endswith(".yaml")])
def test_a_missing_file_is_reported_by_its_name(missing: str, tmp_path: Path) -> None:
    inspection = check(tmp_path, **{missing.removesuffix(".yaml"): None})
    assert [p.file for p in inspection.problems if p.message == "the file is missing"] == [missing]
    assert not inspection.valid


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    inspection = inspect_folder(tmp_path / "nowhere", {})
    assert any(p.message == "is not a folder" for p in inspection.problems)
    assert not inspection.valid


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"\xff\xfe", "the file is not UTF-8"),
        (b"a: \x00", "an invisible character, U+0000"),
        (b"{a: " * 400, "nested deeper than 20 levels"),
        (b"[" * 100_000, "nested deeper than 20 levels"),
        (b"a: 1\n" * 200_000, "the file is larger than 512 KiB"),
        (b"- just\n- a list\n", "the file must be a mapping"),
        (b"text", "the file must be a mapping"),
    ],
)
def test_what_is_no_proper_yaml_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    inspection = check(tmp_path, broker=content)
    assert [p.message for p in inspection.problems if p.file == B][:1] == [message]
    assert not inspection.valid


def test_a_byte_order_mark_before_policies_is_one_mistake(tmp_path: Path) -> None:
    write_folder(tmp_path)
    policies = tmp_path / "policies" / "sales.cedar"
    policies.write_bytes(b"\xef\xbb\xbf" + policies.read_bytes())
    (problem,) = inspect_folder(tmp_path, ENVIRONMENT).problems
    assert (problem.line, problem.message) == (1, "the file begins with a byte order mark")


def test_of_another_encoding_one_thing_is_told_and_not_each_of_its_characters(tmp_path: Path) -> None:
    problems = check(tmp_path, broker=BROKER.encode("utf-16")).problems
    assert [p.message for p in problems if p.file == B] == ["the file is not UTF-8"]


def test_policies_in_a_folder_of_another_name_are_told(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "policies_candidates").mkdir()
    for name in ("a", "b"):
        (tmp_path / "policies_candidates" / f"{name}.cedar").write_text("")
    (problem,) = inspect_folder(tmp_path, ENVIRONMENT).problems
    assert (problem.file, problem.message) == ("policies_candidates", "policies in this folder are not read")
    assert problem.remedy == "did you mean `policies_candidate`?"


def test_an_unset_variable_is_an_error_at_its_declaration_and_nothing_else(tmp_path: Path) -> None:
    assert [(p.file, p.line, p.message, p.remedy, p.severity) for p in check(tmp_path, environment={}, agents=AGENTS.replace("https://crm.test", "${CRM_ORIGIN}")).problems] == [
        (B, 2, "the environment variable CRM_ORIGIN is unset or not plain text", "set CRM_ORIGIN where the broker runs", "error")
    ]  # fmt: skip


@pytest.mark.parametrize("value", ["", "a\nb", "\x1b[0m", "x" * 3000])
def test_a_variable_that_is_not_plain_text_is_an_error(value: str, tmp_path: Path) -> None:
    assert not check(tmp_path, environment={"CRM_ORIGIN": value}).valid


def test_the_value_of_a_variable_is_never_yaml(tmp_path: Path) -> None:
    inspection = check(tmp_path, environment={"CRM_ORIGIN": "https://crm.test}, tenants: [globex"})
    assert inspection.deployment is None or inspection.deployment.connections[0].tenants == ("acme",)
    assert not inspection.valid


def test_loopback_http_is_accepted_only_with_the_switch_and_only_outside_the_cloud(tmp_path: Path) -> None:
    local = "allow_loopback_http: true\n" + replaced(BROKER, "https://cab.test", "http://127.0.0.1:8080")
    assert check(tmp_path, broker=local).valid
    assert check(tmp_path, broker=local.replace("127.0.0.1", "[::1]")).valid
    assert not check(tmp_path, broker=local.replace("127.0.0.1", "127.0.0.1.evil.test")).valid
    in_cloud = check(tmp_path, environment={**ENVIRONMENT, "K_SERVICE": "exchange-token"}, broker=local)
    assert "allow_loopback_http is set in the cloud" in [p.message for p in in_cloud.problems]
    assert not in_cloud.valid


def test_two_connections_never_share_id_resource_or_action(tmp_path: Path) -> None:
    second = CONNECTIONS.partition("connections:\n")[2]
    inspection = check(tmp_path, connections=CONNECTIONS + second)
    messages = [p.message for p in inspection.problems if p.severity == "error"]
    assert messages == [
        "connection `crm` is already used in line 9",
        "resource `https://crm.test` is already used in line 12",
        "action `crm.deal.list` is already used in line 17",
        "action `crm.deal.update` is already used in line 24",
    ]


def test_files_that_look_like_configuration_and_are_not_read_are_pointed_out(tmp_path: Path) -> None:
    write_folder(tmp_path, agent=AGENTS)
    (tmp_path / "policies" / "sales.cedar.bak").write_text("x")
    (tmp_path / "extra.cedar").write_text("x")
    problems = {(p.file, p.severity) for p in check(tmp_path).problems}
    assert problems == {
        ("agent.yaml", "warning"),
        ("policies/sales.cedar.bak", "warning"),
        ("extra.cedar", "warning"),
    }


def test_a_deployment_without_front_ends_is_pointed_out(tmp_path: Path) -> None:
    problems = check(tmp_path, agents=AGENTS[AGENTS.index("agents:\n") :]).problems
    assert "there is no front end" in [problem.message for problem in problems if problem.severity == "warning"]


@pytest.mark.parametrize("char", ["\u202e", "\u200b", "\ufeff", "\u2066", "\x1b"])
@pytest.mark.parametrize("file", ["agents", "policies__sales"])
def test_an_invisible_character_is_reported(file: str, char: str, tmp_path: Path) -> None:
    text = FILES[{"agents": A, "policies__sales": "policies/sales.cedar"}[file]]
    files: dict[str, Any] = {file: f"{text}# or //{char}\n"}
    inspection = check(tmp_path, **files)
    line = text.count("\n") + 1
    assert f"an invisible character, U+{ord(char):04X}" in [p.message for p in inspection.problems if p.line == line]
    assert not inspection.valid


def test_something_that_is_no_file_is_reported(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "policies" / "folder.cedar").mkdir()
    assert [(p.file, p.message) for p in check(tmp_path).problems] == [
        ("policies/folder.cedar", "the file cannot be read")
    ]


def test_too_many_policy_files_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    for number in range(200):
        text = f'@id("r{number}") forbid (principal, action, resource);'
        (tmp_path / "policies" / f"{number}.cedar").write_text(text)
    assert "more than 200 policy files" in [problem.message for problem in check(tmp_path).problems]


def test_connections_need_no_providers_of_their_own(tmp_path: Path) -> None:
    shipped = replaced(CONNECTIONS[CONNECTIONS.index("connections:\n") :], "own-crm", "google")
    shipped = replaced(shipped, "client_id: cab", "client_id: cab\n    allow_unnarrowed: true")
    assert check(tmp_path, connections=shipped).problems == ()


def test_who_may_have_tokens_for_a_resource_is_no_witness_of_what_came_of_them(tmp_path: Path) -> None:
    warehouse = """\
  - id: warehouse
    title: Warehouse
    provider: trusts-cab
    grant_kind: broker_jwt
    resource: https://warehouse.test
    tenants: [acme]
    actions:
      - {id: warehouse.query.run, title: Run a query, effect: read, scopes: [query.run], identifier: "query/{id}"}
"""
    connections = CONNECTIONS + warehouse
    reporting = replaced(AGENTS, "    introspects:", '    reports_as: ["https://warehouse.test"]\n    introspects:')
    reporting = replaced(reporting, '["crm.*"]', '["crm.*", "warehouse.*"]')
    assert check(tmp_path, connections=connections, agents=reporting).problems == ()
    both = replaced(reporting, "actions: [crm.deal.list]", "actions: [crm.deal.list, warehouse.query.run]")
    (problem,) = check(tmp_path, connections=connections, agents=both).problems
    assert (problem.file, problem.severity) == ("agents.yaml", "error")
    assert problem.message == "it may have tokens for `warehouse` itself, and would be its own witness"


def test_messages_never_quote_values_of_the_files(tmp_path: Path) -> None:
    secret = "hunter2-should-never-be-here"
    inspection = check(tmp_path, agents=replaced(AGENTS, "{secret: cab-client-assistant}", secret))
    assert not inspection.valid
    assert secret not in "".join(str(p) for p in inspection.problems)


def test_narrowing_that_would_end_tokens_at_once_is_told(tmp_path: Path) -> None:
    """A refresh for fewer scopes would end the tokens of other actions; without it the connection must accept wide ones."""
    narrowing = "narrowing: scope_at_refresh"
    dies = f"{narrowing}\n    rotation: {{class: strict, old_access_token: dies_at_once}}"
    inspection = check(tmp_path, connections=replaced(CONNECTIONS, narrowing, dies))
    messages = [problem.message for problem in inspection.problems]
    assert "a refresh at `own-crm` ends the tokens before it, so it is never asked for fewer scopes" in messages
