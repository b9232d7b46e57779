"""Requests that meet share a call; a single one waits for nobody; a call that hangs holds up the rest for a bounded time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from cab.adapters.google_cloud.firestore import batches
from cab.adapters.google_cloud.firestore.batches import Batches, Waiter


@dataclass
class Api:
    """Calls that end when they are told to. `calls` holds what each carried, `budgets` the seconds it was given."""

    most: int = 100
    calls: list[list[str]] = field(default_factory=list)
    budgets: list[float] = field(default_factory=list)
    ends: list[asyncio.Event] = field(default_factory=list)

    def take(self, waiting: list[Waiter[str]]) -> list[Waiter[str]]:
        batch = waiting[: self.most]
        del waiting[: self.most]
        return batch

    async def send(self, batch: list[Waiter[str]], budget_s: float) -> None:
        self.calls.append([asked.what for asked in batch])
        self.budgets.append(budget_s)
        self.ends.append(end := asyncio.Event())
        await end.wait()
        for asked in batch:
            if asked.what == "bad":
                asked.fail(LookupError(asked.what))
            else:
                asked.succeed(asked.what.upper())


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def ask(together: Batches[str], *whats: str) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(together.ask(what)) for what in whats]


async def test_what_is_asked_for_at_once_goes_at_once_in_one_call() -> None:
    api = Api()
    together = Batches(api.take, api.send, budget_s=2)
    answers = ask(together, "a", "bad", "c")
    await turns()
    assert api.calls == [["a", "bad", "c"]]
    api.ends[0].set()
    got = await asyncio.gather(*answers, return_exceptions=True)
    assert (got[0], type(got[1]), got[2]) == ("A", LookupError, "C")


async def test_what_comes_while_all_calls_are_under_way_goes_together_in_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "MOST_UNDER_WAY", 2)
    api = Api()
    together = Batches(api.take, api.send, budget_s=2)
    answers = []
    for what in "abcde":
        answers += ask(together, what)
        await turns()
    assert api.calls == [["a"], ["b"]]
    api.ends[1].set()
    await turns()
    assert api.calls == [["a"], ["b"], ["c", "d", "e"]]
    for end in api.ends:
        end.set()
    assert await asyncio.gather(*answers) == ["A", "B", "C", "D", "E"]


async def test_more_than_one_call_may_carry_is_as_many_calls_as_it_takes() -> None:
    api = Api(most=2)
    together = Batches(api.take, api.send, budget_s=2)
    answers = ask(together, *"abcde")
    await turns()
    assert api.calls == [["a", "b"], ["c", "d"], ["e"]]
    for end in api.ends:
        end.set()
    assert len(await asyncio.gather(*answers)) == 5


async def test_the_time_spent_waiting_for_a_call_is_taken_from_the_requests_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "MOST_UNDER_WAY", 1)
    api = Api()
    together = Batches(api.take, api.send, budget_s=1.0)
    answers = ask(together, "a")
    await turns()
    answers += ask(together, "b")
    await asyncio.sleep(0.2)
    api.ends[0].set()
    await turns()
    assert api.budgets[0] == pytest.approx(1.0, abs=0.1)
    assert 0.5 <= api.budgets[1] <= 0.81
    api.ends[1].set()
    assert await asyncio.gather(*answers) == ["A", "B"]


async def test_a_request_that_waited_past_its_time_still_gets_a_short_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_UNDER_WAY", 1)
    api = Api()
    together = Batches(api.take, api.send, budget_s=0.01)
    answers = ask(together, "a")
    await turns()
    answers += ask(together, "b")
    await asyncio.sleep(0.05)
    api.ends[0].set()
    await turns()
    assert api.budgets[1] == 0.5
    api.ends[1].set()
    await asyncio.gather(*answers)


async def test_closing_waits_for_everything_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_UNDER_WAY", 1)
    api = Api(most=1)
    together = Batches(api.take, api.send, budget_s=2)
    answers = ask(together, "a", "b")
    await turns()
    closing = asyncio.create_task(together.close())
    await turns()
    assert not closing.done()
    for number in range(2):
        api.ends[number].set()
        await turns()
    await asyncio.wait_for(closing, 5)
    assert await asyncio.gather(*answers) == ["A", "B"]


async def test_a_call_that_is_cancelled_before_it_begins_leaves_its_requests_to_the_next() -> None:
    api = Api()
    together = Batches(api.take, api.send, budget_s=2)
    (answer,) = ask(together, "a")
    await asyncio.sleep(0)
    assert together._next is not None
    together._next.cancel()
    await turns()
    api.ends[0].set()
    assert await asyncio.wait_for(answer, 5) == "A"


async def test_a_caller_that_leaves_disturbs_nobody() -> None:
    api = Api()
    together = Batches(api.take, api.send, budget_s=2)
    leaving, staying = ask(together, "a", "b")
    await turns()
    leaving.cancel()
    api.ends[0].set()
    assert await staying == "B"


@pytest.mark.parametrize("mistake", [KeyError("a mistake of ours"), asyncio.CancelledError()])
async def test_a_call_that_ends_without_answers_leaves_nobody_waiting(mistake: BaseException) -> None:
    api = Api(most=2)

    async def fail(batch: list[Waiter[str]], budget_s: float) -> None:
        if batch[0].what == "a":
            raise mistake
        await api.send(batch, budget_s)

    together = Batches(api.take, fail, budget_s=2)
    answers = ask(together, *"abc")
    got = await asyncio.wait_for(asyncio.gather(*answers[:2], return_exceptions=True), 5)
    assert [type(answer) for answer in got] == [type(mistake)] * 2
    api.ends[0].set()
    assert await answers[2] == "C"
