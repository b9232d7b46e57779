"""A clock that stands still until it is moved."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cab_dev.fakes.warning import warn_of_fake

_START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


class SettableClock:
    def __init__(self, start: datetime = _START) -> None:
        warn_of_fake(self)
        self.set(start)

    def now(self) -> datetime:
        return self._now

    def set(self, instant: datetime) -> None:
        """Move to `instant`, forward or back."""
        if instant.tzinfo is None:
            raise ValueError("An instant has a time zone.")
        self._now = instant.astimezone(UTC)

    def advance(self, span: timedelta) -> None:
        self._now += span
