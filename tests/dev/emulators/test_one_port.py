"""One port of the embedded emulators for gRPC and REST: who is let in, and that faults, calls and permissions count for both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.cloud import secretmanager
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import (
    SecretManagerServiceGrpcAsyncIOTransport,
)
from tests.dev.emulators.test_parity_rest import ask

from cab_dev.processes.ports import PortLeases
from gcp_emulators import Emulators
from gcp_emulators.embedded import Rights, serving
from gcp_emulators.faults import CallFault
from gcp_emulators.permissions.table import Table
from gcp_emulators.storage import MEMORY
from gcp_emulators.wire.rest import _RULES

SECRET: dict[str, Any] = {"replication": {"automatic": {}}}


@pytest.fixture
async def vault() -> AsyncIterator[str]:
    """The address of a Secret Manager of this test's own."""
    async with serving({"secret_manager": 0}, control_port=0, data_dir=MEMORY, token_source=None) as running:
        yield running.services["secret_manager"]


async def said(address: str, *parts: bytes) -> bytes:
    """What comes back until the connection ends or nothing comes for a while."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    for part in parts:
        writer.write(part)
        await asyncio.sleep(0.01)
    answer = b""
    try:
        async with asyncio.timeout(1):
            while part := await reader.read(1000):
                answer += part
    except TimeoutError:
        pass
    writer.close()
    return answer


def get(host: str, more: bytes = b"") -> bytes:
    return b"GET /v1/projects/demo/secrets HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n%s\r\n" % (host.encode(), more)


async def test_both_are_told_apart_by_the_first_bytes_however_they_come(vault: str) -> None:
    assert (await said(vault, get("localhost"))).startswith(b"HTTP/1.1 200 ")
    assert (await said(vault, *(bytes([byte]) for byte in get("localhost")))).startswith(b"HTTP/1.1 200 ")
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    assert (await said(vault, *(preface[at : at + 3] for at in range(0, len(preface), 3))))[3:4] == b"\x04"  # settings
    async with grpc.aio.insecure_channel(vault) as channel:
        client = secretmanager.SecretManagerServiceAsyncClient(
            transport=SecretManagerServiceGrpcAsyncIOTransport(channel=channel)
        )
        created = await client.create_secret(parent="projects/demo", secret_id="s", secret=SECRET)
        assert created.name.endswith("/secrets/s")
    assert b'"name":' in await said(vault, get("localhost"))


async def test_a_web_page_in_the_developers_browser_is_not_let_in(vault: str) -> None:
    assert (await said(vault, get("evil.example"))).startswith(b"HTTP/1.1 403 ")
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        status, _ = await asyncio.to_thread(
            ask, vault, "POST", "projects/demo/secrets?secretId=s", SECRET, **{"content-type": kind}
        )
        assert status == 415
    assert await asyncio.to_thread(ask, vault, "GET", "projects/demo/secrets/s") != (200, None)


async def test_what_no_api_has_is_not_found_without_a_word_of_the_api(vault: str) -> None:
    for verb, path in (("GET", "nothing"), ("PUT", "projects/demo/secrets"), ("POST", "projects/demo/secrets/s:burn")):
        assert await asyncio.to_thread(ask, vault, verb, path, {}) == (404, None)


@pytest.mark.parametrize(("when", "is_there"), [("before", False), ("after", True)])
async def test_faults_and_the_call_log_count_calls_over_rest(
    embedded: Emulators, project: str, when: str, *, is_there: bool
) -> None:
    control, address = embedded.control("secret_manager"), embedded.address("secret_manager")
    fault = {"service": "secret_manager", "method": "CreateSecret", "status": "UNAVAILABLE", "when": when}
    control.add_fault(CallFault.model_validate(fault | {"resource": project, "times": 1}))
    path = f"projects/{project}/secrets"
    status, answer = await asyncio.to_thread(ask, address, "POST", f"{path}?secretId=s", SECRET)
    assert (status, answer["error"]["status"]) == (503, "UNAVAILABLE")
    assert ((await asyncio.to_thread(ask, address, "GET", f"{path}/s"))[0] == 200) is is_there
    assert control.counts(project) == {"secret_manager.CreateSecret": 1, "secret_manager.GetSecret": 1}


async def test_a_caller_that_goes_away_cancels_its_call(embedded: Emulators, project: str) -> None:
    control = embedded.control("firestore")
    fault = {"service": "firestore", "method": "Commit", "latency_s": 30, "resource": project}
    number = control.add_fault(CallFault.model_validate(fault))
    documents = f"projects/{project}/databases/d/documents"
    body = json.dumps({"writes": [{"delete": f"{documents}/a/b"}]}).encode()
    head = f"POST /v1/{documents}:commit HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    _, writer = await asyncio.open_connection(*embedded.address("firestore").split(":"))
    writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
    async with asyncio.timeout(5):
        while not (calls := await asyncio.to_thread(control.calls, project)):
            await asyncio.sleep(0.02)
        writer.close()
        while calls[0]["status"] != "CANCELLED":
            calls = await asyncio.to_thread(control.calls, project)
    control.remove_fault(number)


async def test_a_caller_with_a_port_of_its_own_may_do_no_more_over_rest(tmp_path: Path) -> None:
    table = tmp_path / "rights.json"
    table.write_text("[]")
    with PortLeases() as leases:
        port = leases.take_free()
        rights = Rights(Table(table), {"worker": port})
        services: Any = {"secret_manager": 0}
        async with serving(services, control_port=0, data_dir=MEMORY, token_source=None, rights=rights):
            path = "projects/demo/secrets?secretId=s"
            status, answer = await asyncio.to_thread(ask, f"127.0.0.1:{port}", "POST", path, SECRET)
    assert (status, answer["error"]["status"]) == (403, "PERMISSION_DENIED")
    assert "secretmanager.secrets.create" in answer["error"]["message"]


@pytest.mark.parametrize("service", _RULES)
def test_every_method_but_conversations_is_there_over_rest(service: Any) -> None:
    from gcp_emulators.embedded import build_service
    from gcp_emulators.faults import FaultBook

    emulated = build_service(service, data_dir=MEMORY, faults=FaultBook(), token_source=None)
    methods = {it.name for of_it in emulated.methods().values() for it in of_it if not it.streams_requests}
    emulated.close()
    assert {rule[0] for rule in _RULES[service]} == methods
