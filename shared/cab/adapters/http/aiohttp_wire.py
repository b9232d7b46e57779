"""What `AiohttpClient` sends its requests with: aiohttp, addresses checked at connect time, answers read within bounds."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from types import SimpleNamespace
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from cab.adapters.http.client import USER_AGENT
from cab.adapters.http.deadline import within
from cab.adapters.http.tls import in_words, tell, tls_context
from cab.ports import AnswerTooLarge, HttpAnswer, SendFailed
from cab.values import mutable

CONNECT_TIMEOUT_S = 3.0
MAX_HEADER_BYTES = 32_768  # of one header: policies for browsers stand beside tokens, too
READ_AHEAD_BYTES = 16_384  # of an answer that nobody reads yet, per connection
NO_ADDRESS = "no address that may be reached"


class _AllowedAddresses(AbstractResolver):
    """Resolves once and keeps only addresses that may be reached; the connection goes to exactly those (no DNS rebinding)."""

    def __init__(self, allows: Callable[[str, str], bool]) -> None:
        self._resolver = ThreadedResolver()
        self._allows = allows

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        allowed = [item for item in found if self._allows(host, item["host"])]
        if not allowed:
            raise OSError(NO_ADDRESS)
        return allowed

    async def close(self) -> None:
        await self._resolver.close()


@mutable
class _Sending:
    """How far one request got."""

    begun: bool = False


class AiohttpWire:
    """Its arguments are those of `AiohttpClient`; `allows` is asked of a host and an address of it. Made inside the running loop."""

    def __init__(
        self,
        what: str,
        *,
        allows: Callable[[str, str], bool],
        keep_alive: bool,
    ) -> None:
        self._what = what
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_begin)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=_AllowedAddresses(allows),
                force_close=not keep_alive,
            ),
            trace_configs=[trace],
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            # No compression: a small answer could unpack into a large one.
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
            auto_decompress=False,
            read_bufsize=READ_AHEAD_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def answer(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: dict[str, str],
        timeout_s: float,
        max_bytes: int,
    ) -> HttpAnswer:
        """Raises: SendFailed, AnswerTooLarge."""
        sending = _Sending()
        try:
            async with (
                within(timeout_s),
                self._session.request(
                    method,
                    url,
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    ssl=True if url.startswith("http:") else tls_context(),
                    trace_request_ctx=sending,
                ) as response,
            ):
                content = await self._read(response, max_bytes)
                lowered = {name.lower(): value for name, value in response.headers.items()}
                return HttpAnswer(response.status, lowered, content)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error.__cause__, ssl.SSLError):
                tell(urlsplit(url).hostname or "", error.__cause__)
            raise SendFailed(self._what, may_have_arrived=sending.begun) from error

    async def _read(self, response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
        declared = response.content_length
        if declared is not None and declared > max_bytes and response.method != "HEAD":
            raise AnswerTooLarge(declared, status=response.status)
        content = bytearray()
        async for chunk in response.content.iter_any():
            content += chunk
            if len(content) > max_bytes:
                raise AnswerTooLarge(status=response.status)
        return bytes(content)

    async def close(self) -> None:
        await self._session.close()


async def _begin(_: aiohttp.ClientSession, context: SimpleNamespace, __: aiohttp.TraceRequestHeadersSentParams) -> None:
    """Called before a request's first byte is written: until then, nothing of it can have arrived."""
    sending: _Sending = context.trace_request_ctx
    sending.begun = True


def why_failed(error: SendFailed) -> str:
    """Why there is no answer, in words that quote nothing."""
    cause = error.__cause__
    match cause:
        case None:
            return "this address is not one that may be called"
        case aiohttp.ClientError(__cause__=ssl.SSLError() as refused):
            return f"TLS: {in_words(refused)}"
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
