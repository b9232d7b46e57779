"""A limit on the other side's time, not on our own standing still."""

from __future__ import annotations

import asyncio
import time

import pytest

from cab.adapters.http.deadline import within


async def test_a_call_that_takes_too_long_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        async with within(0.05):
            await asyncio.Event().wait()
    assert time.monotonic() - started < 0.9


async def test_a_call_in_time_is_left_alone() -> None:
    async with within(5):
        await asyncio.sleep(0)


async def test_an_answer_that_came_while_the_process_stood_still_is_read() -> None:
    answer = asyncio.get_running_loop().create_future()
    async with within(0.05):
        asyncio.get_running_loop().call_soon(time.sleep, 1.2)  # nobody in this process moves
        asyncio.get_running_loop().call_soon(answer.set_result, "the answer")
        assert await answer == "the answer"


async def test_without_an_answer_the_grace_ends_too() -> None:
    async def call() -> None:
        async with within(0.05):
            asyncio.get_running_loop().call_soon(time.sleep, 1.2)
            await asyncio.Event().wait()

    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await call()
    assert 2.0 < time.monotonic() - started < 4.0


async def test_a_caller_that_is_cancelled_is_cancelled_and_not_late() -> None:
    async def call() -> None:
        async with within(5):
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
