"""What is sent to a platform, how often, and what is said of it: one test per row of call-mode.md, "Time and repetition"."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvloop
from tests.support.fault_platform import (
    Fault,
    FaultPlatform,
    answer,
    bombs,
    closes_before_the_answer,
    closes_within_the_answer,
    drips,
    echo,
    hangs,
    streams_a_gibibyte,
)

from cab.adapters.http.platforms import Platforms
from cab.domain.audit import CallOutcome
from cab.domain.calls.rendering import RenderedCall
from cab.domain.configured.actions import Effect
from cab.domain.errors import BrokerError, Reason
from cab.ports import Unavailable
from cab.use_cases.calls.execute import Execute, Executed, Sendable

TOKEN = "eyJhbGciOiJub25lIn0.the-token-of-alice-0123456789abcdef"
OTHER = "another-token-of-alice-fedcba9876543210"
READ, WRITE, KEYED = (Effect.READ, False), (Effect.WRITE, False), (Effect.WRITE, True)


@pytest.fixture
async def platform() -> AsyncIterator[FaultPlatform]:
    platform = FaultPlatform()
    await platform.start()
    yield platform
    await platform.stop()


class Tokens:
    """Where another token comes from."""

    def __init__(self, given: str | BrokerError | Unavailable = OTHER) -> None:
        self.given = given
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        if not isinstance(self.given, str):
            raise self.given
        return self.given


async def execute(
    platform: FaultPlatform,
    kind: tuple[Effect, bool] = READ,
    *script: Fault,
    tokens: Tokens | None = None,
    origin: str | None = None,
    success: tuple[int, ...] = (),
    timeout_s: float = 5,
) -> Executed:
    platform.script = list(script)
    origin = origin or platform.origin
    clients = [
        Platforms([origin], what="provider", allow_loopback_http=True, keep_alive=kept) for kept in (True, False)
    ]
    effect, keyed = kind
    body = None if effect is Effect.READ else b'{"title":"x"}'
    request = RenderedCall("GET" if effect is Effect.READ else "POST", f"{origin}/tasks", None, body, (), "/tasks")
    call = Sendable(request, {"Accept": "application/json"}, effect, keyed, timeout_s, success)
    try:
        return await Execute(*clients)(call, TOKEN, tokens or Tokens())
    finally:
        for client in clients:
            await client.close()


OK = answer(200, {"id": 1})
ROWS: list[tuple[str, tuple[Effect, bool], tuple[Fault, ...], CallOutcome, int]] = [
    ("a read that is answered", READ, (OK,), "done", 1),
    ("a write that is answered", WRITE, (answer(201, {}),), "done", 1),
    ("403", WRITE, (answer(403, {}), OK), "rejected", 1),
    ("404 of a read", READ, (answer(404, {}), OK), "rejected", 1),
    ("409 of a keyed write", KEYED, (answer(409, {}), OK), "rejected", 1),
    ("422", WRITE, (answer(422, {}), OK), "rejected", 1),
    ("429 that lets a read come back", READ, (answer(429, {}, Retry_After="0"), OK), "done", 2),
    ("429 twice", READ, (answer(429, {}, Retry_After="0"),), "rejected", 2),
    ("429 that asks for more time", READ, (answer(429, {}, Retry_After="3"), OK), "rejected", 1),
    ("429 that does not say", READ, (answer(429, {}), OK), "rejected", 1),
    ("429 of a write", WRITE, (answer(429, {}, Retry_After="0"), OK), "rejected", 1),
    ("429 of a keyed write", KEYED, (answer(429, {}, Retry_After="0"), OK), "rejected", 1),
    ("503 that lets a read come back", READ, (answer(503, {}, Retry_After="0"), OK), "done", 2),
    ("503 that asks for more time", READ, (answer(503, {}, Retry_After="60"), OK), "rejected", 1),
    ("503 of a write", WRITE, (answer(503, {}, Retry_After="0"), OK), "unknown", 1),
    ("500 of a read", READ, (answer(500, {}), OK), "done", 2),
    ("500 of a read twice", READ, (answer(500, {}),), "failed", 2),
    ("500 that lets a read come back", READ, (answer(500, {}, Retry_After="0"), OK), "done", 2),
    ("500 that asks for more time", READ, (answer(500, {}, Retry_After="60"), OK), "failed", 1),
    ("500 of a keyed write", KEYED, (answer(500, {}), OK), "done", 2),
    ("500 of a keyed write twice", KEYED, (answer(500, {}),), "unknown", 2),
    ("500 of a write", WRITE, (answer(500, {}), OK), "unknown", 1),
    ("a read's lost answer", READ, (closes_before_the_answer, OK), "done", 2),
    ("a read's lost answer twice", READ, (closes_before_the_answer,), "failed", 2),
    ("a read's half answer", READ, (closes_within_the_answer, OK), "done", 2),
    ("a keyed write's lost answer", KEYED, (closes_before_the_answer, OK), "done", 2),
    ("a keyed write's lost answers", KEYED, (closes_before_the_answer,), "unknown", 2),
    ("a keyed write's half answer, then no", KEYED, (closes_within_the_answer, answer(409)), "unknown", 2),
    ("a write's lost answer", WRITE, (closes_before_the_answer, OK), "unknown", 1),
    ("a write's half answer", WRITE, (closes_within_the_answer, OK), "unknown", 1),
    ("a redirect of a read", READ, (answer(302, b"", Location="/elsewhere"), OK), "failed", 1),
    ("a redirect of a write", WRITE, (answer(307, b"", Location="/elsewhere"), OK), "unknown", 1),
    ("a compressed bomb", READ, (bombs,), "done", 1),
    ("a gibibyte", READ, (streams_a_gibibyte,), "done", 1),
]


@pytest.mark.parametrize(("kind", "script", "outcome", "hits"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
async def test_the_table(
    platform: FaultPlatform, kind: tuple[Effect, bool], script: tuple[Fault, ...], outcome: CallOutcome, hits: int
) -> None:
    executed = await execute(platform, kind, *script)
    assert (executed.outcome, len(platform.hits), executed.attempts) == (outcome, hits, hits)
    assert (executed.token_refused, executed.interrupted) == (False, False)


@pytest.mark.parametrize(
    ("kind", "outcome", "hits"),
    [(READ, "failed", 1), (WRITE, "unknown", 1), (KEYED, "unknown", 1)],
)
@pytest.mark.parametrize("fault", [hangs, drips])
async def test_the_time_of_a_call_is_for_all_its_tries(
    platform: FaultPlatform, fault: Fault, kind: tuple[Effect, bool], outcome: CallOutcome, hits: int
) -> None:
    started = asyncio.get_running_loop().time()
    executed = await execute(platform, kind, fault, timeout_s=0.5)
    assert (executed.outcome, len(platform.hits)) == (outcome, hits)
    took_s = asyncio.get_running_loop().time() - started
    assert 499 < executed.latency_ms <= took_s * 1000 < 1500


@pytest.mark.parametrize("kind", [READ, WRITE])
async def test_what_nobody_listens_to_is_tried_twice_and_was_not_sent(
    platform: FaultPlatform, kind: tuple[Effect, bool]
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        executed = await execute(platform, kind, OK, origin=f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert (executed.outcome, executed.attempts) == ("not_sent", 2)


@pytest.mark.parametrize("kind", [READ, WRITE, KEYED])
async def test_a_refused_token_is_replaced_once(platform: FaultPlatform, kind: tuple[Effect, bool]) -> None:
    tokens = Tokens()
    executed = await execute(platform, kind, answer(401, {}), OK, tokens=tokens)
    assert (executed.outcome, tokens.asked) == ("done", 1)
    assert [hit.headers["authorization"] for hit in platform.hits] == [f"Bearer {TOKEN}", f"Bearer {OTHER}"]


async def test_a_platform_that_refuses_every_token_is_asked_twice(platform: FaultPlatform) -> None:
    tokens = Tokens()
    executed = await execute(platform, WRITE, answer(401, {}), tokens=tokens)
    assert (executed.outcome, executed.token_refused) == ("rejected", True)
    assert (len(platform.hits), tokens.asked) == (2, 1)


async def test_the_same_token_is_not_tried_again(platform: FaultPlatform) -> None:
    executed = await execute(platform, WRITE, answer(401, {}), OK, tokens=Tokens(TOKEN))
    assert (executed.outcome, executed.token_refused, len(platform.hits)) == ("rejected", True, 1)


async def test_why_there_is_no_other_token_is_passed_on(platform: FaultPlatform) -> None:
    refusal = BrokerError(Reason.GRANT_NEEDS_REAUTH)
    executed = await execute(platform, WRITE, answer(401, {}), OK, tokens=Tokens(refusal))
    assert (executed.outcome, executed.refusal, len(platform.hits)) == ("rejected", refusal, 1)


async def test_where_no_other_token_can_be_had_the_platforms_no_stands(platform: FaultPlatform) -> None:
    executed = await execute(platform, WRITE, answer(401, {}), OK, tokens=Tokens(Unavailable("decisions")))
    assert executed.refusal is not None
    assert (executed.outcome, executed.refusal.reason) == ("rejected", Reason.PROVIDER_UNAVAILABLE)
    assert len(platform.hits) == 1


async def test_a_refused_token_after_a_lost_answer_does_not_say_that_nothing_happened(platform: FaultPlatform) -> None:
    executed = await execute(platform, KEYED, closes_before_the_answer, answer(401, {}))
    assert (executed.outcome, executed.token_refused) == ("unknown", False)


@pytest.mark.parametrize("where", ["header", "body"])
async def test_an_answer_that_holds_the_token_is_withheld_and_the_token_replaced(
    platform: FaultPlatform, where: str
) -> None:
    tokens = Tokens()
    executed = await execute(platform, WRITE, echo(where), tokens=tokens)
    assert executed.refusal is not None
    assert (executed.outcome, executed.refusal.reason) == ("done", Reason.SECRET_ECHOED)
    assert (executed.answer, tokens.asked, len(platform.hits)) == (None, 1, 1)
    assert TOKEN[-16:] not in repr(executed)


async def test_a_redirect_is_refused_and_nobody_is_asked_there(platform: FaultPlatform) -> None:
    executed = await execute(platform, READ, answer(301, b"", Location=f"{platform.origin}/elsewhere"), OK)
    assert executed.refusal is not None
    assert executed.refusal.reason is Reason.REDIRECT_REFUSED
    assert [hit.target for hit in platform.hits] == ["/tasks"]


async def test_a_declared_success_is_the_only_one(platform: FaultPlatform) -> None:
    assert (await execute(platform, WRITE, answer(201, {}), success=(200, 201))).outcome == "done"
    assert (await execute(platform, READ, answer(202, {}), success=(201,))).outcome == "failed"
    assert (await execute(platform, WRITE, answer(202, {}), success=(201,))).outcome == "unknown"


async def test_a_gibibyte_is_not_read(platform: FaultPlatform) -> None:
    executed = await execute(platform, READ, streams_a_gibibyte)
    assert executed.refusal is not None
    assert executed.refusal.reason is Reason.RESPONSE_TOO_LARGE


async def test_a_size_that_the_platform_declares_is_told(platform: FaultPlatform) -> None:
    executed = await execute(platform, READ, answer(200, b" " * 2_000_000))
    assert executed.refusal is not None
    assert "2000000 bytes" in executed.refusal.detail
    assert executed.status == 200


async def test_what_goes_out_is_what_was_rendered_and_the_token(platform: FaultPlatform) -> None:
    await execute(platform, WRITE, OK)
    (hit,) = platform.hits
    assert (hit.method, hit.target, hit.body) == ("POST", "/tasks", b'{"title":"x"}')
    assert hit.headers["authorization"] == f"Bearer {TOKEN}"
    known = {
        "host",
        "authorization",
        "accept",
        "accept-encoding",
        "user-agent",
        "content-length",
        "content-type",
        "connection",
    }
    assert set(hit.headers) <= known


def test_a_call_does_not_show_what_it_sends() -> None:
    request: Any = RenderedCall("POST", "https://a.test/x?secret=1", "application/json", b"secret", (), "/x")
    assert "secret" not in repr(Sendable(request, {"X-Secret": "secret"}, Effect.WRITE, False, 1, ()))


def test_the_time_that_a_call_took_is_finer_than_the_milliseconds_of_the_deployed_loop() -> None:
    """A record of whole milliseconds would be hashed in the slow way: RFC 8785 writes 5.0 as 5."""

    async def measured() -> list[float]:
        platform = FaultPlatform()
        await platform.start()
        try:
            return [(await execute(platform, READ, OK)).latency_ms for _ in range(3)]
        finally:
            await platform.stop()

    assert not any(round(latency, 3).is_integer() for latency in uvloop.run(measured()))
