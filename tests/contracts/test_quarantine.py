"""The contract of `Quarantine`: one suite, every adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
from tests.contracts.subscription import Subscription

from cab.adapters.google_cloud.pubsub.quarantine import PubSubQuarantine
from cab.ports import Quarantine
from cab_dev.fakes.quarantine import InMemoryQuarantine

_PutAside = tuple[bytes, str, str]


@dataclass
class Bench:
    quarantine: Quarantine
    read: Callable[[int], Awaitable[list[_PutAside]]]


@pytest.fixture(params=["memory", "embedded", pytest.param("official", marks=pytest.mark.emulators)])
async def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, project: str) -> AsyncIterator[Bench]:
    if request.param == "memory":
        double = InMemoryQuarantine()

        async def of_memory(_: int) -> list[_PutAside]:
            return [(message.data, message.cause, message.message_id) for message in double.messages]

        yield Bench(double, of_memory)
        return
    address = request.getfixturevalue(request.param).address("pubsub")
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", address)
    subscription = Subscription(address, project, "cab-audit-quarantine")
    adapter = PubSubQuarantine(project, "cab-audit-quarantine")

    async def of_topic(count: int) -> list[_PutAside]:
        return [
            (message.data, message.attributes["cause"], message.attributes["source_message_id"])
            for message in await subscription.receive(count)
        ]

    yield Bench(adapter, of_topic)
    await adapter.close()
    subscription.close()


async def test_what_is_put_aside_is_there_unchanged_with_its_cause(bench: Bench) -> None:
    await bench.quarantine.put(b"\x00not json\xff", cause="malformed", message_id="17")
    await bench.quarantine.put(b"{}", cause="hash_mismatch", message_id="18")
    assert sorted(await bench.read(2)) == [(b"\x00not json\xff", "malformed", "17"), (b"{}", "hash_mismatch", "18")]
