"""A server of one answer, to see what a client sends and what it makes of the answer."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson


@dataclass
class HttpServer:
    """Answers every request with `status` and `body`, bytes or JSON. Notes the heads and bodies that came.

    With `hangs_up` it hears a request out and ends the connection.
    """

    status: int = 200
    body: object = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    hangs_up: bool = False
    connected: int = 0
    port: int = 0
    tasks: set[asyncio.Task[None] | None] = field(default_factory=set)

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        self.tasks.add(asyncio.current_task())
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lengths = [line for line in head.split("\r\n") if line.startswith("content-length: ")]
                self.heads.append(head)
                self.bodies.append(await reader.readexactly(int(lengths[0].partition(": ")[2]) if lengths else 0))
                if self.hangs_up:
                    return
                body = self.body if isinstance(self.body, bytes) else orjson.dumps(self.body)
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (self.status, len(body), body))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)


@asynccontextmanager
async def serving(server: HttpServer, context: ssl.SSLContext | None = None) -> AsyncIterator[HttpServer]:
    listening = await asyncio.start_server(server.connection, "localhost", 0, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    yield server
    listening.close()
    for task in server.tasks:
        if task is not None:
            task.cancel()
    await asyncio.gather(*filter(None, server.tasks), return_exceptions=True)
