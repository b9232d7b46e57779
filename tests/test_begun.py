"""Work that begins at once, in a context of its own, and goes on where it is awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest
import uvloop

from cab.begun import Begun

SAID: ContextVar[str] = ContextVar("SAID", default="nothing")


async def test_work_that_waits_for_nothing_has_ended_as_soon_as_it_has_begun() -> None:
    async def work() -> str:
        return "done"

    begun = Begun(work())
    assert begun.done()
    assert (await begun, await begun) == ("done", "done")


async def test_work_that_waits_ends_where_it_is_awaited_in_the_task_that_awaits_it() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    tasks: list[object] = []

    async def work() -> str:
        tasks.append(asyncio.current_task())
        told = await answer
        await asyncio.sleep(0)
        tasks.append(asyncio.current_task())
        return told

    begun = Begun(work())
    assert len(tasks) == 1
    answer.set_result("told")
    assert not begun.done()
    assert (await begun, await begun) == ("told", "told")
    assert tasks == [asyncio.current_task()] * 2


@pytest.mark.parametrize("waits", [False, True])
async def test_an_error_is_raised_wherever_it_is_awaited(*, waits: bool) -> None:
    async def work() -> None:
        if waits:
            await asyncio.sleep(0)
        raise LookupError

    begun = Begun(work())
    for _ in range(2):
        with pytest.raises(LookupError):
            await begun


async def test_an_error_of_what_it_waits_for_is_the_works_to_judge() -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def work() -> str:
        try:
            await answer
        except LookupError:
            return "judged"
        return "nothing to judge"

    begun = Begun(work())
    answer.set_exception(LookupError())
    assert await begun == "judged"


async def test_what_it_sets_in_its_context_is_seen_by_nobody_else() -> None:
    async def work() -> str:
        SAID.set("inside")
        await asyncio.sleep(0)
        return SAID.get()

    SAID.set("before")
    begun = Begun(work())
    assert SAID.get() == "before"
    SAID.set("after")
    assert await begun == "inside"


async def test_who_is_cancelled_while_it_awaits_cancels_the_work_and_what_that_waits_for() -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        await answer

    begun = Begun(work())

    async def wait() -> None:
        await begun

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert begun.done()
    assert answer.cancelled()


async def test_cancelled_work_ends_with_what_it_has_to_do_then() -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ended: list[str] = []

    async def work() -> None:
        try:
            await answer
        finally:
            await asyncio.sleep(0)
            ended.append("cleaned up")

    begun = Begun(work())
    begun.cancel()
    assert answer.cancelled()
    with pytest.raises(asyncio.CancelledError):
        await begun
    begun.cancel()
    assert ended == ["cleaned up"]


def _debugging() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_debug(enabled=True)
    return loop


def _eager() -> asyncio.AbstractEventLoop:
    """A task that is made runs up to its first wait at once, within the one that makes it."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(EAGER)
    return loop


EAGER = getattr(asyncio, "eager_task_factory", None)  # from 3.12 on
LOOPS = {"uvloop": uvloop.new_event_loop, "debugging": _debugging} | ({"eager": _eager} if EAGER else {})


@pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize(
    "test",
    [
        test_work_that_waits_ends_where_it_is_awaited_in_the_task_that_awaits_it,
        test_an_error_of_what_it_waits_for_is_the_works_to_judge,
        test_what_it_sets_in_its_context_is_seen_by_nobody_else,
        test_who_is_cancelled_while_it_awaits_cancels_the_work_and_what_that_waits_for,
        test_cancelled_work_ends_with_what_it_has_to_do_then,
    ],
)
def test_all_this_is_so_on_the_loop_of_the_functions_and_on_others(
    test: Callable[[], Coroutine[Any, Any, None]], new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """It clears a flag of futures that is no part of their interface, so it is tried on whatever could handle that in its own way."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(test())
