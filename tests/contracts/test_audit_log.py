"""The contract of `AuditLog`: one suite, every adapter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.contracts.subscription import Subscription

from cab.adapters.google_cloud.pubsub.audit_log import PubSubAuditLog
from cab.domain.audit import AuditEvent, EventType, Latency, Subject, event_hash, read
from cab.encoding.records import as_json
from cab.ports import AuditLog
from cab.use_cases.audit.unsent import UnsentEvents
from cab_dev.fakes.audit_log import InMemoryAuditLog
from cab_dev.fakes.clock import SettableClock
from cab_dev.fakes.documents import InMemoryDocuments
from cab_dev.fakes.randomness import PredictableRandomness

TOPIC = "cab-audit"


@dataclass
class Bench:
    """`read` returns when so many events have come, and lets what is under way go on meanwhile."""

    log: AuditLog
    read: Callable[[int], Awaitable[list[bytes]]]


@pytest.fixture(params=["memory", "embedded", pytest.param("official", marks=pytest.mark.emulators)])
async def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, project: str) -> AsyncIterator[Bench]:
    if request.param == "memory":
        double = InMemoryAuditLog(service="exchange_token", revision="r1")

        async def published(_: int) -> list[bytes]:
            return [sealed.data for sealed in double.messages]

        yield Bench(double, published)
        return
    address = request.getfixturevalue(request.param).address("pubsub")
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", address)
    subscription = Subscription(address, project, TOPIC)
    adapter = PubSubAuditLog(
        project,
        TOPIC,
        service="exchange_token",
        revision="r1",
        unsent=UnsentEvents(InMemoryDocuments(), SettableClock()),
        clock=SettableClock(),
        randomness=PredictableRandomness(),
    )
    yield Bench(adapter, subscription.events)
    await adapter.close()
    subscription.close()


def event(number: int, **members: Any) -> AuditEvent:
    return AuditEvent(
        event_id=f"event-{number:03}",
        event_type=EventType.EXCHANGE_DECIDED,
        occurred_at=datetime(2026, 11, 21, 12, 0, 0, number, tzinfo=UTC),
        **members,
    )


def chained(published: list[bytes]) -> list[dict[str, Any]]:
    """The events in chain order, once each."""
    by_seq = {document["chain"]["seq"]: document for document in map(json.loads, published)}
    return [by_seq[seq] for seq in sorted(by_seq)]


async def test_an_event_is_published_with_its_service_and_its_place_in_the_chain(bench: Bench) -> None:
    sent = event(
        1, tenant="acme", subject=Subject(key="k", groups=["sales"]), latency_ms=Latency(total=1.5, policy=1.0)
    )
    await bench.log.publish(sent)
    (published,) = chained(await bench.read(1))
    received = read(published)
    assert replace(received, service=None, chain=None) == sent
    assert received.service is not None
    assert as_json(received.service) == {"function": "exchange_token", "revision": "r1"}
    assert received.chain is not None
    assert (received.chain.seq, received.chain.prev_hash) == (1, "")


async def test_every_event_names_the_one_before_it(bench: Bench) -> None:
    for number in range(1, 6):
        await bench.log.publish(event(number))
    published = chained(await bench.read(5))
    assert [document["event_id"] for document in published] == [f"event-{number:03}" for number in range(1, 6)]
    assert [document["chain"]["seq"] for document in published] == [1, 2, 3, 4, 5]
    assert len({document["chain"]["id"] for document in published}) == 1
    hashes = [document["chain"]["hash"] for document in published]
    assert [document["chain"]["prev_hash"] for document in published] == ["", *hashes[:-1]]


async def test_the_hash_can_be_recomputed_from_what_is_published(bench: Bench) -> None:
    await bench.log.publish(event(1, latency_ms=Latency(total=0.1, policy=3.0), tenant="Zürich ☃"))
    (published,) = chained(await bench.read(1))
    assert event_hash(published) == published["chain"]["hash"]
    assert event_hash(published | {"tenant": "other"}) != published["chain"]["hash"]


async def test_concurrent_events_are_all_there_in_one_unbroken_chain(bench: Bench) -> None:
    await asyncio.gather(*(bench.log.publish(event(number)) for number in range(1, 251)))
    published = chained(await bench.read(250))
    assert {document["event_id"] for document in published} == {f"event-{number:03}" for number in range(1, 251)}
    hashes = [document["chain"]["hash"] for document in published]
    assert [document["chain"]["prev_hash"] for document in published] == ["", *hashes[:-1]]


async def test_a_caller_that_goes_away_leaves_its_event_with_what_takes_it_back(bench: Bench) -> None:
    made: list[int] = []

    def take_back() -> AuditEvent:
        made.append(1)
        return event(2, corrects="event-001")

    call = asyncio.create_task(bench.log.publish(event(1), if_withheld=take_back))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await bench.log.publish(event(3), if_withheld=take_back)
    published = chained(await bench.read(3))
    assert [document["event_id"] for document in published] == ["event-001", "event-002", "event-003"]
    assert made == [1]


async def test_no_later_event_vouches_for_one_that_may_be_taken_back_still(bench: Bench) -> None:
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    await bench.log.publish(event(1))
    await bench.log.publish(event(2), answered=answered)
    await bench.log.publish(event(3))
    answered.set_result(None)
    await asyncio.sleep(0)
    await bench.log.publish(event(4))
    published = chained(await bench.read(4))
    assert [document["chain"]["settled"] for document in published] == [0, 1, 1, 3]
