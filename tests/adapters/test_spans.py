"""Traces: off and free unless turned on; then a span for each request and each wait, in one trace from caller to provider, without tokens."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.adapters.http.test_client import Server
from tests.adapters.http.test_client import server as server  # noqa: PLC0414  # the fixture
from tests.support.collector import Collector, collecting
from tests.support.functions import ROOT
from tests.support.world import World

from cab.adapters import spans
from cab.adapters.http.client import AiohttpClient
from cab.adapters.open_telemetry import GOOGLE, OpenTelemetry, exporter
from cab.encoding.trace_context import TraceContext, current
from cab.ports import AnswerTooLarge, Conflict, Unavailable

CANARY = "c4n4ry-t0ken-value"
CALLER = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")


@contextmanager
def recording(collector: Collector, *, ratio: float = 1) -> Iterator[OpenTelemetry]:
    sent_to = exporter(collector.url)
    recorder = OpenTelemetry(sent_to, ratio=ratio, service="exchange_token", revision="exchange-token-7", project="p")
    spans.record_with(recorder)
    try:
        yield recorder
    finally:
        spans.record_with(None)


class Store:
    @spans.a_wait("store read")
    async def read(self, token: str) -> str:
        if token == "conflict":
            raise Conflict
        if token != CANARY:
            return token
        raise Unavailable(f"documents, after {token}")


async def test_a_call_to_a_provider_goes_on_in_the_callers_trace_from_the_span_of_the_wait(server: Server) -> None:
    client = AiohttpClient([server.origin], what="provider", allow_loopback_http=True)
    token = current.set(CALLER)
    with collecting() as collector, recording(collector) as recorder:
        with spans.of_request("exchange_token"):
            await client.post_form(f"{server.origin}/token/{CANARY}", {"refresh_token": CANARY})
        await recorder.close()
        found = {it.name: it for it in collector.spans}
    current.reset(token)
    await client.close()
    request, wait = found["exchange_token"], found["provider POST"]
    assert {it.trace_id for it in found.values()} == {CALLER.trace_id}
    assert (request.parent_id, wait.parent_id) == (CALLER.span_id, request.span_id)
    ((_, _, headers, _),) = server.requests
    assert headers["traceparent"] == f"00-{CALLER.trace_id}-{wait.span_id}-01"
    assert wait.facts == {
        "http.request.method": "POST",
        "http.response.status_code": 201,
        "server.address": "127.0.0.1",
    }
    assert request.resource["service.name"] == "exchange_token"
    assert request.resource["gcp.project_id"] == "p"


async def test_no_span_holds_what_was_sent_answered_or_said_by_an_exception(server: Server) -> None:
    """Searched in the bytes that leave, so in every name, attribute, status, event and link."""
    client = AiohttpClient([server.origin], what="provider", allow_loopback_http=True)
    secret = {"Authorization": f"Bearer {CANARY}", "X-Key": CANARY, "traceparent": CANARY}
    with collecting() as collector, recording(collector) as recorder:
        for path in ("/ok", "/reset", "/large", "/redirect"):
            with suppress(Unavailable, AnswerTooLarge), spans.of_request("exchange_token"):
                url = f"{server.origin}{path}?code={CANARY}"
                await client.post_json(url, {"token": CANARY}, headers=dict(secret))
                await Store().read(CANARY)
        with pytest.raises(Unavailable):
            await client.get(f"https://{CANARY}.example/{CANARY}")
        with pytest.raises(ValueError, match=CANARY), spans.of_request("exchange_token"):
            raise ValueError(CANARY)
        await recorder.close()
        sent = b"".join(collector.bodies)
    await client.close()
    assert {"provider POST", "store read", "exchange_token"} <= {it.name for it in collector.spans}
    assert "ValueError" in {it.facts.get("error.type") for it in collector.spans}
    assert CANARY.encode() not in sent


async def test_an_answer_of_a_store_that_is_an_exception_here_is_no_error() -> None:
    with collecting() as collector, recording(collector) as recorder:
        with pytest.raises(Conflict):
            await Store().read("conflict")
        with pytest.raises(Unavailable):
            await Store().read(CANARY)
        await recorder.close()
        assert [it.facts["error.type"] for it in collector.spans] == ["Conflict", "Unavailable"]


@pytest.mark.parametrize(
    ("ratio", "caller_records", "recorded"), [(1, False, True), (1e-9, False, False), (1e-9, True, True)]
)
async def test_a_trace_is_recorded_as_the_ratio_says_or_as_its_caller_does_and_others_are_told(
    ratio: float, caller_records: bool, recorded: bool, server: Server
) -> None:
    """The platform says of nearly every request that it does not record it: that decides nothing."""
    client = AiohttpClient([server.origin], what="provider", allow_loopback_http=True)
    token = current.set(TraceContext(CALLER.trace_id, CALLER.span_id, is_sampled=caller_records))
    with collecting() as collector, recording(collector, ratio=ratio) as recorder:
        with spans.of_request("exchange_token"):
            await client.get(f"{server.origin}/x")
        await recorder.close()
        assert len(collector.spans) == 2 * recorded
    current.reset(token)
    await client.close()
    assert server.requests[0][2]["traceparent"].endswith("-01" if recorded else "-00")


async def test_a_collector_of_somebody_else_gets_no_credentials_of_ours() -> None:
    with collecting() as collector, recording(collector) as recorder:
        with spans.of_request("x"):
            pass
        await recorder.close()
        assert "Authorization" not in collector.headers[0]


def test_google_gets_the_token_of_the_functions_own_account(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def default(**wanted: object) -> tuple[object, str]:
        asked.append(wanted["scopes"])
        return object(), "p"

    monkeypatch.setattr("google.auth.default", default)
    exporter(f"https://{GOOGLE}/v1/traces").shutdown()
    assert asked == [["https://www.googleapis.com/auth/cloud-platform"]]


async def test_without_a_collector_requests_are_answered_all_the_same() -> None:
    sent_to = exporter("http://127.0.0.1:9/v1/traces")
    recorder = OpenTelemetry(sent_to, ratio=1, service="x", revision="1", project="p")
    spans.record_with(recorder)
    try:
        with spans.of_request("x") as span:
            span.note("cab.txn", "t")
    finally:
        spans.record_with(None)
    sent_to.shutdown()
    await recorder.close()


async def test_of_an_exchange_every_function_leaves_its_span_and_none_of_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorders: list[OpenTelemetry] = []

    def record_with(recorder: OpenTelemetry) -> None:
        recorders.append(recorder)
        spans._Recording.by = recorder

    monkeypatch.setattr(spans, "record_with", record_with)
    monkeypatch.setattr(spans._Recording, "by", None)
    with collecting() as collector:
        world = World(scratch=tmp_path, CAB_TRACE_RATIO="1", CAB_TRACE_ENDPOINT=collector.url)
        answer = await world.exchange()
        assert answer.status == 200
        for recorder in recorders:
            await recorder.close()
        sent = b"".join(collector.bodies)
    assert {"mint_assertion", "exchange_token"} <= {it.name for it in collector.spans}
    assert dict(answer.headers)["cab-txn"] in {it.facts.get("cab.txn") for it in collector.spans}
    assert world.secrets_seen
    leaked = [secret for secret in world.secrets_seen if secret.encode() in sent or secret[:12].encode() in sent]
    assert not leaked


OFF = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("main", "functions/exchange_token/main.py")
spec.loader.exec_module(importlib.util.module_from_spec(spec))
print(*sorted(name for name in sys.modules if name.startswith(("opentelemetry", "cab.adapters.open_telemetry"))))
"""


def test_turned_off_nothing_of_it_is_loaded(tmp_path: Path) -> None:
    environment = World(scratch=tmp_path).environment | {"PYTHONPATH": str(ROOT / "shared")}
    done = subprocess.run(
        [sys.executable, "-c", OFF], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_turned_off_a_wait_is_the_method_itself_and_a_span_the_same_object_for_all() -> None:
    assert spans.of_request("a") is spans.waiting_for("b")
    coroutine = Store().read("x")
    assert getattr(coroutine, "__qualname__", "") == "Store.read", "no second coroutine around it"
    coroutine.close()
