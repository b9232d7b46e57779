"""Many who ask at once cause one call, and nobody's leaving or failing spoils it for the others."""

from __future__ import annotations

import asyncio

import pytest

from cab.single_flight import SingleFlight


class Source:
    def __init__(self) -> None:
        self.calls = 0
        self.go_on = asyncio.Event()
        self.fails = False

    async def __call__(self) -> int:
        self.calls += 1
        await self.go_on.wait()
        if self.fails:
            raise RuntimeError
        return self.calls


async def test_those_who_ask_at_once_share_one_call() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    source = Source()
    waiting = [asyncio.create_task(flights.do("a", source)) for _ in range(5)]
    await asyncio.sleep(0)
    assert "a" in flights
    source.go_on.set()
    assert await asyncio.gather(*waiting) == [1] * 5
    await asyncio.sleep(0)
    assert "a" not in flights


async def test_other_keys_have_calls_of_their_own_and_so_has_the_next_to_ask() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    source = Source()
    source.go_on.set()
    await asyncio.gather(flights.do("a", source), flights.do("b", source))
    assert source.calls == 2
    await asyncio.sleep(0)
    await flights.do("a", source)
    assert source.calls == 3


async def test_a_call_goes_on_when_the_first_to_ask_leaves() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    source = Source()
    first = asyncio.create_task(flights.do("a", source))
    second = asyncio.create_task(flights.do("a", source))
    await asyncio.sleep(0)
    first.cancel()
    source.go_on.set()
    assert await second == 1


async def test_an_error_reaches_all_and_is_not_kept() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    source = Source()
    source.fails = True
    source.go_on.set()
    outcomes = await asyncio.gather(*(flights.do("a", source) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [RuntimeError] * 3
    source.fails = False
    await asyncio.sleep(0)
    assert await flights.do("a", source) == 2


async def test_an_error_that_nobody_waits_for_is_not_reported_as_lost() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    source = Source()
    source.fails = True
    lost: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    waiting = asyncio.create_task(flights.do("a", source))
    await asyncio.sleep(0)
    waiting.cancel()
    source.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert lost == []


async def test_who_asks_in_the_very_turn_in_which_a_call_ended_begins_another() -> None:
    flight: SingleFlight[str, int] = SingleFlight()
    answers: list[asyncio.Future[int]] = [asyncio.get_running_loop().create_future() for _ in range(2)]
    waiting = iter(answers)

    async def call() -> int:
        return await next(waiting)

    first = flight.start("a", call)
    await asyncio.sleep(0)
    answers[0].set_result(1)
    asking = asyncio.create_task(flight.do("a", call))  # its first step comes behind the last one of the call
    await asyncio.sleep(0)
    assert first.done()
    answers[1].set_result(2)
    assert await asking == 2
    assert "a" not in flight
