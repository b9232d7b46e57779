"""An event loop whose time passes only while everybody waits: minutes of leases and hold-downs in milliseconds, always alike."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")
AT_THE_END: list[Callable[[], None]] = []  # what every test is checked for when its own assertions have held
START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


class NobodyMoves(Exception):
    """Every task waits for something that no timer will bring."""


class _Selector(selectors.DefaultSelector):
    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            raise NobodyMoves
        if not ready and timeout:
            self.loop.now_s += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now_s = 0.0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now_s


class VirtualClock:
    """The loop's time as an instant; `skew` is how wrong this clock is."""

    def __init__(self, skew: timedelta = timedelta(0)) -> None:
        self._loop = asyncio.get_running_loop()
        self.skew = skew

    def now(self) -> datetime:
        return START + timedelta(seconds=self._loop.time()) + self.skew


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a test of a coroutine function."""

    @functools.wraps(test)
    def synchronous(*args: P.args, **kwargs: P.kwargs) -> None:
        AT_THE_END.clear()
        run(test(*args, **kwargs))
        for check in AT_THE_END:
            check()

    return synchronous
