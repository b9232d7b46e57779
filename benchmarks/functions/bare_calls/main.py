"""The price of a hot exchange's calls alone: the framework, one read and one write side by side, then one publish, nothing looked at.

Calls that meet are shared as the broker shares them, so that there are as many at any number of connections.
"""

import asyncio
import json
import os
from base64 import b64encode
from typing import cast

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response

_ANSWER = b'{"access_token":"%s"}' % (b"x" * (int(os.environ["BENCH_ANSWER_BYTES"]) - 19))
_PROJECT = f"projects/{os.environ['GOOGLE_CLOUD_PROJECT']}"
_DOCUMENTS = f"{_PROJECT}/databases/bare/documents"
_DOCUMENT = f"{_DOCUMENTS}/bare/one"
_EVENT = b64encode(b"x" * 600).decode()  # about what an event is deflated to


class _Connection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes) -> asyncio.Future[None]:
        self._received = b""
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answered

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, ended, body = self._received.partition(b"\r\n\r\n")
        if ended and len(body) >= int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            self._answered.set_result(None)


class _Calls:
    """Of one method, at most `most` under way; who asks while none can begin shares the next."""

    def __init__(self, address: str, path: str, body: object, *, most: int) -> None:
        self._host, _, self._port = address.rpartition(":")
        content = json.dumps(body).encode()
        head = f"POST /v1/{path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n"
        self._request = b"%scontent-length: %d\r\n\r\n%s" % (head.encode(), len(content), content)
        self._places = asyncio.Semaphore(most)
        self._idle: list[_Connection] = []
        self._next: asyncio.Task[None] | None = None

    def ask(self) -> asyncio.Task[None]:
        if self._next is None:
            self._next = asyncio.create_task(self._call())
        return self._next

    async def _call(self) -> None:
        async with self._places:
            self._next = None
            if not self._idle:
                loop = asyncio.get_running_loop()
                self._idle.append((await loop.create_connection(_Connection, self._host, int(self._port)))[1])
            connection = self._idle.pop()
            await connection.ask(self._request)
            self._idle.append(connection)


_FIRESTORE, _PUBSUB = os.environ["FIRESTORE_EMULATOR_HOST"], os.environ["PUBSUB_EMULATOR_HOST"]
_reads = _Calls(_FIRESTORE, f"{_DOCUMENTS}:batchGet", {"documents": [_DOCUMENT]}, most=4)
_writes = _Calls(_FIRESTORE, f"{_DOCUMENTS}:commit", {"writes": [{"update": {"name": _DOCUMENT}}]}, most=4)
_publishes = _Calls(_PUBSUB, f"{_PROJECT}/topics/cab-audit:publish", {"messages": [{"data": _EVENT}]}, most=2)


@functions_framework.aio.http
async def bare_calls(request: Request) -> Response:
    await request.body()
    read, written = _reads.ask(), _writes.ask()
    await read
    await written
    await _publishes.ask()
    return Response(_ANSWER, media_type="application/json", headers={"Cache-Control": "no-store"})
