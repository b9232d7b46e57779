"""The HTTP client against servers that break every rule, and what it keeps open between calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from cab.adapters.http import connections
from cab.adapters.http.connections import Answer, Broken, Connections

REQUEST = b"POST /v1/x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{}"
WELL = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Hands each connection to `serve`. `requests` are those that came whole."""

    def __init__(self, serve: Serve) -> None:
        self.serve = serve
        self.connected = 0
        self.requests = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        if task := asyncio.current_task():
            self.tasks.add(task)
        try:
            await self.serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)

    async def heard(self, reader: asyncio.StreamReader) -> None:
        await reader.readexactly(len(REQUEST))
        self.requests += 1


@asynccontextmanager
async def serving(make: Callable[[Server], Serve], **options: Any) -> AsyncIterator[tuple[Server, Connections]]:
    server = Server(lambda _, __: asyncio.sleep(0))
    server.serve = make(server)
    listening = await asyncio.start_server(server.connection, "127.0.0.1", 0)
    client = Connections("127.0.0.1", listening.sockets[0].getsockname()[1], in_clear=True, **options)
    yield server, client
    await client.close()
    listening.close()
    for task in server.tasks:
        task.cancel()
    await asyncio.gather(*server.tasks, return_exceptions=True)


def answering(*parts: bytes, then_close: bool = False, pause_s: float = 0.0) -> Callable[[Server], Serve]:
    """The same bytes to every request, one part after another."""

    def make(server: Server) -> Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await server.heard(reader)
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(pause_s)
                if then_close:
                    return

        return serve

    return make


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
GOOD = {
    "with a length": (WELL,),
    "in chunks": (CHUNKED + b"1\r\n[\r\n1\r\n]\r\n0\r\n\r\n",),
    "with extensions and trailers": (CHUNKED + b'2;a="b"\r\n[]\r\n0\r\nx: y\r\n\r\n',),
    "after some that only announce it": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + WELL,
    ),
    "byte by byte": tuple(bytes([byte]) for byte in CHUNKED + b"2\r\n[]\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("parts", GOOD.values(), ids=GOOD.keys())
async def test_an_answer_is_read_however_it_is_framed_and_cut(parts: tuple[bytes, ...]) -> None:
    async with serving(answering(*parts)) as (server, client):
        assert [await client.ask(REQUEST) for _ in "ab"] == [Answer(200, b"[]")] * 2
        assert server.connected == 1  # and the connection is as good as new


HUGE = b"a" * 60_000
BAD = {
    "no HTTP at all": b"SSH-2.0-OpenSSH_9.2\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n[]x",
    "a length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a length that is no number": b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\n[]",
    "a chunk that is no number": CHUNKED + b"zz\r\n[]\r\n",
    "a length beyond all": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n[]",
    "a head without end": b"HTTP/1.1 200 OK\r\nx: " + HUGE,
    "a head of many lines": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 10_000,
    "a huge head that ends": b"HTTP/1.1 200 OK\r\nx: " + HUGE + b"\r\ncontent-length: 2\r\n\r\n[]",
    "announcements without end": b"HTTP/1.1 100 Continue\r\nx: y\r\n\r\n" * 3_000,
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nxx",
    "a line of header after a blank": b"HTTP/1.1 200 OK\r\n x: y\r\ncontent-length: 2\r\n\r\n[]",
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD.keys())
async def test_what_is_no_answer_ends_the_call_and_the_connection(answer: bytes) -> None:
    async with serving(answering(answer)) as (server, client):
        for _ in "ab":
            async with asyncio.timeout(2):
                with pytest.raises(Broken):
                    await client.ask(REQUEST)
        assert server.connected == 2
        assert server.requests == 2  # each was sent once


CUT = {
    "before anything": b"",
    "in the head": b"HTTP/1.1 200 OK\r\ncontent-len",
    "in the body": b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n[]",
    "between chunks": CHUNKED + b"2\r\n[]\r\n",
    "in the last chunk": CHUNKED + b"2\r\n[]\r\n0\r\n",
    "where the end is all that says so": b"HTTP/1.1 200 OK\r\n\r\n[]",
}


@pytest.mark.parametrize("answer", CUT.values(), ids=CUT.keys())
async def test_an_answer_that_is_cut_off_is_none_and_the_request_is_not_sent_again(answer: bytes) -> None:
    async with serving(answering(answer, then_close=True)) as (server, client):
        with pytest.raises(Broken):
            await client.ask(REQUEST)
        assert (server.connected, server.requests) == (1, 1)


async def test_a_first_line_is_told_of_the_answer_that_was_asked_for_and_of_nothing_that_follows_it() -> None:
    more = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n{}\n\n"
    told: list[bytes] = []
    async with serving(answering(WELL + more), keeps_headers=True) as (_, client):
        assert (await client.ask(REQUEST, first_line=told.append)).body == b"[]"
    assert told == []
    async with serving(answering(more), keeps_headers=True) as (_, client):
        assert (await client.ask(REQUEST, first_line=told.append)).body == b"{}\n\n"
    assert told == [b"{}"]


@pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", b"garbage", b"\0" * 99])
async def test_what_comes_after_an_answer_is_never_the_answer_to_the_next_request(more: bytes) -> None:
    async with serving(answering(WELL + more)) as (server, client):
        assert [(await client.ask(REQUEST)).body for _ in "abc"] == [b"[]"] * 3
        assert server.connected == 3


async def test_what_comes_unasked_between_two_requests_ends_the_connection() -> None:
    def late(server: Server) -> Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.heard(reader)
            writer.write(WELL)
            await asyncio.sleep(0.02)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged")
            await reader.read()

        return serve

    async with serving(late) as (server, client):
        await client.ask(REQUEST)
        await asyncio.sleep(0.05)
        assert (await client.ask(REQUEST)).body == b"[]"
        assert server.connected == 2


async def test_a_body_without_end_is_bounded_even_where_chunks_hold_next_to_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "MAX_ANSWER_BYTES", 200_000)

    def endless(server: Server) -> Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.heard(reader)
            writer.write(CHUNKED)
            while True:
                writer.write((b"1;" + b"x" * 500 + b"\r\na\r\n") * 20)
                await writer.drain()

        return serve

    async with serving(endless) as (_, client):
        async with asyncio.timeout(5):
            with pytest.raises(Broken):
                await client.ask(REQUEST)


async def test_slow_bytes_do_not_outlast_the_caller_and_what_comes_later_reaches_nobody() -> None:
    slow = [bytes([byte]) for byte in WELL]
    async with serving(answering(*slow, pause_s=0.02)) as (server, client):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.ask(REQUEST)
        await asyncio.sleep(0.01)
        assert not client._open
        server.serve = answering(WELL)(server)
        assert (await client.ask(REQUEST)).body == b"[]"
        assert server.connected == 2


async def test_a_connection_that_has_fallen_silent_costs_one_caller_and_not_one_for_each_that_was_kept() -> None:
    """What drops a connection without a word, such as a table of addresses on the way, drops its neighbours too."""

    def silent_after_one(server: Server) -> Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.heard(reader)
            await asyncio.sleep(0.02)
            writer.write(WELL)
            await asyncio.sleep(60)

        return serve

    async with serving(silent_after_one) as (server, client):
        await asyncio.gather(*(client.ask(REQUEST) for _ in range(5)))
        assert len(client._idle) == 5
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.ask(REQUEST)
        assert not client._idle
        assert (await client.ask(REQUEST)).body == b"[]"
        assert server.connected == 6


def silent(server: Server) -> Serve:
    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await server.heard(reader)
        await reader.read()

    return serve


async def test_each_wait_ends_at_its_own_time_whichever_began_first() -> None:
    """A busy machine may end all of them late: so one of a few tries has to be in time, and none may be early."""
    spans = (0.12, 0.04, 0.2, 0.08)
    late = []
    async with serving(silent) as (_, client):
        loop = asyncio.get_running_loop()

        async def late_by(until: float) -> float:
            with pytest.raises(TimeoutError):
                await client.ask(REQUEST, until=until)
            return loop.time() - until

        for _ in range(20):
            began = loop.time()
            late = await asyncio.gather(*(late_by(began + seconds) for seconds in spans))
            assert client._alarm is None
            assert min(late) >= 0
            if max(late) < 0.03:
                return
    pytest.fail(f"late by {late}")


async def test_waiting_for_a_place_ends_in_time_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 1)
    async with serving(silent) as (server, client):
        first = asyncio.create_task(client.ask(REQUEST))
        await asyncio.sleep(0.02)
        async with asyncio.timeout(2):
            with pytest.raises(TimeoutError):
                await client.ask(REQUEST, until=asyncio.get_running_loop().time() + 0.05)
        assert server.requests == 1
        first.cancel()


async def test_connecting_ends_in_time_too(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Connections("127.0.0.1", 1, in_clear=True)
    monkeypatch.setattr(client, "_connect", lambda: asyncio.sleep(60))
    async with asyncio.timeout(2):
        with pytest.raises(TimeoutError):
            await client.ask(REQUEST, until=asyncio.get_running_loop().time() + 0.05)


async def test_an_answer_in_time_is_not_disturbed_by_what_waits_in_vain() -> None:
    async with serving(answering(WELL, pause_s=0.0)) as (server, client):
        loop = asyncio.get_running_loop()
        for _ in range(3):
            assert (await client.ask(REQUEST, until=loop.time() + 0.05)).body == b"[]"
        await asyncio.sleep(0.1)  # the alarm rings for what has long been answered
        assert (await client.ask(REQUEST, until=loop.time() + 1)).body == b"[]"
        assert server.connected == 1


async def test_an_answer_before_the_request_was_heard_ends_the_connection() -> None:
    def deaf(_: Server) -> Serve:
        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n")
            await asyncio.sleep(60)

        return serve

    async with serving(deaf) as (server, client):
        large = b"POST /v1/x HTTP/1.1\r\ncontent-length: 20000000\r\n\r\n" + b"x" * 20_000_000
        async with asyncio.timeout(5):
            assert [(await client.ask(large)).status for _ in "ab"] == [413, 413]
        assert server.connected == 2


@pytest.mark.parametrize("most", [len(WELL) - 3, len(WELL) - 2])
async def test_a_head_may_be_as_long_as_is_allowed_and_no_byte_longer(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(connections, "MAX_HEAD_BYTES", most)
    async with serving(answering(WELL)) as (_, client):
        if most == len(WELL) - len(b"[]"):
            assert (await client.ask(REQUEST)).body == b"[]"
        else:
            with pytest.raises(Broken):
                await client.ask(REQUEST)


async def test_sizes_are_counted_anew_for_each_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_HEAD_BYTES", 2 * len(WELL))
    monkeypatch.setattr(connections, "MAX_ANSWER_BYTES", 2 * len(WELL))
    async with serving(answering(*(bytes([byte]) for byte in WELL))) as (server, client):
        for _ in range(5):
            assert (await client.ask(REQUEST)).body == b"[]"
        assert server.connected == 1


async def test_a_connection_that_its_server_closed_meanwhile_gets_no_request() -> None:
    async with serving(answering(WELL, then_close=True)) as (server, client):
        for _ in "abc":
            assert (await client.ask(REQUEST)).body == b"[]"
            await asyncio.sleep(0.01)
        assert (server.connected, server.requests) == (3, 3)


async def test_the_end_of_a_connection_is_seen_on_the_socket_before_the_loop_tells_of_it() -> None:
    """A function without CPU between its requests wakes up with both waiting: the end of its connections, and the next request."""
    async with serving(answering(WELL)) as (server, client):
        await client.ask(REQUEST)
        (connection,) = client._idle
        assert connection.is_silent()
        assert connection._transport is not None
        connection._transport.pause_reading()  # the loop hears nothing any more
        for task in server.tasks:
            task.cancel()
        await asyncio.sleep(0.02)
        assert connection.is_reusable  # as far as the loop knows
        assert not connection.is_silent()
        assert (await client.ask(REQUEST)).body == b"[]"


async def test_a_server_that_says_it_will_close_is_believed() -> None:
    last = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n[]"
    async with serving(answering(last)) as (server, client):
        assert [(await client.ask(REQUEST)).body for _ in "ab"] == [b"[]"] * 2
        assert server.connected == 2


async def test_an_idle_connection_is_closed_before_its_server_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE_S", 0.05)
    async with serving(answering(WELL)) as (server, client):
        await client.ask(REQUEST)
        assert len(client._open) == 1
        await asyncio.sleep(0.15)
        assert not client._open
        await client.ask(REQUEST)
        assert server.connected == 2


async def test_an_idle_connection_is_too_old_even_where_no_timer_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(answering(WELL)) as (server, client):
        await client.ask(REQUEST)
        monkeypatch.setattr(connections, "IDLE_S", 0.0)  # all that time has passed, and no timer was heard
        await client.ask(REQUEST)
        assert server.connected == 2


async def test_no_more_connections_than_allowed_are_open_and_all_callers_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 3)
    async with serving(answering(WELL, pause_s=0.002)) as (server, client):
        answers = await asyncio.gather(*(client.ask(REQUEST) for _ in range(40)))
        assert {answer.body for answer in answers} == {b"[]"}
        assert server.connected == 3


async def test_callers_that_go_away_leave_their_places_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 2)

    def silent(server: Server) -> Serve:
        async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            await server.heard(reader)
            await reader.read()

        return serve

    async with serving(silent) as (server, client):
        gone = [asyncio.create_task(client.ask(REQUEST)) for _ in range(10)]
        await asyncio.sleep(0.02)
        for task in gone:
            task.cancel()
        await asyncio.wait(gone)
        server.serve = answering(WELL)(server)
        async with asyncio.timeout(2):
            assert len(await asyncio.gather(*(client.ask(REQUEST) for _ in range(5)))) == 5


async def test_a_place_that_is_given_to_a_caller_as_it_goes_away_is_the_next_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 1)
    async with serving(answering(WELL, pause_s=0.002)) as (_, client):
        leave = client._leave_place
        served, gone, waiting = (asyncio.create_task(client.ask(REQUEST)) for _ in range(3))

        def leave_as_the_next_one_goes_away() -> None:
            leave()
            gone.cancel()

        monkeypatch.setattr(client, "_leave_place", leave_as_the_next_one_goes_away)
        async with asyncio.timeout(2):
            assert [(await answered).body for answered in (served, waiting)] == [b"[]"] * 2
        assert gone.cancelled()


async def test_closing_ends_what_is_under_way_and_what_waits_for_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(server: Server) -> Serve:
        async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            await reader.read()

        return serve

    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 2)
    async with serving(silent) as (server, client):
        asking = [asyncio.create_task(client.ask(REQUEST)) for _ in range(5)]
        await asyncio.sleep(0.02)
        await client.close()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Broken] * 5
        await asyncio.sleep(0)
        assert not client._open
        assert server.requests == 0


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("turns", range(8))
def test_a_caller_that_goes_away_while_it_connects_keeps_nobody_from_closing(
    run: Callable[[Coroutine[Any, Any, None]], None], turns: int
) -> None:
    """Under uvloop, `close` waited forever and took all CPU for a connection that had just come about then."""

    async def leave() -> None:
        async with serving(answering(WELL)) as (_, client), asyncio.timeout(5):
            asking = asyncio.create_task(client.ask(REQUEST))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
            await client.close()

    run(leave())


async def test_nobody_there_is_no_answer(unused_tcp_port_factory: Callable[[], int]) -> None:
    client = Connections("localhost", unused_tcp_port_factory(), in_clear=True)
    with pytest.raises(Broken):
        await client.ask(REQUEST)
    await client.close()


async def test_the_next_address_of_a_host_is_tried_when_one_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_CONNECT_S", 0.02)
    async with serving(answering(WELL)) as (_, client):
        loop = asyncio.get_running_loop()
        connect = loop.create_connection

        async def two(*_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
            return [(2, 1, 6, "", ("192.0.2.1", client._port)), (2, 1, 6, "", ("127.0.0.1", client._port))]

        async def into_the_void(make: Any, host: str, *arguments: Any, **options: Any) -> Any:
            if host == "192.0.2.1":
                await asyncio.sleep(60)
            return await connect(make, host, *arguments, **options)

        monkeypatch.setattr(loop, "getaddrinfo", two)
        monkeypatch.setattr(loop, "create_connection", into_the_void)
        async with asyncio.timeout(2):
            assert (await client.ask(REQUEST)).body == b"[]"


async def test_the_next_address_of_a_host_is_tried_when_one_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(answering(WELL)) as (_, client):
        loop = asyncio.get_running_loop()

        async def both(*_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
            return [(10, 1, 6, "", ("::1", client._port)), (2, 1, 6, "", ("127.0.0.1", client._port))]

        monkeypatch.setattr(loop, "getaddrinfo", both)
        assert (await client.ask(REQUEST)).body == b"[]"
