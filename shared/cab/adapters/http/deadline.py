"""A time limit that tells a slow other side from a process that itself stood still."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final

GRACE_S: Final = 1.0


class within:  # noqa: N801 - used like `asyncio.timeout`
    """`asyncio.timeout`, but when its moment was overslept, what arrived meanwhile may still be read, for `GRACE_S`.

    A process without CPU for longer than the limit finds the answer and the timer at the same time. Were the timer believed,
    the only copy of a rotated refresh token would be thrown away unread.
    """

    __slots__ = ("_due", "_limit", "_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._limit = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        loop = asyncio.get_running_loop()
        self._due = loop.time() + self._seconds
        self._timer = loop.call_at(self._due, self._end)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(kind, error, trace)

    def _end(self) -> None:
        now = asyncio.get_running_loop().time()
        self._limit.reschedule(now + GRACE_S if now > self._due + GRACE_S else now)
