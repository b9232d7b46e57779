"""`FunctionPoster` for one of our own functions, asked at every call: JSON by POST on a few kept connections, for a fifth of what
`client` costs. For systems of others there is `client`, which reads what they write more generously, and large answers bit by bit.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson

from cab.adapters import spans
from cab.adapters.http.client import USER_AGENT, add_trace
from cab.adapters.http.connections import Answer, Broken, Connections
from cab.adapters.http.origins import PORTS, Origins, origin_of
from cab.ports import AnswerTooLarge, HttpAnswer, SendFailed


class OwnFunction:
    """Reaches the origin of `url` and nothing else, under the rules of `HttpClient`. `what` names the dependency in `Unavailable`."""

    def __init__(
        self,
        url: str,
        *,
        what: str,
        allow_loopback_http: bool = False,
        private_hosts: Iterable[str] = (),
        connections: int = 100,
    ) -> None:
        parts = urlsplit(url)
        self._origin = origin_of(url)
        self._host = parts.hostname or ""
        self._netloc = parts.netloc
        self._port = parts.port or PORTS.get(parts.scheme, 0)
        self._in_clear = parts.scheme != "https"
        origins = Origins([self._origin], allow_loopback_http=allow_loopback_http, private_hosts=private_hosts)
        self._may_be_asked = origins.include(url)
        self._allows = functools.partial(origins.may_lead_to, self._host)
        self._what = what
        self._most = connections
        self._connections: Connections | None = None

    async def post_json(
        self,
        url: str,
        document: Any,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10,
        max_bytes: int = 102_400,
        first_line: Callable[[bytes], None] | None = None,
    ) -> HttpAnswer:
        """Raises: SendFailed, AnswerTooLarge."""
        context = contextvars.copy_context()

        def tell(line: bytes) -> None:  # called in the context of whoever opened the connection
            if first_line is not None and len(line) <= max_bytes:
                context.run(first_line, line)

        if not self._may_be_asked or not url.startswith(f"{self._origin}/"):
            raise SendFailed(self._what, may_have_arrived=False)
        with spans.waiting_for(f"{self._what} POST") as span:
            span.note("http.request.method", "POST")
            span.note("server.address", self._host)
            sent = dict(headers or {})
            add_trace(sent)
            request = self._request(url.removeprefix(self._origin), document, sent)
            answer = await self._ask(request, timeout_s, first_line and tell)
            span.note("http.response.status_code", answer.status)
        if len(answer.body) > max_bytes:
            raise AnswerTooLarge(len(answer.body), status=answer.status)
        return HttpAnswer(answer.status, answer.headers or {}, answer.body)

    async def close(self) -> None:
        connections, self._connections = self._connections, None
        if connections is not None:
            await connections.close()

    async def _ask(self, request: bytes, timeout_s: float, first_line: Callable[[bytes], None] | None) -> Answer:
        loop = asyncio.get_running_loop()
        try:
            return await self._open().ask(request, until=loop.time() + timeout_s, first_line=first_line)
        except (Broken, TimeoutError) as error:
            raise SendFailed(self._what, may_have_arrived=True) from error

    def _request(self, target: str, document: Any, headers: Mapping[str, str]) -> bytes:
        body = orjson.dumps(document)
        lines = [
            f"POST {target} HTTP/1.1",
            f"host: {self._netloc}",
            f"user-agent: {USER_AGENT}",
            "accept-encoding: identity",
            "content-type: application/json",
            f"content-length: {len(body)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        if not all(line.isascii() and line.isprintable() for line in lines):
            raise ValueError("a header is one line")
        return "\r\n".join([*lines, "", ""]).encode("ascii") + body

    def _open(self) -> Connections:
        """Made inside the running loop: the module is imported before the server forks."""
        if self._connections is None:
            self._connections = Connections(
                self._host,
                self._port,
                in_clear=self._in_clear,
                most=self._most,
                keeps_headers=True,
                allows=self._allows,
            )
        return self._connections
