"""A small HTTP/1.1 client for one host: requests on a few kept connections, one at a time on each.

It serves `rest`, our own functions, platforms and what others publish, and knows nothing of Google. The parser is llhttp, which uvicorn
brings (httptools); what surrounds it here trusts the other side with nothing: every size is bounded, every wait ends when its
caller says, and a connection on which anything went wrong, or came that nobody asked for, is not used again.

Where requests do not meet, each makes its calls by itself. So a call has no task and no timer of its own, and the parser calls
back only for what is used.
"""

from __future__ import annotations

import asyncio
import math
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Protocol, cast

import httptools

from cab.adapters.http.tls import tell, tls_context
from cab.values import immutable

MOST_CONNECTIONS: Final = 24
# Well before Google's front ends close a connection on which nothing happens, which is after minutes.
IDLE_S: Final = 50.0
MAX_HEAD_BYTES: Final = 32_768
MAX_ANSWER_BYTES: Final = 24 * 1024 * 1024  # received in all, so it bounds chunk extensions and trailers, too
_SURELY_HEARD: Final = 16_384  # bytes of a request to others
_FINAL: Final = 200  # below are statuses that only announce another
_CONNECT_S: Final = 0.7  # for one address while there is another


class Broken(Exception):
    """No answer, or none that HTTP allows. Whether the request was carried out, nobody knows."""


@immutable
class Answer:
    """What came back: the status and the whole body."""

    status: int
    body: bytes
    headers: Mapping[str, str] | None = None  # lower-case names; where they are kept


class Listening(Protocol):
    """Who follows one request to somebody else, and decides how much of the answer is read."""

    has_body: bool  # whether the answer may have one, whatever its head says: that to HEAD has none

    def begins(self, flow: asyncio.Transport) -> None:
        """Called before the request's first byte is written: until then, nothing of it can have arrived."""

    def hears_head(self, status: int, declared: int | None) -> Exception | None:
        """Called with the length that the head declares. What is returned is raised instead of an answer."""

    def hears(self, size: int) -> Exception | None:
        """Called with the length of each part of the body. What is returned is raised instead of an answer."""


class Connections:
    """The connections to one host; TLS unless `in_clear`. Belongs to the event loop of its first request.

    At most `most` (MOST_CONNECTIONS) are open, and only to addresses that `allows` lets through, within `connects_within_s`.
    `of_others`: the server is not Google's and not ours, so it is read more generously, and says how much it is by `most_bytes`
    at most.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        in_clear: bool = False,
        most: int | None = None,
        keeps_headers: bool = False,
        of_others: bool = False,
        most_bytes: int = MAX_ANSWER_BYTES,
        connects_within_s: float | None = None,
        allows: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._host = host
        self._port = port
        self._in_clear = in_clear
        self._kind = _OfOthers if of_others else _WithHeaders if keeps_headers else _Connection
        self._most_bytes = most_bytes
        self._connects_within_s = connects_within_s
        self._allows = allows
        self._free = most or MOST_CONNECTIONS  # places, each for one connection
        self._waiting: deque[asyncio.Future[None]] = deque()  # for a place
        self._idle: list[_Connection] = []  # the one used last is used first, so that the others grow old
        self._open: set[_Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._alarm: asyncio.TimerHandle | None = None  # rings when the first of all waits is over
        self._rings_at = 0.0
        self._is_closed = False

    async def ask(
        self,
        request: bytes,
        *,
        until: float | None = None,
        first_line: Callable[[bytes], None] | None = None,
        listener: Listening | None = None,
    ) -> Answer:
        """Send the bytes of one whole request, once, and read its answer. Who stops waiting ends the connection.

        `until` is the loop's time at which the wait is over, None where its caller ends it. `first_line`, where headers are kept,
        is told that of a 200's body while the rest is still to come; `listener`, where the server is of others, of everything.
        Raises: Broken; TimeoutError; what the listener returns.
        """
        if self._free:
            self._free -= 1
        else:
            await self._wait_for_place(until)
        try:
            connection = self._kept()
            if connection is None:
                async with asyncio.timeout_at(until), asyncio.timeout(self._connects_within_s):
                    connection = await self._connect()
            if self._is_closed:
                connection.end()
                raise Broken
            if until is not None:
                self._watch(until)
            try:
                answer = await connection.ask(request, until, first_line, listener)
            except asyncio.CancelledError:
                self._end_idle()
                raise
            if connection.is_reusable:
                self._keep(connection)
            return answer
        finally:
            self._leave_place()

    async def close(self) -> None:
        """End all connections, those in use, too. Who waits for one is told that there is no answer."""
        self._is_closed = True
        for timer in (self._sweep, self._alarm):
            if timer is not None:
                timer.cancel()
        self._sweep = self._alarm = None
        self._end_idle()
        for connection in list(self._open):
            connection.end()
        while self._open:  # noqa: ASYNC110 - the loop tells of each end in a turn of its own
            await asyncio.sleep(0)

    async def _wait_for_place(self, until: float | None) -> None:
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout_at(until):
                await place
        except BaseException:
            if not place.cancelled():  # it was given in the very moment in which its caller went away
                self._leave_place()
            raise

    def _leave_place(self) -> None:
        """To whoever waits for longest: who comes later finds none free."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1

    def _kept(self) -> _Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            # A process without CPU between requests runs no timer, and is told of no end in time: ask clock and socket.
            if connection.is_reusable and now - connection.used_at < IDLE_S and connection.is_silent():
                return connection
            connection.end()
        return None

    def _end_idle(self) -> None:
        """After somebody waited in vain. What makes a connection dumb without ending it makes its neighbours dumb as well, and
        each of them would cost another caller all of its time.
        """
        while self._idle:
            self._idle.pop().end()

    def _keep(self, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        connection.used_at = loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(IDLE_S, self._end_old)

    def _end_old(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in [it for it in self._idle if now - it.used_at >= IDLE_S]:
            self._idle.remove(connection)
            connection.end()
        self._sweep = loop.call_later(IDLE_S / 2, self._end_old) if self._idle else None

    def _watch(self, until: float) -> None:
        """See to it that somebody looks at the clock by then."""
        if self._alarm is not None:
            if self._rings_at <= until:
                return
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_at(until, self._end_late)
        self._rings_at = until

    def _end_late(self) -> None:
        self._alarm = None
        now = asyncio.get_running_loop().time()
        waiting = [connection for connection in self._open if connection.until is not None]
        late = [connection for connection in waiting if connection.until is not None and connection.until <= now]
        for connection in late:
            connection.end_late()
        if late:
            self._end_idle()
        if rest := [connection.until for connection in waiting if connection.until is not None]:
            self._watch(min(rest))

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        context = None if self._in_clear else tls_context()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError:
            raise Broken from None
        addresses = [address for address in found if self._allows(str(address[4][0]))]
        for tried, address in enumerate(addresses, start=1):
            try:
                async with asyncio.timeout(_CONNECT_S if tried < len(addresses) else None):
                    return await self._connect_to(str(address[4][0]), context)
            except ssl.SSLError as error:
                tell(self._host, error)
            except (OSError, TimeoutError):
                continue
        raise Broken

    async def _connect_to(self, address: str, context: ssl.SSLContext | None) -> _Connection:
        connection = self._kind(self._open, self._most_bytes)
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: connection,
                address,
                self._port,
                ssl=context,
                server_hostname=None if context is None else self._host,
            )
        except BaseException:
            connection.end()
            self._open.discard(connection)  # uvloop tells of no end where its caller leaves as it comes about
            raise
        return connection


class _Connection(asyncio.Protocol):
    """One connection, with at most one request under way."""

    surely_heard: float = math.inf  # bytes of a request: who answers a longer one may take its rest for another

    def __init__(self, opened: set[_Connection], most_bytes: int) -> None:
        self._opened = opened
        self._most_bytes = most_bytes
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Answer] | None = None
        self._received = 0
        self._in_head = True
        self._body = bytearray()  # not the parts: a body in parts of one byte would take fifty times its size
        self._headers: dict[str, str] | None = None
        self._socket = select.poll()
        self.until: float | None = None  # of the request under way
        self.used_at = 0.0
        self.is_reusable = True
        self._first_line: Callable[[bytes], None] | None = None
        self._listener: Listening | None = None

    async def ask(
        self,
        request: bytes,
        until: float | None,
        first_line: Callable[[bytes], None] | None = None,
        listener: Listening | None = None,
    ) -> Answer:
        if self._transport is None:
            raise Broken
        self._answer = asyncio.get_running_loop().create_future()
        self._received = 0
        self._in_head = True
        self.until = until
        self._first_line = first_line
        self._listener = listener
        if len(request) > self.surely_heard:
            self.is_reusable = False
        try:
            if listener is not None:
                listener.begins(self._transport)
            self._transport.write(request)
            answer = await self._answer
        except BaseException:
            self.end()  # what is under way belongs to nobody now
            raise
        finally:
            self._answer = self.until = self._first_line = self._listener = None
            self._body = bytearray()  # a kept connection keeps no answer
        if not self.is_reusable:
            self.end()
        return answer

    def is_silent(self) -> bool:
        """Whether nothing has come on the socket, not even its end."""
        return not self._socket.poll(0)

    def end(self) -> None:
        """Close at once."""
        self.is_reusable = False
        if self._transport is not None:
            self._transport.abort()

    def end_late(self) -> None:
        """Tell the caller that its time is over, and close."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(TimeoutError())
        self.until = None
        self.end()

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._socket.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        if self.is_reusable:
            self._opened.add(self)
        else:  # who wanted it has left
            self.end()

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self.end()
            return
        if self._in_head:  # what may be read of a head is read by itself: it must come to its end in that
            allowed = MAX_HEAD_BYTES - self._received
            if len(data) > allowed:
                self._feed(data[:allowed])
                data = data[allowed:]
                if self._in_head:
                    self._fail()
                    return
        self._feed(data)
        if self._received > self._most_bytes:
            self._fail()

    def _feed(self, data: bytes) -> None:
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail()

    def eof_received(self) -> None:
        self.is_reusable = False  # TLS may end before its connection does, and takes no request any more

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._opened.discard(self)
        self._fail()

    def _fail(self, error: Exception | None = None) -> None:
        self.is_reusable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or Broken())
        self.end()

    # llhttp's callbacks
    def on_message_begin(self) -> None:
        if self._answer is None or self._answer.done():
            self.is_reusable = False
        self._body = bytearray()

    def on_headers_complete(self) -> None:
        self._in_head = self._parser.get_status_code() < _FINAL
        if not self._parser.should_keep_alive():
            self.is_reusable = False

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= _FINAL and self._answer is not None and not self._answer.done():
            if self._transport is not None and self._transport.get_write_buffer_size():
                self.is_reusable = False  # answered before it had heard all; in clear: TLS does not tell
            self._answer.set_result(Answer(status, bytes(self._body), self._headers))


class _WithHeaders(_Connection):
    """Keeps what the head says, too, and tells of a first line."""

    _heard: dict[str, str]

    def on_body(self, part: bytes) -> None:
        super().on_body(part)
        tell = self._first_line
        if tell is None or b"\n" not in part or self._parser.get_status_code() != 200:
            return
        self._first_line = None
        if self._answer is not None and not self._answer.done():  # else nobody asked for this
            tell(bytes(self._body).partition(b"\n")[0])

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._headers = self._heard = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # what follows a body in chunks says nothing of it
            self._heard[name.decode("latin-1").lower()] = value.decode("latin-1")


class _OfOthers(_WithHeaders):
    """Reads what servers of all kinds write, as aiohttp does, whose parser is the same one with the same leniencies."""

    surely_heard = _SURELY_HEARD

    def __init__(self, opened: set[_Connection], most_bytes: int) -> None:
        super().__init__(opened, most_bytes)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._without_body = 0  # bytes since the head, or the last of its body

    def _feed(self, data: bytes) -> None:
        self._without_body += len(data)
        super()._feed(data)
        # The parser keeps the value of a trailer until its end.
        if self._without_body > MAX_HEAD_BYTES and not self._in_head:
            self._fail()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._without_body = 0
        if self._listener is None or self._in_head:
            return
        length = self._heard.get("content-length", "")
        refused = self._listener.hears_head(self._parser.get_status_code(), int(length) if length.isdecimal() else None)
        if refused is not None:
            self._fail(refused)
        elif not self._listener.has_body:
            self.is_reusable = False  # the parser waits for what the head declares
            self.on_message_complete()

    def on_body(self, part: bytes) -> None:
        self._without_body = 0
        if self._listener is not None and (refused := self._listener.hears(len(part))) is not None:
            self._fail(refused)
        if self._answer is not None and not self._answer.done():
            super().on_body(part)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and not self._in_head and self._ends_with_its_connection():
            self.on_message_complete()
        super().connection_lost(exc)

    def _ends_with_its_connection(self) -> bool:
        """An answer that says in no other way how long it is (RFC 9112 section 6.3)."""
        return "content-length" not in self._heard and "chunked" not in self._heard.get("transfer-encoding", "").lower()
