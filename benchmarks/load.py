"""The load generator: prepared requests over a fixed number of keep-alive connections, each sent when the last is answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

from benchmarks.processes import HOST

_FORM: Final = "application/x-www-form-urlencoded"
_JSON: Final = "application/json"


def _posted(path: str, body: bytes, content_type: str, *headers: str) -> bytes:
    head = (
        f"POST {path} HTTP/1.1",
        f"Host: {HOST}",
        *headers,
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*head, "", "")).encode() + body


@dataclass(frozen=True, slots=True)
class Post:
    """A form on its way to a path."""

    path: str
    form: dict[str, str]

    def as_bytes(self) -> bytes:
        return _posted(self.path, urlencode(self.form).encode(), _FORM)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool, under a call token."""

    tool: str
    arguments: dict[str, Any]
    token: str = field(repr=False)

    def as_bytes(self) -> bytes:
        body = json.dumps({"tool": self.tool, "arguments": self.arguments}).encode()
        return _posted("/tools/call", body, _JSON, f"Authorization: Bearer {self.token}")


@dataclass(frozen=True, slots=True)
class Push:
    """A message that Pub/Sub delivers, already wrapped. `token` is the identity of the push account."""

    body: bytes = field(repr=False)
    token: str = field(repr=False)

    def as_bytes(self) -> bytes:
        return _posted("/", self.body, _JSON, f"Authorization: Bearer {self.token}")


@dataclass(frozen=True, slots=True)
class Click:
    """A form that a person sends from a page of ours."""

    path: str
    form: dict[str, str]
    session: str = field(repr=False)

    def as_bytes(self) -> bytes:
        return _posted(self.path, urlencode(self.form).encode(), _FORM, f"Cookie: cab_session={self.session}")


@dataclass(frozen=True, slots=True)
class Leg:
    """One request of several. `make` gets the answer to the one before; `status` is that of success. Port 0: the row's own."""

    make: Callable[[bytes], Post | Click]
    status: int = 200
    port: int = 0


@dataclass(frozen=True, slots=True)
class Legs:
    """Several requests that are one piece of work, each made of the answer to the one before."""

    legs: Sequence[Leg]


Sent = Post | ToolCall | Push | Legs


class NotServed(Exception):
    """A request was not answered with success: the figures would mean nothing. Carries the error's reason, never a token."""


class Connections:
    """One conversation's keep-alive connections, by port."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._open: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def ask(self, request: bytes, port: int) -> tuple[bytes, bytes]:
        """Head and body of the answer."""
        reader, writer = await self.open(port)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        return head, await reader.readexactly(_content_length(head))

    async def open(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The connection to a port, made where there is none."""
        if port not in self._open:
            self._open[port] = await asyncio.open_connection(HOST, port)
            self._stack.push_async_callback(_close, self._open[port][1])
        return self._open[port]

    async def ask_again(self, request: bytes, port: int) -> tuple[bytes, bytes]:
        """As `ask`, over a new connection where the server has ended the one that lay idle."""
        try:
            return await self.ask(request, port)
        except (asyncio.IncompleteReadError, ConnectionError):
            self._open.pop(port, None)
            return await self.ask(request, port)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):  # the other end may have been quicker
        await writer.wait_closed()


async def send(
    posts: Iterable[Sent],
    *,
    port: int,
    connections: int,
    took: list[float] | None = None,
    answered: list[float] | None = None,
) -> bytes:
    """Send all; returns the last body, in `took` the seconds that each waited, and in `answered` when each leg's answer came
    (time.perf_counter). Raises: NotServed.
    """
    waiting = deque(post if isinstance(post, Legs) else post.as_bytes() for post in posts)
    bodies = await asyncio.gather(*(_converse(waiting, port, took, answered) for _ in range(connections)))
    return next((body for body in bodies if body), b"")


async def _converse(
    waiting: deque[bytes | Legs], port: int, took: list[float] | None, answered: list[float] | None
) -> bytes:
    """One connection's share of what waits."""
    body = b""
    async with AsyncExitStack() as stack:
        connections = Connections(stack)
        while waiting:
            next_one = waiting.popleft()
            begun = time.perf_counter()
            if isinstance(next_one, Legs):
                for leg in next_one.legs:
                    head, body = await connections.ask(leg.make(body).as_bytes(), leg.port or port)
                    _expect(leg.status, head, body)
                    if answered is not None:
                        answered.append(time.perf_counter())
            else:
                head, body = await connections.ask(next_one, port)
                _expect(200, head, body)
                if answered is not None:
                    answered.append(time.perf_counter())
            if took is not None:
                took.append(time.perf_counter() - begun)
    return body


def _expect(wanted: int, head: bytes, body: bytes) -> None:
    """A push is acknowledged with 204, which is as good."""
    status = status_of(head)
    if status != wanted and (wanted, status) != (200, 204):
        raise NotServed(_complaint(head, body))


def status_of(head: bytes) -> int:
    return int(head[9:12])


def _content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


def _complaint(head: bytes, body: bytes) -> str:
    status = head.partition(b"\r\n")[0].decode()
    try:
        answer: Any = json.loads(body)
    except ValueError:
        return status
    if not isinstance(answer, dict):
        return status
    return f"{status}: {answer.get('reason_code', answer.get('error'))}, {answer.get('error_description')}"
