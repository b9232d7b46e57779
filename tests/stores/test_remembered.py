"""What an instance remembers of a store: read once in a while, and never in front of callers for longer than a moment."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from tests.grants.virtual_time import in_virtual_time

from cab.ports import Unavailable
from cab.stores.remembered import Remembered
from cab_dev.fakes.clock import SettableClock

FRESH = timedelta(seconds=60)
GOOD = timedelta(hours=24)
PAUSE = timedelta(seconds=5)


class SlowStore:
    def __init__(self) -> None:
        self.value = "first"
        self.delay_s = 0.0
        self.is_down = False
        self.reads = 0

    async def read(self) -> str:
        self.reads += 1
        await asyncio.sleep(self.delay_s)
        if self.is_down:
            raise Unavailable("documents")
        return self.value


class Bench:
    def __init__(self) -> None:
        self.store, self.clock = SlowStore(), SettableClock()
        self.remembered = Remembered(self.store.read, self.clock, fresh_for=FRESH, good_for=GOOD, retry_after=PAUSE)

    async def timed(self) -> tuple[str, float]:
        begun = asyncio.get_running_loop().time()
        try:
            found = await self.remembered.get()
        except Unavailable:
            found = "unavailable"
        return found, round(asyncio.get_running_loop().time() - begun, 3)


@in_virtual_time
async def test_the_first_callers_wait_for_one_read() -> None:
    bench = Bench()
    bench.store.delay_s = 3
    assert await asyncio.gather(*(bench.timed() for _ in range(20))) == [("first", 3.0)] * 20
    assert bench.store.reads == 1


@in_virtual_time
async def test_while_a_value_is_good_nobody_waits_for_a_slow_store_longer_than_a_moment() -> None:
    """Every caller was held for as long as the store took, which is three seconds before it gives up."""
    bench = Bench()
    await bench.timed()
    bench.clock.advance(FRESH)
    bench.store.delay_s, bench.store.value = 3, "second"
    assert await asyncio.gather(*(bench.timed() for _ in range(20))) == [("first", 0.5)] * 20
    assert await bench.timed() == ("first", 0.0)  # the moment is over: one read is waited for once
    assert bench.store.reads == 2
    await asyncio.sleep(3)
    assert await bench.timed() == ("second", 0.0)  # what was read late counts
    assert bench.store.reads == 2


@in_virtual_time
async def test_a_store_that_answers_within_the_moment_is_waited_for() -> None:
    bench = Bench()
    await bench.timed()
    bench.clock.advance(FRESH)
    bench.store.delay_s, bench.store.value = 0.4, "second"
    assert await bench.timed() == ("second", 0.4)


@in_virtual_time
async def test_a_value_that_is_no_longer_good_is_waited_for_and_not_served() -> None:
    bench = Bench()
    await bench.timed()
    bench.clock.advance(GOOD + timedelta(seconds=1))
    bench.store.delay_s, bench.store.is_down = 3, True
    assert await bench.timed() == ("unavailable", 3.0)
    bench.store.is_down = False
    bench.clock.advance(PAUSE)
    assert await bench.timed() == ("first", 3.0)


@in_virtual_time
async def test_a_store_that_failed_is_left_alone_for_a_while() -> None:
    bench = Bench()
    bench.store.is_down = True
    assert await bench.timed() == await bench.timed() == ("unavailable", 0.0)
    assert bench.store.reads == 1
    bench.clock.advance(PAUSE)
    await bench.timed()
    assert bench.store.reads == 2


@in_virtual_time
async def test_a_caller_who_leaves_ends_nobodys_read() -> None:
    bench = Bench()
    bench.store.delay_s = 3
    leaving = asyncio.create_task(bench.timed())
    staying = asyncio.create_task(bench.timed())
    await asyncio.sleep(1)
    leaving.cancel()
    assert await staying == ("first", 3.0)


@in_virtual_time
async def test_who_needs_the_newest_value_waits_for_it() -> None:
    bench = Bench()
    await bench.timed()
    bench.store.delay_s, bench.store.value = 3, "second"
    assert await bench.remembered.again(unless_read_within=PAUSE) == "first"
    bench.clock.advance(PAUSE + timedelta(seconds=1))
    assert await bench.remembered.again(unless_read_within=PAUSE) == "second"
    bench.clock.advance(PAUSE + timedelta(seconds=1))
    bench.store.is_down = True
    with pytest.raises(Unavailable):
        await bench.remembered.again(unless_read_within=PAUSE)
    assert await bench.timed() == ("second", 0.0)


@in_virtual_time
async def test_a_mistake_of_ours_is_not_taken_for_an_outage() -> None:
    async def broken() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Remembered(broken, SettableClock(), fresh_for=FRESH).get()
