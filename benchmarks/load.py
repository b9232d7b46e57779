"""The load generator: prepared requests over a fixed number of keep-alive connections, each sent when the last is answered."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from benchmarks.processes import HOST


@dataclass(frozen=True, slots=True)
class Post:
    """A form on its way to a path."""

    path: str
    form: dict[str, str]

    def as_bytes(self) -> bytes:
        body = urlencode(self.form).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool, under a call token."""

    tool: str
    arguments: dict[str, Any]
    token: str = field(repr=False)

    def as_bytes(self) -> bytes:
        body = json.dumps({"tool": self.tool, "arguments": self.arguments}).encode()
        head = (
            f"POST /tools/call HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {self.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class NotServed(Exception):
    """A request was not answered with 200: the figures would mean nothing. Carries the error's reason, never a token."""


async def send(posts: Iterable[Post | ToolCall], *, port: int, connections: int) -> bytes:
    """Send all; returns the last body. Raises: NotServed."""
    waiting = deque(post.as_bytes() for post in posts)
    bodies = await asyncio.gather(*(_converse(waiting, port) for _ in range(connections)))
    return next(body for body in bodies if body)


async def _converse(waiting: deque[bytes], port: int) -> bytes:
    """One connection's share of what waits."""
    body = b""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        while waiting:
            writer.write(waiting.popleft())
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_content_length(head))
            if not head.startswith(b"HTTP/1.1 200 "):
                raise NotServed(_complaint(head, body))
    finally:
        writer.close()
        await writer.wait_closed()
    return body


def _content_length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0])


def _complaint(head: bytes, body: bytes) -> str:
    status = head.partition(b"\r\n")[0].decode()
    try:
        answer: dict[str, Any] = json.loads(body)
    except ValueError:
        return status
    return f"{status}: {answer.get('reason_code', answer.get('error'))}, {answer.get('error_description')}"
