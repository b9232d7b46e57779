"""The clock of a double: real time that a test may push forward, never back."""

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds since the epoch, UTC."""


class MovableClock:
    """`base()` plus everything it was advanced by. Calling it gives seconds since the epoch."""

    def __init__(self, base: Clock = time.time) -> None:
        self._base = base
        self._offset_s = 0.0

    def __call__(self) -> float:
        return self._base() + self._offset_s

    def advance(self, seconds: float) -> None:
        """Move forward by `seconds` (0 or more). Raises ValueError for a step back."""
        if not 0 <= seconds < 10**9:
            raise ValueError("a clock moves forward by less than 10^9 seconds at a time")
        self._offset_s += seconds
