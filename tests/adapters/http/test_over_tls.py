"""The HTTP client over TLS, which may end before its connection does, and hides how much of a request was heard."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.http.authorities import Authority
from tests.adapters.http.test_connections import REQUEST, WELL, Serve

from cab.adapters.http import connections
from cab.adapters.http.connections import Broken, Connections

Serving = Callable[..., Any]


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serving:
    """Connections to a server that does this on each, proves to be `its_name`, and is asked for as localhost."""

    @asynccontextmanager
    async def start(serve: Serve, *, its_name: str = "localhost", **options: Any) -> AsyncIterator[Connections]:
        authority = Authority(tmp_path)
        trusting = functools.partial(ssl.create_default_context, cafile=str(authority.roots()))
        monkeypatch.setattr(connections, "tls_context", trusting)
        listening = await asyncio.start_server(serve, "localhost", 0, ssl=authority.server(its_name))
        client = Connections("localhost", listening.sockets[0].getsockname()[1], **options)
        yield client
        await client.close()
        listening.close()

    return start


def told(connected: list[str], then: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append("connected")
        try:
            await then(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    return serve


async def test_tls_that_has_ended_takes_no_request_though_its_connection_is_still_there(serving: Serving) -> None:
    connected: list[str] = []

    async def answer_and_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(REQUEST))
        writer.write(WELL)
        writer.close()  # tells so within TLS, and waits for the client to do so, too
        await writer.wait_closed()

    async with serving(told(connected, answer_and_end)) as client:
        for _ in "abc":
            assert (await client.ask(REQUEST)).body == b"[]"
    assert len(connected) == 3


@pytest.mark.parametrize(("size", "shared"), [(20_000_000, False), (10_000, True)])
async def test_what_others_answer_before_they_can_have_heard_all_ends_the_connection(
    serving: Serving, size: int, *, shared: bool
) -> None:
    connected: list[str] = []

    async def refuse_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n")
            if not shared:
                await asyncio.sleep(60)
            await reader.readexactly(size)

    large = b"POST /v1/x HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size
    async with serving(told(connected, refuse_at_once), of_others=True) as client, asyncio.timeout(10):
        assert [(await client.ask(large)).status for _ in "ab"] == [413, 413]
    assert len(connected) == (1 if shared else 2)


async def test_who_proves_to_be_another_host_hears_nothing(serving: Serving) -> None:
    connected: list[str] = []

    async def hear(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        connected.append((await reader.read()).decode())

    async with serving(told(connected, hear), its_name="elsewhere.example", of_others=True) as client:
        with pytest.raises(Broken):
            await client.ask(REQUEST)
    assert connected in ([], ["connected", ""])
