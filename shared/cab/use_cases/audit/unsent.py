"""Audit events that Pub/Sub has not acknowledged, as the bytes that were to be published, for whoever can publish next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from cab.domain.audit import SealedEvent
from cab.ports import Clock, Delete, Documents, Replace

AT_ONCE = 100  # events that one call keeps, finds or forgets


class UnsentEvents:
    """One place for all functions and instances. To publish an event twice is harmless, to forget one is not."""

    def __init__(self, unsent: Documents, clock: Clock) -> None:
        self._unsent = unsent
        self._clock = clock

    async def keep(self, events: Sequence[SealedEvent]) -> None:
        """All of them or none, at most `AT_ONCE`. Raises: Unavailable."""
        now = self._clock.now()
        writes = (
            Replace(
                _path(event),
                {
                    "event_id": event.event_id,
                    "event_type": event.event_type,
                    "chain_id": event.chain_id,
                    "seq": event.seq,
                    "data": event.data,
                    "kept_at": now,
                },
                version=None,
            )
            for event in events
        )
        await self._unsent.write(*writes)

    async def oldest(self) -> list[SealedEvent]:
        """At most `AT_ONCE`: what was kept first, and what was kept together in the order of its chain. Raises: Unavailable."""
        found = await self._unsent.find("events", order_by="kept_at", limit=AT_ONCE)
        return [
            SealedEvent(**{member.name: document.fields[member.name] for member in fields(SealedEvent)})
            for document in found
        ]

    async def forget(self, events: Sequence[SealedEvent]) -> None:
        """They were published. Raises: Unavailable."""
        await self._unsent.write(*(Delete(_path(event)) for event in events))


def _path(event: SealedEvent) -> str:
    return f"events/{event.chain_id}.{event.seq:08}"
