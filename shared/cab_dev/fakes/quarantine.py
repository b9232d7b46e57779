"""`Quarantine` as a list."""

from __future__ import annotations

from dataclasses import dataclass

from cab.ports import Unavailable
from cab_dev.fakes.warning import warn_of_fake


@dataclass(frozen=True, slots=True)
class Quarantined:
    data: bytes
    cause: str
    message_id: str


class InMemoryQuarantine:
    """`messages` holds what was put. `is_down` makes every call fail."""

    def __init__(self) -> None:
        warn_of_fake(self)
        self.messages: list[Quarantined] = []
        self.is_down = False

    async def put(self, data: bytes, *, cause: str, message_id: str) -> None:
        if self.is_down:
            raise Unavailable("quarantine")
        self.messages.append(Quarantined(data, cause, message_id))

    async def close(self) -> None:
        """Nothing to let go of."""
