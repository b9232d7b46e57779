"""The calls under way in this process: so many and no more, and each seen to its end, whoever stopped waiting for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

from cab.domain.errors import BrokerError, Reason, Remedy

MOST_CALLS: Final = 640
MOST_TO_ONE: Final = 512  # connection: a platform that hangs leaves room for calls of others

STOP_AFTER_S: Final = 5.0  # so that what is interrupted can still be published

_Result = TypeVar("_Result")


class RunningCalls:
    def __init__(self, *, most: int = MOST_CALLS, most_to_one: int = MOST_TO_ONE) -> None:
        self._most = most
        self._most_to_one = most_to_one
        self._by_connection: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping = asyncio.Event()

    @contextmanager
    def place(self, connection: str) -> Iterator[None]:
        """Room for one call. Raises: BrokerError RATE_LIMITED when there is none: nothing was decided or spent yet."""
        if self._by_connection.total() >= self._most or self._by_connection[connection] >= self._most_to_one:
            raise BrokerError(Reason.RATE_LIMITED, "Too many calls are under way here.", remedy=Remedy(retry_after_s=2))
        with self.place_taken(connection):
            yield

    @contextmanager
    def place_taken(self, connection: str) -> Iterator[None]:
        """As `place`, for a call that was let through already: it is made, however many there are."""
        self._by_connection[connection] += 1
        try:
            yield
        finally:
            self._by_connection[connection] -= 1

    async def see_through(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Do the work in a task of its own, which goes on when the caller is cancelled: its end must be recorded."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def stops_within(self, seconds: float) -> bool:
        """Wait so long, or until this process is about to stop: whether it is."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        return self._stopping.is_set()

    async def stop(self) -> None:
        """Let calls under way end by themselves for a while, then interrupt them: the platform gives ten seconds in all."""
        self._stopping.set()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=STOP_AFTER_S)
        await self.interrupt()

    async def interrupt(self) -> None:
        """Stop waiting for platforms: every call under way ends now, and says so on the record."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
