"""A small valid deployment in a temporary folder, to be broken one piece at a time."""

from __future__ import annotations

from pathlib import Path

from cab.adapters.configuration.loader import Inspection, inspect_folder
from cab.adapters.configuration.problems import Problem
from cab.domain.configured.deployment import Deployment

BROKER = """\
origin: https://cab.test
environment_variables: [CRM_ORIGIN]
tenants:
  - id: acme
    title: Acme
  - id: globex
    title: Globex
federated_issuers:
  - issuer: https://spiffe.test
    jwks_uri: https://spiffe.test/keys
rate_limits:
  - {effects: [read, write], limit: 10, window_s: 60}
"""

IDENTITY_PROVIDERS = """\
identity_providers:
  - issuer: https://idp.test
    tenant: acme
    groups: {S: sales, O: ops}
    login:
      client_id: cab
      client_secret: {secret: cab-idp-acme}
  - issuer: https://idp.globex.test
    tenant: globex
    login:
      client_id: cab
      client_secret: {secret: cab-idp-globex}
      callback: globex
"""

AGENTS = """\
front_ends:
  - client_id: web
    tenant: acme
    identity_provider: https://idp.test
    idp_client_id: web-at-idp
    authentication:
      - {method: private_key_jwt, jwks_uri: "https://web.test/jwks.json"}
    agents: [helper]
agents:
  - client_id: helper
    title: Helper
    tenant: acme
    authentication:
      - {method: federated_jwt, issuer: "https://spiffe.test", subject: helper}
    actions: ["crm.*"]
    delegates_to: [assistant]
  - client_id: assistant
    title: Assistant
    tenant: acme
    authentication:
      - {method: client_secret_basic, secret: {secret: cab-client-assistant}}
    actions: [crm.deal.list]
    default_intents:
      - {resource: "https://crm.test", scope: deal.read, action: crm.deal.list, identifier: "deal/*"}
    introspects: ["https://crm.test"]
"""

CONNECTIONS = """\
providers:
  - id: own-crm
    title: Own CRM
    extends: generic-oauth2
    authorization_endpoint: https://login.crm.test/authorize
    token_endpoint: https://login.crm.test/token
    narrowing: scope_at_refresh
connections:
  - id: crm
    title: CRM
    provider: own-crm
    resource: ${CRM_ORIGIN}
    tenants: [acme]
    client_id: cab
    client_secret: {secret: cab-provider-crm}
    actions:
      - id: crm.deal.list
        title: See deals
        effect: read
        scopes: [deal.read]
        identifier: deal/*
        parameters:
          account: {type: string}
      - id: crm.deal.update
        title: Change a deal
        effect: write
        scopes: [deal.write]
        identifier: deal/{id}
        parameters:
          stage: {type: string, values: [open, won], default: open}
          amount: {type: integer, minimum: 0, maximum: 1000}
"""

POLICIES = """\
// What sales may do.

@id("sales-read")
permit (principal in CAB::Group::"sales", action in [CAB::Action::"read"], resource);

@id("sales-update")
permit (principal in CAB::Group::"sales", action == CAB::Action::"crm.deal.update", resource)
when { context.task.comparison == "within" };
"""

FILES = {
    "broker.yaml": BROKER,
    "identity_providers.yaml": IDENTITY_PROVIDERS,
    "agents.yaml": AGENTS,
    "connections.yaml": CONNECTIONS,
    "policies/sales.cedar": POLICIES,
}
ENVIRONMENT = {"CRM_ORIGIN": "https://crm.test"}


def write_folder(root: Path, **files: str | bytes | None) -> Path:
    """The valid deployment under `root`, with the given files replaced, added or (None) left out.

    Keyword names are paths with `__` for `/` and no suffix: `broker`, `policies__sales`. Others are given in `extra`.
    """
    contents: dict[str, str | bytes | None] = dict(FILES)
    for name, content in files.items():
        suffix = ".cedar" if name.startswith("policies") else ".yaml"
        contents[name.replace("__", "/") + suffix] = content
    for path, content in contents.items():
        if content is not None:
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def check(root: Path, environment: dict[str, str] | None = None, **files: str | bytes | None) -> Inspection:
    return inspect_folder(write_folder(root, **files), ENVIRONMENT if environment is None else environment)


def deployment_of(root: Path, **files: str | bytes | None) -> Deployment:
    deployment = inspect_folder(write_folder(root, **files), ENVIRONMENT).deployment
    assert deployment is not None
    return deployment


def replaced(text: str, old: str, new: str) -> str:
    """`text` with the one place of `old` changed."""
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
    return text.replace(old, new)


def line_of(text: str, part: str) -> int:
    """The line on which `part` first stands."""
    return text[: text.index(part)].count("\n") + 1


def found(inspection: Inspection, file: str, line: int) -> list[Problem]:
    return [problem for problem in inspection.problems if (problem.file, problem.line) == (file, line)]
