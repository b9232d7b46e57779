"""What a process takes on, in a loop whose clock the requests themselves move: each takes so much of the processor."""

from __future__ import annotations

import asyncio

import pytest

from cab.domain.errors import BrokerError, Reason
from cab.transport.admission import BEGUN_PER_TURN, MOST_IN_PROCESS, TOO_OLD_S, Admission


class Process:
    """One that does nothing else than compute."""

    def __init__(self, *, cost_s: float, refusal_s: float = 0.0) -> None:
        self.now_s = 1000.0
        self.cost_s = cost_s
        self.refusal_s = refusal_s
        self.refused_after: list[tuple[float, float]] = []  # at what time, seconds
        self.served: list[float] = []
        self.refused: list[BrokerError] = []
        self.admission = Admission(now=lambda: self.now_s)

    async def work(self) -> None:
        """In two turns of the loop, as when something is read between."""
        self.now_s += self.cost_s / 2
        await asyncio.sleep(0)
        self.now_s += self.cost_s / 2

    async def request(self, came_at: float | None = None) -> None:
        came_at = self.now_s if came_at is None else came_at
        try:
            await self.admission.run(self.work)
            self.served.append(self.now_s - came_at)
        except BrokerError as refusal:
            self.now_s += self.refusal_s
            self.refused.append(refusal)
            self.refused_after.append((self.now_s, self.now_s - came_at))

    async def under_load(self, *, times_capacity: float, seconds: float) -> None:
        """Requests come in even steps of the clock, whatever becomes of them."""
        tasks, begun, due = [], self.now_s, 0
        while self.now_s - begun < seconds:
            came = int((self.now_s - begun) * times_capacity / self.cost_s) + 1
            each_s = self.cost_s / times_capacity
            tasks += [asyncio.create_task(self.request(begun + number * each_s)) for number in range(due, came)]
            due = max(due, came)
            before = self.now_s
            await asyncio.sleep(0)
            if self.now_s == before:
                self.now_s += self.cost_s / 10  # idle
        await asyncio.gather(*tasks)


def test_within_its_capacity_nobody_is_refused() -> None:
    process = Process(cost_s=0.002)
    asyncio.run(process.under_load(times_capacity=0.9, seconds=10))
    assert process.refused == []
    assert max(process.served) < 0.2


@pytest.mark.parametrize("times_capacity", [1.5, 4.0])
@pytest.mark.parametrize("cost_s", [0.001, 0.004])
def test_beyond_it_what_is_served_is_served_soon_and_the_processor_is_not_wasted(
    times_capacity: float, cost_s: float
) -> None:
    process = Process(cost_s=cost_s)
    asyncio.run(process.under_load(times_capacity=times_capacity, seconds=10))
    assert max(process.served) < TOO_OLD_S + 0.2
    assert len(process.served) * cost_s > 9.0  # of ten seconds
    assert process.refused
    assert {refusal.reason for refusal in process.refused} == {Reason.OVERLOADED}
    assert {refusal.remedy.retry_after_s for refusal in process.refused} == {1, 2, 3}  # not all come back together


@pytest.mark.parametrize("cost_s", [0.001, 0.002])
@pytest.mark.parametrize("stood_still_s", [0.0, 0.4])
def test_what_is_refused_is_refused_at_once_and_soon_again_after_the_loop_stood_still(
    cost_s: float, stood_still_s: float
) -> None:
    process = Process(cost_s=cost_s, refusal_s=cost_s / 8)

    async def story() -> None:
        await process.under_load(times_capacity=1.5, seconds=2)
        process.now_s += stood_still_s
        process.refused_after.clear()
        resumed_at = process.now_s
        await process.under_load(times_capacity=1.5, seconds=2)
        later = [waited for at, waited in process.refused_after if at > resumed_at + stood_still_s]
        assert len(later) > 100
        assert max(later) < 0.05

    asyncio.run(story())


def test_it_serves_everybody_again_within_two_seconds() -> None:
    process = Process(cost_s=0.002)

    async def story() -> None:
        await process.under_load(times_capacity=4.0, seconds=5)
        process.refused.clear()
        ended_at = process.now_s
        await process.under_load(times_capacity=0.9, seconds=5)
        assert process.refused == []
        assert ended_at < 1000.0 + 5 + 2  # the queue itself was done by then

    asyncio.run(story())


def test_who_only_waits_for_others_does_not_keep_others_out_until_the_process_is_full() -> None:
    admission = Admission()

    async def story() -> None:
        let_go = asyncio.Event()
        waiting = [asyncio.create_task(admission.run(let_go.wait)) for _ in range(MOST_IN_PROCESS - 1)]
        for _ in range(MOST_IN_PROCESS // BEGUN_PER_TURN + 2):
            await asyncio.sleep(0)
        assert await admission.run(_seven) == 7  # however many wait
        waiting.append(asyncio.create_task(admission.run(let_go.wait)))
        await asyncio.sleep(0)
        with pytest.raises(BrokerError):
            await admission.run(_seven)
        let_go.set()
        await asyncio.gather(*waiting)
        assert await admission.run(_seven) == 7

    asyncio.run(story())


def test_one_slow_turn_behind_one_that_waits_keeps_nobody_out() -> None:
    process = Process(cost_s=0.0)

    async def story() -> None:
        tasks = [asyncio.create_task(process.request()) for _ in range(BEGUN_PER_TURN + 1)]
        await asyncio.sleep(0)
        process.now_s += 0.16  # the first request of a process has something imported, say
        tasks += [asyncio.create_task(process.request()) for _ in range(BEGUN_PER_TURN * 3)]
        await asyncio.gather(*tasks)

    asyncio.run(story())
    assert process.refused == []


def test_one_whose_caller_went_away_while_it_waited_is_not_begun() -> None:
    process = Process(cost_s=0.01)

    async def story() -> None:
        tasks = [asyncio.create_task(process.request()) for _ in range(BEGUN_PER_TURN * 4)]
        await asyncio.sleep(0)
        tasks[-1].cancel()
        await asyncio.wait(tasks)

    asyncio.run(story())
    assert len(process.served) == BEGUN_PER_TURN * 4 - 1


async def _seven() -> int:
    return 7
