"""Limits that hold exactly under concurrency, over several instances of a function (docs/api.md; security.md T9, X8)."""

from __future__ import annotations

import pytest
from tests.support.jose import claims_of
from tests.support.world import World, gather, intent, task


@pytest.fixture
def instances(world: World) -> list[World]:
    """Four instances of every function over one cloud whose stores take their time, as a network does."""
    world.cloud.documents["guards"].delay_s = 0.001
    others = [World() for _ in range(3)]
    for other in others:
        other.cloud = world.cloud
        other._is_set_up = True
    return [world, *others]


@pytest.mark.parametrize("max_uses", [1, 7])
async def test_of_two_hundred_parallel_uses_exactly_as_many_succeed_as_the_task_has(
    world: World, instances: list[World], max_uses: int
) -> None:
    bounds = task("*", limits={"max_uses": max_uses})
    assertion = await world.assertion(task=bounds)
    answers = await gather(*(broker.exchange(subject_token=assertion) for broker in instances for _ in range(50)))
    assert sum(answer.status == 200 for answer in answers) == max_uses
    assert {answer.json["reason_code"] for answer in answers if answer.status != 200} == {"task_exhausted"}


async def test_parallel_assertions_of_one_task_share_its_uses(world: World, instances: list[World]) -> None:
    bounds = task("*", limits={"max_uses": 5})
    assertions = [await world.assertion(user="alice", task=bounds) for _ in range(10)]
    answers = await gather(
        *(broker.exchange(subject_token=assertion) for broker in instances for assertion in assertions)
    )
    assert sum(answer.status == 200 for answer in answers) == 5


async def test_a_rate_limit_holds_exactly_over_all_instances(world: World, instances: list[World]) -> None:
    assertion = await world.assertion(task=task("*"))
    drop = intent("warehouse.table.drop", "table/t1")
    answers = await gather(*(broker.exchange(drop, subject_token=assertion) for broker in instances for _ in range(10)))
    assert sum(answer.status == 429 for answer in answers) == 35
    assert sum(answer.status == 400 for answer in answers) == 5


async def test_parallel_exchanges_never_share_an_id(world: World, instances: list[World]) -> None:
    assertion = await world.assertion()
    answers = await gather(*(broker.exchange(subject_token=assertion) for broker in instances for _ in range(25)))
    assert {answer.status for answer in answers} == {200}
    assert len({claims_of(answer.json["access_token"])["jti"] for answer in answers}) == 100


async def test_parallel_users_never_get_each_others_tokens(world: World, instances: list[World]) -> None:
    users = [f"user-{number}" for number in range(8)]
    for user in users:
        await world.connect(user, "crm", "deal.read", "contact.read", "offline")
    assertions = {user: await world.assertion(user=user) for user in users}
    listing = intent("crm.deal.list", "deal/*")
    order = [user for _ in range(6) for user in users]
    first = await gather(*(world.exchange(listing, subject_token=assertions[user]) for user in order))
    tokens: dict[str, set[str]] = {}
    for user, answer in zip(order, first, strict=True):
        tokens.setdefault(answer.json["access_token"], set()).add(user)
    assert all(len(holders) == 1 for holders in tokens.values())
