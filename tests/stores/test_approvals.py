"""What waits for a person, how long, and for how long their yes is good."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cab.adapters.document_rules import EXPIRY_FIELD
from cab.domain.identifiers import digest
from cab.ports import Create
from cab.stores.approvals import (
    ApprovalDecision,
    ApprovalDecisions,
    ApprovalRequest,
    ApprovalRequests,
    ApprovalState,
    Binding,
)
from cab.stores.single_use import SingleUse
from cab_dev.fakes.documents import InMemoryDocuments

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
VALID = timedelta(minutes=5)
BINDING = Binding(tenant="acme", subject="alice", agent="bot", intent_hash="h", policy_version="p", task_id=None)


def a_request(
    name: str = "r", *, binding: Binding = BINDING, waits: timedelta = timedelta(minutes=10)
) -> ApprovalRequest:
    return ApprovalRequest(
        id=name,
        binding=binding,
        connection="crm",
        detail={"b": 1, "a": ["x"]},
        reason="why",
        prompts=("Deletes it.",),
        txn="t",
        requested_at=NOW,
        waits_until=NOW + waits,
        acr_values="gold",
    )


def a_yes(**changes: object) -> ApprovalDecision:
    return replace(ApprovalDecision(approved=True, decided_at=NOW, binding=BINDING.key()), **changes)  # type: ignore[arg-type]


@pytest.fixture
def guards() -> InMemoryDocuments:
    return InMemoryDocuments()


@pytest.fixture
def requests(guards: InMemoryDocuments) -> ApprovalRequests:
    return ApprovalRequests(guards, SingleUse(guards))


async def test_a_request_comes_back_whole(requests: ApprovalRequests) -> None:
    await requests.open(a_request(), instead_of=None)
    assert await requests.read("r") == a_request()
    assert await requests.current(BINDING) == a_request()
    assert await requests.read("another") is None


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "globex"},
        {"subject": "bob"},
        {"agent": "other"},
        {"intent_hash": "i"},
        {"policy_version": "q"},
        {"task_id": "t1"},
        {"task_id": ""},
    ],
    ids=repr,
)
async def test_another_user_agent_intent_policy_or_task_is_another_approval(
    requests: ApprovalRequests, change: dict[str, str]
) -> None:
    other = replace(BINDING, **change)
    assert other.key() != BINDING.key()
    await requests.open(a_request(), instead_of=None)
    assert await requests.current(other) is None


async def test_a_pointer_to_a_request_for_something_else_leads_nowhere(
    requests: ApprovalRequests, guards: InMemoryDocuments
) -> None:
    """Whoever could write a pointer still could not lend one approval to another intent."""
    other = replace(BINDING, intent_hash="delete everything")
    await requests.open(a_request(), instead_of=None)
    await guards.write(Create(f"approval_bindings/{other.key()}", {"approval_id": "r"}, expires_at=NOW + VALID))
    assert await requests.current(other) is None


async def test_of_two_instances_that_open_at_once_both_get_the_first_ones_request(requests: ApprovalRequests) -> None:
    first = await requests.open(a_request("first"), instead_of=None)
    second = await requests.open(a_request("second"), instead_of=None)
    assert (first.id, second.id) == ("first", "first")


async def test_a_request_that_ended_is_followed_by_one_other(requests: ApprovalRequests) -> None:
    await requests.open(a_request("ended"), instead_of=None)
    assert (await requests.open(a_request("next"), instead_of="ended")).id == "next"
    assert (await requests.open(a_request("late"), instead_of="ended")).id == "next"
    current = await requests.current(BINDING)
    assert current is not None
    assert current.id == "next"


async def test_a_request_whose_pointer_is_gone_is_followed_too(
    requests: ApprovalRequests, guards: InMemoryDocuments
) -> None:
    """A TTL policy may have deleted it between the two reads."""
    assert (await requests.open(a_request("next"), instead_of="gone")).id == "next"
    current = await requests.current(BINDING)
    assert current is not None
    assert current.id == "next"


async def test_requests_and_pointers_are_kept_an_hour_beyond_the_wait(
    requests: ApprovalRequests, guards: InMemoryDocuments
) -> None:
    kept_until = NOW + timedelta(minutes=10) + timedelta(hours=1)
    await requests.open(a_request(), instead_of=None)
    for path in (f"approval_requests/{digest('r')}", f"approval_bindings/{BINDING.key()}"):
        document = await guards.read(path)
        assert document is not None
        assert document.fields[EXPIRY_FIELD] == kept_until
    await requests.open(a_request("next"), instead_of="r")
    pointer = await guards.read(f"approval_bindings/{BINDING.key()}")
    assert pointer is not None
    assert pointer.fields[EXPIRY_FIELD] == kept_until


async def test_the_list_is_of_what_still_waits_for_this_user_the_most_urgent_first(requests: ApprovalRequests) -> None:
    for number, waits in enumerate([timedelta(0), SECOND, 2 * SECOND]):
        binding = replace(BINDING, intent_hash=f"h{number}")
        await requests.open(a_request(f"r{number}", binding=binding, waits=waits), instead_of=None)
    for name, binding in (
        ("bobs", replace(BINDING, subject="bob")),
        ("globexs", replace(BINDING, tenant="globex")),
    ):
        await requests.open(a_request(name, binding=binding), instead_of=None)
    waiting = await requests.waiting_for("acme", "alice", agents=["bot"], now=NOW)
    assert [request.id for request in waiting] == ["r1", "r2"]
    assert await requests.waiting_for("acme", "alice", agents=["bot"], now=NOW + 2 * SECOND) == []


async def flood(requests: ApprovalRequests, agent: str, count: int, *, first_ends_in_s: int = 1) -> None:
    for number in range(count):
        binding = replace(BINDING, agent=agent, intent_hash=f"h{number}")
        waits = timedelta(seconds=first_ends_in_s + number)
        await requests.open(a_request(f"{agent}-{number}", binding=binding, waits=waits), instead_of=None)


async def test_of_a_flood_the_fifty_newest_are_listed(requests: ApprovalRequests) -> None:
    await flood(requests, "bot", 52)
    waiting = await requests.waiting_for("acme", "alice", agents=["bot"], now=NOW)
    assert [request.id for request in waiting] == [f"bot-{number}" for number in range(2, 52)]


@pytest.mark.parametrize("quiet_ends_in_s", [1, 50, 10_000])
async def test_a_flood_of_one_agent_hides_no_question_of_another(
    requests: ApprovalRequests, quiet_ends_in_s: int
) -> None:
    await flood(requests, "quiet", 1, first_ends_in_s=quiet_ends_in_s)
    await flood(requests, "loud", 300, first_ends_in_s=20)
    await flood(requests, "louder", 400, first_ends_in_s=20)
    waiting = await requests.waiting_for("acme", "alice", agents=["loud", "louder", "quiet"], now=NOW)
    assert "quiet-0" in {request.id for request in waiting}
    assert len(waiting) == 101
    assert [request.waits_until for request in waiting] == sorted(request.waits_until for request in waiting)


async def test_without_a_flood_the_list_costs_one_query(requests: ApprovalRequests, guards: InMemoryDocuments) -> None:
    await flood(requests, "bot", 49)
    before = guards.calls["find"]
    await requests.waiting_for("acme", "alice", agents=[f"agent-{number}" for number in range(20)], now=NOW)
    assert guards.calls["find"] == before + 1


@pytest.mark.parametrize(
    ("decision", "used", "after", "usable"),
    [
        (a_yes(), False, timedelta(0), True),
        (a_yes(), False, VALID - SECOND, True),
        (a_yes(), False, VALID, False),
        (a_yes(), True, timedelta(0), False),
        (a_yes(approved=False), False, timedelta(0), False),
        (a_yes(binding="what stood there before"), False, timedelta(0), False),
        (a_yes(binding=None), False, timedelta(0), False),
        (None, False, timedelta(0), False),
    ],
)
def test_a_yes_is_good_for_what_was_shown_once_and_for_its_time(
    decision: ApprovalDecision | None, used: bool, after: timedelta, usable: bool
) -> None:
    assert ApprovalState(a_request(), decision, used).is_usable(NOW + after, VALID) is usable


async def test_a_yes_is_spent_once(requests: ApprovalRequests) -> None:
    assert not await requests.is_spent(a_request().id, tenant="acme")
    assert await requests.spend(a_request(), until=NOW) is True
    assert await requests.spend(a_request(), until=NOW) is False
    assert await requests.is_spent(a_request().id, tenant="acme")
    assert not await requests.is_spent(a_request("other").id, tenant="acme")


async def test_the_first_decision_stands(guards: InMemoryDocuments) -> None:
    decisions = ApprovalDecisions(guards)
    assert await decisions.read("r") is None
    assert await decisions.record("r", a_yes(), by="alice", expires_at=NOW + VALID) is True
    assert await decisions.record("r", a_yes(approved=False), by="alice", expires_at=NOW + VALID) is False
    assert await decisions.read("r") == a_yes()
    document = await guards.read(f"decisions/{digest('r')}")
    assert document is not None
    assert document.fields["by"] == "alice"
    assert document.fields[EXPIRY_FIELD] == NOW + VALID
