"""Work that tells something before its end: who began it goes on with that, or with its result where it told nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cab.first_word import first_word


async def test_what_is_told_first_comes_before_the_end_and_the_rest_is_not_heard() -> None:
    go_on = asyncio.Event()

    async def work(tell: Callable[[str], None]) -> str:
        tell("soon")
        tell("another")
        await go_on.wait()
        return "done"

    told, working = await first_word(work)
    assert (told, working.done()) == ("soon", False)
    go_on.set()
    assert await working == "done"


async def test_work_that_has_ended_has_nothing_to_foretell() -> None:
    async def work(tell: Callable[[str], None]) -> str:
        tell("soon")
        return "done"

    told, working = await first_word(work)
    assert (told, await working) == (None, "done")


async def test_an_error_is_raised_to_whoever_needs_the_result() -> None:
    async def work(_: Callable[[str], None]) -> str:
        raise RuntimeError

    told, working = await first_word(work)
    assert told is None
    with pytest.raises(RuntimeError):
        await working


async def test_who_leaves_before_anything_was_told_ends_the_work() -> None:
    ended = asyncio.Event()

    async def work(_: Callable[[str], None]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(first_word(work))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(ended.wait(), 1)
