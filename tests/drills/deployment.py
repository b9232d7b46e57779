"""A next deployment: other keys and secrets, one more tenant with its identity provider. It is rolled out, and taken back."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import requests
from tests.drills import signals
from tests.drills.fleet import Fleet, Instance
from tests.drills.load import Load
from tests.drills.organisation import changed_organisation
from tests.running_stack import ROOT, Stack

from cab.protocol.names import CLIENT_ASSERTION_TYPE, ID_TOKEN_TYPE, JWT_TYPE, TOKEN_EXCHANGE
from cab_dev.front_end import client_assertion
from cab_dev.services.google_identity import unique_id
from cab_dev.stack import account
from cab_dev.stack_file import read_environment, write_private

ORDER: Final = ("refresh_grants", "connect_account", "exchange_token", "mint_assertion")
"""Who knows of a new tenant's people before somebody can be minted for."""

_SOMEBODY: Final = account("scheduler")
_GLOBEX_CLIENT: Final = unique_id(_SOMEBODY)  # an ID token of Google names its account as `azp`

CRM_SECRET: Final = "cab-provider-crm"


def cab(stack: Stack, *arguments: str, standard_input: str = "") -> dict[str, Any]:
    """What a command of `cab` at this stack says, as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "cab_ops.cli", *arguments, "--json"],
        input=standard_input,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | read_environment(stack.state_dir) | {"PYTHONPATH": f"{ROOT / 'shared'}{os.pathsep}{ROOT}"},
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class CrmSecrets:
    """The secrets of ours that the CRM accepts: two while one is rotated."""

    def __init__(self, stack: Stack) -> None:
        self._file = stack.state_dir / "organisation" / "crm.secret"
        self.older = self._file.read_text("utf-8").strip()
        self.newer = secrets.token_urlsafe(32)

    def accept(self, *values: str) -> None:
        write_private(self._file.with_suffix(".new"), "\n".join(values))
        self._file.with_suffix(".new").rename(self._file)


def next_organisation(stack: Stack, folder: Path, *, crm_secret: int, escrow_key: int) -> Path:
    """The folder with other numbers, events of Acme's identity provider, and Globex, whose people log in at the local Google."""
    key = "${ACME_IDP_ORIGIN}/clients/%s/jwks.json"
    variables = "environment_variables:\n"
    changes = {
        "broker.yaml": {
            variables: f"escrow_key: {escrow_key}\n{variables}  - CAB_GOOGLE_ISSUER\n  - CAB_GOOGLE_JWKS_URI\n",
            "tenants:\n": "tenants:\n  - {id: globex, title: Globex}\n",
        },
        "identity_providers.yaml": {
            "    tenant: acme\n": f"    tenant: acme\n    shared_signals: {{audience: [{signals.AUDIENCE}]}}\n",
            "identity_providers:\n": (
                "identity_providers:\n  - issuer: ${CAB_GOOGLE_ISSUER}\n    tenant: globex\n"
                "    jwks_uri: ${CAB_GOOGLE_JWKS_URI}\n    groups: {}\n"
                "    login: {client_id: cab, client_secret: {secret: cab-idp-acme, version: 1}}\n"
            ),
        },
        "connections.yaml": {
            f"{{secret: {CRM_SECRET}, version: 1}}": f"{{secret: {CRM_SECRET}, version: {crm_secret}}}",
            "resource: ${ACME_WAREHOUSE_ORIGIN}\n    tenants: [acme]": "resource: ${ACME_WAREHOUSE_ORIGIN}\n    tenants: [acme, globex]",
        },
        "agents.yaml": {
            "front_ends:\n": (
                "front_ends:\n  - client_id: globex-web\n    tenant: globex\n    identity_provider: ${CAB_GOOGLE_ISSUER}\n"
                f"    idp_client_id: '{_GLOBEX_CLIENT}'\n    agents: [globex-bot]\n"
                f"    authentication: [{{method: private_key_jwt, jwks_uri: '{key % 'acme-web'}'}}]\n"
            ),
            "\nagents:\n": (
                "\nagents:\n  - client_id: globex-bot\n    title: Globex\n    owner: it@globex.example\n    team: it\n"
                '    tenant: globex\n    actions: ["warehouse.*"]\n'
                f"    authentication: [{{method: private_key_jwt, jwks_uri: '{key % 'ops-bot'}'}}]\n"
            ),
        },
    }
    config = changed_organisation(stack, folder, changes)
    policy = '@id("globex-read")\npermit (principal, action in [CAB::Action::"read"], resource);\n'
    (config / "policies" / "globex.cedar").write_text(policy, "utf-8")
    return config


def roll_out(fleet: Fleet, asking: Load, successors: Sequence[Instance]) -> None:
    """One function after another: old and new take turns for a while, then only the new one serves."""
    for instance in successors:
        fleet.serve(instance.function, fleet.own(instance.function), instance.url)
        asking.once_more()
        fleet.serve(instance.function, instance.url)
    asking.each_kind()


def globex_assertion(stack: Stack) -> tuple[int, dict[str, Any]]:
    """Somebody of Globex logs in, and the front end asks for their assertion."""
    file = stack.file
    google = file.services["google_identity"].url
    asked = {"email": _SOMEBODY, "audience": _GLOBEX_CLIENT}
    key = file.front_end.private_key_file
    assert key is not None
    form = {
        "grant_type": TOKEN_EXCHANGE,
        "subject_token": requests.get(f"{google}/token", params=asked, timeout=5).text,
        "subject_token_type": ID_TOKEN_TYPE,
        "requested_token_type": JWT_TYPE,
        "audience": file.issuer,
        "may_act": "globex-bot",
        "client_assertion_type": CLIENT_ASSERTION_TYPE,
        "client_assertion": client_assertion(key, client_id="globex-web", audience=file.edge_issuer),
    }
    return _posted(f"{file.edge_issuer}/token", form)


def globex_exchange(stack: Stack, assertion: str) -> tuple[int, dict[str, Any]]:
    file = stack.file
    key, resource = file.agents["ops-bot"].private_key_file, file.connections["warehouse"].resource
    assert key is not None
    intent = {"type": "cab_action", "actions": ["warehouse.query.run"], "locations": [resource]}
    form = {
        "grant_type": TOKEN_EXCHANGE,
        "subject_token": assertion,
        "subject_token_type": JWT_TYPE,
        "resource": resource,
        "authorization_details": json.dumps([intent | {"identifier": "query/acme_history"}]),
        "client_assertion_type": CLIENT_ASSERTION_TYPE,
        "client_assertion": client_assertion(key, client_id="globex-bot", audience=file.issuer),
    }
    return _posted(f"{file.issuer}/token", form)


def _posted(url: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
    answer = requests.post(url, data=form, timeout=20)
    return answer.status_code, answer.json()
