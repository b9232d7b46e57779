"""A broker that is slow, cut off, or hidden behind something else: bounded, said in words that help, and without a token."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest

from cab_client import (
    Agent,
    AsyncAgent,
    BrokerFailed,
    CabError,
    ClientSecret,
    FrontEnd,
    Intent,
    TryLater,
    WorkloadIdentity,
)
from cab_client.transport import use_transport

READ = Intent("crm.opportunity.read", on="crm", identifier="opportunity/1")
CANARY = "the-token-of-alice"
CRM = {"crm": "https://crm.fake"}


def agent_of(origin: str, **options: Any) -> Agent:
    return Agent(origin, ClientSecret("a", "s"), connections=CRM, **options)


def refused(answer: httpx2.Response) -> CabError:
    with use_transport(httpx2.MockTransport(lambda _: answer)), pytest.raises(CabError) as raised:
        agent_of("https://cab.fake", deadline_s=0.1).permit(READ, assertion="a.b.c")
    return raised.value


def shown(error: BaseException) -> str:
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server of one connection, by what it does with the socket once a request is there."""

    def accept() -> None:
        with contextlib.suppress(OSError):  # nobody came, or the client has gone
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


# --- when to come back ---


@pytest.mark.parametrize("body", [{"json": {"error": "temporarily_unavailable"}}, {"text": "<html>"}])
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("17", 17),
        ("0", 0),
        (format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True), 0),
        ("soon", None),
        ("-1", None),
        ("17, 17", None),
        ("Sun, 99 Nov 2026 99:00:00 GMT", None),
    ],
)
def test_retry_after_is_understood_in_every_form(body: dict[str, Any], said: str, expected: float | None) -> None:
    error = refused(httpx2.Response(503, headers={"Retry-After": said}, **body))
    assert isinstance(error, TryLater)
    assert error.retry_after == expected


def test_retry_after_may_be_a_date_to_come() -> None:
    said = format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True)
    error = refused(httpx2.Response(503, headers={"Retry-After": said}, text="<html>"))
    assert isinstance(error, TryLater)
    assert error.retry_after == pytest.approx(600, abs=30)


def test_who_is_told_to_come_back_later_than_the_deadline_does_not_knock_again() -> None:
    knocks = []

    def busy(request: httpx2.Request) -> httpx2.Response:
        knocks.append(request)
        return httpx2.Response(429, text="<html>", headers={"Retry-After": "60"})

    with use_transport(httpx2.MockTransport(busy)), pytest.raises(TryLater):
        agent_of("https://cab.fake").permit(READ, assertion="a.b.c")
    assert len(knocks) == 1


# --- what is no answer ---


@pytest.mark.parametrize("status", [200, 301, 400, 403, 404, 500])
def test_a_page_of_something_else_says_where_to_look(status: int) -> None:
    error = refused(httpx2.Response(status, text="<html>", headers={"Location": "https://elsewhere.example/"}))
    assert type(error) is BrokerFailed
    assert "is its origin right" in str(error)


@pytest.mark.parametrize(
    "wrong",
    [
        {"expires_in": "abc"},
        {"expires_in": []},
        {"expires_in": "inf"},
        {"expires_in": -1},
        {"authorization_details": ["x"]},
        {"authorization_details": {}},
        {"scope": 7},
    ],
    ids=str,
)
def test_a_token_with_odd_members_beside_it_is_a_token(wrong: dict[str, Any]) -> None:
    answer = httpx2.Response(200, json={"access_token": CANARY, "token_type": "Bearer", "expires_in": 1} | wrong)
    with use_transport(httpx2.MockTransport(lambda _: answer)):
        permit = agent_of("https://cab.fake").permit(READ, assertion="a.b.c")
    assert permit.reveal() == CANARY
    assert permit.expires_at <= time.time() + 1


@pytest.mark.parametrize("token", [f"{CANARY}\r\nX-Evil: 1", f"{CANARY} ", f"{CANARY}é", "", None, 7])
def test_what_would_not_fit_in_a_header_is_no_token_and_is_not_shown(token: object) -> None:
    error = refused(httpx2.Response(200, json={"access_token": token, "expires_in": 9}))
    assert type(error) is BrokerFailed
    assert CANARY not in shown(error) + repr(error)


def test_an_assertion_that_is_none_is_the_brokers_failure() -> None:
    answer = httpx2.Response(200, json={"access_token": CANARY, "expires_in": 9})
    with use_transport(httpx2.MockTransport(lambda _: answer)), pytest.raises(BrokerFailed) as raised:
        FrontEnd("https://cab.fake", ClientSecret("a", "s")).mint("id")
    assert CANARY not in shown(raised.value)


# --- slow and cut off ---


def dripping(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    for _ in range(1000):
        time.sleep(0.05)
        connection.sendall(b" ")


def test_an_answer_that_drips_does_not_outlast_the_deadline() -> None:
    with serving(dripping) as origin:
        began = time.monotonic()
        agent = agent_of(origin, deadline_s=0.5)
        with pytest.raises(TryLater) as raised:
            agent.permit(READ, assertion="a.b.c")
        agent.close()
    assert raised.value.reason_code == "no_answer"
    assert time.monotonic() - began < 3


async def test_a_task_that_is_cancelled_while_half_a_token_is_there_shows_none_of_it() -> None:
    half, over = threading.Event(), threading.Event()

    def halves(connection: socket.socket) -> None:
        begun = f'{{"access_token": "{CANARY}'.encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + begun)
        half.set()
        over.wait(10)

    with serving(halves) as origin:
        agent = AsyncAgent(origin, ClientSecret("a", "s"), connections=CRM)
        with pytest.raises(TimeoutError) as raised:
            async with asyncio.timeout(0.5):
                await agent.permit(READ, assertion="a.b.c")
        over.set()
        await agent.aclose()
    assert half.is_set()
    assert CANARY not in shown(raised.value)


def test_who_cannot_connect_is_told_why() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        origin = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(TryLater, match="refused") as raised:
        agent_of(origin, deadline_s=0.1).permit(READ, assertion="a.b.c")
    assert raised.value.reason_code == "cannot_connect"


# --- what is between ---


def test_no_cookie_of_one_user_goes_with_the_next() -> None:
    cookies: list[str | None] = []

    def balanced(request: httpx2.Request) -> httpx2.Response:
        cookies.append(request.headers.get("cookie"))
        answer = {"access_token": "a.b.c", "expires_in": 9}
        return httpx2.Response(200, json=answer, headers={"Set-Cookie": "session=alice; Path=/"})

    front_end = FrontEnd("https://cab.fake", ClientSecret("a", "s"))
    with use_transport(httpx2.MockTransport(balanced)):
        for user in ("alice", "bob"):
            front_end.mint(user)
    assert cookies == [None, None]


def test_no_proxy_hears_who_the_workload_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """`HTTP_PROXY` is for the way out; the metadata server is inside the machine."""
    asked: list[str] = []

    def answering(name: str) -> Callable[[socket.socket], None]:
        def answer(connection: socket.socket) -> None:
            asked.append(name)
            connection.sendall(b"HTTP/1.1 418 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        return answer

    with serving(answering("proxy")) as proxy, serving(answering("metadata")) as metadata:
        for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.setenv("GCE_METADATA_HOST", metadata.removeprefix("http://"))
        agent = Agent("http://cab.example", WorkloadIdentity(), connections=CRM)
        with pytest.raises(CabError, match="The metadata server said 418"):
            agent.permit(READ, assertion="a.b.c")
        assert asked == ["metadata"]
        with pytest.raises(CabError):
            agent_of("http://cab.example").permit(READ, assertion="a.b.c")
        assert asked == ["metadata", "proxy"]
