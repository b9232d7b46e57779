"""The store's time as a clock: the one time that all instances share, so that a lease means the same to each of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from cab.ports import Clock, Documents, Unavailable

MEASURE_AGAIN_AFTER_S: Final = 60.0
LONGEST_ROUND_TRIP_S: Final = 1.0  # a slower answer says too little; half of it is the error of the measurement


class StoreClock:
    """Asks the store now and then, and counts on by the monotonic clock: a local clock that is wrong or steps does not affect it.

    Until it has been synchronised once, `now()` is the local time.
    """

    def __init__(self, documents: Documents, local: Clock, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._documents = documents
        self._local = local
        self._monotonic = monotonic
        self._measured: tuple[float, datetime] | None = None  # the same moment, monotonic and by the store

    def now(self) -> datetime:
        if self._measured is None:
            return self._local.now()
        then_s, instant = self._measured
        return instant + timedelta(seconds=self._monotonic() - then_s)

    async def synchronize(self) -> None:
        """Measure, unless that was done a moment ago. Raises: Unavailable when it could never be done."""
        asked_s = self._monotonic()
        if self._measured is not None and asked_s - self._measured[0] < MEASURE_AGAIN_AFTER_S:
            return
        try:
            instant = await self._documents.server_time()
        except Unavailable:
            if self._measured is None:
                raise
            return
        answered_s = self._monotonic()
        if self._measured is None or answered_s - asked_s <= LONGEST_ROUND_TRIP_S:
            self._measured = (asked_s + answered_s) / 2, instant
