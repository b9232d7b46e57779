"""Acme and its guests: the demo configuration with five more clients, each of which speaks through a public library.

`legacy-tool` signs client assertions the old way (endpoint URL as audience, an hour of life). `mcp-client` brings ID-JAGs
and cannot send an intent, and neither can `cloud-client`. `notes-server` is the MCP tool server that introspects what it is shown. `workload-tool` has no
key: its platform identity is its proof.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from examples.acme.stack import DEFAULT_PORTS, ROOT, AcmeOrganisation

from cab.domain.configured.deployment import Deployment
from cab_dev.processes.supervisor import Service
from cab_dev.services.google_identity import unique_id
from cab_dev.stack_file import write_private

WORKLOAD_ACCOUNT = "workload-tool@demo-cab.iam.gserviceaccount.com"
FRONT_END_ACCOUNT = "acme-web@demo-cab.iam.gserviceaccount.com"
DESKTOP = "acme-desktop"  # the identity provider's name for the application that the broker knows as mcp-client
MCP_CLIENT_SECRET = "cab-client-mcp-client"
CLOUD_CLIENT_SECRET = "cab-client-cloud-client"
NOTES = "${ACME_NOTES_ORIGIN}/mcp"
_VARIABLES = ["ACME_NOTES_ORIGIN", "CAB_GOOGLE_ISSUER", "CAB_GOOGLE_JWKS_URI"]


def _signing(client_id: str, **more: Any) -> dict[str, Any]:
    jwks_uri = f"${{ACME_IDP_ORIGIN}}/clients/{client_id}/jwks.json"
    return {"method": "private_key_jwt", "jwks_uri": jwks_uri, **more}


def _workload(account: str) -> dict[str, Any]:
    return {"method": "federated_jwt", "issuer": "${CAB_GOOGLE_ISSUER}", "subject": unique_id(account)}


def _secret(name: str) -> dict[str, Any]:
    return {"method": "client_secret_basic", "secret": {"secret": name, "version": 1}}


def _agent(client_id: str, authentication: dict[str, Any], actions: list[str], **more: Any) -> dict[str, Any]:
    entry = {"client_id": client_id, "title": client_id, "tenant": "acme", "authentication": [authentication]}
    return entry | {"actions": actions} | more


_LIST_NOTES = {"resource": NOTES, "action": "notes.note.list", "identifier": "note/*"}
AGENTS = [
    _agent("legacy-tool", _signing("legacy-tool", audience_compatibility=True), ["crm.*", "warehouse.*"]),
    _agent(
        "mcp-client",
        _secret(MCP_CLIENT_SECRET),
        ["notes.*", "crm.opportunity.*"],
        mode="both",
        accepts_id_jag=True,
        default_intents=[_LIST_NOTES, _LIST_NOTES | {"scope": "note.read"}],
    ),
    _agent(
        "cloud-client",
        _secret(CLOUD_CLIENT_SECRET),
        ["crm.opportunity.list"],
        default_intents=[
            {
                "resource": "${ACME_CRM_ORIGIN}",
                "scope": "opportunity.read",
                "action": "crm.opportunity.list",
                "identifier": "opportunity/*",
            }
        ],
    ),
    _agent("notes-server", _signing("notes-server"), [], introspects=[NOTES]),
    _agent("workload-tool", _workload(WORKLOAD_ACCOUNT), ["crm.*"]),
]
NOTES_CONNECTION = {
    "id": "notes",
    "title": "Acme Notes",
    "provider": "trusts-cab",
    "grant_kind": "broker_jwt",
    "resource": NOTES,
    "tenants": ["acme"],
    "actions": [
        {
            "id": "notes.note.list",
            "title": "See your notes",
            "effect": "read",
            "scopes": ["note.read"],
            "identifier": "note/*",
        }
    ],
}


def write_configuration(folder: Path) -> Path:
    """Copy the demo's folder and add the guests."""
    shutil.copytree(
        ROOT / "examples" / "acme", folder, ignore=shutil.ignore_patterns("*.py", "__pycache__", "services", "agent")
    )
    with _Edited(folder / "broker.yaml") as broker:
        broker["environment_variables"] += _VARIABLES
        issuer = {"issuer": "${CAB_GOOGLE_ISSUER}", "jwks_uri": "${CAB_GOOGLE_JWKS_URI}"}
        broker["federated_issuers"] = [issuer]
    with _Edited(folder / "identity_providers.yaml") as content:
        content["identity_providers"][0]["id_jag"] = True
    with _Edited(folder / "agents.yaml") as content:
        content["agents"] += AGENTS
        content["front_ends"][0]["authentication"].append(_workload(FRONT_END_ACCOUNT))
        content["front_ends"][0]["agents"] += ["legacy-tool", "workload-tool", "cloud-client"]
    with _Edited(folder / "connections.yaml") as content:
        content["connections"].append(NOTES_CONNECTION)
    (folder / "stack.py").write_text(f"from {__name__} import organisation as organisation\n")
    return folder


class _Edited:
    """A YAML file's content, written back after the block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> dict[str, Any]:
        content: dict[str, Any] = yaml.safe_load(self._path.read_text())
        self._content = content
        return content

    def __exit__(self, *_: object) -> None:
        self._path.write_text(yaml.dump(self._content, sort_keys=False))


def organisation(take_port: Callable[[int], int]) -> AcmeWithGuests:
    return AcmeWithGuests({name: take_port(port) for name, port in (*DEFAULT_PORTS.items(), ("notes", 8085))})


class AcmeWithGuests(AcmeOrganisation):
    """Acme, and the MCP server of the notes."""

    @property
    def variables(self) -> dict[str, str]:
        return super().variables | {"ACME_NOTES_ORIGIN": self._origin("notes")}

    @property
    def accounts(self) -> tuple[str, ...]:
        return (WORKLOAD_ACCOUNT, FRONT_END_ACCOUNT)

    def prepare(self, deployment: Deployment, *, secrets: Mapping[str, str], folder: Path) -> None:
        """Register the desktop application at the identity provider too, where it logs people in and gets ID-JAGs."""
        super().prepare(deployment, secrets=secrets, folder=folder)
        path = folder / "idp-clients.json"
        clients = json.loads(path.read_text())
        clients["clients"].append(
            {
                "client_id": DESKTOP,
                "client_secret_file": str(folder.parent / "secrets" / MCP_CLIENT_SECRET),
                "redirect_uris": ["http://127.0.0.1:*/cb"],
                "client_id_at": {deployment.broker.sts_issuer: "mcp-client"},
            }
        )
        write_private(path, json.dumps(clients))

    def services(self, *, origin: str, environment: Mapping[str, str], folder: Path, keys: Path) -> tuple[Service, ...]:
        url = f"http://127.0.0.1:{self.ports['notes']}"
        notes = Service(
            name="notes",
            command=(
                *(sys.executable, "-m", "tests.support.guests.notes_server"),
                *("--port", str(self.ports["notes"]), "--issuer", f"{origin}/oauth2"),
                *("--private-key", str(keys / "notes-server.json")),
            ),
            environment=environment,
            directory=ROOT,
            port=self.ports["notes"],
            ready=f"tcp://127.0.0.1:{self.ports['notes']}",
            url=url,
            needs=("configuration", "gateway", "publish_metadata", "signing_keys"),
        )
        base = super().services(origin=origin, environment=environment, folder=folder, keys=keys)
        return (*(service for service in base if service.name != "notes"), notes)
