"""Calls of platforms: sent once and exactly as rendered, read as generously as aiohttp reads, under the rules for everything outside."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web
from tests.adapters.http.resolving import BY_ADDRESS, leading_to
from tests.adapters.http.serving import serving
from tests.adapters.http.test_client import ELSEWHERE, Server
from tests.adapters.http.test_client import server as server  # noqa: PLC0414  # the fixture
from tests.adapters.http.test_published import BROKEN, CHUNKED, ODD, OK, writing

from cab.adapters.http import platforms
from cab.adapters.http.client import AiohttpClient
from cab.adapters.http.platforms import Platforms
from cab.encoding.trace_context import TraceContext, current
from cab.ports import AnswerTooLarge, HttpAnswer, SendFailed

LARGE = 1_000_000  # more than a loop reads at once


def calling(*origins: str, **options: Any) -> Platforms:
    return Platforms(origins, what="provider", **{"allow_loopback_http": True} | options)


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Platforms]:
    client = calling(server.origin)
    yield client
    await client.close()


async def send(client: Platforms, url: str, method: str = "GET", **changes: Any) -> HttpAnswer:
    asked: dict[str, Any] = {"body": None, "headers": {}, "timeout_s": 5, "max_bytes": LARGE}
    return await client.send(method, url, **asked | changes)


@asynccontextmanager
async def raw(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """The origin of a server that does this on each connection."""
    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    listening.close()


# --- what is sent ---


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
async def test_any_method_goes_out_with_exactly_its_url_and_body(
    server: Server, client: Platforms, method: str
) -> None:
    path = "/a%2Fb/%7E?x=%20+~&y="
    body = None if method in ("GET", "HEAD") else b'{"a":1}'
    answer = await send(client, server.origin + path, method, body=body, headers={"Content-Type": "application/json"})
    assert (answer.status, answer.headers["x-two-words"]) == (201, "kept")
    assert answer.body == (b"" if method == "HEAD" else b"answered")
    assert [(sent[0], sent[1], sent[3]) for sent in server.requests] == [(method, path, body or b"")]


async def test_a_request_has_the_headers_of_its_call_and_those_of_every_request(
    server: Server, client: Platforms
) -> None:
    headers = {"Authorization": "Bearer x", "Accept": "text/plain", "X-Name": "é"}
    await send(client, f"{server.origin}/a", "POST", headers=headers)
    await send(client, server.origin)
    (_, _, posted, _), (_, path, got, _) = server.requests
    host = server.origin.removeprefix("http://")
    always = {"Host": host, "User-Agent": "cab/0.1", "Accept-Encoding": "identity"}
    assert posted == headers | always | {"Content-Length": "0"}
    assert (path, got) == ("/", always | {"Accept": "*/*"})


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/a b", {}),
        ("/a\r\nx: y", {}),
        ("/é", {}),
        ("/a", {"X": "a\r\nB: c"}),
        ("/a", {"X\nB": "c"}),
        ("/a", {"X": "a\0"}),
    ],
)
async def test_what_would_be_another_request_is_not_sent(
    server: Server, client: Platforms, path: str, headers: dict[str, str]
) -> None:
    with pytest.raises(SendFailed) as failed:
        await send(client, server.origin + path, headers=headers)
    assert not failed.value.may_have_arrived
    assert server.requests == []


async def test_the_trace_of_the_request_under_way_is_sent_on_unless_the_call_has_one(
    server: Server, client: Platforms
) -> None:
    trace = TraceContext("0123456789abcdef0123456789abcdef", "00f067aa0ba902b7", is_sampled=True)
    token = current.set(trace)
    try:
        await send(client, f"{server.origin}/a")
        await send(client, f"{server.origin}/b", headers={"traceparent": "its own"})
    finally:
        current.reset(token)
    assert [headers["traceparent"] for _, _, headers, _ in server.requests] == [trace.traceparent, "its own"]


# --- how often ---


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_what_breaks_on_a_kept_connection_is_not_sent_again(
    server: Server, client: Platforms, method: str
) -> None:
    url = f"{server.origin}/drop-once"
    await send(client, url)
    with pytest.raises(SendFailed) as failed:
        await send(client, url, method)
    assert failed.value.may_have_arrived
    assert len(server.requests) == 2


@pytest.mark.parametrize(("kept", "connections"), [(True, 1), (False, 3)])
async def test_connections_are_shared_by_reads_and_never_by_writes(kept: bool, connections: int) -> None:
    seen: set[Any] = set()
    closes: list[str | None] = []

    async def handle(request: web.Request) -> web.Response:
        assert request.transport is not None
        seen.add(request.transport.get_extra_info("peername"))
        closes.append(request.headers.get("Connection"))
        return web.Response(text="{}")

    async with serving(handle) as origin:
        client = calling(origin, keep_alive=kept)
        for method in ("GET", "POST", "GET"):
            await send(client, f"{origin}/a", method)
        await client.close()
    assert len(seen) == connections
    assert closes == [None if kept else "close"] * 3


# --- what nobody heard ---


async def test_a_connection_that_breaks_may_have_carried_the_request(server: Server, client: Platforms) -> None:
    with pytest.raises(SendFailed) as failed:
        await send(client, f"{server.origin}/reset", "POST", body=b"{}")
    assert (failed.value.what, failed.value.may_have_arrived) == ("provider", True)


@pytest.mark.parametrize("kept", [True, False])
async def test_a_refused_connection_has_carried_nothing(kept: bool) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        client = calling(origin, keep_alive=kept)
        with pytest.raises(SendFailed) as failed:
            await send(client, f"{origin}/a", "POST", body=b"{}")
        await client.close()
    assert not failed.value.may_have_arrived


@pytest.mark.parametrize("waits_for", ["getaddrinfo", "create_connection"])
async def test_a_name_or_a_connection_that_takes_too_long_has_carried_nothing(
    waits_for: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forever(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    leading_to(monkeypatch, "199.36.153.4")
    monkeypatch.setattr(asyncio.get_running_loop(), waits_for, forever)
    monkeypatch.setattr(platforms, "CONNECT_TIMEOUT_S", 0.05)
    client = calling("https://api.test")
    started = asyncio.get_running_loop().time()
    with pytest.raises(SendFailed) as failed:
        await send(client, "https://api.test/x", "POST", body=b"{}", timeout_s=30)
    assert asyncio.get_running_loop().time() - started < 5
    await client.close()
    assert not failed.value.may_have_arrived


@pytest.mark.parametrize("path", ["/hang", "/drip"])
async def test_the_time_is_for_the_whole_answer(server: Server, client: Platforms, path: str) -> None:
    started = asyncio.get_running_loop().time()
    with pytest.raises(SendFailed) as failed:
        await send(client, f"{server.origin}{path}", timeout_s=0.3)
    assert asyncio.get_running_loop().time() - started < 3
    assert failed.value.may_have_arrived


# --- where it goes ---


@pytest.mark.parametrize("url", ELSEWHERE)
async def test_another_origin_than_the_configured_ones_is_never_called(
    server: Server, client: Platforms, url: str
) -> None:
    await send(client, f"{server.origin}/a")  # from now on, the origin is known as one that may be called
    server.requests.clear()
    with pytest.raises(SendFailed) as failed:
        await send(client, url.format(host=server.origin.removeprefix("http://")))
    assert not failed.value.may_have_arrived
    assert server.requests == []


async def test_a_redirect_is_an_answer_and_cookies_are_not_kept(server: Server, client: Platforms) -> None:
    assert (await send(client, f"{server.origin}/redirect")).status == 302
    await send(client, f"{server.origin}/cookie")
    await send(client, f"{server.origin}/after")
    assert [(path, headers.get("Cookie")) for _, path, headers, _ in server.requests] == [
        ("/redirect", None),
        ("/cookie", None),
        ("/after", None),
    ]


@BY_ADDRESS
@pytest.mark.parametrize("kept", [True, False])
async def test_a_name_leads_only_to_addresses_that_may_be_reached(
    monkeypatch: pytest.MonkeyPatch, kept: bool, address: str, named: bool, reached: bool
) -> None:
    """Judged at connect time, each time: a name may lead elsewhere by then."""
    tried = leading_to(monkeypatch, address)
    client = calling("https://api.test", keep_alive=kept, private_hosts=["api.test"] if named else [])
    with pytest.raises(SendFailed) as failed:
        await send(client, "https://api.test/a")
    await client.close()
    assert not failed.value.may_have_arrived
    assert tried == ([(address, 443, "api.test", True)] if reached else [])


@pytest.mark.parametrize(
    "origin",
    ["http://example.test", "http://127.0.0.1:9", "https://127.0.0.1:9", "https://169.254.169.254", "https://[::1]:9"],
)
async def test_no_plain_http_and_no_inner_address_is_called_even_when_it_is_configured(
    monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    async def resolve(*_: Any, **__: Any) -> None:
        raise AssertionError("not even looked up")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    with pytest.raises(SendFailed) as failed:
        await send(calling(origin, allow_loopback_http=False), f"{origin}/a")
    assert not failed.value.may_have_arrived


# --- what comes back ---


@pytest.mark.parametrize("answer", [*ODD.values(), *BROKEN.values()], ids=[*ODD, *BROKEN])
async def test_an_answer_is_what_aiohttp_reads_of_it_or_none(answer: bytes) -> None:
    read: list[tuple[int, bytes, str | None] | None] = []
    async with writing(answer) as origin:
        aiohttp = AiohttpClient([origin], what="provider", allow_loopback_http=True)
        ours = calling(origin)
        for asking in (aiohttp.get(f"{origin}/a", timeout_s=2), send(ours, f"{origin}/a", timeout_s=2)):
            try:
                got = await asking
            except SendFailed:
                read.append(None)
            else:
                read.append((got.status, got.body, got.headers.get("content-type")))
        await aiohttp.close()
        await ours.close()
    assert read[0] == read[1]


async def test_what_follows_the_body_is_no_header_and_an_encoded_body_stays_so(
    server: Server, client: Platforms
) -> None:
    async with writing(CHUNKED + b"2\r\n{}\r\n0\r\nContent-Type: text/html\r\n\r\n") as origin:
        other = calling(origin)
        answer = await send(other, f"{origin}/a")
        await other.close()
    assert (answer.body, "content-type" in answer.headers) == (b"{}", False)
    assert (await send(client, f"{server.origin}/gzip")).body == b"\x1f\x8b not really"


async def test_a_head_without_body_may_declare_any_length(server: Server, client: Platforms) -> None:
    answer = await send(client, f"{server.origin}/large", "HEAD", max_bytes=10)
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "200000", b"")
    assert (await send(client, f"{server.origin}/a")).status == 201


async def test_an_answer_beyond_the_limit_is_refused_before_it_is_read_where_it_says_so(
    server: Server, client: Platforms
) -> None:
    with pytest.raises(AnswerTooLarge) as refused:
        await send(client, f"{server.origin}/large", max_bytes=199_999)
    assert (refused.value.size, refused.value.status) == (200_000, 200)
    assert len((await send(client, f"{server.origin}/large", max_bytes=200_000)).body) == 200_000
    async with writing(OK + b"\r\n" + b"x" * 1001) as origin:
        other = calling(origin)
        with pytest.raises(AnswerTooLarge) as refused:
            await send(other, f"{origin}/a", max_bytes=1000)
        await other.close()
    assert (refused.value.size, refused.value.status) == (None, 200)


async def sent_without_end(start: bytes, part: bytes, *refusals: type[Exception]) -> int:
    """How many bytes a server could send, whose answer the client refuses in one of these ways."""
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(start)
        while not writer.transport.is_closing():
            writer.write(part)
            sent += len(part)
            await writer.drain()

    async with raw(serve) as origin:
        client = calling(origin)
        with pytest.raises(refusals):
            await send(client, f"{origin}/a")
        await client.close()
    return sent


@pytest.mark.parametrize("start", [OK, OK + b"\r\n", CHUNKED + b"fffffff\r\n"])
async def test_what_never_ends_is_not_kept_in_memory(start: bytes) -> None:
    sent = await sent_without_end(start, b"X: y\r\n" * 10_000, SendFailed, AnswerTooLarge)
    assert sent < 30_000_000  # what lies in the kernel's buffers included


async def test_what_follows_the_body_is_bounded_as_what_precedes_it() -> None:
    """The parser keeps a trailer until its end, and nobody else counts it."""
    sent = await sent_without_end(CHUNKED + b"2\r\n[]\r\n0\r\nX: ", b"y" * 60_000, SendFailed)
    assert sent < 10_000_000  # what lies in the kernel's buffers included


async def test_a_body_in_smallest_parts_takes_no_more_memory_than_it_is_long() -> None:
    async with writing(CHUNKED + b"2\r\n[]\r\n" * (LARGE // 20) + b"0\r\n\r\n") as origin:
        client = calling(origin)
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        answer = await send(client, f"{origin}/a")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await client.close()
    assert len(answer.body) == LARGE // 10
    assert most - before < LARGE  # its parts by themselves are 2.5 million


# --- how much at once ---


class _Slow:
    """Sends a large answer, but for its last byte, which comes when it is told so. Declared or not, in one piece or in many."""

    def __init__(self, *, declares: bool) -> None:
        self.declares = declares
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        size = 10 if path == b"/small" else LARGE
        writer.write(OK + (b"Content-Length: %d\r\n" % size if self.declares else b"Connection: close\r\n") + b"\r\n")
        writer.write(b"x" * (size - 1))
        self.begun.set()
        if path == b"/held":
            await self.may_end.wait()
        writer.write(b"x")
        writer.close()


@pytest.mark.parametrize("declares", [True, False])
@pytest.mark.parametrize("ends", ["answered", "given up"])
async def test_a_large_answer_waits_for_the_end_of_another_and_a_small_one_does_not(declares: bool, ends: str) -> None:
    slow = _Slow(declares=declares)
    async with raw(slow) as origin:
        client = calling(origin, large_at_once=1)
        first = asyncio.create_task(send(client, f"{origin}/held"))
        await slow.begun.wait()
        await asyncio.sleep(0.05)  # until it is read
        others = [asyncio.create_task(send(client, f"{origin}/large")) for _ in range(3)]
        given_up = others.pop()
        await asyncio.sleep(0.05)
        assert len((await send(client, f"{origin}/small")).body) == 10
        assert not any(task.done() for task in (first, given_up, *others))
        given_up.cancel()
        if ends == "answered":
            slow.may_end.set()
            assert len((await first).body) == LARGE
        else:
            first.cancel()
        assert [len(answer.body) for answer in await asyncio.gather(*others)] == [LARGE, LARGE]
        slow.may_end.set()
        await asyncio.gather(first, given_up, return_exceptions=True)
        await client.close()


async def test_a_connection_whose_answer_was_there_before_its_room_serves_others() -> None:
    """All of it came at once: nothing is left to wait for."""
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        with suppress(asyncio.IncompleteReadError):
            for size in (100_000, 10):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(OK + b"Content-Length: %d\r\n\r\n" % size + b"x" * size)
        writer.close()

    async with raw(serve) as origin:
        client = calling(origin, large_at_once=0)
        assert [len((await send(client, f"{origin}/a")).body) for _ in range(2)] == [100_000, 10]
        await client.close()
    assert opened == 1
