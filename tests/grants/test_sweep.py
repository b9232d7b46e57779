"""The sweeper: nothing due is forgotten, nothing is destroyed too early, one stuck grant does not hold up the others."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.grants.grant_world import EVERY_CLASS, LEEWAY, STATIC, STRICT, GrantWorld
from tests.grants.virtual_time import in_virtual_time

from cab.domain.errors import BrokerError
from cab.domain.grants import GrantStatus
from cab.ports import Unavailable
from cab.use_cases.grants.outages import MANY
from cab_dev.doubles.oauth_provider import PROFILES
from cab_dev.fakes.documents import Outage


def alive(world: GrantWorld, name: str) -> list[int]:
    versions = world.vault._secrets[f"cab-grant-{name}"]
    return [number for number, payload in enumerate(versions, start=1) if payload is not None]


@pytest.mark.parametrize(("profile", "leeway_s"), [(STATIC, 0), (STRICT, 0), (LEEWAY, 60), ("jira-like", 600)])
@in_virtual_time
async def test_a_replaced_version_is_destroyed_after_the_leeway_and_not_before(profile: str, leeway_s: int) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()
    await worker.token(name)
    await world.drain(worker, for_s=leeway_s + 50, every_s=5)
    assert alive(world, name) == [1, 2]
    await world.drain(worker, for_s=30, every_s=5)
    assert alive(world, name) == [2]
    assert (await world.grant(name)).due_at is None


@in_virtual_time
async def test_a_grant_in_constant_use_keeps_few_versions() -> None:
    world = await GrantWorld(replace(PROFILES["jira-like"], access_token_life_s=300)).open()
    worker, name = world.worker(), await world.connect()
    most = 0
    for _ in range(20):
        await worker.token(name)
        await world.drain(worker, for_s=260, every_s=20)
        most = max(most, len(alive(world, name)))
    assert world.refreshes() == 20
    assert most <= 2 + 2 * 660 // 260


@in_virtual_time
async def test_a_grant_that_was_ended_and_connected_again_keeps_few_versions() -> None:
    """Nothing was left to destroy when it was connected again, and so nothing was ever destroyed after that."""
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    await worker.revoke(name)
    await world.drain(worker, for_s=100)
    assert alive(world, name) == []
    await world.reconnect(name)
    del world.history.revoked[name]  # from here on it may be served again
    for version in (3, 4, 5):
        await world.expire(name)
        await worker.token(name)
        await world.drain(worker, for_s=100)
        assert alive(world, name) == [version]


@in_virtual_time
async def test_an_idle_grant_is_refreshed_before_its_refresh_token_idles_out() -> None:
    profile = replace(PROFILES[STRICT], refresh_token_life_s=14 * 86_400)
    world = await GrantWorld(profile, keepalive_s=12 * 86_400).open()
    worker, name = world.worker(), await world.connect()
    await worker.token(name)
    for _ in range(60):
        await world.drain(worker, for_s=86_400, every_s=7_200)
    assert world.refreshes() >= 60 // 12
    assert await world.stored_refresh_token(name) in world.usable()


@in_virtual_time
async def test_a_keepalive_that_fails_is_tried_again() -> None:
    world = await GrantWorld(STRICT, keepalive_s=86_400).open()
    worker, name = world.worker(), await world.connect()
    await worker.token(name)
    await world.drain(worker, for_s=200)
    world.fault(endpoint="token", kind="status", status=503)
    await world.drain(worker, for_s=90_000, every_s=60)
    assert world.refreshes() == 1
    world.double.faults.clear()
    await world.drain(worker, for_s=130)
    assert world.refreshes() == 2


@in_virtual_time
async def test_a_provider_that_is_out_is_asked_little_by_the_sweep_and_every_grant_is_well_in_the_end() -> None:
    world = await GrantWorld(STRICT).open()
    worker = world.worker()
    names = [await world.connect(f"user-{number}") for number in range(MANY + 10)]
    world.fault(endpoint="token", kind="status", status=503)
    for name in names:
        with pytest.raises(BrokerError):
            await worker.token(name)
    await world.drain(worker, for_s=600, every_s=60)
    tried = [(await world.grant(name)).fail_count for name in names]
    assert sum(tried) < 4 * len(names), "each failed at its user's request, and once or twice with the sweep"

    world.double.faults.clear()
    await world.drain(worker, for_s=2 * 3_600, every_s=60)
    assert {(await world.grant(name)).status for name in names} == {GrantStatus.ACTIVE}
    assert world.refreshes() == len(names)


@in_virtual_time
async def test_the_longest_waiting_grants_come_first_and_a_round_takes_no_more_than_it_is_told() -> None:
    world = await GrantWorld(STRICT).open()
    worker = world.worker()
    names = [await world.connect(f"user-{number}") for number in range(12)]
    for number, name in enumerate(names):
        await world.change(name, due_at=world.clock.now() - timedelta(seconds=number))
    assert await worker.sweeper.due(limit=5) == names[:-6:-1]
    await world.change(names[-1], due_at=world.clock.now() + timedelta(seconds=60))
    assert names[-1] not in await worker.sweeper.due(limit=100)


@pytest.mark.parametrize("stuck", ["connection is gone", "vault refuses", "provider is gone"])
@in_virtual_time
async def test_a_grant_that_cannot_be_helped_does_not_stay_first_in_the_queue(stuck: str) -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    dead = asyncio.create_task(_dies_at("before send", world).token(name))
    await asyncio.sleep(31)
    if stuck == "connection is gone":
        worker.sweeper._deployment = replace(world.deployment, connections=())
    elif stuck == "provider is gone":
        world.http.refuses = True
    else:
        world.vault.is_down = True

    assert await worker.sweep() == 1
    assert await worker.sweep() == 0
    grant = await world.grant(name)
    assert grant.due_at is not None
    assert grant.due_at <= world.clock.now() + timedelta(seconds=60)
    dead.cancel()


def _dies_at(where: str, world: GrantWorld) -> Any:
    async def step(name: str) -> None:
        if name == where:
            await asyncio.Event().wait()

    return world.worker(step=step)


@in_virtual_time
async def test_a_visit_to_a_grant_that_is_not_due_or_not_there_does_nothing() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    before = await world.grant(name)
    await worker.sweeper.visit(name)
    await worker.sweeper.visit("nobody")
    assert await world.grant(name) == before
    assert world.http.calls == []


@pytest.mark.parametrize("profile", EVERY_CLASS)
@in_virtual_time
async def test_visits_beside_each_other_and_beside_callers_do_no_harm(profile: str) -> None:
    world = await GrantWorld(profile).open()
    workers, name = [world.worker() for _ in range(4)], await world.connect()
    dead = asyncio.create_task(_dies_at("after send", world).token(name))
    await asyncio.sleep(45)
    await world.change(name, due_at=world.clock.now())
    calls = [worker.sweeper.visit(name) for worker in workers for _ in range(5)]
    calls += [_quietly(worker.token(name)) for worker in workers for _ in range(5)]
    await asyncio.gather(*calls)
    await world.drain(workers[0])
    grant = await world.grant(name)
    assert grant.status is (GrantStatus.ACTIVE if profile in (STATIC, LEEWAY) else GrantStatus.NEEDS_REAUTH)
    assert len(world.events("grant.needs_reauth")) == (profile not in (STATIC, LEEWAY))
    assert world.refreshes() <= 3
    dead.cancel()


async def _quietly(call: Any) -> None:
    await asyncio.gather(call, return_exceptions=True)


@pytest.mark.parametrize("method", ["read", "write"])
@pytest.mark.parametrize("skip", range(6))
@in_virtual_time
async def test_a_visit_that_fails_halfway_is_simply_made_again(skip: int, method: str) -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    await worker.token(name)
    await asyncio.sleep(100)
    world.documents.outage = Outage(frozenset({method}), skip=skip, times=3)  # type: ignore[arg-type]
    await worker.sweep()
    world.documents.outage = None
    await world.drain(worker, for_s=200)
    assert alive(world, name) == [2]
    assert (await world.grant(name)).due_at is None


@in_virtual_time
async def test_a_version_that_cannot_be_destroyed_is_tried_again() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    await worker.token(name)
    await asyncio.sleep(100)
    world.vault.is_down = True
    with pytest.raises(Unavailable):
        await worker.sweeper.visit(name)
    assert (await world.grant(name)).due_at is not None
    world.vault.is_down = False
    await world.drain(worker, for_s=130)
    assert alive(world, name) == [2]


# --- what transport does with it ---


@pytest.mark.parametrize("data", [b"\xff", b"not base64!"])
@in_virtual_time
async def test_a_push_that_names_no_grant_is_acknowledged_and_forgotten(data: bytes) -> None:
    from cab.transport.grants_http import GrantEndpoints

    world = await GrantWorld(STRICT).open()
    endpoints = GrantEndpoints.__new__(GrantEndpoints)
    endpoints._sweep = world.worker().sweeper
    text = data.decode("latin-1") if data == b"not base64!" else base64.b64encode(data).decode()
    body = json.dumps({"message": {"data": text}}).encode()
    assert await endpoints._visit(body, None) == {"visited": False}  # type: ignore[arg-type]


# --- handing over: the scheduler's call ---


class Topic:
    """Pub/Sub as a list of publishes, each of which takes its time."""

    def __init__(self, takes_s: float = 0.05) -> None:
        self.takes_s = takes_s
        self.is_down = False
        self.batches: list[list[str]] = []

    @property
    def names(self) -> list[str]:
        return [name for batch in self.batches for name in batch]

    async def publish(self, names: Sequence[str]) -> None:
        await asyncio.sleep(self.takes_s)
        if self.is_down:
            raise Unavailable("pubsub")
        self.batches.append(list(names))


async def due_grants(world: GrantWorld, count: int, *, tenant: str = "acme", since_s: float = 60) -> list[str]:
    """Copies of one connected grant that wait for a visit."""
    pattern = await world.store.read(await world.connect(f"pattern of {tenant}"))
    assert pattern is not None
    names = [f"{tenant}-{number:05}" for number in range(count)]
    for number, name in enumerate(names):
        due_at = world.clock.now() - timedelta(seconds=since_s) + timedelta(milliseconds=number)
        changes = {"grant_id": name, "tenant": tenant, "subject": name, "due_at": due_at}
        await world.store.create(pattern.grant.model_copy(update=changes))
    return names


@in_virtual_time
async def test_ten_thousand_due_grants_are_on_their_way_within_two_minutes_each_once() -> None:
    world = await GrantWorld(STRICT).open()
    worker, topic = world.worker(), Topic(takes_s=0.2)
    names = await due_grants(world, 10_000)
    started = world.clock.now()
    for _ in range(2):  # the scheduler's two calls
        await worker.sweeper.hand_over(topic.publish)
    assert sorted(topic.names) == names
    assert (world.clock.now() - started).total_seconds() < 60
    assert max(map(len, topic.batches)) <= 1000  # what Pub/Sub takes in one call


@in_virtual_time
async def test_grants_that_are_spread_are_handed_over_each_once_and_visited() -> None:
    world = await GrantWorld(STRICT).open()
    worker, topic = world.worker(), Topic()
    names = await due_grants(world, 300)
    assert (await world.store.spread()).left == 0
    for _ in range(2):
        await worker.sweeper.hand_over(topic.publish)
    assert sorted(topic.names) == names
    for name in names[:3]:
        await worker.sweeper.visit(name)
    assert (await world.grant(names[0])).due_at is None
    assert names[0] not in await worker.sweeper.due(limit=400)


@in_virtual_time
async def test_a_sweep_ends_in_time_and_the_next_one_goes_on_where_it_ended() -> None:
    world = await GrantWorld(STRICT).open()
    worker, topic = world.worker(), Topic(takes_s=7)
    names = await due_grants(world, 6_000)
    started = world.clock.now()
    first = await worker.sweeper.hand_over(topic.publish)
    assert 0 < first < 6_000
    assert (world.clock.now() - started).total_seconds() < 60
    assert first + await worker.sweeper.hand_over(topic.publish) == 6_000
    assert sorted(topic.names) == names


@in_virtual_time
async def test_a_tenant_with_thousands_of_due_grants_delays_no_other() -> None:
    world = await GrantWorld(STRICT).open()
    worker, topic = world.worker(), Topic()
    await due_grants(world, 3_000, tenant="globex", since_s=7_200)
    names = await due_grants(world, 20)
    await worker.sweeper.hand_over(topic.publish)
    assert set(names) <= set(topic.batches[0])


@in_virtual_time
async def test_a_grant_that_is_due_anew_is_handed_over_anew_and_one_that_nobody_visits_after_five_minutes() -> None:
    world = await GrantWorld(STRICT).open()
    worker, topic = world.worker(), Topic()
    one, other = await due_grants(world, 2)
    assert await worker.sweeper.hand_over(topic.publish) == 2
    assert await worker.sweeper.hand_over(topic.publish) == 0
    await world.change(one, due_at=world.clock.now())
    assert await worker.sweeper.hand_over(topic.publish) == 1
    await asyncio.sleep(301)
    assert await worker.sweeper.hand_over(topic.publish) == 2
    assert sorted(topic.names) == [one, one, one, other, other]


@in_virtual_time
async def test_without_pubsub_some_grants_are_visited_at_once_and_the_rest_stays_due() -> None:
    world = await GrantWorld(STRICT).open()
    worker, topic = world.worker(), Topic()
    await due_grants(world, 700)
    topic.is_down = True
    assert await worker.sweeper.hand_over(topic.publish) == 10
    topic.is_down = False
    assert await worker.sweeper.hand_over(topic.publish) == 690
