"""What others publish: read as generously as aiohttp reads it, and under the same rules as everything that is asked outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.adapters.http.resolving import BY_ADDRESS, leading_to
from tests.adapters.http.test_client import ELSEWHERE, Server
from tests.adapters.http.test_client import server as server  # noqa: PLC0414  # the fixture

from cab.adapters.http.client import AiohttpClient
from cab.adapters.http.published import PublishedDocuments
from cab.encoding.trace_context import TraceContext, current
from cab.ports import AnswerTooLarge, HttpAnswer, SendFailed, Unavailable

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ODD = {
    "with a length": OK + b"Content-Length: 2\r\n\r\n{}",
    "in chunks": CHUNKED + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
    "in chunks, said in capitals": OK + b"Transfer-Encoding: Chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunks with extensions and trailers": CHUNKED + b'2;a="b"\r\n{}\r\n0\r\nx: y\r\n\r\n',
    "chunks with spaces after their size": CHUNKED + b"2  \r\n{}\r\n0\r\n\r\n",
    "until the connection ends": OK + b"Content-Type: application/json\r\n\r\n{}",
    "as HTTP/1.0 did": b"HTTP/1.0 200 OK\r\n\r\n{}",
    "in an encoding that is none": OK + b"Transfer-Encoding: identity\r\n\r\n{}",
    "lines that end in one character": b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
    "no word beside the status": b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n{}",
    "a control character in a header": OK + b"X: a\x01b\r\nContent-Length: 2\r\n\r\n{}",
    "a header in Latin-1": OK + b"X: gr\xfc\xdfe\r\nContent-Length: 2\r\n\r\n{}",
    "a header over two lines": OK + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
    "after what only announces it": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    + OK
    + b"Content-Length: 2\r\n\r\n{}",
    "nothing": b"HTTP/1.1 204 No Content\r\n\r\n",
    "an error": b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy",
}
BROKEN = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "less than it announced": OK + b"Content-Length: 3\r\n\r\n{}",
    "a chunk too little": CHUNKED + b"2\r\n{}\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "a length and chunks": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a length that is no number": OK + b"Content-Length: +2\r\n\r\n{}",
    "half a head": OK + b"X: y\r\n",
    "nothing at all": b"",
}


@asynccontextmanager
async def writing(answer: bytes) -> AsyncIterator[str]:
    """The origin of a server that writes these bytes to everybody, and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    listening.close()


def reader(origin: str, **options: Any) -> PublishedDocuments:
    return PublishedDocuments([origin], what="identity_provider", **{"allow_loopback_http": True} | options)


async def read_by_both(answer: bytes) -> list[tuple[int, bytes] | None]:
    """What aiohttp reads and what we read, None for no answer."""
    read: list[tuple[int, bytes] | None] = []
    async with writing(answer) as origin:
        aiohttp = AiohttpClient([origin], what="identity_provider", allow_loopback_http=True)
        for client in (aiohttp, reader(origin)):
            try:
                got: HttpAnswer = await client.get(f"{origin}/keys", timeout_s=2)
            except SendFailed:
                read.append(None)
            else:
                read.append((got.status, got.body))
        await aiohttp.close()
    return read


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD.keys())
async def test_what_aiohttp_reads_is_read(answer: bytes) -> None:
    by_aiohttp, by_us = await read_by_both(answer)
    assert by_us is not None
    assert by_us == by_aiohttp


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
async def test_what_is_no_whole_answer_is_none(answer: bytes) -> None:
    assert await read_by_both(answer) == [None, None]


async def test_a_document_comes_with_its_status_and_headers_and_is_asked_for_in_plain(server: Server) -> None:
    answer = await reader(server.origin).get(f"{server.origin}/a?b=c%20d&é=ö")
    assert (answer.status, answer.body, answer.headers["x-two-words"]) == (201, b"answered", "kept")
    ((method, path, headers, body),) = server.requests
    assert (method, path, body) == ("GET", "/a?b=c%20d&%C3%A9=%C3%B6", b"")
    assert headers["Host"] == server.origin.removeprefix("http://")
    assert headers["Accept-Encoding"] == "identity"
    assert (await reader(server.origin).get(f"{server.origin}/gzip")).body == b"\x1f\x8b not really"


async def test_a_redirect_is_not_followed(server: Server) -> None:
    assert (await reader(server.origin).get(f"{server.origin}/redirect")).status == 302
    assert len(server.requests) == 1


@pytest.mark.parametrize("url", ELSEWHERE)
async def test_another_origin_than_the_configured_ones_is_never_asked(server: Server, url: str) -> None:
    with pytest.raises(SendFailed):
        await reader(server.origin).get(url.format(host=server.origin.removeprefix("http://")))
    assert server.requests == []


@BY_ADDRESS
async def test_a_name_leads_only_to_addresses_that_may_be_reached(
    monkeypatch: pytest.MonkeyPatch, address: str, named: bool, reached: bool
) -> None:
    tried = leading_to(monkeypatch, address)
    documents = reader("https://xn--schlssel-95a.test", private_hosts=["xn--schlssel-95a.test"] if named else [])
    with pytest.raises(Unavailable):
        await documents.get("https://xn--schlssel-95a.test/keys")
    assert tried == ([(address, 443, "xn--schlssel-95a.test", True)] if reached else [])


@pytest.mark.parametrize(
    "origin",
    ["http://example.test", "https://127.0.0.1:9", "https://169.254.169.254", "https://[::1]:9", "https://10.0.0.1"],
)
async def test_no_plain_http_and_no_inner_address_is_asked_even_when_it_is_configured(
    monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    async def resolve(*_: Any, **__: Any) -> None:
        raise AssertionError("not even looked up")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    with pytest.raises(SendFailed) as failed:
        await reader(origin, allow_loopback_http=False).get(f"{origin}/keys")
    assert not failed.value.may_have_arrived


async def test_a_host_in_letters_of_its_own_is_asked_by_the_name_that_dns_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    async def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append((host, port))
        return []

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    with pytest.raises(Unavailable):
        await reader("https://schlüssel.test:8443").get("https://schlüssel.test:8443/keys")
    assert asked == [("xn--schlssel-95a.test", 8443)]


async def test_a_document_beyond_the_limit_is_refused(server: Server) -> None:
    with pytest.raises(AnswerTooLarge):
        await reader(server.origin).get(f"{server.origin}/large", max_bytes=199_999)
    assert len((await reader(server.origin).get(f"{server.origin}/large", max_bytes=200_000)).body) == 200_000


@pytest.mark.parametrize("start", [OK, OK + b"\r\n", CHUNKED + b"fffffff\r\n"])
async def test_what_never_ends_is_not_kept_in_memory(start: bytes) -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(start)
        while not writer.transport.is_closing():
            writer.write(b"X: y\r\n" * 10_000)
            sent += 60_000
            await writer.drain()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    origin = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    with pytest.raises(Unavailable):
        await reader(origin).get(f"{origin}/keys", max_bytes=100_000)
    listening.close()
    assert sent < 30_000_000  # what lies in the kernel's buffers included


@pytest.mark.parametrize("path", ["/hang", "/drip"])
async def test_a_server_that_takes_its_time_is_given_up(server: Server, path: str) -> None:
    started = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable) as failed:
        await reader(server.origin).get(f"{server.origin}{path}", timeout_s=0.3)
    assert asyncio.get_running_loop().time() - started < 3
    assert failed.value.what == "identity_provider"


async def test_the_trace_goes_on(server: Server) -> None:
    trace = TraceContext("a" * 32, "b" * 16, is_sampled=True)
    token = current.set(trace)
    try:
        await reader(server.origin).get(f"{server.origin}/a")
    finally:
        current.reset(token)
    assert server.requests[0][2]["traceparent"] == trace.traceparent
