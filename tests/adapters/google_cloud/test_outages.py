"""Nobody there, or nobody answers: `Unavailable` in good time, and nothing to restart afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from cab.adapters.google_cloud.bigquery.audit_rows import BigQueryAuditRows
from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments
from cab.adapters.google_cloud.pubsub.audit_log import PubSubAuditLog
from cab.adapters.google_cloud.pubsub.quarantine import PubSubQuarantine
from cab.adapters.google_cloud.secrets import SecretManagerVault
from cab.domain.audit import AuditEvent, EventType
from cab.ports import AuditRow, Create, Tally, Unavailable
from cab.use_cases.audit.unsent import UnsentEvents
from cab_dev.fakes.clock import SettableClock
from cab_dev.fakes.documents import InMemoryDocuments
from cab_dev.fakes.randomness import PredictableRandomness
from gcp_emulators import running

EVENT = AuditEvent(event_id="e", event_type=EventType.EXCHANGE_DECIDED, occurred_at=datetime(2026, 11, 21, tzinfo=UTC))
ROW = AuditRow("e", b'{"event_id":"e"}')


def audit_log(project: str) -> PubSubAuditLog:
    return PubSubAuditLog(
        project,
        "cab-audit",
        service="s",
        revision="r",
        unsent=UnsentEvents(InMemoryDocuments(), SettableClock()),
        clock=SettableClock(),
        randomness=PredictableRandomness(),
    )


def documents(project: str) -> FirestoreDocuments:
    return FirestoreDocuments(project, "guards")


CALLS: dict[str, tuple[Callable[[str], Any], Callable[[Any], Awaitable[Any]], str, float]] = {
    "read": (documents, lambda store: store.read("a/b"), "documents", 4),
    "write": (documents, lambda store: store.write(Create("a/b", {})), "documents", 4),
    "tally": (documents, lambda store: store.tally(Tally("a/b", add={"n": 1})), "documents", 4),
    "find": (documents, lambda store: store.find("a"), "documents", 4),
    "access": (SecretManagerVault, lambda vault: vault.access("a", 1), "secrets", 4),
    "create": (SecretManagerVault, lambda vault: vault.create("a"), "secrets", 4),
    "add": (SecretManagerVault, lambda vault: vault.add("a", b""), "secrets", 4),
    "destroy": (SecretManagerVault, lambda vault: vault.destroy("a", 1), "secrets", 4),
    "may_add": (SecretManagerVault, lambda vault: vault.may_add("a"), "secrets", 4),
    "publish": (audit_log, lambda log: log.publish(EVENT), "audit", 2.5),
    "put": (
        lambda project: PubSubQuarantine(project, "q"),
        lambda quarantine: quarantine.put(b"", cause="c", message_id="m"),
        "quarantine",
        4,
    ),
    "insert": (lambda project: BigQueryAuditRows(project, "d", "t"), lambda rows: rows.insert([ROW]), "audit rows", 8),
}


@pytest.mark.usefixtures("dead_server")
@pytest.mark.parametrize("call", CALLS)
async def test_a_call_to_nobody_ends_in_time(call: str, project: str) -> None:
    make, use, what, limit_s = CALLS[call]
    adapter = make(project)
    started = time.monotonic()
    with pytest.raises(Unavailable) as unavailable:
        await use(adapter)
    assert time.monotonic() - started < limit_s
    assert unavailable.value.what == what
    assert unavailable.value.__cause__ is None
    await adapter.close()


@pytest.mark.usefixtures("dead_server")
async def test_fifty_calls_to_nobody_end_as_soon_as_one(project: str) -> None:
    store = documents(project)
    started = time.monotonic()
    answers = await asyncio.gather(*(store.read("a/b") for _ in range(50)), return_exceptions=True)
    assert time.monotonic() - started < 4
    assert {type(answer) for answer in answers} == {Unavailable}
    await store.close()


async def test_an_adapter_works_again_when_its_server_is_back(project: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as own:
        for name, address in own.environment().items():
            monkeypatch.setenv(name, address)
        store, vault = documents(project), SecretManagerVault(project)
        assert await store.read("a/b") is None
        process = own.process("firestore")
        await asyncio.to_thread(process.kill)
        with pytest.raises(Unavailable):
            await store.read("a/b")
        with pytest.raises(Unavailable):
            await vault.access("a", 1)
        await asyncio.to_thread(process.start)
        async with asyncio.timeout(5):
            await until_it_answers(lambda: store.write(Create("a/b", {"n": 1})))
            await until_it_answers(lambda: vault.create("a"))
        await store.close()
        await vault.close()


async def until_it_answers(call: Callable[[], Awaitable[Any]]) -> None:
    while True:
        try:
            await call()
        except Unavailable:
            await asyncio.sleep(0.05)
        else:
            return
