"""Requests that meet on their way to an API share a call.

A call costs the same at both ends whatever it carries. What is asked for in the same turn of the event
loop goes together; and while as many calls are under way as may be, what comes meanwhile goes together in the next one.
So a single request waits for nobody, and under load the calls grow instead of their number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

MOST_UNDER_WAY: Final = 4
_LEAST_BUDGET_S: Final = 0.5

_What = TypeVar("_What")


@dataclass(slots=True, eq=False)
class Waiter(Generic[_What]):
    """One request, when it was made (the loop's seconds), and the future that its caller waits on."""

    what: _What
    at: float
    answer: asyncio.Future[Any] = field(repr=False)

    def succeed(self, answer: object) -> None:
        if not self.answer.done():  # its caller may have gone away
            self.answer.set_result(answer)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Batches(Generic[_What]):
    """Belongs to the event loop of its first request.

    `take` removes from the list what may share one call, at least one request. `send` makes that call within a number of
    seconds and answers each request; what it lets out by mistake, every caller of the batch gets. Nobody waits for ever.
    """

    def __init__(
        self,
        take: Callable[[list[Waiter[_What]]], list[Waiter[_What]]],
        send: Callable[[list[Waiter[_What]], float], Awaitable[None]],
        *,
        budget_s: float,
    ) -> None:
        self._take = take
        self._send = send
        self._budget_s = budget_s
        self._waiting: list[Waiter[_What]] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._next: asyncio.Task[None] | None = None  # the one that has not begun: it will take what waits by then

    async def ask(self, what: _What) -> Any:
        """The answer to one request; what `send` fails it with is raised. A caller that goes away does not stop it."""
        loop = asyncio.get_running_loop()
        asked = Waiter(what, loop.time(), loop.create_future())
        self._waiting.append(asked)
        self._start()
        return await asked.answer

    async def close(self) -> None:
        """Wait for what was asked for."""
        while self._waiting or self._under_way:
            self._start()
            await asyncio.wait(self._under_way)

    def remaining_s(self, asked: Waiter[_What]) -> float:
        """What is left of a request's time: waiting for its turn counts."""
        return max(_LEAST_BUDGET_S, asked.at + self._budget_s - asyncio.get_running_loop().time())

    def _start(self) -> None:
        if self._next is None and self._waiting and len(self._under_way) < MOST_UNDER_WAY:
            self._next = asyncio.create_task(self._call())
            self._under_way.add(self._next)
            self._next.add_done_callback(self._ended)

    async def _call(self) -> None:
        self._next = None
        batch = self._take(self._waiting)
        self._start()  # for what finds no room in this one
        try:
            await self._send(batch, self.remaining_s(batch[0]))
        except Exception as error:  # noqa: BLE001 - a mistake of ours; nobody else is there to be told
            for asked in batch:
                asked.fail(error)
        finally:
            for asked in batch:  # still without an answer when the call was cancelled, as when the process stops
                asked.answer.cancel()

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._under_way.discard(call)
        if call is self._next:  # cancelled before it began
            self._next = None
        self._start()
