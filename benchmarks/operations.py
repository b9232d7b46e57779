"""What each path costs: its billable operations, exact and held by tests/functions/test_waits.py, at list prices.

US$, regional, United States, free tiers left out. Prices change: they are here alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

FIRESTORE_READ: Final = 0.03 / 100_000
FIRESTORE_WRITE: Final = 0.09 / 100_000
FIRESTORE_DELETE: Final = 0.01 / 100_000
SECRET_ACCESS: Final = 0.03 / 10_000
SECRET_VERSION_MONTH: Final = 0.06
REQUEST: Final = 0.40 / 1_000_000
CPU_SECOND: Final = 2.4e-5 + 0.5 * 2.5e-6  # one vCPU and half a GiB, billed by request
CPU_SHARE: Final = 0.6  # of an instance's time is computing, in dense traffic
PUBSUB_BYTE: Final = 40 / 2**40
PUBSUB_LEAST_BYTES: Final = 1_000  # of each publish and each delivery
STREAMED_BYTE: Final = 0.01 / (200 * 1024 * 1024)
STREAMED_LEAST_BYTES: Final = 1_024  # of each row
EVENT_BYTES: Final = 1_650  # of an exchange, as published
MINT_EVENT_BYTES: Final = 920
REFRESH_EVENT_BYTES: Final = 660
CALL_EVENT_BYTES: Final = 1_720  # of the decision and of what came of it, on average
ROW_BYTES: Final = (
    1.6  # for each byte of an event: its columns, as BigQuery sizes their types, and the event as it was published
)
EVENTS_PER_MESSAGE: Final = 4.5  # in dense traffic: docs/performance.md
DEFLATED: Final = 0.3  # so much of their bytes is left of so many events, each of another user
DUE_BYTES: Final = 43  # of the message that names a grant which is due: published with 500 of them, and delivered alone
INGEST_CPU_MS: Final = 0.07  # of an event that shares its message with four others: docs/performance.md


@dataclass(frozen=True)
class Operations:
    """Of one request, or of all requests of a path together.

    `made`: the documents written that were not there before. Each of these is deleted one day, by itself when its time is over, or
    before, which is the same price: so they are priced with their end, and deletes are not counted. What replaces a document adds none.
    """

    reads: int
    writes: int
    made: int = 0
    secret_accesses: int = 0
    requests: int = 1
    events: int = 1
    event_bytes: int = EVENT_BYTES
    visits: int = 0  # of grants that are due: such a request is a message of Pub/Sub's


ONCE: Final[dict[str, Operations]] = {
    "mint with a key": Operations(reads=0, writes=1, made=1, event_bytes=MINT_EVENT_BYTES),
    "hot": Operations(reads=1, writes=2, made=2),
    "with a google identity and no limit": Operations(reads=0, writes=0),
    "change within a task": Operations(reads=2, writes=2, made=2),
    "change within a task with a limit": Operations(reads=1, writes=3, made=3),
    "change within a task with a limit recorded before": Operations(reads=1, writes=2, made=1),
    "ask the user": Operations(reads=1, writes=3, made=2),
    "ask again while it waits": Operations(reads=3, writes=1, made=1),
    "repeat when the user agreed": Operations(reads=3, writes=1, made=1),
    "redeem what was deferred": Operations(reads=3, writes=3, made=3),
    "decide": Operations(reads=4, writes=1, made=1, event_bytes=1_100),
    "call of the broker": Operations(reads=1, writes=1, made=1, requests=2, events=2, event_bytes=CALL_EVENT_BYTES),
    "call of the broker recorded before": Operations(
        reads=1, writes=0, requests=2, events=2, event_bytes=CALL_EVENT_BYTES
    ),
}
"""One request of somebody's each, with what a process that has served for a while has in memory."""

NARROWER: Final = Operations(reads=0, writes=3, secret_accesses=1, event_bytes=REFRESH_EVENT_BYTES)
"""What the first use of other scopes adds to the exchange that needs it, in a process that knows the grant: lease and mark in one write,
the commit, and the event's taking off. A look for a newer version is an access; adding one and destroying one are free."""
REFRESH: Final = replace(NARROWER, reads=1)
"""The same for a token that has ended: the grant is read first, since another process may have renewed it."""


WAITS: Final[dict[str, int]] = {
    "mint with a key": 2,
    "hot": 2,
    "with a google identity and no limit": 1,
    "change within a task": 2,
    "change within a task with a limit": 2,
    "change within a task with a limit recorded before": 2,
    "ask the user": 3,
    "ask again while it waits": 3,
    "repeat when the user agreed": 4,
    "redeem what was deferred": 4,
    "decide": 4,
    "call of the broker": 4,
    "call of the broker recorded before": 4,
    "first use of a narrower scope": 5,
    "first use after the token ended": 6,
}
"""How many waits follow one another in each path."""


def parts(operations: Operations, *, cpu_ms: float, ingest_cpu_ms: float = INGEST_CPU_MS) -> dict[str, float]:
    """US$ by what they are for. `cpu_ms` is of all requests of the path together, at our functions; `ingest_cpu_ms` of an event.

    The last three are the record's way: published and pushed, taken in, and written into the table.
    """
    events, size = operations.events, operations.event_bytes
    return {
        "reads": operations.reads * FIRESTORE_READ,
        "writes": operations.writes * FIRESTORE_WRITE + operations.made * FIRESTORE_DELETE,
        "secrets": operations.secret_accesses * SECRET_ACCESS,
        "requests": operations.requests * REQUEST,
        "CPU": cpu_ms / 1000 / CPU_SHARE * CPU_SECOND,
        "Pub/Sub": (
            events * 2 * max(size * DEFLATED, PUBSUB_LEAST_BYTES / EVENTS_PER_MESSAGE)
            + operations.visits * (DUE_BYTES + PUBSUB_LEAST_BYTES)
        )
        * PUBSUB_BYTE,
        "ingest": events * (REQUEST / EVENTS_PER_MESSAGE + ingest_cpu_ms / 1000 / CPU_SHARE * CPU_SECOND),
        "rows": events * max(size * ROW_BYTES, STREAMED_LEAST_BYTES) * STREAMED_BYTE,
    }


def us_dollars(operations: Operations, *, cpu_ms: float, ingest_cpu_ms: float = INGEST_CPU_MS) -> float:
    """The sum of `parts`."""
    return sum(parts(operations, cpu_ms=cpu_ms, ingest_cpu_ms=ingest_cpu_ms).values())


def billed(calls: Iterable[Mapping[str, Any]]) -> tuple[int, int, int, int]:
    """Documents read, written and made, and secrets accessed, of calls as the emulators list them.

    A query counts as one read: how much it finds, the log does not say.
    """
    reads = writes = made = accesses = 0
    for call in calls:
        documents = sum("/documents/" in name for name in call["resources"])
        match call["method"]:
            case "GetDocument" | "BatchGetDocuments":
                reads += documents
            case "RunQuery":
                reads += 1
            case "Commit":
                writes += documents - call["deletes"]
                made += call["makes"]
            case "AccessSecretVersion":
                accesses += 1
    return reads, writes, made, accesses
