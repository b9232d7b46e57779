"""Several events in one message of the topic: those that one publish carries, a line each. A push, a request to ingest_audit and
Pub/Sub's smallest charge are then paid once for all of them.

An event is one line of JSON, so a message of one event is that event, as it was before there were others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

from cab.domain.audit import SealedEvent

MOST_BYTES: Final = 100_000  # of a message with several: pushed, it is a third larger
MOST_EVENTS: Final = 100
_BETWEEN: Final = b"}\n{"  # never within an event: its JSON has no line break

_Event = TypeVar("_Event", bound=SealedEvent)


def groups(events: Iterable[_Event]) -> list[list[_Event]]:
    """Events in their order, by the message that carries them."""
    found: list[list[_Event]] = []
    size = 0
    for event in events:
        size += len(event.data) + 1
        if not found or size > MOST_BYTES or len(found[-1]) == MOST_EVENTS:
            found.append([])
            size = len(event.data) + 1
        found[-1].append(event)
    return found


def pack(events: list[SealedEvent]) -> bytes:
    return b"\n".join(event.data for event in events)


def unpack(data: bytes) -> list[bytes]:
    """The events of a message; the message itself where it is no such list, for whoever reads it to judge."""
    if _BETWEEN not in data or data.count(b"\n") >= MOST_EVENTS:
        return [data]
    return data.split(b"\n")
