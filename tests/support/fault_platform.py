"""A platform that does what a platform should not: it answers each request by the next line of a script, and counts what reached it."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

Writer = asyncio.StreamWriter


@dataclass(frozen=True)
class Hit:
    """One request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]  # lower-case names
    body: bytes


Fault = Callable[[Hit, Writer], Awaitable[None]]


def answer(status: int, body: bytes | Any = b"", **headers: str) -> Fault:
    """A whole answer; what is not bytes goes as JSON."""

    async def fault(_: Hit, writer: Writer) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        told = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in told.items() if value)
        writer.write(f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode() + content)
        await writer.drain()

    return fault


def echo(where: str) -> Fault:
    """An answer that gives the Authorization header back, in a header or in the body."""

    async def fault(hit: Hit, writer: Writer) -> None:
        said = hit.headers["authorization"]
        told = {"X_Seen": said} if where == "header" else {}
        await answer(200, {"you_sent": said} if where == "body" else {"ok": True}, **told)(hit, writer)

    return fault


async def closes_before_the_answer(_: Hit, writer: Writer) -> None:
    writer.transport.abort()


async def closes_within_the_answer(_: Hit, writer: Writer) -> None:
    writer.write(b'HTTP/1.1 200 Said\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"a":')
    await writer.drain()
    writer.transport.abort()


async def hangs(_: Hit, __: Writer) -> None:
    await asyncio.Event().wait()


async def drips(hit: Hit, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 Said\r\nContent-Type: application/json\r\nContent-Length: 10000\r\n\r\n")
    for _ in range(10_000):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def streams_a_gibibyte(hit: Hit, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 Said\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
    with suppress(ConnectionError):
        for _ in range(1024):
            writer.write(b" " * 1_048_576)
            await writer.drain()


async def bombs(hit: Hit, writer: Writer) -> None:
    await answer(200, gzip.compress(b" " * 50_000_000), Content_Encoding="gzip")(hit, writer)


@dataclass
class FaultPlatform:
    """`script` is followed once; what comes after its end is answered by its last line."""

    script: list[Fault] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    origin: str = ""
    _server: asyncio.Server | None = None
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.origin = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                hit = await _read(reader)
                self.hits.append(hit)
                number = min(len(self.hits), len(self.script)) - 1
                await self.script[number](hit, writer)
        writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> Hit:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Hit(method, target, headers, body)
