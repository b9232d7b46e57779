"""A time limit that tells a slow other side from a process that itself stood still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

GRACE_S: Final = 1.0


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """`asyncio.timeout`, but when its moment was overslept, what arrived meanwhile may still be read, for `GRACE_S`.

    A process without CPU for longer than the limit finds the answer and the timer at the same time. Were the timer believed,
    the only copy of a rotated refresh token would be thrown away unread.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        due = loop.time() + seconds

        def end() -> None:
            now = loop.time()
            limit.reschedule(now + GRACE_S if now > due + GRACE_S else now)

        timer = loop.call_at(due, end)
        try:
            yield
        finally:
            timer.cancel()
