"""`DocumentReader`: what others publish for everybody, their keys above all, read by GET on the small client (`connections`).

Every process needs somebody's keys before it can answer, and importing aiohttp for that is a fifth of its cold start. It reads with the
same parser, and as generously; a connection serves one document, because the next is due after minutes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from cab.adapters import spans
from cab.adapters.http.client import USER_AGENT, add_trace
from cab.adapters.http.connections import MAX_HEAD_BYTES, Answer, Broken, Connections
from cab.adapters.http.deadline import within
from cab.adapters.http.origins import PORTS, Origins
from cab.ports import AnswerTooLarge, HttpAnswer, SendFailed

_SENT_AS_IT_IS: Final = "".join(chr(code) for code in range(0x21, 0x7F))


class PublishedDocuments:
    """Under the rules of `HttpClient`. `what` names the dependency in `Unavailable`."""

    def __init__(
        self,
        origins: Iterable[str],
        *,
        what: str,
        allow_loopback_http: bool = False,
        private_hosts: Iterable[str] = (),
    ) -> None:
        self._origins = Origins(origins, allow_loopback_http=allow_loopback_http, private_hosts=private_hosts)
        self._what = what

    async def get(self, url: str, *, timeout_s: float = 5, max_bytes: int = 102_400) -> HttpAnswer:
        """Raises: SendFailed, AnswerTooLarge; ValueError for a URL whose host cannot be one."""
        if not self._origins.include(url):
            raise SendFailed(self._what, may_have_arrived=False)
        parts = urlsplit(url)
        with spans.waiting_for(f"{self._what} GET") as span:
            span.note("http.request.method", "GET")
            span.note("server.address", parts.hostname or "")
            try:
                async with within(timeout_s):
                    answer = await self._ask(parts, max_bytes)
            except (Broken, TimeoutError) as error:
                raise SendFailed(self._what, may_have_arrived=True) from error
            span.note("http.response.status_code", answer.status)
        if len(answer.body) > max_bytes:
            raise AnswerTooLarge(len(answer.body), status=answer.status)
        return HttpAnswer(answer.status, answer.headers or {}, answer.body)

    async def _ask(self, parts: SplitResult, max_bytes: int) -> Answer:
        host = (parts.hostname or "").encode("idna").decode("ascii")
        connections = Connections(
            host,
            parts.port or PORTS[parts.scheme],
            in_clear=parts.scheme != "https",
            of_others=True,
            most_bytes=MAX_HEAD_BYTES + 2 * max_bytes,  # what frames its parts is received with them
            allows=functools.partial(self._origins.may_lead_to, host),
        )
        try:
            return await connections.ask(_request(parts, host))
        finally:
            await connections.close()


def _request(parts: SplitResult, host: str) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {
        "host": host_header(host, parts.port),
        "user-agent": USER_AGENT,
        "accept": "*/*",
        "accept-encoding": "identity",  # no compression: a small answer could unpack into a large one
        "connection": "close",
    }
    add_trace(headers)
    lines = [
        f"GET {quote(target, safe=_SENT_AS_IT_IS)} HTTP/1.1",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def host_header(host: str, port: int | None) -> str:
    """As in a URL. `port` where that names one."""
    return (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
