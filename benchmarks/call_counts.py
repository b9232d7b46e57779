"""How many calls to Google's services a request makes: exact, from the emulators' call log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.load import send
from benchmarks.operations import Operations
from benchmarks.rows import Row
from benchmarks.surroundings import Surroundings

POSTS_ONE_BY_ONE = 25
POSTS_TOGETHER = 320


async def calls_of(
    row: Row, surroundings: Surroundings, *, posts: int, connections: int
) -> tuple[dict[str, int], Operations]:
    """Calls by `service.Method` of a warm function that answers `posts` requests, and what they are billed as."""
    control = surroundings.emulators.control("firestore")  # one process holds all three services
    control.clear_calls(row.project)
    await send([row.prepare() for _ in range(posts)], port=row.server.port, connections=connections)
    reads, writes, accesses = billed(control.calls(row.project))
    requests = posts * (1 + len(row.behind))
    return control.counts(row.project), Operations(reads, writes, accesses, requests, row.events * posts)


def billed(calls: Iterable[Mapping[str, Any]]) -> tuple[int, int, int]:
    """Documents read and written, and secrets accessed or added, of calls as the emulators list them.

    A query counts as one read: how much it finds, the log does not say.
    """
    reads = writes = accesses = 0
    for call in calls:
        documents = sum("/documents/" in name for name in call["resources"])
        match call["method"]:
            case "GetDocument" | "BatchGetDocuments":
                reads += documents
            case "RunQuery":
                reads += 1
            case "Commit":
                writes += documents
            case "AccessSecretVersion" | "AddSecretVersion":
                accesses += 1
    return reads, writes, accesses
