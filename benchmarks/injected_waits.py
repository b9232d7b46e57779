"""How near a request comes to the time that it must wait: every call to Google's services takes 20 ms longer, and the median of the
answers is divided by the sum of the waits that follow one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median

from benchmarks.load import send
from benchmarks.rows import HOT, MINT_KEY, Row
from benchmarks.surroundings import Surroundings
from gcp_emulators.faults import CallFault

INJECTED_S = 0.02
MEASURED = (HOT, MINT_KEY)
_POSTS_OF_A_CONNECTION = 25
_MOST_SLICES = 4  # each in turn with the others, so that what disturbs the machine disturbs them all


async def measure(
    rows: Sequence[Row], surroundings: Surroundings, *, rounds: int, connections: int, progress: Callable[[str], None]
) -> dict[str, dict[int, float]]:
    """By row and number of connections: p50 / (sum of the unavoidable waits). Fewer `rounds` than four are fewer answers."""
    slices = min(rounds, _MOST_SLICES)
    chosen = [row for row in rows if row.name in MEASURED and row.waits]
    took: dict[tuple[str, int], list[float]] = {}
    with _slow_services(surroundings):
        for number in range(slices):
            progress(f"injected waits {number + 1} of {slices}")
            for row in chosen:
                for at_once in (1, connections):
                    posts = [row.prepare() for _ in range(_POSTS_OF_A_CONNECTION * at_once)]
                    await send(
                        posts, port=row.server.port, connections=at_once, took=took.setdefault((row.name, at_once), [])
                    )
    return {
        row.name: {
            at_once: median(took[row.name, at_once]) / ((row.waits or 1) * INJECTED_S) for at_once in (1, connections)
        }
        for row in chosen
    }


@contextmanager
def _slow_services(surroundings: Surroundings) -> Iterator[None]:
    control = surroundings.emulators.control("firestore")  # one process holds all three services
    faults = [
        control.add_fault(CallFault(service=service, latency_s=INJECTED_S)) for service in ("firestore", "pubsub")
    ]
    try:
        yield
    finally:
        for fault in faults:
            control.remove_fault(fault)
