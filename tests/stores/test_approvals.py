"""What waits for a person, how long, and for how long their yes is good."""

from __future__ import annotations

from asyncio import gather
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cab.adapters.document_rules import EXPIRY_FIELD
from cab.domain.identifiers import digest
from cab.ports import Create, Delete, Unavailable
from cab.stores.approvals import (
    ApprovalDecision,
    ApprovalDecisions,
    ApprovalRequest,
    ApprovalRequests,
    Binding,
    Question,
)
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


async def the_current(requests: ApprovalRequests) -> Question:
    found = await requests.current(BINDING)
    assert found is not None
    return found


@pytest.fixture
def guards() -> InMemoryDocuments:
    return InMemoryDocuments()


@pytest.fixture
def requests(guards: InMemoryDocuments) -> ApprovalRequests:
    return ApprovalRequests(guards)


async def test_a_request_comes_back_whole(requests: ApprovalRequests) -> None:
    await requests.open(a_request(), instead_of=None)
    assert await requests.read("r") == a_request()
    assert (await the_current(requests)).request == a_request()
    assert await requests.find("r") == await requests.current(BINDING)


@pytest.mark.parametrize(("name", "asked"), [("another", 1), ("", 0), ("../r", 0), ("r" * 101, 0), ("\ud800", 0)])
async def test_another_id_leads_nowhere_and_what_is_no_id_is_not_asked_for(
    requests: ApprovalRequests, guards: InMemoryDocuments, name: str, asked: int
) -> None:
    await requests.open(a_request(), instead_of=None)
    assert await requests.read(name) is None
    assert guards.calls["find"] == asked


async def test_a_question_is_one_document(requests: ApprovalRequests, guards: InMemoryDocuments) -> None:
    await requests.open(a_request(), instead_of=None)
    assert (guards.written, guards.calls["read"], guards.calls["find"]) == (1, 0, 0)


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


async def test_a_question_about_something_else_in_its_place_is_not_taken_for_it(
    requests: ApprovalRequests, guards: InMemoryDocuments
) -> None:
    """Whoever could write there still could not lend one approval to another intent; nothing is asked until that is put right."""
    await requests.open(a_request(), instead_of=None)
    other = replace(BINDING, intent_hash="delete everything")
    stored = await guards.read(f"approval_requests/{BINDING.key()}")
    assert stored is not None
    await guards.write(Create(f"approval_requests/{other.key()}", stored.fields))
    assert await requests.current(other) is None
    with pytest.raises(Unavailable):
        await requests.open(a_request("mine", binding=other), instead_of=None)


async def test_of_instances_that_open_at_once_all_get_the_first_ones_request(guards: InMemoryDocuments) -> None:
    guards.delay_s = 0.001
    opened = await gather(*(ApprovalRequests(guards).open(a_request(f"r{n}"), instead_of=None) for n in range(20)))
    assert len({request.id for request in opened}) == 1
    assert await ApprovalRequests(guards).read(opened[0].id) == opened[0]


async def test_a_request_that_ended_is_followed_by_one_other(requests: ApprovalRequests) -> None:
    await requests.open(a_request("ended"), instead_of=None)
    ended = await the_current(requests)
    assert (await requests.open(a_request("next"), instead_of=ended)).id == "next"
    assert (await requests.open(a_request("late"), instead_of=ended)).id == "next"
    assert (await the_current(requests)).request.id == "next"
    assert await requests.read("ended") is None


async def test_a_request_that_is_gone_meanwhile_is_followed_too(requests: ApprovalRequests) -> None:
    """Another request spent it, or a TTL policy has deleted it between the two."""
    await requests.open(a_request("spent"), instead_of=None)
    ended = await the_current(requests)
    assert await requests.spend(ended)
    assert (await requests.open(a_request("next"), instead_of=ended)).id == "next"
    assert (await the_current(requests)).request.id == "next"


async def test_a_request_is_kept_an_hour_beyond_the_wait(requests: ApprovalRequests, guards: InMemoryDocuments) -> None:
    for name, before in (("r", None), ("next", "r")):
        await requests.open(a_request(name), instead_of=await requests.find(before) if before else None)
        document = await guards.read(f"approval_requests/{BINDING.key()}")
        assert document is not None
        assert document.fields["id"] == name
        assert document.fields[EXPIRY_FIELD] == NOW + timedelta(minutes=10) + timedelta(hours=1)


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
    ("decision", "of_the_last_release", "after", "good"),
    [
        (a_yes(), False, timedelta(0), True),
        (a_yes(), False, VALID - SECOND, True),
        (a_yes(), False, VALID, False),
        (a_yes(), True, timedelta(0), False),
        (a_yes(approved=False), False, timedelta(0), False),
        (a_yes(binding="what stood there before"), False, timedelta(0), False),
        (a_yes(binding=None), False, timedelta(0), False),
    ],
)
def test_a_yes_is_good_for_what_was_shown_and_for_its_time(
    decision: ApprovalDecision,
    of_the_last_release: bool,
    after: timedelta,
    good: bool,
) -> None:
    question = Question(a_request(), version=None if of_the_last_release else 1)
    assert decision.is_good_for(question, now=NOW + after, valid_for=VALID) is good


async def test_a_yes_is_spent_once_and_leaves_nothing_to_spend(requests: ApprovalRequests) -> None:
    await requests.open(a_request(), instead_of=None)
    question = await the_current(requests)
    assert await requests.spend(question) is True
    assert await requests.spend(question) is False
    assert await requests.current(BINDING) is None
    assert await requests.read("r") is None


async def test_of_twenty_instances_one_spends_a_yes(guards: InMemoryDocuments) -> None:
    guards.delay_s = 0.001
    await ApprovalRequests(guards).open(a_request(), instead_of=None)
    question = await the_current(ApprovalRequests(guards))
    assert sum(await gather(*(ApprovalRequests(guards).spend(question) for _ in range(20)))) == 1


async def test_a_yes_that_was_spent_stays_so_when_the_same_is_asked_again(requests: ApprovalRequests) -> None:
    await requests.open(a_request(), instead_of=None)
    spent = await the_current(requests)
    await requests.spend(spent)
    await requests.open(a_request("again"), instead_of=None)
    assert await requests.spend(spent) is False
    assert (await the_current(requests)).request.id == "again"


async def test_a_question_of_the_last_release_is_found_and_listed_and_never_spent(
    requests: ApprovalRequests, guards: InMemoryDocuments
) -> None:
    """It marks what it has spent in a place of its own, and may do so at any time."""
    await requests.open(a_request(), instead_of=None)
    stored = await guards.read(f"approval_requests/{BINDING.key()}")
    assert stored is not None
    await guards.write(Create(f"approval_requests/{digest('r')}", stored.fields), Delete(stored.path))
    found = await requests.find("r")
    assert found is not None
    assert await requests.spend(found) is False
    waiting = await requests.waiting_for("acme", "alice", agents=["bot"], now=NOW)
    assert waiting == [found.request] == [a_request()]


async def test_the_first_decision_stands_with_what_was_shown(guards: InMemoryDocuments) -> None:
    decisions = ApprovalDecisions(guards)
    assert await decisions.read("r") is None
    assert await decisions.record(a_request(), a_yes(), by="alice", expires_at=NOW + VALID) is True
    assert await decisions.record(a_request(), a_yes(approved=False), by="alice", expires_at=NOW + VALID) is False
    assert await decisions.read("r") == a_yes(request=a_request())
    document = await guards.read(f"decisions/{digest('r')}")
    assert document is not None
    assert document.fields["by"] == "alice"
    assert document.fields[EXPIRY_FIELD] == NOW + VALID
