"""call_tool as the process that is deployed, told to stop or killed while it calls, and with many calls at once."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import web
from tests.functions.test_exit import GONE_WITHIN_S, Deployed, deployed
from tests.support.world import ENVIRONMENT, World

from cab.adapters.configuration.loader import FolderConfiguration
from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments
from cab.adapters.keys.own_keys import OwnKeys
from cab.adapters.system import SystemClock
from cab.domain.calls.rendering import render
from cab.domain.configured.deployment import Deployment
from cab.domain.intents import DeclaredIntent, check_against_catalog
from cab.protocol.authorization_details import details_hash
from cab.protocol.names import ACCESS_TOKEN_TYP
from cab.protocol.tokens import call_tokens
from cab.protocol.tokens.assertions import Assertion
from cab.stores.signing_keys import Issuer, SigningKeys
from cab_dev.fakes.secrets import InMemoryVault
from cab_ops.rotate_keys import RotateKeys
from gcp_emulators import Emulators
from gcp_emulators.testing import running_for_tests

MEMORY_FOR_CALLS = 200 * 1_048_576  # bytes beside what the idle process has
LARGE_RESULTS = 24
MEMORY_FOR_RESULTS = 100 * 1_048_576


@pytest.fixture(scope="module")
def emulators() -> Iterator[Emulators]:
    with running_for_tests("embedded") as running:
        yield running


@pytest.fixture
def project() -> str:
    """Tests share emulators, never data."""
    return f"demo-{uuid.uuid4().hex[:12]}"


@dataclass
class Around:
    """What is around call_tool: the metadata server, exchange_token, and the warehouse, all at one address.

    `attempts` are the ids of calls that were let through; `hits` what reached the warehouse, which answers when `release` is set.
    """

    attempts: list[str] = field(default_factory=list)
    hits: list[str] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    answer: bytes = b'{"rows":2}'
    origin: str = ""
    deployment: Deployment | None = None

    async def identity(self, _: web.Request) -> web.Response:
        claims = {"exp": int(time.time()) + 3600, "iss": "x"}
        parts = [json.dumps(part).encode() for part in ({"alg": "RS256"}, claims, {})]
        token = ".".join(_b64(part) for part in parts)
        return web.Response(text=token, headers={"Metadata-Flavor": "Google"})

    async def decide(self, request: web.Request) -> web.Response:
        asked = await request.json()
        assert self.deployment is not None
        connection = self.deployment.connection_by_id[asked["connection"]]
        declared = DeclaredIntent.model_validate_json(json.dumps(asked["detail"]))
        action = connection.action_by_id[declared.actions[0]]
        intent = check_against_catalog(
            declared, action, connection=connection.id, resource=connection.resource, task=None
        )
        detail = intent.as_authorization_detail()
        self.attempts.append(asked["call_id"])
        return web.json_response(
            {
                "access_token": "token-of-the-platform-0123456789",
                "connection": connection.id,
                "authorization_details": [detail],
                "intent_hash": details_hash([detail]),
                "request_digest": render(action, connection, intent).digest,
                "call_id": asked["call_id"],
                "idempotency_key": asked["call_id"],
                "attempt": "attempt",
            }
        )

    async def called(self, request: web.Request) -> web.Response:
        await request.read()
        self.hits.append(request.path.rpartition("/")[2])
        if request.path.startswith("/tables"):  # deletes wait, reports do not
            await self.release.wait()
        return web.Response(body=self.answer, content_type="application/json")


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.fixture
async def around() -> AsyncIterator[Around]:
    around = Around()
    application = web.Application()
    application.router.add_get("/computeMetadata/{rest:.*}", around.identity)
    application.router.add_post("/internal/calls", around.decide)
    application.router.add_route("*", "/{rest:.*}", around.called)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=2000).start()
    around.origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield around
    around.release.set()
    await runner.cleanup()


@dataclass
class CallTool:
    process: Deployed
    token: str
    http: aiohttp.ClientSession

    async def call(self, tool: str, name: str) -> tuple[int, dict[str, Any]]:
        body = {"tool": tool, "arguments": {"id": name}, "call_id": name}
        headers = {"Authorization": f"Bearer {self.token}"}
        async with self.http.post(f"{self.process.url}/tools/call", json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    @property
    def rss(self) -> int:
        root = psutil.Process(self.process.process.pid)
        return sum(each.memory_info().rss for each in [root, *root.children(recursive=True)])


@asynccontextmanager
async def running(
    emulators: Emulators, scratch: Path, project: str, around: Around, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[CallTool]:
    for name, value in emulators.environment().items():
        monkeypatch.setenv(name, value)
    variables = {
        "FUNCTION_TARGET": "call_tool",
        "FUNCTION_SOURCE": "functions/call_tool/main.py",
        "CAB_EXCHANGE_TOKEN_URL": around.origin,
        "WAREHOUSE_ORIGIN": around.origin,
        "GCE_METADATA_HOST": around.origin.removeprefix("http://"),
    }
    folder = World(scratch=scratch).write_policies(None, connections=_patient)
    variables["CAB_CONFIG_DIR"] = str(folder)
    around.deployment = FolderConfiguration(folder, ENVIRONMENT | variables).load()
    token = await _call_token(project, around.deployment)
    with ExitStack() as stack:
        process = await asyncio.to_thread(stack.enter_context, deployed(emulators, scratch, project, **variables))
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as http:
            yield CallTool(process, token, http)


def _patient(connections: str) -> str:
    """Machines that run tests may be slow: no call ends here because its time is over. Reports may be large."""
    for call, patient in (
        ('path: "/tables/{id}", success: [200, 204]}', 'path: "/tables/{id}", success: [200, 204], timeout_s: 60}'),
        ('path: "/reports/{id}"}', 'path: "/reports/{id}", timeout_s: 60, result: {max_bytes: 1048576}}'),
    ):
        assert call in connections
        connections = connections.replace(call, patient)
    return connections


async def _call_token(project: str, deployment: Deployment) -> str:
    """Signed with the key whose public half lies where call_tool reads it."""
    documents, vault, clock = FirestoreDocuments(project, "keys"), InMemoryVault(), SystemClock()
    store = SigningKeys(documents)
    await RotateKeys(store, vault, clock).init(Issuer.STS)
    now, broker = datetime.now(UTC), deployment.broker
    assertion = Assertion(
        issuer=broker.edge_issuer,
        subject="s" * 43,
        tenant="acme",
        idp_issuer="http://127.0.0.1:8081",
        idp_subject_hash="h" * 43,
        groups=(),
        front_end="web",
        may_act="caller",
        txn="txn-1",
        jti="j-1",
        issued_at=now,
        expires_at=now + timedelta(seconds=300),
    )
    claims = call_tokens.claims(
        assertion,
        issuer=broker.sts_issuer,
        audience=broker.calls_resource,
        agent="caller",
        scopes=("tools.read", "tools.write", "tools.destructive"),
        intents=None,
        jti="j-1",
        now=now,
        expires_at=now + timedelta(seconds=300),
        jkt=None,
    )
    token = await OwnKeys(Issuer.STS, store, vault, clock).sign(claims, typ=ACCESS_TOKEN_TYP)
    await documents.close()
    return token


async def until(condition: Any, *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.02)


async def slow_calls(tool: CallTool, around: Around, number: int) -> list[asyncio.Task[tuple[int, dict[str, Any]]]]:
    """So many calls that wait for the platform. Not all in one moment: that is overload on a slow machine, and refused as such."""
    waiting: list[asyncio.Task[tuple[int, dict[str, Any]]]] = []
    before = len(around.hits)
    async with asyncio.timeout(120):
        while len(waiting) < number:
            names = [f"t{len(around.hits)}-{index}" for index in range(min(50, number - len(waiting)))]
            batch = [asyncio.create_task(tool.call("warehouse_table_drop", name)) for name in names]
            while len(around.hits) - before + sum(task.done() for task in batch) < len(waiting) + len(batch):
                await asyncio.sleep(0.02)
            assert {task.result()[1]["reason_code"] for task in batch if task.done()} <= {"overloaded"}
            waiting += [task for task in batch if not task.done()]
    return waiting


def outcomes(chains: list[list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    return {event["call"]["id"]: event for chain in chains for event in chain if event["event_type"] == "tool.executed"}


async def test_a_call_under_way_is_told_as_unknown_when_the_process_must_stop(
    emulators: Emulators, tmp_path: Path, project: str, around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(emulators, tmp_path, project, around, monkeypatch) as tool:
        waiting = [asyncio.create_task(tool.call("warehouse_table_drop", f"t{number}")) for number in range(5)]
        await until(lambda: len(around.hits) == 5)
        await asyncio.to_thread(tool.process.stop)
        for status, body in await asyncio.gather(*waiting):
            assert (status, body["reason_code"], body["outcome"]) == (504, "call_outcome_unknown", "unknown")
        chains = await asyncio.to_thread(tool.process.chains)
    events = outcomes(chains)
    assert sorted(events) == [f"t{number}" for number in range(5)]
    for event in events.values():
        assert (event["call"]["outcome"], event["call"]["cause"]) == ("unknown", "interrupted")
    assert chains[0][-1]["event_type"] == "chain.closed"


async def test_a_process_that_is_told_to_stop_waits_for_calls_that_end(
    emulators: Emulators, tmp_path: Path, project: str, around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(emulators, tmp_path, project, around, monkeypatch) as tool:
        waiting = asyncio.create_task(tool.call("warehouse_table_drop", "t1"))
        await until(lambda: around.hits)
        tool.process.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(1)
        around.release.set()
        status, body = await waiting
        assert (status, body["outcome"]) == (200, "done")
        await asyncio.to_thread(tool.process.process.wait, GONE_WITHIN_S)
        assert outcomes(await asyncio.to_thread(tool.process.chains))["t1"]["call"]["outcome"] == "done"


async def test_five_hundred_slow_calls_leave_room_for_others_and_have_a_bound_in_memory(
    emulators: Emulators, tmp_path: Path, project: str, around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    around.answer = json.dumps({"x": "y" * 1_000_000}).encode()  # refused to the slow ones, but read first
    async with running(emulators, tmp_path, project, around, monkeypatch) as tool:
        await tool.call("warehouse_report_open", "r0")
        idle = tool.rss
        slow = await slow_calls(tool, around, 500)
        started = time.monotonic()
        status, body = await tool.call("warehouse_report_open", "r1")
        took = time.monotonic() - started
        assert (status, body["outcome"]) == (200, "done")
        assert took < 2
        around.release.set()
        most = idle
        while not all(task.done() for task in slow):
            most = max(most, tool.rss)
            await asyncio.sleep(0.02)
        answers = await asyncio.gather(*slow)
    assert {status for status, _ in answers} == {502}
    assert most - idle < MEMORY_FOR_CALLS


async def test_many_large_results_at_once_have_a_bound_in_memory(
    emulators: Emulators, tmp_path: Path, project: str, around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects, of which Python makes many times their size: what waits for its record must not be kept as such."""
    around.answer = json.dumps([{"id": number, "name": f"deal {number}"} for number in range(25_000)]).encode()
    assert 900_000 < len(around.answer) < 1_048_576
    async with running(emulators, tmp_path, project, around, monkeypatch) as tool:
        await tool.call("warehouse_report_open", "r")
        idle = most = tool.rss

        async def read(number: int) -> tuple[int, str]:
            status, body = await tool.call("warehouse_report_open", f"r{number}")
            return status, body["outcome"]  # the test keeps none of them

        reading = [asyncio.create_task(read(number)) for number in range(LARGE_RESULTS)]
        while not all(task.done() for task in reading):
            most = max(most, tool.rss)
            await asyncio.sleep(0.02)
        assert {task.result() for task in reading} == {(200, "done")}
    assert most - idle < MEMORY_FOR_RESULTS


async def test_no_outcome_of_five_hundred_calls_is_lost_when_the_process_must_stop(
    emulators: Emulators, tmp_path: Path, project: str, around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(emulators, tmp_path, project, around, monkeypatch) as tool:
        waiting = await slow_calls(tool, around, 500)
        tool.process.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(tool.process.process.wait, 60)
        answers = await asyncio.gather(*waiting)
        (chain,) = await asyncio.to_thread(tool.process.chains)
    assert {(status, body["outcome"]) for status, body in answers} == {(504, "unknown")}
    ended = outcomes([chain])
    assert ended.keys() == set(around.attempts)
    assert len(ended) == 500
    assert {(event["call"]["outcome"], event["call"]["cause"]) for event in ended.values()} == {
        ("unknown", "interrupted")
    }
    assert chain[-1]["event_type"] == "chain.closed"
