"""`HttpClient` on aiohttp: configured origins only, addresses checked at connect time, no redirects, capped in size and time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from cab.adapters import spans
from cab.adapters.http.addresses import is_literal, is_loopback, is_private, is_public, may_be_reached
from cab.adapters.http.deadline import within
from cab.encoding.trace_context import TRACEPARENT, current
from cab.ports import AnswerTooLarge, HttpAnswer, SendFailed

CONNECT_TIMEOUT_S = 3.0
SMALL_BYTES = 65_536
READ_AHEAD_BYTES = 16_384  # of an answer that nobody reads yet, per connection
USER_AGENT = "cab/0.1"
NO_ADDRESS = "no address that may be reached"


class _AllowedAddresses(AbstractResolver):
    """Resolves once and keeps only addresses that may be reached; the connection goes to exactly those (no DNS rebinding)."""

    def __init__(self, *, loopback_allowed: bool, private_hosts: frozenset[str]) -> None:
        self._resolver = ThreadedResolver()
        self._loopback_allowed = loopback_allowed
        self._private_hosts = private_hosts

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        allowed = [item for item in found if self._allows(host, item["host"])]
        if not allowed:
            raise OSError(NO_ADDRESS)
        return allowed

    def _allows(self, host: str, address: str) -> bool:
        return may_be_reached(host, address, private_hosts=self._private_hosts, loopback_allowed=self._loopback_allowed)

    async def close(self) -> None:
        await self._resolver.close()


@dataclass(slots=True)
class _Sending:
    """How far one request got. `once`: a second connection is not tried with it, as aiohttp would for what it calls idempotent."""

    once: bool
    begun: bool = False


class AiohttpClient:
    """`what` names the dependency in `Unavailable`. `keep_alive=False` opens a connection per call, so that a POST is never
    lost on a connection the other side had already closed (its outcome would be unknown). `private_hosts` are the hosts,
    written exactly so, that may have addresses inside the organisation's network. `connections` are open at most, and
    `large_at_once` answers of more than `SMALL_BYTES` are read at one time: memory has a bound however many calls wait.
    """

    def __init__(
        self,
        origins: Iterable[str],
        *,
        what: str,
        allow_loopback_http: bool = False,
        keep_alive: bool = True,
        private_hosts: Iterable[str] = (),
        connections: int = 100,
        large_at_once: int = 100,
    ) -> None:
        self._origins = frozenset(origins)
        self._checked: set[str] = set()  # of these, what may be reached
        self._what = what
        self._loopback_allowed = allow_loopback_http
        self._keep_alive = keep_alive
        self._private_hosts = frozenset(private_hosts)
        self._connections = connections
        self._large = asyncio.Semaphore(large_at_once)
        self._session: aiohttp.ClientSession | None = None

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

    async def send(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_s: float,
        max_bytes: int,
    ) -> HttpAnswer:
        return await self._send(method, url, body, dict(headers), timeout_s, max_bytes, _Sending(once=True))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _send(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: dict[str, str],
        timeout_s: float,
        max_bytes: int,
        sending: _Sending | None = None,
    ) -> HttpAnswer:
        self._check(url)
        with spans.waiting_for(f"{self._what} {method}") as span:
            span.note("http.request.method", method)
            span.note("server.address", urlsplit(url).hostname or "")
            add_trace(headers)
            answer = await self._answer(
                method, url, body, headers, timeout_s, max_bytes, sending or _Sending(once=False)
            )
            span.note("http.response.status_code", answer.status)
            return answer

    async def _answer(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: dict[str, str],
        timeout_s: float,
        max_bytes: int,
        sending: _Sending,
    ) -> HttpAnswer:
        try:
            async with (
                within(timeout_s),
                self._open().request(
                    # A URL that is sent as it is: what was agreed to must not be written in another way on its way out.
                    method,
                    URL(url, encoded=sending.once),
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    trace_request_ctx=sending,
                ) as response,
            ):
                content = await self._read(response, max_bytes)
                lowered = {name.lower(): value for name, value in response.headers.items()}
                return HttpAnswer(response.status, lowered, content)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise SendFailed(self._what, may_have_arrived=sending.begun) from error

    async def _read(self, response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
        declared = response.content_length
        if declared is not None and declared > max_bytes and response.method != "HEAD":
            raise AnswerTooLarge(declared, status=response.status)
        content = bytearray()
        may_be_large = False
        try:
            if declared is not None and declared > SMALL_BYTES:
                may_be_large = await self._large.acquire()
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > max_bytes:
                    raise AnswerTooLarge(status=response.status)
                if len(content) > SMALL_BYTES and not may_be_large:
                    may_be_large = await self._large.acquire()
        finally:
            if may_be_large:
                self._large.release()
        return bytes(content)

    def _check(self, url: str) -> None:
        """Origins come from configuration, so a refusal here is a wrong setting or an attack, never a user's mistake."""
        if url[: url.find("/", len("https://"))] in self._checked:  # what stands before the path is that, whole
            return
        parts = urlsplit(url)
        host = parts.hostname or ""
        origin = f"{parts.scheme}://{parts.netloc}"
        loopback_http = self._loopback_allowed and is_loopback(host)
        if (
            origin not in self._origins
            or parts.username is not None
            or (parts.scheme != "https" and not loopback_http)
            or (is_literal(host) and not is_public(host) and not loopback_http and not self._is_named(host))
        ):
            raise SendFailed(self._what, may_have_arrived=False)
        self._checked.add(origin)

    def _is_named(self, host: str) -> bool:
        return host in self._private_hosts and is_private(host)

    def _open(self) -> aiohttp.ClientSession:
        """Created inside the running loop: the module is imported before the server forks."""
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=_AllowedAddresses(loopback_allowed=self._loopback_allowed, private_hosts=self._private_hosts),
                force_close=not self._keep_alive,
                limit=self._connections,
            )
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(_begin)
            self._session = aiohttp.ClientSession(
                connector=connector,
                trace_configs=[trace],
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                # No compression: a small answer could unpack into a large one.
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                auto_decompress=False,
                read_bufsize=READ_AHEAD_BYTES,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def add_trace(headers: dict[str, str]) -> None:
    """What is sent goes on in the trace of the request that it serves."""
    trace = current.get()
    if trace is not None and trace.traceparent is not None:
        if spans.are_recorded():  # a caller's own would lead past this span
            headers.pop(TRACEPARENT, None)
        headers.setdefault(TRACEPARENT, trace.traceparent)


async def _begin(_: aiohttp.ClientSession, context: SimpleNamespace, __: aiohttp.TraceRequestHeadersSentParams) -> None:
    """Called before a request's first byte is written: until then, nothing of it can have arrived."""
    sending: _Sending = context.trace_request_ctx
    if sending.once and sending.begun:
        raise aiohttp.ClientConnectionError("the connection was closed, and the request may have arrived there")
    sending.begun = True


def why_failed(error: SendFailed) -> str:
    """Why there is no answer, in words that quote nothing."""
    cause = error.__cause__
    match cause:
        case None:
            return "this address is not one that may be called"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return "TLS: the certificate or the protocol is not accepted"
        case aiohttp.ClientConnectorDNSError():
            inner = str(cause.os_error)
            if inner == NO_ADDRESS:
                return "the name leads to private addresses only: name the host in private_hosts of broker.yaml, if it is yours"
            return "the name is not known (DNS)"
        case TimeoutError():
            return "no answer in time"
        case aiohttp.ClientConnectorError():
            return "the connection is refused or cannot be made"
        case _:
            return "the connection broke off"


def origin_of(url: str) -> str:
    """scheme://host[:port] of a configured URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
