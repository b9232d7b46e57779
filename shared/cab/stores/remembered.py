"""A value of elsewhere that an instance remembers and reads again now and then, beside its callers.

While a good value is known, nobody waits for the next one longer than a moment: what is slow there must not make everything
slow that the value is for. What is read late counts from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final, Generic, TypeVar

from cab.ports import Clock, Unavailable

MOMENT_S: Final = 0.5

_Value = TypeVar("_Value")


class Remembered(Generic[_Value]):
    """`read` gives the value or raises Unavailable. It is fresh for `fresh_for`, and good for `good_for` (None: for ever) while
    it cannot be read again. After a failure nobody asks for `retry_after`. However many call, one read is under way."""

    def __init__(
        self,
        read: Callable[[], Awaitable[_Value]],
        clock: Clock,
        *,
        what: str = "documents",
        fresh_for: timedelta,
        good_for: timedelta | None = None,
        retry_after: timedelta = timedelta(0),
    ) -> None:
        self._read = read
        self._clock = clock
        self._what = what  # is away, when there is no good value
        self._fresh_for = fresh_for
        self._good_for = good_for
        self._retry_after = retry_after
        self._value: _Value | None = None
        self._read_at: datetime | None = None
        self._look_again_at: datetime | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waited_for_until = 0.0  # on the event loop's clock

    async def get(self) -> _Value:
        """Raises: Unavailable while no good value is known."""
        reading, now = self._reading, self._clock.now()
        if reading is None and (self._look_again_at is None or now >= self._look_again_at):
            reading = self._start()
        if reading is not None:
            left = self._waited_for_until - asyncio.get_running_loop().time()
            await asyncio.wait([reading], timeout=max(0.0, left) if self._is_good(now) else None)
            if reading.done():
                reading.result()  # a mistake of ours is not an outage
            now = self._clock.now()
        if self._value is None or not self._is_good(now):
            raise Unavailable(self._what)
        return self._value

    async def again(self, *, unless_read_within: timedelta) -> _Value:
        """A value read now, for a caller to whom the known one is not enough. Raises: Unavailable when it cannot be read."""
        if self._value is not None and self._read_at is not None:
            if self._clock.now() - self._read_at <= unless_read_within:
                return self._value
            before = self._read_at
        else:
            before = None
        await asyncio.shield(self._reading or self._start())
        if self._value is None or self._read_at == before:
            raise Unavailable(self._what)
        return self._value

    def _is_good(self, now: datetime) -> bool:
        if self._read_at is None:
            return False
        return self._good_for is None or now - self._read_at <= self._good_for

    def _start(self) -> asyncio.Task[None]:
        self._waited_for_until = asyncio.get_running_loop().time() + MOMENT_S
        self._reading = asyncio.create_task(self._look())
        return self._reading

    async def _look(self) -> None:
        pause = self._retry_after
        try:
            self._value = await self._read()
            self._read_at, pause = self._clock.now(), self._fresh_for
        except Unavailable:
            pass
        finally:
            self._look_again_at = self._clock.now() + pause
            self._reading = None
