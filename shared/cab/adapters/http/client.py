"""`HttpClient` for identity providers and OAuth providers: configured origins only, addresses checked at connect time, no redirects,
capped in size and time.

What goes out goes through aiohttp (`aiohttp_wire`), which is imported by the first request: importing it is a fifth of a cold start.
What others publish for everybody, their keys above all, is read by `published`, without it; platforms are called by `platforms`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import orjson

from cab.adapters import spans
from cab.adapters.http.origins import Origins
from cab.encoding.trace_context import TRACEPARENT, current
from cab.ports import HttpAnswer, SendFailed

if TYPE_CHECKING:
    from cab.adapters.http.aiohttp_wire import AiohttpWire

USER_AGENT = "cab/0.1"


class AiohttpClient:
    """`what` names the dependency in `Unavailable`. `keep_alive=False` opens a connection per call, so that a POST is never
    lost on a connection the other side had already closed (its outcome would be unknown). `private_hosts` are the hosts,
    written exactly so, that may have addresses inside the organisation's network.
    """

    def __init__(
        self,
        origins: Iterable[str],
        *,
        what: str,
        allow_loopback_http: bool = False,
        keep_alive: bool = True,
        private_hosts: Iterable[str] = (),
    ) -> None:
        self._origins = Origins(origins, allow_loopback_http=allow_loopback_http, private_hosts=private_hosts)
        self._what = what
        self._keep_alive = keep_alive
        self._wire: AiohttpWire | None = None

    async def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5,
        max_bytes: int = 102_400,
    ) -> HttpAnswer:
        return await self._send("GET", url, None, dict(headers or {}), timeout_s, max_bytes)

    async def post_form(
        self,
        url: str,
        form: Mapping[str, str],
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10,
        max_bytes: int = 102_400,
    ) -> HttpAnswer:
        sent = {"Content-Type": "application/x-www-form-urlencoded"} | dict(headers or {})
        return await self._send("POST", url, urlencode(form).encode(), sent, timeout_s, max_bytes)

    async def post_json(
        self,
        url: str,
        document: Any,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10,
        max_bytes: int = 102_400,
    ) -> HttpAnswer:
        sent = {"Content-Type": "application/json"} | dict(headers or {})
        return await self._send("POST", url, orjson.dumps(document), sent, timeout_s, max_bytes)

    async def close(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()

    async def _send(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: dict[str, str],
        timeout_s: float,
        max_bytes: int,
    ) -> HttpAnswer:
        if not self._origins.include(url):
            raise SendFailed(self._what, may_have_arrived=False)
        with spans.waiting_for(f"{self._what} {method}") as span:
            span.note("http.request.method", method)
            span.note("server.address", urlsplit(url).hostname or "")
            add_trace(headers)
            wire = self._wire or self._open()
            answer = await wire.answer(method, url, body, headers, timeout_s, max_bytes)
            span.note("http.response.status_code", answer.status)
            return answer

    def _open(self) -> AiohttpWire:
        from cab.adapters.http.aiohttp_wire import AiohttpWire  # noqa: PLC0415 - costly, and often not needed

        self._wire = AiohttpWire(
            self._what,
            allows=self._origins.may_lead_to,
            keep_alive=self._keep_alive,
        )
        return self._wire


def add_trace(headers: dict[str, str]) -> None:
    """What is sent goes on in the trace of the request that it serves."""
    trace = current.get()
    if trace is not None and trace.traceparent is not None:
        if spans.are_recorded():  # a caller's own would lead past this span
            headers.pop(TRACEPARENT, None)
        headers.setdefault(TRACEPARENT, trace.traceparent)
