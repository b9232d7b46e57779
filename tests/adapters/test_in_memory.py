"""The fakes: honest about being fakes, and able to fail like the real ones."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.audit_row import row

from cab.adapters.system import SystemClock, SystemRandomness
from cab.domain.audit import AuditEvent, EventType
from cab.ports import AlreadyExists, Create, NotFound, Tally, Unavailable
from cab_dev.fakes.audit_log import InMemoryAuditLog
from cab_dev.fakes.audit_rows import InMemoryAuditRows
from cab_dev.fakes.clock import SettableClock
from cab_dev.fakes.documents import InMemoryDocuments, Outage
from cab_dev.fakes.quarantine import InMemoryQuarantine
from cab_dev.fakes.randomness import PredictableRandomness
from cab_dev.fakes.secrets import InMemoryVault
from cab_dev.fakes.service_tokens import InMemoryServiceTokens

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
FAKES = [
    "audit_log.InMemoryAuditLog",
    "audit_rows.InMemoryAuditRows",
    "clock.SettableClock",
    "documents.InMemoryDocuments",
    "quarantine.InMemoryQuarantine",
    "randomness.PredictableRandomness",
    "secrets.InMemoryVault",
    "service_tokens.InMemoryServiceTokens",
]


def test_fakes_warn_when_they_are_built_outside_tests() -> None:
    program = "import warnings, importlib\nfrom cab_dev.fakes.warning import FakeInUse\n"
    for fake in FAKES:
        module, name = fake.split(".")
        program += (
            f"fake = importlib.import_module('cab_dev.fakes.{module}').{name}\n"
            "with warnings.catch_warnings(record=True) as caught:\n"
            "    warnings.simplefilter('always')\n"
            "    fake()\n"
            "assert [warning.category for warning in caught] == [FakeInUse], fake\n"
        )
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def event(event_id: str) -> AuditEvent:
    return AuditEvent(event_id=event_id, event_type=EventType.KEY_ROTATED, occurred_at=NOON)


async def test_documents_can_be_down_before_the_work_is_done() -> None:
    documents = InMemoryDocuments()
    documents.outage = Outage(frozenset({"write"}), times=1)
    with pytest.raises(Unavailable) as unavailable:
        await documents.write(Create("a/b", {}))
    assert unavailable.value.what == "documents"
    await documents.write(Create("a/b", {}))


async def test_documents_can_lose_the_answer_after_the_work_is_done() -> None:
    documents = InMemoryDocuments()
    documents.outage = Outage(frozenset({"write", "tally"}), after=True, skip=1)
    await documents.write(Create("a/a", {}))
    with pytest.raises(Unavailable):
        await documents.write(Create("a/b", {}))
    with pytest.raises(Unavailable):
        await documents.tally(Tally("a/c", add={"n": 1}))
    documents.outage = None
    with pytest.raises(AlreadyExists):
        await documents.write(Create("a/b", {}))
    assert await documents.tally(Tally("a/c", add={"n": 1})) == {"n": 2}
    assert documents.calls == {"read": 0, "write": 3, "tally": 2, "find": 0, "server_time": 0}


async def test_a_lagging_vault_still_serves_what_was_destroyed() -> None:
    vault = InMemoryVault()
    await vault.create("s")
    await vault.add("s", b"payload")
    vault.is_lagging = True
    await vault.destroy("s", 1)
    assert await vault.access("s", 1) == b"payload"
    vault.settle()
    with pytest.raises(NotFound):
        await vault.access("s", 1)


async def test_a_vault_can_lose_the_answer_to_an_add() -> None:
    vault = InMemoryVault()
    await vault.create("s")
    vault.loses_answers = True
    with pytest.raises(Unavailable):
        await vault.add("s", b"payload")
    assert await vault.access("s", 1) == b"payload"


async def test_a_vault_can_forbid_writing() -> None:
    vault = InMemoryVault()
    await vault.create("s")
    vault.forbidden.add("s")
    assert not await vault.may_add("s")
    with pytest.raises(Unavailable):
        await vault.add("s", b"payload")


async def test_an_unsent_event_goes_ahead_of_the_next_one() -> None:
    log = InMemoryAuditLog()
    log.is_down = True
    with pytest.raises(Unavailable) as unavailable:
        await log.publish(event("1"))
    assert unavailable.value.what == "audit"
    assert log.events == []
    log.is_down = False
    await log.publish(event("2"))
    assert [event.event_id for event in log.events] == ["1", "2"]


async def test_an_event_whose_answer_was_lost_comes_twice_as_the_same_bytes() -> None:
    log = InMemoryAuditLog()
    log.loses_answers = True
    with pytest.raises(Unavailable):
        await log.publish(event("1"))
    log.loses_answers = False
    await log.publish(event("2"))
    first, again, _ = log.messages
    assert first == again


async def test_the_other_fakes_can_be_down() -> None:
    rows, quarantine, tokens = InMemoryAuditRows(), InMemoryQuarantine(), InMemoryServiceTokens()
    rows.is_down = quarantine.is_down = tokens.is_down = True
    with pytest.raises(Unavailable):
        await rows.insert([row({"event_id": "e"})])
    with pytest.raises(Unavailable):
        await quarantine.put(b"", cause="c", message_id="m")
    with pytest.raises(Unavailable):
        await tokens.identity_token("a")


@pytest.mark.parametrize(
    "spoil", [{"subject": {"key": "k", "x": 1}}, {"subject": "text"}, {"scopes": {"granted": "a"}}]
)
async def test_the_table_is_strict_about_what_is_nested(spoil: dict[str, object]) -> None:
    columns = {"event_id": "e", "event_type": "t", "occurred_at": NOON.isoformat()}
    assert await InMemoryAuditRows().insert([row(columns), row(columns | spoil)]) == {1: "invalid"}


def test_the_clock_stands_still_until_it_is_moved() -> None:
    clock = SettableClock(NOON)
    assert clock.now() == clock.now() == NOON
    clock.advance(timedelta(seconds=1))
    assert clock.now() == NOON + timedelta(seconds=1)
    with pytest.raises(ValueError, match="time zone"):
        clock.set(NOON.replace(tzinfo=None))


def test_predictable_randomness_repeats_itself_and_never_a_value() -> None:
    first, second = PredictableRandomness(), PredictableRandomness()
    values = [first.token() for _ in range(50)] + [first.event_id() for _ in range(50)]
    assert values == [second.token() for _ in range(50)] + [second.event_id() for _ in range(50)]
    assert len(set(values)) == 100
    assert PredictableRandomness("other").token() not in values


@pytest.mark.parametrize("randomness", [PredictableRandomness(), SystemRandomness()], ids=["predictable", "system"])
def test_event_ids_are_version_7_in_order_and_tokens_as_long_as_asked(
    randomness: PredictableRandomness | SystemRandomness,
) -> None:
    ids = [randomness.event_id() for _ in range(20)]
    assert {uuid.UUID(text).version for text in ids} == {7}
    assert {uuid.UUID(text).variant for text in ids} == {uuid.RFC_4122}
    assert ids == sorted(ids)
    assert len(randomness.token()) == 43
    assert len(randomness.token(16)) == 22


def test_the_system_clock_tells_the_time_in_utc() -> None:
    now = SystemClock().now()
    assert now.utcoffset() == timedelta(0)
    assert abs(now.timestamp() - time.time()) < 5
