"""How requests end, without any HTTP around them."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import timedelta
from typing import Any, NoReturn

import pytest

from cab.domain import audit
from cab.domain.audit import EventType
from cab.domain.errors import BrokerError, Claimed, Reason
from cab.encoding.records import as_json
from cab.ports import Unavailable
from cab.transport.logs import JsonLines
from cab.use_cases.audit.auditor import TRACKED_SOURCES, Auditor, Facts, RequestContext
from cab.use_cases.audit.lines import tell_unrecorded
from cab_dev.fakes.audit_log import InMemoryAuditLog
from cab_dev.fakes.clock import SettableClock
from cab_dev.fakes.randomness import PredictableRandomness


class Bench:
    def __init__(self) -> None:
        self.log = InMemoryAuditLog()
        self.clock = SettableClock()
        self.auditor = Auditor(self.log, self.clock, PredictableRandomness())

    async def run(self, work: Any, prefix: str | None = "192.0.2.0/24", **options: Any) -> Any:
        context = RequestContext("txn-of-request", caller_ip_prefix=prefix)
        return await self.auditor.run(EventType.EXCHANGE_DECIDED, context, work, **options)

    async def refuse_stranger(self, prefix: str | None) -> None:
        await self.run(refused, prefix)

    async def has_counted(self, floods: int) -> None:
        async with asyncio.timeout(5):
            while len(self.counted) < floods:
                await asyncio.sleep(0.005)

    @property
    def counted(self) -> list[tuple[str | None, int | None]]:
        return [
            (event.caller_ip_prefix, event.count)
            for event in self.log.events
            if event.event_type is EventType.REQUESTS_REFUSED_COUNTED
        ]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def refused(_: Facts) -> NoReturn:
    raise BrokerError(Reason.CLIENT_AUTHENTICATION_FAILED)


async def answered(facts: Facts) -> str:
    facts.token = audit.TokenFacts(kind="assertion", jti="j")
    return "answer"


async def test_an_answer_is_given_after_its_event_is_acknowledged(bench: Bench) -> None:
    bench.log.delay_s = 0.01
    result = await bench.run(answered)
    assert (result.answer, result.refusal, result.txn) == ("answer", None, "txn-of-request")
    (event,) = bench.log.events
    assert (event.outcome, event.reason_code) == ("issued", None)


async def test_an_answer_without_a_token_counts_as_executed(bench: Bench) -> None:
    async def done(_: Facts) -> None: ...

    await bench.run(done)
    assert bench.log.events[0].outcome == "executed"


@pytest.mark.parametrize(
    ("said", "ended"),
    [
        ("done", "executed"),
        ("rejected", "failed"),
        ("failed", "failed"),
        ("not_sent", "failed"),
        ("unknown", "unknown"),
        ("not_used", "unused"),
    ],
)
async def test_what_came_of_a_call_is_how_its_event_ended_also_where_it_names_a_token(
    bench: Bench, said: audit.CallOutcome, ended: str
) -> None:
    async def reported(facts: Facts) -> None:
        facts.token = audit.TokenFacts(sha256="00")
        facts.call = audit.CallFacts(id="c", outcome=said)
        facts.observed_by = "agent"

    await bench.auditor.run(EventType.TOOL_EXECUTED, RequestContext("t"), reported)
    (event,) = bench.log.events
    assert (event.outcome, event.call and event.call.outcome, event.observed_by) == (ended, said, "agent")


async def test_an_attempt_is_an_issued_token(bench: Bench) -> None:
    async def attempted(facts: Facts) -> None:
        facts.token = audit.TokenFacts(kind="downstream", sha256="00")
        facts.call = audit.CallFacts(id="c", request_digest="sha-256:d")

    await bench.run(attempted)
    assert [(event.outcome, event.call and event.call.id) for event in bench.log.events] == [("issued", "c")]


async def test_silent_work_leaves_an_event_only_when_refused(bench: Bench) -> None:
    await bench.run(answered, silent=True)
    assert bench.log.events == []
    await bench.run(refused, silent=True)
    assert [event.reason_code for event in bench.log.events] == ["client_authentication_failed"]


async def test_a_refusal_never_names_a_token(bench: Bench) -> None:
    async def signed_and_then_refused(facts: Facts) -> NoReturn:
        facts.token = audit.TokenFacts(kind="broker_jwt", jti="j")
        raise BrokerError(Reason.CLIENT_ASSERTION_REPLAYED)

    await bench.run(signed_and_then_refused)
    assert bench.log.events[0].token is None
    assert bench.log.events[0].outcome == "refused"


@pytest.mark.parametrize(
    ("dependency", "reason"),
    [
        ("audit", Reason.AUDIT_UNAVAILABLE),
        ("documents", Reason.STORE_UNAVAILABLE),
        ("secrets", Reason.STORE_UNAVAILABLE),
        ("identity_provider", Reason.IDP_UNAVAILABLE),
        ("provider", Reason.PROVIDER_UNAVAILABLE),
        ("grants", Reason.PROVIDER_UNAVAILABLE),
        ("policy", Reason.POLICY_UNAVAILABLE),
        ("service tokens", Reason.STORE_UNAVAILABLE),
        ("something new", Reason.STORE_UNAVAILABLE),
    ],
)
async def test_an_outage_is_told_by_the_dependency_it_is_in(bench: Bench, dependency: str, reason: Reason) -> None:
    async def away(_: Facts) -> NoReturn:
        raise Unavailable(dependency)

    result = await bench.run(away)
    assert result.refusal.reason is reason
    assert bench.log.events[0].reason_code == reason.value


async def test_a_bug_is_answered_and_logged_by_type_and_place_never_by_its_text(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async def buggy(_: Facts) -> NoReturn:
        raise RuntimeError("canary-51d2")

    with caplog.at_level(logging.DEBUG):
        result = await bench.run(buggy)
    assert result.refusal.reason is Reason.INTERNAL_ERROR
    assert result.refusal.detail == ""
    assert bench.log.events[0].outcome == "failed"
    assert "RuntimeError" in caplog.text
    assert "test_auditing.py" in caplog.text
    assert "canary-51d2" not in caplog.text + str(as_json(bench.log.events[0]))


async def test_writes_beside_the_event_happen_with_an_answer_and_not_with_a_refusal(bench: Bench) -> None:
    written: list[str] = []

    async def write(name: str) -> None:
        written.append(name)

    async def answering(facts: Facts) -> str:
        facts.beside.append(write("answered"))
        return "answer"

    async def refusing(facts: Facts) -> NoReturn:
        facts.beside.append(write("refused"))
        raise BrokerError(Reason.POLICY_DENIED)

    await bench.run(answering)
    await bench.run(refusing)
    assert written == ["answered"]


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (BrokerError(Reason.GRANT_REVOKED), Reason.GRANT_REVOKED),
        (Unavailable("grants"), Reason.PROVIDER_UNAVAILABLE),
        (Unavailable("documents"), Reason.STORE_UNAVAILABLE),
    ],
)
async def test_what_fails_beside_an_event_is_the_answer_and_takes_the_event_back(
    bench: Bench, end: Exception, reason: Reason
) -> None:
    async def fail() -> None:
        raise end

    async def answering(facts: Facts) -> str:
        facts.beside.append(fail())
        return await answered(facts)

    result = await bench.run(answering)
    assert (result.answer, result.refusal.reason) == (None, reason)
    issued, taken_back = bench.log.events
    assert (issued.outcome, taken_back.corrects, taken_back.reason_code) == ("issued", issued.event_id, reason.value)


async def test_a_bug_beside_an_event_is_refused_and_charged_as_one_before_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    given_back: list[str] = []

    async def mistaken() -> None:
        raise RuntimeError("a secret of somebody")

    async def give_back() -> None:
        given_back.append("use")

    async def answering(facts: Facts) -> str:
        facts.beside.append(mistaken())
        facts.release.append(give_back)
        return await answered(facts)

    result = await bench.run(answering)
    assert (result.answer, result.refusal.reason) == (None, Reason.INTERNAL_ERROR)
    assert given_back == ["use"]
    issued, taken_back = bench.log.events
    assert (taken_back.corrects, taken_back.reason_code) == (issued.event_id, "internal_error")
    assert "internal error RuntimeError" in caplog.text
    assert "secret" not in caplog.text


async def test_who_leaves_after_the_event_was_acknowledged_gets_nothing_and_the_event_is_taken_back(
    bench: Bench,
) -> None:
    async def answering(facts: Facts) -> str:
        facts.beside.append(asyncio.sleep(60))
        return await answered(facts)

    running = asyncio.create_task(bench.run(answering))
    await asyncio.sleep(0.01)
    assert [event.outcome for event in bench.log.events] == ["issued"]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    issued, taken_back = bench.log.events
    assert (taken_back.event_type, taken_back.corrects) == ("token.withheld", issued.event_id)


async def test_an_event_is_vouched_for_when_everything_beside_it_is_done(bench: Bench) -> None:
    done = asyncio.Event()

    async def beside() -> None:
        await done.wait()

    async def answering(facts: Facts) -> str:
        facts.beside.append(beside())
        return await answered(facts)

    running = asyncio.create_task(bench.run(answering))
    await asyncio.sleep(0.01)
    await bench.run(answered)
    done.set()
    await running
    await bench.run(answered)
    assert [json.loads(message.data)["chain"]["settled"] for message in bench.log.messages] == [0, 0, 2]


async def test_a_cancelled_request_is_neither_answered_nor_taken_for_a_bug(bench: Bench) -> None:
    async def hanging(_: Facts) -> None:
        await asyncio.Event().wait()

    running = asyncio.create_task(bench.run(hanging))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert bench.log.events == []


# --- strangers ---


async def test_a_source_may_leave_five_events_a_minute(bench: Bench) -> None:
    for _ in range(25):
        await bench.refuse_stranger("192.0.2.0/24")
    assert len(bench.log.events) == 5
    bench.clock.advance(timedelta(seconds=59))
    await bench.refuse_stranger("192.0.2.0/24")
    assert len(bench.log.events) == 5
    bench.clock.advance(timedelta(seconds=1))
    await bench.refuse_stranger("192.0.2.0/24")
    assert bench.counted == [("192.0.2.0/24", 21)]
    assert len(bench.log.events) == 7


async def test_a_counted_flood_has_its_own_time_network_and_transaction_and_anybody_takes_it_along(
    bench: Bench,
) -> None:
    bench.clock.advance(timedelta(seconds=10))
    began_at = bench.clock.now()
    for _ in range(9):
        await bench.refuse_stranger("192.0.2.0/24")
    bench.clock.advance(timedelta(hours=3))
    await bench.run(answered, "198.51.100.0/24")  # who comes next is no stranger, and is not refused
    (flood,) = [event for event in bench.log.events if event.count is not None]
    assert (flood.count, flood.caller_ip_prefix, flood.occurred_at) == (4, "192.0.2.0/24", began_at)
    assert flood.txn not in (None, "txn-of-request")


async def test_a_flood_that_cannot_be_written_down_yet_withholds_nobody_elses_token(bench: Bench) -> None:
    for _ in range(9):
        await bench.refuse_stranger("192.0.2.0/24")
    bench.clock.advance(timedelta(hours=3))
    publish = bench.log.publish

    async def refuse_floods(event: audit.AuditEvent, **options: Any) -> None:
        if event.count is not None:
            raise Unavailable("audit")
        await publish(event, **options)

    bench.log.publish = refuse_floods  # type: ignore[method-assign]
    assert (await bench.run(answered)).answer == "answer"


async def test_sources_without_an_address_are_one_source(bench: Bench) -> None:
    for _ in range(8):
        await bench.refuse_stranger(None)
    bench.clock.advance(timedelta(minutes=1))
    await bench.refuse_stranger("192.0.2.0/24")
    assert bench.counted == [(None, 3)]


async def test_a_source_that_kept_within_its_budget_is_not_counted(bench: Bench) -> None:
    for _ in range(5):
        await bench.refuse_stranger("192.0.2.0/24")
    bench.clock.advance(timedelta(minutes=1))
    await bench.refuse_stranger("192.0.2.0/24")
    assert bench.counted == []


async def test_more_sources_than_are_remembered_lose_no_count(bench: Bench) -> None:
    for number in range(TRACKED_SOURCES + 50):
        for _ in range(6):
            await bench.refuse_stranger(f"10.{number // 250}.{number % 250}.0/24")
    assert len(bench.auditor._sources) <= TRACKED_SOURCES
    bench.clock.advance(timedelta(minutes=1))
    for _ in range(100):
        await bench.refuse_stranger("192.0.2.0/24")
    assert sum(count or 0 for _, count in bench.counted) == TRACKED_SOURCES + 50


async def test_no_stranger_waits_for_all_that_others_left_behind(bench: Bench) -> None:
    for number in range(100):
        for _ in range(6):
            await bench.refuse_stranger(f"10.0.{number}.0/24")
    before = len(bench.log.events)
    bench.clock.advance(timedelta(minutes=1))
    await bench.refuse_stranger("192.0.2.0/24")
    assert len(bench.log.events) - before == 21


async def test_an_authenticated_client_has_no_such_budget(bench: Bench) -> None:
    async def known(facts: Facts) -> NoReturn:
        facts.client_authenticated = True
        raise BrokerError(Reason.POLICY_DENIED)

    for _ in range(20):
        await bench.run(known)
    assert len(bench.log.events) == 20


async def test_a_refusal_is_answered_though_its_event_waits(bench: Bench) -> None:
    bench.log.is_down = True
    result = await bench.run(refused)
    assert result.refusal.reason is Reason.CLIENT_AUTHENTICATION_FAILED
    bench.log.is_down = False
    await bench.run(answered)
    assert [event.outcome for event in bench.log.events] == ["refused", "issued"]


async def test_a_flood_is_on_record_when_its_minute_is_over_although_nobody_comes(bench: Bench) -> None:
    bench.auditor = Auditor(bench.log, bench.clock, PredictableRandomness(), window=timedelta(seconds=0.02))
    begun_at = bench.clock.now()
    for _ in range(12):
        await bench.refuse_stranger("198.51.100.0/24")
    bench.clock.advance(timedelta(seconds=0.02))
    await bench.has_counted(1)
    assert bench.counted == [("198.51.100.0/24", 7)]
    assert bench.log.events[-1].occurred_at == begun_at


async def test_a_second_flood_is_counted_by_time_too_and_a_few_refusals_start_no_clock(bench: Bench) -> None:
    bench.auditor = Auditor(bench.log, bench.clock, PredictableRandomness(), window=timedelta(seconds=0.02))
    for network in ("198.51.100.0/24", "192.0.2.0/24"):
        for _ in range(9):
            await bench.refuse_stranger(network)
        bench.clock.advance(timedelta(seconds=0.01))
    await bench.has_counted(1)
    assert bench.counted == [("198.51.100.0/24", 4)]
    bench.clock.advance(timedelta(seconds=0.01))
    await bench.has_counted(2)
    assert bench.counted == [("198.51.100.0/24", 4), ("192.0.2.0/24", 4)]
    bench.clock.advance(timedelta(seconds=1))
    for _ in range(5):
        await bench.refuse_stranger("203.0.113.0/24")
    assert bench.auditor._next_count is None
    await bench.auditor.close()


# --- what a request had taken ---


@pytest.mark.parametrize(
    ("end", "given_back"),
    [
        (None, []),
        (BrokerError(Reason.POLICY_DENIED), ["released"]),
        (BrokerError(Reason.PROVIDER_UNAVAILABLE), ["undone", "released"]),
        (Unavailable("documents"), ["undone", "released"]),
        (RuntimeError("a bug"), ["undone", "released"]),
    ],
)
async def test_what_a_request_was_charged_is_given_back_where_it_failed_through_us(
    bench: Bench, end: Exception | None, given_back: list[str]
) -> None:
    done: list[str] = []

    async def work(facts: Facts) -> str:
        async def undo() -> None:
            done.append("undone")

        async def release() -> None:
            done.append("released")

        facts.undo.append(undo)
        facts.release.append(release)
        if end is not None:
            raise end
        return "answer"

    await bench.run(work)
    assert done == given_back


async def test_an_answer_that_is_withheld_gives_everything_back(bench: Bench) -> None:
    done: list[str] = []

    async def work(facts: Facts) -> str:
        async def release() -> None:
            done.append("released")

        facts.release.append(release)
        return "answer"

    bench.log.is_down = True
    assert (await bench.run(work)).answer is None
    assert done == ["released"]


@pytest.mark.parametrize(
    ("claimed", "said"),
    [
        (None, {}),
        (Claimed(client_id="c", issuer="i"), {"unverified": {"client_id": "c", "issuer": "i"}}),
        (Claimed(client_id=None, issuer="i"), {"unverified": {"issuer": "i"}}),
    ],
)
def test_who_publishes_no_events_logs_a_refusal_with_what_was_claimed(
    claimed: Claimed | None, said: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    refusal = BrokerError(Reason.CLIENT_AUTHENTICATION_FAILED, why="aud is not us", claimed=claimed)
    with caplog.at_level(logging.WARNING):
        tell_unrecorded(refusal)
    (line,) = [json.loads(JsonLines("p").format(record)) for record in caplog.records]
    assert (
        line
        == {
            "message": "credential refused",
            "severity": "WARNING",
            "logger": "cab.use_cases.audit.lines",
            "reason_code": "client_authentication_failed",
            "why": "aud is not us",
        }
        | said
    )
