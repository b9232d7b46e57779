"""After everything else ran against the stack: no secret it holds stands in any log, audit row or file that people read.

Named to run last among the end-to-end tests, so that it sees what all of them left behind.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import grpc
import pytest
from google.cloud import secretmanager
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import SecretManagerServiceGrpcTransport
from tests.e2e.audit_rows import TODAY, query
from tests.e2e.caller import Caller
from tests.running_stack import Stack

pytestmark = pytest.mark.stack
PREFIX = 12


def all_secrets(stack: Stack) -> Iterator[bytes]:
    """Every payload in the secret store: signing keys, client secrets, every grant's token sets."""
    with grpc.insecure_channel(stack.file.emulators.secret_manager) as channel:
        client = secretmanager.SecretManagerServiceClient(transport=SecretManagerServiceGrpcTransport(channel=channel))
        for secret in client.list_secrets(parent=f"projects/{stack.file.project_id}"):
            for version in client.list_secret_versions(parent=secret.name):
                if version.state.name == "ENABLED":
                    yield client.access_secret_version(name=version.name).payload.data


def canaries(stack: Stack) -> set[str]:
    """What must appear nowhere: each secret value, as it is and as it may travel."""
    values: set[str] = set()
    for payload in all_secrets(stack):
        try:
            document = json.loads(payload)
        except ValueError:
            text = payload.decode("latin-1")
            values.add(text if text.isascii() else base64.b64encode(payload).decode())
            continue
        if "d" in document:
            values.add(document["d"])
        if "response" in document:
            answer = json.loads(base64.b64decode(document["response"]))
            values |= {answer[name] for name in ("access_token", "refresh_token") if name in answer}
    assert len(values) > 8, "the stack holds fewer secrets than it should: this test would prove nothing"
    return values


def forms_of(value: str) -> set[bytes]:
    raw = value.encode()
    return {raw, base64.b64encode(raw), quote(value, safe="").encode(), value[:PREFIX].encode()}


def test_no_secret_appears_in_logs_or_audit_rows(stack: Stack) -> None:
    caller = Caller(stack)
    assertion = caller.assertion("alice")
    token = caller.exchange(assertion, "crm.opportunity.list", "opportunity/*").body["access_token"]
    secrets = canaries(stack) | {token, assertion}
    readable = {path: path.read_bytes() for path in (stack.state_dir / "logs").iterdir()}
    readable[Path("output.txt")] = (stack.state_dir / "output.txt").read_bytes()
    rows = query(stack, f"select to_json_string(t) as row from cab_audit.events_raw t where {TODAY}")
    assert rows
    readable[Path("audit rows")] = "\n".join(row["row"] for row in rows).encode()
    leaks = [
        (str(path.name), len(value))
        for path, content in readable.items()
        for value in secrets
        for form in (forms_of(value) if value not in (token, assertion) else {value.encode()})
        if form in content
    ]
    assert leaks == []
