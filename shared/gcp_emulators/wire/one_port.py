"""One port for gRPC and for REST, as Google's emulators have it: the first bytes of a connection tell which it is.

gRPC is HTTP/2, which begins with a line of its own; such a connection is relayed to gRPC's server, which cannot be handed one
that is open. Any other is given to the HTTP server of `rest`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import cast

from aiohttp import web

from cab_dev.processes.ports import HOST
from gcp_emulators.wire.rest import rest_server
from gcp_emulators.wire.rpc import Gateway, Method, serve_grpc

_HTTP_2 = b"PRI * HTTP/2.0\r\n"
_STOP_GRACE_S = 0.3


async def serve(
    port: int, gateway: Gateway, methods: Mapping[str, Sequence[Method]]
) -> tuple[Callable[[], Awaitable[None]], int]:
    """Serve on 127.0.0.1 without TLS. Port 0 takes a free one. Returns the function that stops it, and the port.

    The port is held exclusively. Raises: OSError when it is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as exc:
        listener.close()
        raise OSError(f"port {port} on {HOST} is taken") from exc
    try:
        stop_grpc, behind = await serve_grpc(gateway, methods)
    except BaseException:
        listener.close()
        raise
    http = rest_server(gateway, [method for of_it in methods.values() for method in of_it])
    opened: set[asyncio.Transport] = set()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Arrival(http, behind, opened), sock=listener, backlog=128
    )

    async def stop() -> None:
        server.close()
        await asyncio.gather(http.shutdown(_STOP_GRACE_S), stop_grpc())
        for transport in opened:
            transport.abort()

    return stop, int(listener.getsockname()[1])


class _Arrival(asyncio.Protocol):
    """A connection of which nobody knows yet what it speaks."""

    def __init__(self, http: web.Server, behind: int, opened: set[asyncio.Transport]) -> None:
        self._http = http
        self._behind = behind
        self._opened = opened
        self._seen = b""
        self._relaying: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._opened.add(self._transport)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if self._seen.startswith(_HTTP_2):
            self._transport.pause_reading()
            self._relaying = asyncio.create_task(self._relay())
        elif not _HTTP_2.startswith(self._seen):
            self._opened.discard(self._transport)
            http = self._http()
            self._transport.set_protocol(http)
            http.connection_made(self._transport)
            http.data_received(self._seen)

    def connection_lost(self, exc: Exception | None) -> None:
        self._opened.discard(self._transport)

    async def _relay(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            back, _ = await loop.create_connection(lambda: _Relay(self._transport, self._opened), HOST, self._behind)
        except OSError:
            self._transport.abort()
            return
        back.write(self._seen)
        self._transport.set_protocol(_Relay(back, self._opened, self._transport))
        if self._transport.is_closing():
            back.abort()
            return
        self._transport.resume_reading()


class _Relay(asyncio.Protocol):
    """One end of a relayed connection: what comes goes to the other end, no faster than that takes it."""

    def __init__(
        self, other: asyncio.Transport, opened: set[asyncio.Transport], own: asyncio.Transport | None = None
    ) -> None:
        self._other = other
        self._opened = opened
        self._own = own

    def data_received(self, data: bytes) -> None:
        self._other.write(data)

    def pause_writing(self) -> None:
        self._other.pause_reading()

    def resume_writing(self) -> None:
        self._other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._own is not None:
            self._opened.discard(self._own)
        self._other.close()
