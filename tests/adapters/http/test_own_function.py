"""The client for our own functions: one configured origin, checked addresses, capped in size and time, and what it keeps open."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from tests.adapters.http.resolving import BY_ADDRESS, leading_to
from tests.adapters.http.serving import serving

from cab.adapters.http.own_function import OwnFunction
from cab.encoding.trace_context import TraceContext, current
from cab.ports import AnswerTooLarge, SendFailed, Unavailable


@dataclass
class Function:
    """One of ours, on loopback. `connections` are those that requests came on."""

    origin: str = ""
    requests: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    connections: set[int] = field(default_factory=set)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername")[1])
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((request.path, headers, json.loads(await request.read())))
        match request.path:
            case "/large":
                return web.Response(body=b"x" * 200_000)
            case "/hang":
                await asyncio.Event().wait()
            case "/reset":
                request.transport.abort()
            case "/elsewhere":
                return web.Response(status=307, headers={"Location": f"{self.origin}/x"})
            case "/parts" | "/refused-in-parts" | "/cut" | "/hang-midway" | "/long-line":
                return await self._in_parts(request)
            case "/busy":
                return web.Response(status=429, text="{}", headers={"Retry-After": "7"})
        return web.json_response({"answered": True})

    async def _in_parts(self, request: web.Request) -> web.StreamResponse:
        """The first line in pieces; the rest when the test says so."""
        answer = web.StreamResponse(status=403 if request.path == "/refused-in-parts" else 200)
        await answer.prepare(request)
        long = b"x" * 200_000 if request.path == "/long-line" else b""
        for piece in (b'{"first"', long + b":1}\n", b'{"la'):
            await answer.write(piece)
            await asyncio.sleep(0.01)
        if request.path == "/cut":
            assert request.transport is not None
            request.transport.abort()
            return answer
        if request.path == "/hang-midway":
            await asyncio.Event().wait()
        await self.go_on.wait()
        await answer.write(b'st":2}\n')
        return answer


@pytest.fixture
async def function() -> AsyncIterator[Function]:
    function = Function()
    async with serving(function.handle) as function.origin:
        yield function


@pytest.fixture
async def client(function: Function) -> AsyncIterator[OwnFunction]:
    client = OwnFunction(function.origin, what="decisions", allow_loopback_http=True)
    yield client
    await client.close()


async def test_it_posts_json_with_the_callers_headers_and_gives_status_headers_and_body(
    function: Function, client: OwnFunction
) -> None:
    answer = await client.post_json(f"{function.origin}/internal", {"a": "ä"}, headers={"Authorization": "Bearer t"})
    assert (answer.status, json.loads(answer.body)) == (200, {"answered": True})
    assert answer.headers["content-type"].startswith("application/json")
    ((path, headers, body),) = function.requests
    assert (path, body) == ("/internal", {"a": "ä"})
    assert headers["authorization"] == "Bearer t"
    assert headers["content-type"] == "application/json"
    assert headers["accept-encoding"] == "identity"
    assert headers["host"] == function.origin.removeprefix("http://")


async def test_what_a_busy_function_says_of_coming_back_is_heard(function: Function, client: OwnFunction) -> None:
    assert (await client.post_json(f"{function.origin}/busy", {})).retry_after_s == 7
    assert (await client.post_json(f"{function.origin}/x", {})).retry_after_s is None  # on the same connection


async def test_requests_one_after_another_share_a_connection_and_those_at_once_do_not(
    function: Function, client: OwnFunction
) -> None:
    for _ in range(3):
        await client.post_json(f"{function.origin}/x", {})
    assert len(function.connections) == 1
    await asyncio.gather(*(client.post_json(f"{function.origin}/x", {}) for _ in range(3)))
    assert len(function.connections) == 3


async def test_no_more_connections_are_open_than_allowed(function: Function) -> None:
    client = OwnFunction(function.origin, what="decisions", allow_loopback_http=True, connections=2)
    await asyncio.gather(*(client.post_json(f"{function.origin}/x", {}) for _ in range(8)))
    assert (len(function.connections), len(function.requests)) == (2, 8)
    await client.close()


async def test_a_redirect_is_not_followed(function: Function, client: OwnFunction) -> None:
    assert (await client.post_json(f"{function.origin}/elsewhere", {})).status == 307
    assert len(function.requests) == 1


@pytest.mark.parametrize("url", ["{0}.example/x", "{0}@evil.example/x", "http://127.0.0.1:1/x", "{0}", "https://x/y"])
async def test_it_reaches_its_own_origin_and_no_other(function: Function, client: OwnFunction, url: str) -> None:
    with pytest.raises(SendFailed) as failed:
        await client.post_json(url.format(function.origin), {})
    assert not failed.value.may_have_arrived
    assert not function.requests


async def test_only_where_loopback_is_allowed_anything_is_sent_in_clear(function: Function) -> None:
    for url, allowed in ((function.origin, False), ("http://decides.example", True)):
        client = OwnFunction(url, what="decisions", allow_loopback_http=allowed)
        with pytest.raises(SendFailed) as failed:
            await client.post_json(f"{url}/x", {})
        assert not failed.value.may_have_arrived
    assert not function.requests


@BY_ADDRESS
async def test_a_name_leads_only_to_addresses_that_may_be_reached(
    monkeypatch: pytest.MonkeyPatch, address: str, named: bool, reached: bool
) -> None:
    tried = leading_to(monkeypatch, address)
    client = OwnFunction(
        "https://decides.example", what="decisions", private_hosts=["decides.example"] if named else []
    )
    with pytest.raises(Unavailable):
        await client.post_json("https://decides.example/x", {})
    assert tried == ([(address, 443, "decides.example", True)] if reached else [])


async def test_an_answer_beyond_the_limit_is_not_passed_on(function: Function, client: OwnFunction) -> None:
    with pytest.raises(AnswerTooLarge):
        await client.post_json(f"{function.origin}/large", {})
    assert (await client.post_json(f"{function.origin}/large", {}, max_bytes=200_000)).status == 200


@pytest.mark.parametrize("path", ["/hang", "/reset"])
async def test_an_answer_that_does_not_come_is_an_outage(function: Function, client: OwnFunction, path: str) -> None:
    with pytest.raises(Unavailable) as failed:
        await client.post_json(f"{function.origin}{path}", {}, timeout_s=0.2)
    assert failed.value.what == "decisions"
    assert (await client.post_json(f"{function.origin}/x", {})).status == 200


async def test_the_first_line_is_told_once_when_it_has_come_and_the_whole_at_the_end(
    function: Function, client: OwnFunction
) -> None:
    told: asyncio.Queue[bytes] = asyncio.Queue()
    asking = asyncio.create_task(client.post_json(f"{function.origin}/parts", {}, first_line=told.put_nowait))
    assert await asyncio.wait_for(told.get(), 5) == b'{"first":1}'
    assert not asking.done()
    function.go_on.set()
    assert (await asking).body == b'{"first":1}\n{"last":2}\n'
    assert told.empty()
    again = await client.post_json(f"{function.origin}/x", {}, first_line=told.put_nowait)
    assert (again.status, told.empty(), len(function.connections)) == (200, True, 1)  # one part, on the same connection
    await client.post_json(f"{function.origin}/parts", {})  # nobody wants to hear it
    assert told.empty()


async def test_a_first_line_is_told_to_its_own_request_whoever_opened_the_connection(
    function: Function, client: OwnFunction
) -> None:
    """So that what it says of waits is not counted for another."""
    asks: ContextVar[str] = ContextVar("asks")
    told: list[tuple[str, bytes]] = []
    function.go_on.set()

    async def ask(name: str) -> None:
        asks.set(name)
        await client.post_json(f"{function.origin}/parts", {}, first_line=lambda line: told.append((asks.get(), line)))

    for name in ("alice", "bob"):
        await asyncio.create_task(ask(name))
    assert told == [("alice", b'{"first":1}'), ("bob", b'{"first":1}')]
    assert len(function.connections) == 1


@pytest.mark.parametrize("path", ["/cut", "/hang-midway"])
async def test_an_answer_that_breaks_off_after_its_first_line_is_none(
    function: Function, client: OwnFunction, path: str
) -> None:
    told: list[bytes] = []
    with pytest.raises(SendFailed) as failed:
        await client.post_json(f"{function.origin}{path}", {}, first_line=told.append, timeout_s=0.3)
    assert failed.value.may_have_arrived
    assert told == [b'{"first":1}']
    assert (await client.post_json(f"{function.origin}/x", {})).status == 200


async def test_a_first_line_of_a_refusal_or_beyond_all_bounds_is_not_told(
    function: Function, client: OwnFunction
) -> None:
    told: list[bytes] = []
    function.go_on.set()
    await client.post_json(f"{function.origin}/refused-in-parts", {}, first_line=told.append)
    with pytest.raises(AnswerTooLarge):
        await client.post_json(f"{function.origin}/long-line", {}, first_line=told.append)
    assert told == []


async def test_the_trace_goes_on(function: Function, client: OwnFunction) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    token = current.set(TraceContext("a" * 32, "b" * 16, is_sampled=True))
    try:
        await client.post_json(f"{function.origin}/x", {})
    finally:
        current.reset(token)
    assert function.requests[0][1]["traceparent"] == trace


async def test_a_header_can_add_no_line(function: Function, client: OwnFunction) -> None:
    with pytest.raises(ValueError, match="one line"):
        await client.post_json(f"{function.origin}/x", {}, headers={"Authorization": "Bearer t\r\nX: y"})
    assert not function.requests
