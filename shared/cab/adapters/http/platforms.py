"""`HttpSender`: calls of platforms, each sent once, over the small client (`connections`) that reads what servers of all kinds write.

Memory has a bound however many calls wait: `large_at_once` answers of more than 64 KiB are read at one time, the others wait with that
much of theirs read.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from cab.adapters import spans
from cab.adapters.http.client import USER_AGENT, add_trace
from cab.adapters.http.connections import Answer, Broken, Connections
from cab.adapters.http.deadline import within
from cab.adapters.http.origins import PORTS, Origins
from cab.adapters.http.published import host_header
from cab.ports import AnswerTooLarge, HttpAnswer, SendFailed

CONNECT_TIMEOUT_S: Final = 3.0
SMALL_BYTES: Final = 65_536
_ENDS_ORIGIN: Final = re.compile(r"[/?#]")
_TARGET: Final = re.compile(r"[\x21-\x7e]+")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD"})


class Platforms:
    """Under the rules of `HttpClient`. `what` names the dependency in `Unavailable`. `keep_alive=False` opens a connection for each
    call, so that none is lost on one that the other side had already closed (its outcome would be unknown). `private_hosts` are the
    hosts, written exactly so, that may have addresses inside the organisation's network. `connections` to one origin are open at most.
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
        self._origins = Origins(origins, allow_loopback_http=allow_loopback_http, private_hosts=private_hosts)
        self._what = what
        self._keep_alive = keep_alive
        self._most = connections
        self._room = _Room(large_at_once)
        self._known: dict[str, _Platform] = {}

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
        """Raises: SendFailed, AnswerTooLarge."""
        if not self._origins.include(url):
            raise SendFailed(self._what, may_have_arrived=False)
        listener = _Listener(self._room, max_bytes, has_body=method != "HEAD")
        with spans.waiting_for(f"{self._what} {method}") as span:
            span.note("http.request.method", method)
            try:
                target = _target(url)
                platform = self._platform(url[: len(url) - len(target)])
                span.note("server.address", platform.host)
                request = self._request(method, target, platform, body, headers)
                async with within(timeout_s):
                    answer = await self._ask(platform, request, listener)
            except (Broken, TimeoutError, ValueError) as error:
                raise SendFailed(self._what, may_have_arrived=listener.may_have_arrived) from error
            finally:
                listener.leave()
            span.note("http.response.status_code", answer.status)
        return HttpAnswer(answer.status, answer.headers or {}, answer.body)

    async def close(self) -> None:
        known, self._known = self._known, {}
        for platform in known.values():
            await platform.connections.close()

    async def _ask(self, platform: _Platform, request: bytes, listener: _Listener) -> Answer:
        if self._keep_alive:
            return await platform.connections.ask(request, listener=listener)
        connections = platform.open(1)
        try:
            return await connections.ask(request, listener=listener)
        finally:
            await connections.close()

    def _platform(self, origin: str) -> _Platform:
        """Raises: ValueError where the host cannot be one."""
        if origin not in self._known:
            self._known[origin] = _Platform(origin, self._origins, self._most)
        return self._known[origin]

    def _request(
        self, method: str, target: str, platform: _Platform, body: bytes | None, headers: Mapping[str, str]
    ) -> bytes:
        """The target is sent as it is: what was agreed to must not be written in another way on its way out. Raises: ValueError."""
        sent = dict(headers)
        add_trace(sent)
        named = {name.lower(): f"{name}: {value}" for name, value in sent.items()}
        lines = {
            "accept": "Accept: */*",
            **named,
            "host": f"Host: {platform.host_header}",
            "user-agent": f"User-Agent: {USER_AGENT}",
            "accept-encoding": "Accept-Encoding: identity",  # no compression: a small answer could unpack into a large one
        }
        if not self._keep_alive:
            lines["connection"] = "Connection: close"
        if body is not None or method not in _WITHOUT_BODY:
            lines["content-length"] = f"Content-Length: {len(body or b'')}"
        target = target.partition("#")[0]
        path = target if target.startswith("/") else f"/{target}"
        if not _TARGET.fullmatch(path) or _CONTROL.search("".join(lines.values())):
            raise ValueError("a header is one line")
        return "\r\n".join([f"{method} {path} HTTP/1.1", *lines.values(), "", ""]).encode() + (body or b"")


class _Platform:
    """One origin, and the connections that are kept to it. Made inside the running loop."""

    def __init__(self, origin: str, origins: Origins, most: int) -> None:
        parts = urlsplit(origin)
        self._scheme = parts.scheme
        self._port = parts.port or PORTS[parts.scheme]
        self.host = (parts.hostname or "").encode("idna").decode("ascii")
        self.host_header = host_header(self.host, parts.port)
        self._allows = functools.partial(origins.may_lead_to, self.host)
        self.connections = self.open(most)

    def open(self, most: int) -> Connections:
        return Connections(
            self.host,
            self._port,
            in_clear=self._scheme != "https",
            most=most,
            of_others=True,
            connects_within_s=CONNECT_TIMEOUT_S,
            allows=self._allows,
        )


class _Room:
    """Memory for so many large answers at one time, given in the order in which they are told of."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[_Listener] = deque()

    def enter(self, listener: _Listener) -> bool:
        """Whether there is room now; else the listener is told when it has a place."""
        if self._free:
            self._free -= 1
            return True
        self._waiting.append(listener)
        return False

    def leave(self, listener: _Listener) -> None:
        """Of one that entered or still waits to."""
        if listener in self._waiting:
            self._waiting.remove(listener)
        elif self._waiting:
            self._waiting.popleft().go_on()
        else:
            self._free += 1


class _Listener:
    """How far one request got, and how much of its answer is read. See `Listening`."""

    def __init__(self, room: _Room, max_bytes: int, *, has_body: bool) -> None:
        self.has_body = has_body
        self.may_have_arrived = False
        self._room = room
        self._max_bytes = max_bytes
        self._status = 0
        self._size = 0
        self._needs_room = False
        self._is_paused = False

    def begins(self, flow: asyncio.Transport) -> None:
        self.may_have_arrived = True
        self._flow = flow

    def hears_head(self, status: int, declared: int | None) -> Exception | None:
        self._status = status
        if declared is None or not self.has_body:
            return None
        return self._take_in(declared, declared)

    def hears(self, size: int) -> Exception | None:
        self._size += size
        return self._take_in(self._size, None)

    def _take_in(self, size: int, declared: int | None) -> Exception | None:
        if size > self._max_bytes:
            return AnswerTooLarge(declared, status=self._status)
        if size > SMALL_BYTES and not self._needs_room:
            self._needs_room = True
            if not self._room.enter(self):
                self._is_paused = True
                self._flow.pause_reading()
        return None

    def go_on(self) -> None:
        if self._is_paused and not self._flow.is_closing():
            self._flow.resume_reading()
        self._is_paused = False

    def leave(self) -> None:
        """Called at the end, whatever it is."""
        if self._needs_room:
            self._room.leave(self)
        self.go_on()  # what came at once was whole before there was room: the connection serves others


def _target(url: str) -> str:
    """What stands behind the origin, written as it is."""
    start = url.find("://") + len("://")
    ends = _ENDS_ORIGIN.search(url, start)
    return "" if ends is None else url[ends.start() :]
