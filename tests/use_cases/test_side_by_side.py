"""What an exchange does side by side: all of it ends before anything is raised."""

from __future__ import annotations

import asyncio

import pytest

from cab.use_cases.exchange.steps import all_of


class Work:
    """Ends when it is told to. `ended` is how."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()
        self.error: Exception | None = None
        self.ended: str | None = None

    async def __call__(self, answer: str) -> str:
        try:
            await self.goes_on.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            self.ended = "cancelled"
            raise
        self.ended = "done"
        if self.error is not None:
            raise self.error
        return answer


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_results_come_in_the_order_of_what_was_asked_whatever_ends_first() -> None:
    first, second, third = Work(), Work(), Work()
    running = asyncio.create_task(all_of(first("1"), second("2"), third("3")))
    for work in (third, second, first):
        await turns()
        assert not running.done()
        work.goes_on.set()
    assert await running == ("1", "2", "3")


@pytest.mark.parametrize("failing", [0, 1])
async def test_an_error_is_raised_when_all_have_ended(failing: int) -> None:
    works = [Work(), Work()]
    works[failing].error = LookupError()
    running = asyncio.create_task(all_of(works[0]("1"), works[1]("2")))
    works[failing].goes_on.set()
    await turns()
    assert not running.done()
    works[1 - failing].goes_on.set()
    with pytest.raises(LookupError):
        await running


async def test_of_several_errors_the_last_one_in_order_counts() -> None:
    first, second, third = Work(), Work(), Work()
    first.error, second.error = LookupError(), KeyError()
    for work in (first, second, third):
        work.goes_on.set()
    with pytest.raises(KeyError):
        await all_of(first("1"), second("2"), third("3"))


async def test_who_cancels_all_of_them_cancels_each_and_is_told_when_all_have_ended() -> None:
    first, second, third = Work(), Work(), Work()
    third.error = LookupError()
    third.goes_on.set()
    running = asyncio.create_task(all_of(first("1"), second("2"), third("3")))
    await turns()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [first.ended, second.ended, third.ended] == ["cancelled", "cancelled", "done"]


async def test_cancelled_after_the_first_has_ended_the_others_end_too() -> None:
    first, second = Work(), Work()
    first.goes_on.set()
    running = asyncio.create_task(all_of(first("1"), second("2")))
    await turns()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert second.ended == "cancelled"
