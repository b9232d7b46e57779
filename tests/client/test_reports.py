"""A resource tells the broker what came of each token, beside its answers: no answer waits for it, changes or fails by it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from starlette.applications import Starlette
from tests.client.test_resource import (
    CHANGE,
    GOOD,
    INTENT,
    ISSUER,
    RESOURCE,
    RULES,
    Reached,
    body,
    fetching,
    token_for,
)

from cab_client.aiohttp import cab_middleware
from cab_client.reports import OutcomeReporter
from cab_client.resource import CabResource, Caller, Gate, Telling
from cab_client.testing import FakeBroker
from cab_client.values import Secret


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    fake = FakeBroker(connections={"crm": RESOURCE, "other": "https://erp.acme.example"})
    fake.permit("crm.opportunity.update", "crm.opportunity.delete")
    fake.report_as("crm-api", RESOURCE)
    with fake.installed():
        yield fake


def said(fake: FakeBroker, reporter: OutcomeReporter) -> list[tuple[Any, ...]]:
    assert reporter.flush(10)
    return [(one["observed_by"], one["outcome"], one.get("upstream_status")) for one in fake.outcomes]


def bearer(fake: FakeBroker) -> dict[str, str]:
    return {"Authorization": f"Bearer {token_for(fake, INTENT)}"}


class Slow(FakeBroker):
    """A broker that takes a report only when it is let."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.let = threading.Event()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/oauth2/outcomes":
            assert self.let.wait(20)
        return super().handle_request(request)


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_what_was_answered_is_reported_by_the_resource(broker: FakeBroker, kind: str) -> None:
    reporter = broker.reporter("crm-api")
    reached = Reached(broker, reporter=reporter)
    assert reached.ask(kind, **GOOD, headers=bearer(broker)).status_code == 200
    assert said(broker, reporter) == [("resource", "done", 200)]


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_a_request_that_the_token_was_not_made_for_is_reported_as_rejected(broker: FakeBroker, kind: str) -> None:
    reporter = broker.reporter("crm-api")
    reached = Reached(broker, reporter=reporter)
    headers = bearer(broker)
    for request in (body(amount_cents=1), {"method": "PUT", "url": f"{RESOURCE}/elsewhere"}):
        assert reached.ask(kind, **request, headers=headers).status_code == 403
    assert reached.seen == []
    assert said(broker, reporter) == [("resource", "rejected", 403)]


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_who_proves_nothing_is_not_reported_on(broker: FakeBroker, kind: str) -> None:
    """Strangers, and tokens of other resources: else anybody could write in the record through us."""
    reporter = broker.reporter("crm-api")
    reached = Reached(broker, reporter=reporter)
    good = bearer(broker)["Authorization"]
    for headers in (
        {},
        {"Authorization": f"{good}x"},
        {"Authorization": "Bearer x"},
        {"Authorization": f"DPoP {good}"},
    ):
        assert reached.ask(kind, **GOOD, headers=headers).status_code == 401
    assert said(broker, reporter) == []
    assert reporter.lost == 0


def test_a_token_used_again_is_reported_once_for_each_different_answer(broker: FakeBroker) -> None:
    """An agent that repeats a request a thousand times does not write a thousand events."""
    reporter = broker.reporter("crm-api")
    caller = Caller({"jti": "1", "client_id": "sales-assistant", "sub": "alice"})
    token = Secret(token_for(broker, INTENT))
    for _ in range(300):
        for status in (503, 200):
            reporter.tell(token, caller, status)
    assert sorted(said(broker, reporter)) == [("resource", "done", 200), ("resource", "failed", 503)]


@pytest.mark.parametrize("status", [301, 404, 500, None])
def test_each_answer_has_its_word(broker: FakeBroker, status: int | None) -> None:
    reporter = broker.reporter("crm-api")
    reporter.tell(Secret(token_for(broker, INTENT)), Caller({"jti": "1", "client_id": "a", "sub": "b"}), status)
    word = {301: "done", 404: "rejected", 500: "failed", None: "unknown"}[status]
    assert said(broker, reporter) == [("resource", word, status)]


def test_no_answer_waits_for_the_broker(caplog: pytest.LogCaptureFixture) -> None:
    """Nor does what waits grow: beyond its bound reports are lost, counted and logged, and requests go on."""
    slow = Slow(connections={"crm": RESOURCE})
    slow.permit("crm.opportunity.update")
    slow.report_as("crm-api", RESOURCE)
    with slow.installed():
        reporter = slow.reporter("crm-api", waiting=3)
        reached = Reached(slow, reporter=reporter)
        tokens = [bearer(slow) for _ in range(12)]
        for headers in tokens:
            assert reached.ask("asgi", **GOOD, headers=headers).status_code == 200
        assert slow.outcomes == []
        assert not reporter.flush(0.05)
        slow.let.set()
        told = len(said(slow, reporter))
    assert 3 <= told <= 3 + 4  # in the queue, and in the hands of the threads
    assert reporter.lost == 12 - told
    lines = [one for one in caplog.records if one.name == "cab_client.reports"]
    assert [one.levelname for one in lines] == ["WARNING"]  # once in a minute, not once for each
    assert lines[0].__dict__["cab"]["why"] == "too_many_waiting"


@pytest.mark.parametrize("stranger", ["unregistered", "another-resource"])
def test_a_broker_that_does_not_take_it_costs_a_report_and_nothing_else(broker: FakeBroker, stranger: str) -> None:
    broker.report_as("another-resource", "https://erp.acme.example")
    reporter = broker.reporter(stranger)
    reached = Reached(broker, reporter=reporter)
    assert reached.ask("asgi", **GOOD, headers=bearer(broker)).status_code == 200
    assert said(broker, reporter) == []
    assert reporter.lost == 1


def test_a_broker_that_is_down_for_a_moment_is_asked_again(broker: FakeBroker) -> None:
    reporter = broker.reporter("crm-api")
    token = Secret(token_for(broker, INTENT))
    broker.down = 2
    reporter.tell(token, Caller({"jti": "1", "client_id": "a", "sub": "b"}), 200)
    assert said(broker, reporter) == [("resource", "done", 200)]


def test_a_bug_in_a_report_ends_no_thread(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    reporter = broker.reporter("crm-api")
    token = Secret(token_for(broker, INTENT))
    callers = [Caller({"jti": str(number), "client_id": "a", "sub": "b"}) for number in range(9)]
    with monkeypatch.context() as broken:
        broken.setattr(reporter._broker, "report", lambda *_, **__: 1 // 0)
        for caller in callers[:8]:
            reporter.tell(token, caller, 200)
        assert reporter.flush(10)
    assert reporter.lost == 8
    reporter.tell(token, callers[8], 200)
    assert said(broker, reporter) == [("resource", "done", 200)]


def test_a_machine_without_threads_to_spare_breaks_no_request(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = broker.reporter("crm-api", waiting=2)
    token = Secret(token_for(broker, INTENT))
    callers = [Caller({"jti": str(number), "client_id": "a", "sub": "b"}) for number in range(4)]

    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without:
        without.setattr(threading.Thread, "start", none)
        for caller in callers[:3]:
            reporter.tell(token, caller, 200)
        assert reporter.lost == 1
    reporter.tell(token, callers[3], 404)  # which is one too many, and brings the threads that tell the others
    assert reporter.flush(10)
    assert len(broker.outcomes) + reporter.lost == 4
    assert len(broker.outcomes) >= 2


def test_an_application_that_fails_is_reported_as_what_nobody_can_know(broker: FakeBroker) -> None:
    reporter = broker.reporter("crm-api")
    how: dict[str, Any] = {"issuer": ISSUER, "resource": RESOURCE, "rules": RULES, "fetch": fetching(broker)}

    def fails(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise LookupError

    async def fails_too(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError

    for kind, app in (("wsgi", fails), ("asgi", fails_too)):
        reached = Reached(broker)
        setattr(reached, kind, CabResource(app, reporter=reporter, **how))
        with pytest.raises(LookupError):
            reached.ask(kind, **GOOD, headers=bearer(broker))
    assert said(broker, reporter) == [("resource", "unknown", None)] * 2


def test_a_wsgi_answer_that_begins_late_or_fails_on_its_way_is_told_when_the_server_closes_it(
    broker: FakeBroker,
) -> None:
    reporter = broker.reporter("crm-api")
    closed: list[bool] = []

    class Late:
        def __init__(self, start: Callable[..., Any]) -> None:
            self._start = start

        def __iter__(self) -> Iterator[bytes]:
            self._start("201 Created", [])
            yield b"{}"

        def close(self) -> None:
            closed.append(True)

    app = CabResource(
        lambda _, start: Late(start),
        issuer=ISSUER,
        resource=RESOURCE,
        rules=RULES,
        fetch=fetching(broker),
        reporter=reporter,
    )
    reached = Reached(broker)
    reached.wsgi = app
    assert reached.ask("wsgi", **GOOD, headers=bearer(broker)).status_code == 201
    gc.collect()
    assert closed == [True]
    assert said(broker, reporter) == [("resource", "done", 201)]


@pytest.mark.parametrize("kind", ["the gate in front", "a gate that the routes ask"])
async def test_before_the_server_stops_what_waits_is_told(broker: FakeBroker, kind: str) -> None:
    """uvicorn ends by the signal that it was stopped with: no exit handler runs after that."""
    reporter = broker.reporter("crm-api")
    gate = Gate(issuer=ISSUER, resource=RESOURCE, reporter=reporter)
    app = Reached(broker, reporter=reporter).asgi if kind == "the gate in front" else Telling(Starlette(), gate)
    sent: list[str] = []
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    token = Secret(await asyncio.to_thread(token_for, broker, INTENT))

    async def receive() -> dict[str, Any]:
        message = next(messages)
        if message["type"] == "lifespan.shutdown":
            reporter.tell(token, Caller({"jti": "1", "client_id": "a", "sub": "b"}), 200)
        return message

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "lifespan.shutdown.complete":
            assert [one["outcome"] for one in broker.outcomes] == ["done"]
        sent.append(message["type"])

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_a_worker_that_was_forked_reports_by_threads_of_its_own(broker: FakeBroker) -> None:
    """As servers do that load the application first. What waited in the parent is the parent's to tell."""
    reporter = broker.reporter("crm-api")
    token = Secret(token_for(broker, INTENT))
    reporter.tell(token, Caller({"jti": "parent", "client_id": "a", "sub": "b"}), 200)
    assert reporter.flush(10)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        reporter.tell(token, Caller({"jti": "child", "client_id": "a", "sub": "b"}), 404)
        told = reporter.flush(10) and [one["outcome"] for one in broker.outcomes] == ["done", "rejected"]
        os.write(write, b"told" if told else b"lost")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 4) == b"told"
    os.close(read)
    os.close(write)


async def test_aiohttp_reports_what_it_answered(broker: FakeBroker) -> None:
    reporter = broker.reporter("crm-api")

    async def gone(_: web.Request) -> web.Response:
        raise web.HTTPGone

    guard = cab_middleware(issuer=ISSUER, resource=RESOURCE, rules=RULES, fetch=fetching(broker), reporter=reporter)
    app = web.Application(middlewares=[guard])
    app.router.add_patch("/opportunities/{id}", gone)
    headers = await asyncio.to_thread(bearer, broker) | {"Host": "crm.acme.example"}
    async with TestClient(TestServer(app)) as client:
        assert (await client.patch("/opportunities/0061", json=CHANGE, headers=headers)).status == 410
    assert await asyncio.to_thread(said, broker, reporter) == [("resource", "rejected", 410)]


def test_what_waits_shows_no_token(broker: FakeBroker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    reporter = broker.reporter("unregistered")
    token = token_for(broker, INTENT)
    reached = Reached(broker, reporter=reporter)
    reached.ask("asgi", **GOOD, headers={"Authorization": f"Bearer {token}"})
    reporter.tell(Secret(token), Caller({"jti": "1", "client_id": "a", "sub": "b"}), 200)
    shown = f"{reporter!r} {vars(reporter)} {list(reporter._queue.queue)}"
    assert reporter.flush(10)
    assert token not in shown + caplog.text
    assert reporter.lost == 2


def test_telling_takes_less_time_than_anybody_could_notice(broker: FakeBroker) -> None:
    slow = Slow(connections={"crm": RESOURCE})
    with slow.installed():
        reporter = slow.reporter("crm-api")
        callers = [Caller({"jti": str(number), "client_id": "a", "sub": "b"}) for number in range(500)]
        began = time.thread_time()
        for caller in callers:
            reporter.tell(Secret("a.b.c"), caller, 200)
        assert time.thread_time() - began < 0.1
        slow.let.set()
        assert reporter.flush(20)
