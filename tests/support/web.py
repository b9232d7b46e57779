"""The network around the broker, in this process: `HttpClient` for all functions, with hosts that can be taken down."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from cab.ports import HttpAnswer, SendFailed


@dataclass(frozen=True)
class Sent:
    """One request as the other side sees it."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    first_line: Callable[[bytes], None] | None = None  # who wants to hear it before the rest

    @property
    def path(self) -> str:
        return urlsplit(self.url).path


Host = Callable[[Sent], Awaitable[HttpAnswer]]


def json_answer(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> HttpAnswer:
    return HttpAnswer(status, {"content-type": "application/json"} | dict(headers or {}), json.dumps(document).encode())


class Documents:
    """A host of JSON documents by path; anything else is 404."""

    def __init__(self, documents: Mapping[str, Any]) -> None:
        self.documents = dict(documents)

    async def __call__(self, sent: Sent) -> HttpAnswer:
        if sent.path not in self.documents:
            return json_answer({}, 404)
        return json_answer(self.documents[sent.path])


@dataclass
class Web:
    """Hosts by origin. `down` holds origins that refuse connections; `sent` what was asked, refused or not."""

    hosts: dict[str, Host] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    sent: list[Sent] = field(default_factory=list)

    def requests_to(self, origin: str) -> list[Sent]:
        return [sent for sent in self.sent if sent.url.startswith(origin + "/")]


class WebClient:
    """`HttpClient` over a `Web`, bound to its origins like the real one."""

    def __init__(self, web: Web, origins: Iterable[str], *, what: str) -> None:
        self._web = web
        self._origins = frozenset(origins)
        self._what = what

    async def get(self, url: str, *, headers: Mapping[str, str] | None = None, **_: Any) -> HttpAnswer:
        return await self._send(Sent("GET", url, dict(headers or {}), b""))

    async def post_form(
        self, url: str, form: Mapping[str, str], *, headers: Mapping[str, str] | None = None, **_: Any
    ) -> HttpAnswer:
        return await self._send(Sent("POST", url, dict(headers or {}), urlencode(form).encode()))

    async def post_json(
        self,
        url: str,
        document: Any,
        *,
        headers: Mapping[str, str] | None = None,
        first_line: Callable[[bytes], None] | None = None,
        **_: Any,
    ) -> HttpAnswer:
        return await self._send(Sent("POST", url, dict(headers or {}), json.dumps(document).encode(), first_line))

    async def send(
        self, method: str, url: str, *, body: bytes | None, headers: Mapping[str, str], **_: Any
    ) -> HttpAnswer:
        return await self._send(Sent(method, url, dict(headers), body or b""))

    async def close(self) -> None:
        """Nothing to let go of."""

    async def _send(self, sent: Sent) -> HttpAnswer:
        parts = urlsplit(sent.url)
        origin = f"{parts.scheme}://{parts.netloc}"
        assert origin in self._origins, f"{origin} is not an origin of this client"
        self._web.sent.append(sent)
        host = self._web.hosts.get(origin)
        if host is None or origin in self._web.down:
            raise SendFailed(self._what, may_have_arrived=False)
        return await host(sent)
