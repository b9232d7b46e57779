"""The audit log under load, under failure and at its end."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.contracts.subscription import Subscription

from cab.adapters.google_cloud.pubsub import audit_log
from cab.adapters.google_cloud.pubsub.audit_log import PubSubAuditLog
from cab.adapters.system import SystemRandomness
from cab.domain.audit import AuditEvent, EventType, IntentFacts
from cab.ports import Unavailable
from cab.use_cases.audit.packing import MOST_BYTES, unpack
from cab.use_cases.audit.unsent import UnsentEvents
from cab_dev.fakes.clock import SettableClock
from cab_dev.fakes.documents import InMemoryDocuments, Outage
from cab_dev.fakes.randomness import PredictableRandomness
from gcp_emulators import Emulators
from gcp_emulators.control_client import ControlClient
from gcp_emulators.faults import CallFault

TOPIC = "cab-audit"
CANARY = "canary-3f9a"


@pytest.fixture
def topic(emulators: Emulators, project: str) -> Any:
    subscription = Subscription(emulators.address("pubsub"), project, TOPIC)
    yield subscription
    subscription.close()


@pytest.fixture
def store() -> InMemoryDocuments:
    """Where all processes keep what they could not publish."""
    return InMemoryDocuments()


@pytest.fixture
async def log(topic: Subscription, project: str, store: InMemoryDocuments) -> AsyncIterator[PubSubAuditLog]:
    adapter = PubSubAuditLog(
        project,
        TOPIC,
        service="s",
        revision="r",
        unsent=UnsentEvents(store, SettableClock()),
        clock=SettableClock(),
        randomness=PredictableRandomness(),
    )
    yield adapter
    await adapter.close()


def event(number: int, **members: Any) -> AuditEvent:
    return AuditEvent(
        event_id=f"e{number}",
        event_type=EventType.EXCHANGE_DECIDED,
        occurred_at=datetime(2026, 11, 21, tzinfo=UTC),
        **members,
    )


def publish_fault(**what: Any) -> CallFault:
    return CallFault.model_validate({"service": "pubsub", "method": "Publish", **what})


def published(control: ControlClient, project: str) -> int:
    return control.counts(project).get("pubsub.Publish", 0)


def ids(received: list[bytes]) -> list[str]:
    by_seq = {document["chain"]["seq"]: document["event_id"] for document in map(_json, received)}
    return [by_seq[seq] for seq in sorted(by_seq)]


def _json(received: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(received)
    return document


async def test_one_event_is_one_publish(log: PubSubAuditLog, control: ControlClient, project: str) -> None:
    await log.publish(event(1))
    assert published(control, project) == 1


async def test_messages_say_what_they_carry(log: PubSubAuditLog, topic: Subscription) -> None:
    await log.publish(event(1))
    (received,) = await topic.receive(1)
    assert received.attributes == {"event_id": "e1", "event_type": "exchange.decided"}


async def test_events_that_come_together_share_a_publish(
    log: PubSubAuditLog, control: ControlClient, project: str, topic: Subscription
) -> None:
    await asyncio.gather(*(log.publish(event(number)) for number in range(60)))
    assert published(control, project) == 1
    assert ids(await topic.events(60)) == [f"e{number}" for number in range(60)]


async def test_sixteen_callers_at_once_make_a_quarter_of_a_message_for_each_event_or_less(
    log: PubSubAuditLog, topic: Subscription
) -> None:
    """A message is one push, and one request to ingest_audit."""

    async def caller(number: int) -> None:
        for turn in range(10):
            await log.publish(event(number * 10 + turn))

    await asyncio.gather(*(caller(number) for number in range(16)))
    messages = topic.messages_until_now()
    assert len(messages) <= 160 / 4
    published = [data for message in messages for data in unpack(message.data)]
    assert sorted(ids(published)) == sorted(f"e{number}" for number in range(160))
    assert sum(int(message.attributes.get("events", 1)) for message in messages) == 160


async def test_no_message_is_larger_than_a_push_may_be(log: PubSubAuditLog, topic: Subscription) -> None:
    long = replace(event(0), intent=IntentFacts(parameters="x" * 60_000))
    await asyncio.gather(*(log.publish(replace(long, event_id=f"e{number}")) for number in range(4)))
    messages = await topic.receive(4)
    assert sum(len(unpack(message.data)) for message in messages) == 4
    assert max(sum(map(len, unpack(message.data))) for message in messages) < MOST_BYTES


class HeldPublisher:
    """Pub/Sub that acknowledges when the test says so."""

    def __init__(self, project: str, *, what: str) -> None:
        self.calls: list[asyncio.Future[None]] = []

    async def publish(self, topic: str, messages: Any) -> None:
        acknowledged = asyncio.get_running_loop().create_future()
        self.calls.append(acknowledged)
        await acknowledged

    async def close(self) -> None: ...


def held_log(monkeypatch: pytest.MonkeyPatch) -> tuple[PubSubAuditLog, list[asyncio.Future[None]]]:
    """A log with such a publisher, and its calls."""
    monkeypatch.setattr(audit_log, "PubSubPublisher", HeldPublisher)
    log = PubSubAuditLog(
        "p",
        TOPIC,
        service="s",
        revision="r",
        unsent=UnsentEvents(InMemoryDocuments(), SettableClock()),
        clock=SettableClock(),
        randomness=PredictableRandomness(),
    )
    return log, log._publisher.calls  # type: ignore[attr-defined]


async def a_few_turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def under_way(log: PubSubAuditLog, number: int) -> list[asyncio.Task[None]]:
    """So many events, each of which comes when the publish of the one before has begun, where it may."""
    publishing = []
    for of_event in range(number):
        publishing.append(asyncio.create_task(log.publish(event(of_event))))
        await a_few_turns()
    return publishing


async def test_two_publishes_are_under_way_and_two_more_where_several_events_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, calls = held_log(monkeypatch)
    publishing = await under_way(log, 2)
    begun = []
    for _ in range(13):
        publishing += await under_way(log, 1)
        begun.append(len(calls))
    assert begun == [2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4], "the third and the fourth when four wait, and no fifth"
    calls[1].set_result(None)
    await a_few_turns()
    assert len(calls) == 5, "the next one takes all of those that wait"
    for call in (calls[0], *calls[2:]):
        call.set_result(None)
    await asyncio.gather(*publishing)
    assert len(calls) == 5


async def test_an_event_that_comes_in_the_very_turn_in_which_both_publishes_end_is_sent_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, calls = held_log(monkeypatch)
    publishing = await under_way(log, 2)
    for call in calls:
        call.set_result(None)
    publishing.append(asyncio.create_task(log.publish(event(2))))  # its first step comes behind the last one of both
    await a_few_turns()
    assert len(calls) == 3
    calls[2].set_result(None)
    await asyncio.gather(*publishing)


async def test_a_publish_carries_at_most_a_hundred_events(
    log: PubSubAuditLog, control: ControlClient, project: str, topic: Subscription
) -> None:
    await asyncio.gather(*(log.publish(event(number)) for number in range(250)))
    assert published(control, project) == 3
    assert len(ids(await topic.events(250))) == 250


async def test_a_publish_carries_at_most_a_megabyte(log: PubSubAuditLog, control: ControlClient, project: str) -> None:
    large = IntentFacts(parameters="x" * 300_000)
    await asyncio.gather(*(log.publish(event(number, intent=large)) for number in range(6)))
    assert published(control, project) == 2


async def test_one_lost_publish_is_tried_again(
    log: PubSubAuditLog, control: ControlClient, project: str, topic: Subscription
) -> None:
    control.add_fault(publish_fault(status="UNAVAILABLE", times=1))
    await log.publish(event(1))
    assert published(control, project) == 2
    assert ids(await topic.events(1)) == ["e1"]


async def test_an_unsent_event_goes_as_the_same_bytes_ahead_of_the_next(
    log: PubSubAuditLog, control: ControlClient, topic: Subscription
) -> None:
    control.add_fault(publish_fault(status="UNAVAILABLE", when="after", times=2))
    with pytest.raises(Unavailable):
        await log.publish(event(1))
    lost_answers = await topic.events(2)  # they did arrive, unknown to the log
    await log.publish(event(2))
    received = await topic.events(2)
    assert ids(received) == ["e1", "e2"]
    (again,) = [data for data in received if _json(data)["event_id"] == "e1"]
    assert set(lost_answers) == {again}


async def test_a_refused_event_is_sent_by_the_next_publish_of_anyone(
    log: PubSubAuditLog, control: ControlClient, topic: Subscription, project: str
) -> None:
    control.add_fault(publish_fault(status="PERMISSION_DENIED", times=3))
    for number in range(1, 4):
        with pytest.raises(Unavailable):
            await log.publish(event(number))
    await log.publish(event(4))
    assert published(control, project) == 4
    assert ids(await topic.events(4)) == ["e1", "e2", "e3", "e4"]


async def test_an_answer_that_does_not_come_is_not_waited_for(
    log: PubSubAuditLog, control: ControlClient, topic: Subscription
) -> None:
    control.add_fault(publish_fault(latency_s=30))
    started = time.monotonic()
    answers = await asyncio.gather(*(log.publish(event(number)) for number in range(5)), return_exceptions=True)
    assert time.monotonic() - started < 2.5
    assert {type(answer) for answer in answers} == {Unavailable}
    control.clear_faults()
    await log.publish(event(5))
    assert ids(await topic.events(6)) == [f"e{number}" for number in range(6)]


async def test_the_event_of_a_caller_that_went_away_is_published(
    log: PubSubAuditLog, control: ControlClient, topic: Subscription
) -> None:
    control.add_fault(publish_fault(latency_s=0.1))
    leaving = asyncio.create_task(log.publish(event(1)))
    staying = asyncio.create_task(log.publish(event(2)))
    await asyncio.sleep(0)
    leaving.cancel()
    await staying
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert ids(await topic.events(2)) == ["e1", "e2"]


async def test_a_long_backlog_that_cannot_be_kept_neither_grows_without_end_nor_hides_new_events(
    log: PubSubAuditLog,
    control: ControlClient,
    topic: Subscription,
    store: InMemoryDocuments,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(audit_log, "_MAX_UNACKNOWLEDGED", 250)
    control.add_fault(publish_fault(status="RESOURCE_EXHAUSTED"))
    store.outage = Outage(frozenset({"write"}))
    async with asyncio.timeout(10):
        for start in range(0, 250, 50):
            failing = (log.publish(event(number)) for number in range(start, start + 50))
            answers = await asyncio.gather(*failing, return_exceptions=True)
            assert {type(answer) for answer in answers} == {Unavailable}
        with pytest.raises(Unavailable):
            await log.publish(event(250))
    assert "audit event e250 was not queued" in caplog.text
    control.clear_faults()
    monkeypatch.undo()
    await log.publish(event(251))
    assert ids(await topic.events(251)) == [f"e{number}" for number in range(250)] + ["e251"]


async def test_closing_sends_what_is_left_and_the_end_of_the_chain(
    log: PubSubAuditLog, control: ControlClient, topic: Subscription
) -> None:
    control.add_fault(publish_fault(status="PERMISSION_DENIED", times=1))
    with pytest.raises(Unavailable):
        await log.publish(event(1))
    await log.close()
    first, last = sorted(map(_json, await topic.events(2)), key=lambda document: document["chain"]["seq"])
    assert first["event_id"] == "e1"
    assert (last["event_type"], last["count"], last["chain"]["seq"]) == ("chain.closed", 2, 2)
    assert last["chain"]["prev_hash"] == first["chain"]["hash"]
    with pytest.raises(Unavailable):
        await log.publish(event(2))


async def test_closing_a_log_that_was_never_used_publishes_nothing(
    log: PubSubAuditLog, control: ControlClient, project: str
) -> None:
    await log.close()
    assert published(control, project) == 0


async def test_what_can_neither_be_sent_nor_kept_at_the_end_is_logged_by_id_and_nothing_else(
    log: PubSubAuditLog, control: ControlClient, store: InMemoryDocuments, caplog: pytest.LogCaptureFixture
) -> None:
    store.outage = Outage(frozenset({"write"}))
    control.add_fault(publish_fault(status="INTERNAL", details=CANARY))
    with caplog.at_level(logging.DEBUG, logger="cab"):
        with pytest.raises(Unavailable) as unavailable:
            await log.publish(event(1, intent=IntentFacts(reason=CANARY)))
        await log.close()
    assert "audit event e1 was never acknowledged" in caplog.text
    assert CANARY not in caplog.text + repr(unavailable.value)


# --- a process that ends before it could publish ---


def another(project: str, store: InMemoryDocuments, name: str = "successor") -> PubSubAuditLog:
    """Another process, of whichever function."""
    return PubSubAuditLog(
        project,
        TOPIC,
        service=name,
        revision="r2",
        unsent=UnsentEvents(store, SettableClock()),
        clock=SettableClock(),
        randomness=SystemRandomness(),
    )


async def kept(store: InMemoryDocuments) -> list[str]:
    return [event.event_id for event in await UnsentEvents(store, SettableClock()).oldest()]


async def until_nothing_is_kept(store: InMemoryDocuments) -> None:
    async with asyncio.timeout(5):
        while await kept(store):
            await asyncio.sleep(0.01)


def taking_back(number: int) -> Any:
    return lambda: event(number + 1000, corrects=f"e{number}")


def of_process(received: list[bytes], function: str) -> list[dict[str, Any]]:
    documents = [it for it in map(_json, received) if it["service"]["function"] == function]
    return sorted({it["chain"]["seq"]: it for it in documents}.values(), key=lambda it: it["chain"]["seq"])


async def test_what_could_not_be_published_is_kept_before_the_caller_is_told(
    log: PubSubAuditLog, control: ControlClient, store: InMemoryDocuments
) -> None:
    control.add_fault(publish_fault(status="PERMISSION_DENIED"))
    with pytest.raises(Unavailable):
        await log.publish(event(1), if_withheld=taking_back(1))
    assert await kept(store) == ["e1", "e1001"]


async def test_an_event_without_a_slow_answer_is_kept_too(
    log: PubSubAuditLog, control: ControlClient, store: InMemoryDocuments
) -> None:
    control.add_fault(publish_fault(latency_s=30))
    started = time.monotonic()
    with pytest.raises(Unavailable):
        await log.publish(event(1), if_withheld=taking_back(1))
    assert time.monotonic() - started < 2.5
    assert await kept(store) == ["e1", "e1001"]


async def test_a_token_withheld_by_a_process_that_was_then_killed_is_taken_back_by_whoever_publishes_next(
    log: PubSubAuditLog, control: ControlClient, topic: Subscription, project: str, store: InMemoryDocuments
) -> None:
    """Pub/Sub had the event and its answer was lost; the process dies without another publish."""
    control.add_fault(publish_fault(status="UNAVAILABLE", when="after", times=2))
    with pytest.raises(Unavailable):
        await log.publish(event(1), if_withheld=taking_back(1))
    before = await topic.events(2)
    assert {_json(message)["event_id"] for message in before} == {"e1"}  # all that stood on record until now
    successor = another(project, store)
    await successor.publish(event(7))
    await until_nothing_is_kept(store)
    received = await topic.events(3)
    first, second = of_process(received, "s")
    assert (first["event_id"], second["event_id"], second["corrects"]) == ("e1", "e1001", "e1")
    assert second["chain"]["prev_hash"] == first["chain"]["hash"]
    assert {data for data in received if _json(data)["event_id"] == "e1"} >= {before[0]}
    await successor.close()


async def test_two_successors_at_once_send_the_same_bytes_and_nothing_else(
    log: PubSubAuditLog, control: ControlClient, topic: Subscription, project: str, store: InMemoryDocuments
) -> None:
    control.add_fault(publish_fault(status="PERMISSION_DENIED", times=1))
    with pytest.raises(Unavailable):
        await asyncio.gather(*(log.publish(event(number)) for number in range(30)))
    await asyncio.sleep(0.05)
    assert len(await kept(store)) == 30
    successors = [another(project, store, name) for name in ("first", "second")]
    await asyncio.gather(*(it.publish(event(100 + number)) for number, it in enumerate(successors)))
    await until_nothing_is_kept(store)
    for successor in successors:
        await successor.close()
    received = await topic.events(34)
    by_id: dict[str, set[bytes]] = {}
    for data in received:
        by_id.setdefault(_json(data)["event_id"], set()).add(data)
    assert all(len(contents) == 1 for contents in by_id.values())
    assert [it["chain"]["seq"] for it in of_process(received, "s")] == list(range(1, 31))


async def test_a_process_that_goes_on_sends_its_own_ahead_of_the_next_and_keeps_nothing_behind(
    log: PubSubAuditLog, control: ControlClient, topic: Subscription, store: InMemoryDocuments
) -> None:
    control.add_fault(publish_fault(status="PERMISSION_DENIED", times=1))
    with pytest.raises(Unavailable):
        await log.publish(event(1))
    assert await kept(store) == ["e1"]
    await log.publish(event(2))
    assert ids(await topic.events(2)) == ["e1", "e2"]
    await until_nothing_is_kept(store)


async def test_where_the_store_is_away_too_the_caller_is_told_soon_and_the_event_is_not_forgotten(
    log: PubSubAuditLog,
    control: ControlClient,
    topic: Subscription,
    store: InMemoryDocuments,
    caplog: pytest.LogCaptureFixture,
) -> None:
    control.add_fault(publish_fault(status="PERMISSION_DENIED", times=1))
    store.delay_s = 30
    started = time.monotonic()
    answers = await asyncio.gather(*(log.publish(event(number)) for number in range(20)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {Unavailable}
    assert time.monotonic() - started < 1.5
    store.delay_s = 0
    await log.publish(event(20))
    assert ids(await topic.events(21)) == [f"e{number}" for number in range(21)]


async def test_a_process_that_ends_while_publishing_fails_leaves_its_chain_whole_to_a_successor(
    log: PubSubAuditLog, control: ControlClient, topic: Subscription, project: str, store: InMemoryDocuments
) -> None:
    control.add_fault(publish_fault(status="PERMISSION_DENIED"))
    with pytest.raises(Unavailable):
        await log.publish(event(1))
    await log.close()
    assert len(await kept(store)) == 2
    control.clear_faults()
    successor = another(project, store)
    await successor.publish(event(2))
    await until_nothing_is_kept(store)
    left = of_process(await topic.events(3), "s")
    assert [it["event_type"] for it in left] == ["exchange.decided", "chain.closed"]
    await successor.close()


async def test_events_that_memory_has_no_room_for_go_out_from_the_store(
    log: PubSubAuditLog,
    control: ControlClient,
    topic: Subscription,
    store: InMemoryDocuments,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit_log, "_MAX_UNACKNOWLEDGED", 20)
    control.add_fault(publish_fault(status="PERMISSION_DENIED"))
    for start in range(0, 100, 10):
        failing = (log.publish(event(number)) for number in range(start, start + 10))
        await asyncio.gather(*failing, return_exceptions=True)
    assert len(log._open) <= 20
    assert len(await kept(store)) == 100
    control.clear_faults()
    await log.publish(event(100))
    await until_nothing_is_kept(store)
    received: dict[str, bytes] = {}
    while len(received) < 101:
        received |= {_json(data)["event_id"]: data for data in await topic.events(1)}
    assert ids(list(received.values())) == [f"e{number}" for number in range(101)]


# --- what a later event says of those before it ---


async def test_an_event_says_up_to_where_its_chain_is_settled(log: PubSubAuditLog, topic: Subscription) -> None:
    for number in (1, 2, 3):
        await log.publish(event(number))
    settled = sorted((it["chain"]["seq"], it["chain"]["settled"]) for it in map(_json, await topic.events(3)))
    assert settled == [(1, 0), (2, 1), (3, 2)]


async def test_a_withheld_event_is_settled_only_with_what_takes_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its acknowledgement comes after its caller was told no: a later event must not vouch for it."""
    monkeypatch.setattr(audit_log, "_BUDGET_S", 0.05)
    log, calls = held_log(monkeypatch)
    with pytest.raises(Unavailable):
        await log.publish(event(1), if_withheld=taking_back(1))
    late, *_ = calls
    late.set_result(None)
    await asyncio.sleep(0.01)
    assert log._settled == 0
    following = asyncio.create_task(log.publish(event(2)))
    await asyncio.sleep(0.01)
    calls[-1].set_result(None)  # it carries what takes the first one back, and the second event
    await following
    assert log._settled == 3


async def test_an_event_that_its_caller_takes_back_is_settled_only_with_what_does_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The caller need not wait for that to be acknowledged, and a process may be killed that could keep it nowhere."""
    monkeypatch.setattr(audit_log, "_BUDGET_S", 0.05)
    log, calls = held_log(monkeypatch)
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    issued = asyncio.create_task(log.publish(event(1), answered=answered))
    await asyncio.sleep(0.01)
    calls[-1].set_result(None)
    await issued
    with pytest.raises(Unavailable):
        await log.publish(taking_back(1)())
    answered.set_result(None)
    await asyncio.sleep(0.01)
    assert log._settled == 0
    calls[-1].set_result(None)
    await asyncio.sleep(0.01)
    assert log._settled == 2


async def test_closing_waits_for_callers_that_may_take_back_their_events(
    log: PubSubAuditLog, topic: Subscription
) -> None:
    """Who ends the loop ends them as well, and not always before the log."""
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    await log.publish(event(1), answered=answered)

    async def leave() -> None:
        await log.publish(taking_back(1)())
        answered.set_result(None)

    await asyncio.gather(log.close(), leave())
    last = max(map(_json, await topic.events(3)), key=lambda document: document["chain"]["seq"])
    assert (last["event_type"], last["chain"]["settled"]) == ("chain.closed", 2)


async def test_the_last_event_of_a_chain_vouches_for_all_before_it(
    log: PubSubAuditLog, control: ControlClient, topic: Subscription
) -> None:
    control.add_fault(publish_fault(status="PERMISSION_DENIED", times=1))
    with pytest.raises(Unavailable):
        await log.publish(event(1), if_withheld=taking_back(1))
    await log.close()
    last = max(map(_json, await topic.events(3)), key=lambda document: document["chain"]["seq"])
    assert (last["event_type"], last["chain"]["settled"]) == ("chain.closed", 2)


async def test_a_function_that_may_write_nowhere_keeps_what_it_could_not_publish_in_memory(
    control: ControlClient, topic: Subscription, project: str, caplog: pytest.LogCaptureFixture
) -> None:
    def opened() -> PubSubAuditLog:
        return PubSubAuditLog(
            project,
            TOPIC,
            service="s",
            revision="r",
            unsent=None,
            clock=SettableClock(),
            randomness=PredictableRandomness(),
        )

    log = opened()
    control.add_fault(publish_fault(status="PERMISSION_DENIED", times=1))
    with pytest.raises(Unavailable):
        await log.publish(event(1))
    await log.publish(event(2))
    assert ids(await topic.events(2)) == ["e1", "e2"]
    await log.close()

    lost = opened()
    control.add_fault(publish_fault(status="PERMISSION_DENIED"))
    with pytest.raises(Unavailable):
        await lost.publish(event(3))
    with caplog.at_level(logging.ERROR):
        await lost.close()
    assert "audit event e3 was never acknowledged" in caplog.text
