"""Work that tells something before it ends: its beginner goes on with that, while it goes on to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_Told = TypeVar("_Told")
_Result = TypeVar("_Result")


async def first_word(
    work: Callable[[Callable[[_Told], None]], Coroutine[Any, Any, _Result]],
) -> tuple[_Told | None, asyncio.Task[_Result]]:
    """What `work` tells first through the function that it is given, or None if it has ended by then; and the work.

    Its error counts as seen, also when nobody comes to need its result. Who cancels this cancels the work.
    """
    told: asyncio.Future[_Told] = asyncio.get_running_loop().create_future()

    def tell(what: _Told) -> None:
        if not told.done():
            told.set_result(what)

    working = asyncio.create_task(work(tell))
    working.add_done_callback(lambda done: done.cancelled() or done.exception())
    ends: list[asyncio.Future[Any]] = [working, told]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        working.cancel()
        raise
    return (None if working.done() else told.result()), working
