"""Several events in one message of the topic: those that one publish carries, a line each, deflated (RFC 1950). A push and a request
to ingest_audit are then paid once for all of them, and Pub/Sub for a third of their bytes, because events are much alike.

A message of one event is that event, one line of JSON, as it was before there were others.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final, TypeVar

from cab.domain.audit import SealedEvent

MOST_BYTES: Final = 100_000  # of several events together, before they are deflated
MOST_EVENTS: Final = 100
_LEVEL: Final = 1  # of zlib's: a higher one costs more time and saves next to nothing here

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
    return zlib.compress(b"\n".join(event.data for event in events), _LEVEL)


def unpack(data: bytes) -> list[bytes]:
    """The events of a message; the message itself where it is no such list, for whoever reads it to judge."""
    if data.startswith(b"{"):
        return [data]
    unpacker = zlib.decompressobj()
    try:
        lines = unpacker.decompress(data, MOST_BYTES)
    except zlib.error:
        return [data]
    if not unpacker.eof or unpacker.unused_data:
        return [data]
    events = _split(lines)
    return events if len(events) <= MOST_EVENTS else [data]


def _split(lines: bytes) -> list[bytes]:
    """As `split` does, which looks at each byte by itself; at most one more than a message may hold."""
    found: list[bytes] = []
    start = 0
    while (end := lines.find(b"\n", start)) >= 0 and len(found) < MOST_EVENTS:
        found.append(lines[start:end])
        start = end + 1
    return [*found, lines[start:]]
