"""Instances whose clocks are wrong by a minute: leases, hold-downs and token lives go by the store's time."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest
from tests.grants.grant_world import EVERY_CLASS, LEEWAY, STRICT, GrantWorld, Worker
from tests.grants.virtual_time import START, VirtualClock, in_virtual_time

from cab.adapters.store_clock import StoreClock
from cab.domain.grants import GrantStatus
from cab.ports import Unavailable
from cab_dev.fakes.documents import InMemoryDocuments, Outage

MINUTE = timedelta(seconds=60)
SKEWS = (-MINUTE, timedelta(0), MINUTE)


async def skewed_workers(world: GrantWorld) -> list[Worker]:
    loop = asyncio.get_running_loop()
    clocks = [StoreClock(world.documents, VirtualClock(skew), monotonic=loop.time) for skew in SKEWS]
    for clock in clocks:
        await clock.synchronize()
    return [world.worker(clock=clock) for clock in clocks]


@pytest.mark.parametrize("profile", EVERY_CLASS)
@in_virtual_time
async def test_clocks_a_minute_apart_cause_no_second_refresh(profile: str) -> None:
    world = await GrantWorld(profile).open()
    workers, name = await skewed_workers(world), await world.connect()
    world.fault(
        endpoint="token", kind="slow", seconds=6, count=1
    )  # long enough for every wrong clock to grow impatient

    async def ask(number: int) -> str:
        await asyncio.sleep(number * 0.02)
        return (await workers[number % 3].token(name)).access_token

    tokens = await asyncio.gather(*(ask(number) for number in range(200)))

    assert world.refreshes() == 1
    assert len(set(tokens)) == 1
    assert [entry for entry in world.book.ledger() if entry["event"] == "refused"] == []


@in_virtual_time
async def test_local_clocks_alone_would_have_sent_the_token_twice() -> None:
    """What the store's time is for: the same race with every instance believing its own clock."""
    world = await GrantWorld(STRICT).open()
    slow, fast = world.worker(clock=VirtualClock(-MINUTE)), world.worker(clock=VirtualClock(MINUTE))
    name = await world.connect()
    world.fault(endpoint="token", kind="slow", seconds=6, count=1)
    first = asyncio.create_task(slow.token(name))
    await asyncio.sleep(1)
    await asyncio.gather(fast.token(name), first, return_exceptions=True)
    assert world.http.calls.count("/oauth/token") == 2


@pytest.mark.parametrize("profile", [LEEWAY, STRICT])
@in_virtual_time
async def test_an_instance_that_died_is_recovered_on_time_by_one_with_a_wrong_clock(profile: str) -> None:
    for index in range(len(SKEWS)):
        world = await GrantWorld(profile).open()
        workers = await skewed_workers(world)
        name = await world.connect()
        dead = asyncio.create_task(_stand_still_at(world, "persisted").token(name))
        await asyncio.sleep(1)
        await asyncio.sleep(30)
        await workers[index].sweep()
        grant = await world.grant(name)
        assert (grant.status, grant.seq) == (GrantStatus.ACTIVE, 2)
        assert world.refreshes() == 1
        dead.cancel()


def _stand_still_at(world: GrantWorld, where: str) -> Worker:
    async def step(name: str) -> None:
        if name == where:
            await asyncio.Event().wait()

    return world.worker(step=step)


@in_virtual_time
async def test_a_token_expires_at_the_same_moment_on_every_instance() -> None:
    world = await GrantWorld(STRICT).open()
    workers, name = await skewed_workers(world), await world.connect()
    token = await workers[0].token(name)
    assert token.expires_at is not None
    assert abs(token.expires_at - (world.clock.now() + timedelta(seconds=300))) < timedelta(seconds=1)
    await asyncio.sleep(300 - 240 - 2)
    assert {(await worker.token(name)).access_token for worker in workers} == {token.access_token}
    await asyncio.sleep(4)
    assert {(await worker.token(name)).access_token for worker in workers} != {token.access_token}
    assert world.refreshes() == 2


# --- the clock itself ---


class SteppingClock:
    def __init__(self) -> None:
        self.wrong_by = timedelta(0)
        self._clock = VirtualClock()

    def now(self) -> datetime:
        return self._clock.now() + self.wrong_by


@in_virtual_time
async def test_the_store_clock_does_not_follow_a_local_clock_that_steps() -> None:
    loop, local = asyncio.get_running_loop(), SteppingClock()
    documents = InMemoryDocuments(delay_s=0.2, clock=VirtualClock(timedelta(hours=3)))
    clock = StoreClock(documents, local, monotonic=loop.time)
    assert clock.now() == START
    await clock.synchronize()
    local.wrong_by = -MINUTE
    await asyncio.sleep(5)
    assert abs(clock.now() - (START + timedelta(hours=3, seconds=5.2))) <= timedelta(seconds=0.2)


@in_virtual_time
async def test_the_store_is_asked_once_a_minute_and_may_be_away_in_between() -> None:
    loop = asyncio.get_running_loop()
    documents = InMemoryDocuments(clock=VirtualClock())
    clock = StoreClock(documents, VirtualClock(MINUTE), monotonic=loop.time)
    documents.outage = Outage(frozenset({"server_time"}))
    with pytest.raises(Unavailable):
        await clock.synchronize()
    documents.outage = None
    for _ in range(12):
        await clock.synchronize()
        await asyncio.sleep(10)
    assert documents.calls["server_time"] == 1 + 2
    documents.outage = Outage(frozenset({"server_time"}))
    await asyncio.sleep(100)
    await clock.synchronize()
    assert abs(clock.now() - VirtualClock().now()) < timedelta(milliseconds=1)


@in_virtual_time
async def test_an_answer_that_took_long_does_not_spoil_a_good_measurement() -> None:
    loop = asyncio.get_running_loop()
    documents = InMemoryDocuments(clock=VirtualClock())
    clock = StoreClock(documents, VirtualClock(), monotonic=loop.time)
    await clock.synchronize()
    await asyncio.sleep(100)
    documents.delay_s = 1.8
    await clock.synchronize()
    assert abs(clock.now() - VirtualClock().now()) < timedelta(milliseconds=1)
