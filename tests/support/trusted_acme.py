"""Acme with more connections: three to its CRM, none of which has a consent screen, one for each kind of trust; and its notes, the
MCP server, by the entries of docs/local-stack.md.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from examples.acme.people import PEOPLE
from examples.acme.stack import DEFAULT_PORTS, NOTES_PORT, NOTES_VARIABLE, ROOT, AcmeOrganisation

from cab.domain.identifiers import subject_key

_NOTES_POLICY = """
@id("sales-notes")
permit (
  principal in CAB::Group::"sales",
  action in [CAB::Action::"notes.note.add", CAB::Action::"notes.note.share"],
  resource
)
when { context.task.comparison == "within" };
"""
KINDS = {"bearer": "jwt_bearer", "exchange": "token_exchange", "jag": "id_jag"}
_PROVIDER = {
    "id": "trusting-crm",
    "title": "Acme CRM, on trust",
    "extends": "generic-oauth2",
    "issuer": "${ACME_CRM_ORIGIN}",
    "token_endpoint": "${ACME_CRM_ORIGIN}/oauth/token",
    "exchange_audience": "acme-crm",
    "subject_token_audience": "cab-at-the-crm",
}


def write_configuration(folder: Path) -> Path:
    """Copy the demo's folder and add the connections; who is who there is written when the ports are known."""
    shutil.copytree(
        ROOT / "examples" / "acme", folder, ignore=shutil.ignore_patterns("*.py", "__pycache__", "services", "agent")
    )
    agents = folder / "agents.yaml"
    actions = '["crm.*", "tracker.*", "warehouse.*"'
    text = agents.read_text("utf-8")
    assert text.count(actions) == 1
    more = "".join(f', "{name}.*"' for name in (*KINDS, "notes"))
    agents.write_text(text.replace(actions, actions + more), "utf-8")
    broker = folder / "broker.yaml"
    variable = "  - ACME_WAREHOUSE_ORIGIN\n"
    broker.write_text(broker.read_text("utf-8").replace(variable, f"{variable}  - {NOTES_VARIABLE}\n"), "utf-8")
    policies = folder / "policies" / "sales.cedar"
    policies.write_text(policies.read_text("utf-8") + _NOTES_POLICY, "utf-8")
    (folder / "stack.py").write_text(
        f"from pathlib import Path\nfrom {__name__} import organisation_of\norganisation = organisation_of(Path(__file__).parent)\n",
        "utf-8",
    )
    return folder


def notes_entries() -> dict[str, Any]:
    """What docs/local-stack.md says that connections.yaml needs for the notes."""
    text = (ROOT / "docs" / "local-stack.md").read_text("utf-8")
    found = re.search(r"## Tools of an MCP server.*?```yaml\n(.*?)```", text, re.DOTALL)
    assert found is not None
    entries: dict[str, Any] = yaml.safe_load(found[1])
    return entries


def organisation_of(folder: Path) -> Callable[[Callable[[int], int]], AcmeOrganisation]:
    def organisation(take_port: Callable[[int], int]) -> AcmeOrganisation:
        ports = DEFAULT_PORTS | {"notes": NOTES_PORT}
        acme = AcmeOrganisation({name: take_port(port) for name, port in ports.items()})
        idp = acme.variables["ACME_IDP_ORIGIN"]
        users = {subject_key("acme", idp, PEOPLE[login].subject): PEOPLE[login].email for login in ("alice", "bob")}
        path = folder / "connections.yaml"
        content = yaml.safe_load(path.read_text("utf-8"))
        notes = notes_entries()
        content["providers"] += [_PROVIDER, *notes["providers"]]
        content["connections"] += notes["connections"]
        content["connections"] += [_connection(name, kind, dict(users)) for name, kind in KINDS.items()]
        path.write_text(yaml.dump(content, sort_keys=False), "utf-8")
        return acme

    return organisation


def _connection(name: str, kind: str, users: dict[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": name,
        "title": f"Acme CRM by {kind}",
        "provider": "trusting-crm",
        "grant_kind": kind,
        "resource": f"${{ACME_CRM_ORIGIN}}/{name}",
        "api_base": "${ACME_CRM_ORIGIN}",
        "tenants": ["acme"],
        "actions": [
            {
                "id": f"{name}.opportunity.list",
                "title": "See your opportunities",
                "effect": "read",
                "scopes": ["opportunity.read"],
                "identifier": "opportunity/*",
            }
        ],
    }
    own: dict[str, dict[str, Any]] = {
        "jwt_bearer": {
            "client_id": "cab-bearer",
            "assertion_key": {"secret": "cab-assertion-crm", "version": 1},
            "user_map": users,
        },
        "token_exchange": {},  # subject keys are names of users there
        "id_jag": {
            "client_id": "cab-jag",
            "client_secret": {"secret": "cab-provider-crm-jag", "version": 1},
            "user_map": users,
        },
    }
    return entry | own[kind]
