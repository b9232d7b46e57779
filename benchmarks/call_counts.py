"""How many calls to Google's services a request makes: exact, from the emulators' call log."""

from __future__ import annotations

import asyncio

from benchmarks.clients import ABREAST, LOOP
from benchmarks.load import send
from benchmarks.operations import Operations, billed
from benchmarks.rows import Row
from benchmarks.surroundings import Surroundings

POSTS_ONE_BY_ONE = 25
POSTS_TOGETHER = 320
POSTS_PACED = ABREAST * LOOP


async def calls_of(
    row: Row, surroundings: Surroundings, *, posts: int, connections: int
) -> tuple[dict[str, int], Operations]:
    """Calls by `service.Method` of a warm function that answers `posts` requests, and what they are billed as."""
    control = surroundings.emulators.control("firestore")  # one process holds all three services
    control.clear_calls(row.project)
    await send([row.prepare() for _ in range(posts)], port=row.server.port, connections=connections)
    requests = posts * (row.requests or 1 + len(row.behind))
    operations = Operations(*billed(control.calls(row.project)), requests, row.events * posts, row.event_bytes)
    return control.counts(row.project), operations


async def paced(row: Row, surroundings: Surroundings, *, pause_s: float) -> Operations:
    """What as many requests are billed as when sixteen agents in a loop ask every `pause_s` and no sooner: how much of a rate limit is
    taken ahead depends on that. `POSTS_PACED` of them.
    """
    control, prepare = surroundings.emulators.control("firestore"), row.prepare_paced or row.prepare
    control.clear_calls(row.project)
    for _ in range(LOOP):
        await asyncio.gather(
            send([prepare() for _ in range(ABREAST)], port=row.server.port, connections=ABREAST), asyncio.sleep(pause_s)
        )
    return Operations(*billed(control.calls(row.project)), POSTS_PACED, POSTS_PACED, row.event_bytes)
