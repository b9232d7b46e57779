"""Work that begins at once, and goes on where it is awaited: what waits once, or not at all, needs no task of its own.

A task costs 20 thousand instructions and a turn of the loop. Nothing but being awaited moves such work on past its first wait, so it is
for work that waits for what others carry on: a call to a store goes out with its batch, whoever comes to look for the answer.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

_Result = TypeVar("_Result")


class Begun(Generic[_Result]):
    """A coroutine that has run up to its first wait, in a context of its own as a task has. Awaited as often as wanted, one at a time."""

    def __init__(self, work: Coroutine[Any, Any, _Result]) -> None:
        self._work = work
        self._context = contextvars.copy_context()
        self._waits_for: asyncio.Future[Any] | None = None  # a turn of the loop
        self._is_done = False
        self._result: _Result
        self._error: BaseException | None = None
        self._go_on(work.send, None)

    def done(self) -> bool:
        return self._is_done

    def cancel(self) -> None:
        """Raise CancelledError where the work waits. It must still be awaited: it may have something to do then."""
        if self._is_done:
            return
        if self._waits_for is not None:
            self._waits_for.cancel()
        self._go_on(self._work.throw, asyncio.CancelledError())

    def __await__(self) -> Generator[Any, Any, _Result]:
        while not self._is_done:
            try:
                if self._waits_for is None:
                    yield
                else:
                    yield from self._waits_for
            except BaseException as error:  # noqa: BLE001 - it is the work's to raise
                self._go_on(self._work.throw, error)
            else:
                self._go_on(self._work.send, None)
        if self._error is not None:
            raise self._error
        return self._result

    def _go_on(self, how: Callable[[Any], asyncio.Future[Any] | None], what: object) -> None:
        try:
            self._waits_for = waits_for = self._context.run(how, what)
            if waits_for is not None:
                waits_for._asyncio_future_blocking = False  # as a task does that takes it  # noqa: SLF001
        except StopIteration as ended:
            self._is_done, self._result = True, ended.value
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            self._is_done, self._error = True, error
