"""Counters: where a limit begins and ends, and what is not counted at all."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest

from cab.adapters.document_rules import EXPIRY_FIELD
from cab.domain.configured.actions import Action, Effect
from cab.domain.configured.deployment import RateLimit
from cab.domain.identifiers import digest
from cab.domain.tasks import MAX_USES, Task
from cab.ports import Unavailable
from cab.stores.limits import LARGEST_SHARE, TASK_MEMORY, RateLimits, TaskBudgets
from cab_dev.fakes.documents import InMemoryDocuments, Outage

NOW = datetime(2026, 11, 21, 12, 0, 40, tzinfo=UTC)
WHO = {"tenant": "acme", "subject": "alice", "agent": "bot"}
READS = RateLimit(effects=(Effect.READ,), limit=2, window_s=60)


def an_action(effect: Effect = Effect.READ) -> Action:
    return Action.model_validate(
        {"id": "crm.deal.read", "title": "Read", "effect": effect, "scopes": ["r"], "identifier": "deal/{id}"}
    )


def a_task(max_uses: int | None = None) -> Task:
    limits = {} if max_uses is None else {"limits": {"max_uses": max_uses}}
    return Task.model_validate({"type": "cab_task", "task_id": "t", "actions": ["*"], "identifiers": ["*"]} | limits)


@pytest.fixture
def guards() -> InMemoryDocuments:
    return InMemoryDocuments()


async def test_the_limit_itself_is_within_and_the_next_one_waits_for_the_window_to_end(
    guards: InMemoryDocuments,
) -> None:
    limits = RateLimits(guards, (READS,))
    counted = [await limits.count(**WHO, action=an_action(), now=NOW) for _ in range(3)]
    assert [each.wait_s if each else "not counted" for each in counted] == [None, None, 21]


async def test_somebody_who_is_told_to_wait_waits_at_least_a_second(guards: InMemoryDocuments) -> None:
    limits = RateLimits(guards, (RateLimit(effects=(Effect.READ,), limit=1, window_s=60),))
    end = NOW.replace(second=59, microsecond=999_999)
    waits = [await limits.count(**WHO, action=an_action(), now=end) for _ in range(2)]
    assert waits[1] is not None
    assert waits[1].wait_s == 1


async def test_around_the_end_of_a_window_twice_the_limit_passes_and_no_more(guards: InMemoryDocuments) -> None:
    """Windows are fixed, as docs/configuration.md and docs/api.md say; a limit is written with that in mind."""
    limits = RateLimits(guards, (READS,))
    end = NOW.replace(second=59)
    within = [
        counted.wait_s is None
        for now in (end, end + timedelta(seconds=1))
        for counted in [await limits.count(**WHO, action=an_action(), now=now) for _ in range(5)]
        if counted
    ]
    assert within == [True, True, False, False, False] * 2


async def test_a_new_window_starts_at_nothing(guards: InMemoryDocuments) -> None:
    limits = RateLimits(guards, (READS,))
    for _ in range(3):
        await limits.count(**WHO, action=an_action(), now=NOW)
    counted = await limits.count(**WHO, action=an_action(), now=NOW + timedelta(seconds=20))
    assert counted is not None
    assert counted.wait_s is None


@pytest.mark.parametrize("change", [{"tenant": "globex"}, {"subject": "bob"}, {"agent": "other"}], ids=repr)
async def test_each_user_and_agent_has_a_count_of_its_own(guards: InMemoryDocuments, change: dict[str, str]) -> None:
    limits = RateLimits(guards, (READS,))
    for _ in range(3):
        await limits.count(**WHO, action=an_action(), now=NOW)
    counted = await limits.count(**WHO | change, action=an_action(), now=NOW)
    assert counted is not None
    assert counted.wait_s is None


async def test_what_no_limit_names_is_not_counted_at_all(guards: InMemoryDocuments) -> None:
    for limits in (RateLimits(guards, ()), RateLimits(guards, (READS,))):
        action = an_action(Effect.WRITE)
        assert limits.limits(action) is False
        assert await limits.count(**WHO, action=action, now=NOW) is None
    assert RateLimits(guards, (READS,)).limits(an_action()) is True
    assert await guards.find("rate_limits", limit=10) == []


async def test_each_limit_has_a_count_of_its_own(guards: InMemoryDocuments) -> None:
    names = [RateLimit(effects=(effect,), limit=1, window_s=60) for effect in (Effect.READ, Effect.WRITE)]
    limits = RateLimits(guards, tuple(names))
    counted = [await limits.count(**WHO, action=an_action(effect), now=NOW) for effect in (Effect.READ, Effect.WRITE)]
    assert [each.wait_s if each else "not counted" for each in counted] == [None, None]


async def test_a_count_that_is_taken_back_leaves_room_for_one(guards: InMemoryDocuments) -> None:
    limits = RateLimits(guards, (READS,))
    for _ in range(2):
        counted = await limits.count(**WHO, action=an_action(), now=NOW)
    assert counted is not None
    await limits.take_back(counted)
    again = [await limits.count(**WHO, action=an_action(), now=NOW) for _ in range(2)]
    assert [each and each.wait_s for each in again] == [None, 21]


async def test_a_request_that_was_over_the_limit_or_is_taken_back_already_leaves_no_room(
    guards: InMemoryDocuments,
) -> None:
    limits = RateLimits(guards, (READS,))
    counted = [await limits.count(**WHO, action=an_action(), now=NOW) for _ in range(3)]
    for each in (counted[2], counted[0], counted[0]):
        assert each is not None
        await limits.take_back(each)
    again = [await limits.count(**WHO, action=an_action(), now=NOW) for _ in range(2)]
    assert [each and each.wait_s for each in (counted[2], *again)] == [21, None, 21]


HOUR = 3600
BUSY = RateLimit(effects=(Effect.READ,), limit=600, window_s=60)


async def ask(limits: RateLimits, now: datetime) -> bool:
    counted = await limits.count(**WHO, action=an_action(), now=now)
    return counted is not None and counted.wait_s is None


@pytest.mark.parametrize("begins_at", range(0, 60, 7))
async def test_an_agent_that_reads_twenty_times_a_minute_costs_three_writes_whenever_it_begins(
    guards: InMemoryDocuments, begins_at: int
) -> None:
    """The first request, what is left of its window, and the next window."""
    limits = RateLimits(guards, (BUSY,))
    begin = NOW.replace(second=begins_at)
    late_s = (0.0, 0.2, 0.1, 0.0, 0.2)  # nobody asks as regularly as a clock
    asked_at = [begin + timedelta(seconds=3 * number + late_s[number % len(late_s)]) for number in range(20)]
    assert all([await ask(limits, at) for at in asked_at])
    assert guards.calls["tally"] <= 3


async def test_who_asks_each_instance_once_loses_nothing_of_the_limit(guards: InMemoryDocuments) -> None:
    limit = RateLimit(effects=(Effect.READ,), limit=50, window_s=60)
    served = [await ask(RateLimits(guards, (limit,)), NOW) for _ in range(60)]
    assert sum(served) == 50


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("limit", [1, 7, 30, 300])
async def test_the_limit_is_never_exceeded_and_little_of_it_is_lost(limit: int, seed: int) -> None:
    """Four instances, parallel requests in bursts; one of them is killed with what it had taken, and comes back."""
    chance = random.Random(seed)  # noqa: S311 - repeatable
    guards = InMemoryDocuments(delay_s=0)
    rule = RateLimit(effects=(Effect.READ,), limit=limit, window_s=HOUR)
    instances = [RateLimits(guards, (rule,)) for _ in range(4)]
    served = 0
    for step in range(8):
        now = NOW + timedelta(seconds=step * chance.choice([0.01, 1, 20]))
        burst = [ask(chance.choice(instances), now) for _ in range(limit // 4 + chance.randrange(20))]
        served += sum(await asyncio.gather(*burst))
        if step == 3:
            instances[chance.randrange(4)] = RateLimits(guards, (rule,))
    held = 5 * (limit // LARGEST_SHARE)
    assert limit - held <= served <= limit


async def test_while_the_store_fails_no_more_is_taken_than_is_needed(guards: InMemoryDocuments) -> None:
    limits = RateLimits(guards, (BUSY,))
    first = await limits.count(**WHO, action=an_action(), now=NOW)
    assert first is not None
    guards.outage = Outage(frozenset({"tally"}), after=True, times=3)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await ask(limits, NOW + timedelta(seconds=1))
    document = await guards.read(first.path)
    assert document is not None
    ahead = BUSY.limit // LARGEST_SHARE  # by the first of the three, which could not know
    assert document.fields["n"] <= 1 + ahead + 1 + 1


async def test_a_request_that_is_a_little_older_than_the_window_costs_no_new_allowance(
    guards: InMemoryDocuments,
) -> None:
    limits = RateLimits(guards, (BUSY,))
    begin = NOW.replace(second=0)
    for number in range(40):
        await ask(limits, begin - timedelta(milliseconds=number % 2))
    assert guards.calls["tally"] <= 4


@pytest.mark.parametrize(
    ("later", "taken"), [(1, 2), (2, 1)], ids=["right after a busy window", "after a window without a request"]
)
async def test_the_first_request_of_a_window_takes_an_eighth_of_the_limit_where_the_one_before_was_busy(
    guards: InMemoryDocuments, later: int, taken: int
) -> None:
    limits = RateLimits(guards, (RateLimit(effects=(Effect.READ,), limit=2 * LARGEST_SHARE, window_s=60),))
    begin = NOW.replace(second=40)
    for _ in range(2 * LARGEST_SHARE):
        await ask(limits, begin)
    counted = await limits.count(**WHO, action=an_action(), now=begin.replace(second=0) + timedelta(minutes=later))
    assert counted is not None
    document = await guards.read(counted.path)
    assert document is not None
    assert document.fields["n"] == taken


async def test_a_counter_is_kept_until_its_window_ends(guards: InMemoryDocuments) -> None:
    counted = await RateLimits(guards, (READS,)).count(**WHO, action=an_action(), now=NOW)
    assert counted is not None
    document = await guards.read(counted.path)
    assert document is not None
    assert document.fields[EXPIRY_FIELD] == counted.ends_at == NOW.replace(minute=1, second=0)


# --- tasks ---

WHOSE = {"tenant": "acme", "front_end": "web", "subject": "alice"}


async def spend(budgets: TaskBudgets, task: Task, times: int, **whose: str) -> list[bool]:
    return [await budgets.spend(task, **WHOSE | whose, not_after=NOW) for _ in range(times)]


async def test_a_task_is_used_as_often_as_it_says(guards: InMemoryDocuments) -> None:
    assert await spend(TaskBudgets(guards), a_task(max_uses=2), 3) == [True, True, False]


@pytest.mark.parametrize("change", [{"tenant": "globex"}, {"subject": "bob"}, {"front_end": "portal"}], ids=repr)
async def test_a_task_of_the_same_name_elsewhere_is_another(guards: InMemoryDocuments, change: dict[str, str]) -> None:
    budgets = TaskBudgets(guards)
    await spend(budgets, a_task(max_uses=1), 1)
    assert await spend(budgets, a_task(max_uses=1), 1, **change) == [True]


async def test_a_later_assertion_may_lower_the_limit_and_never_raise_it(guards: InMemoryDocuments) -> None:
    budgets = TaskBudgets(guards)
    assert await spend(budgets, a_task(max_uses=3), 1) == [True]
    assert await spend(budgets, a_task(max_uses=2), 1) == [True]
    assert await spend(budgets, a_task(max_uses=9), 1) == [False]
    assert await spend(budgets, a_task(), 1) == [False], "and leaving it out raises nothing"


async def test_a_task_without_a_limit_is_not_counted_unless_it_had_one(guards: InMemoryDocuments) -> None:
    budgets = TaskBudgets(guards)
    assert await budgets.is_limited(a_task(), **WHOSE) is False
    assert await budgets.is_limited(a_task(max_uses=1), **WHOSE) is True
    await spend(budgets, a_task(max_uses=1), 1)
    assert await budgets.is_limited(a_task(), **WHOSE) is True


async def test_a_count_outlives_the_last_assertion_by_a_day(guards: InMemoryDocuments) -> None:
    assert timedelta(hours=24) == TASK_MEMORY
    assert MAX_USES >= 1
    await spend(TaskBudgets(guards), a_task(max_uses=1), 1)
    document = await guards.read(f"task_budgets/{digest('acme', 'web', 'alice', 't')}")
    assert document is not None
    assert document.fields[EXPIRY_FIELD] == NOW + timedelta(hours=24)
