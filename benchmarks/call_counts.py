"""How many calls to Google's services a request makes: exact, from the emulators' call log."""

from __future__ import annotations

from benchmarks.load import send
from benchmarks.rows import Row
from benchmarks.surroundings import Surroundings

POSTS_ONE_BY_ONE = 25
POSTS_TOGETHER = 320


async def calls_of(row: Row, surroundings: Surroundings, *, posts: int, connections: int) -> dict[str, int]:
    """Calls by `service.Method` of a warm function that answers `posts` requests."""
    control = surroundings.emulators.control("firestore")  # one process holds all three services
    control.clear_calls(row.project)
    await send([row.prepare() for _ in range(posts)], port=row.server.port, connections=connections)
    return control.counts(row.project)
