"""How near a request comes to the time that it must wait: every call to Google's services takes 20 ms longer, and the median of the
answers is divided by the sum of the waits that follow one another.

What is injected is a sleep of the emulators; they do their own work beside it, in Python, and wake up late. So a wait is as long as
they took to answer, by their own call log. What their server does before it reads a request and after it has an answer, the way
there and back, and what the load generator needs are not in the log: they stay with the broker. *bare* has them, too, and nothing else.

All that is measured waits once for each service: for what it asks Firestore side by side, then for the record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median, median_low
from typing import Any, Final

from benchmarks.load import send
from benchmarks.rows import BARE, HOT, MINT_KEY, Row
from benchmarks.surroundings import Surroundings
from gcp_emulators.faults import CallFault, Service

INJECTED_S = 0.02
SERVICES: Final[tuple[Service, ...]] = ("firestore", "pubsub")
_ALL_SERVICES: Final[tuple[Service, ...]] = (*SERVICES, "secret_manager")
MEASURED = (HOT, MINT_KEY, BARE)
_POSTS_OF_A_CONNECTION = 25
_COUNTED = 5  # requests of a row, of which the middle one tells how many waits there are
_MOST_SLICES = 4  # each in turn with the others, so that what disturbs the machine disturbs them all


@dataclass
class Waits:
    """Seconds: of each answer, and of each call by service."""

    answers: list[float] = field(default_factory=list)
    calls: dict[str, list[float]] = field(default_factory=dict)

    def add_calls(self, calls: Iterable[Mapping[str, Any]]) -> None:
        for call in calls:
            if call["took_s"] is not None:
                self.calls.setdefault(call["service"], []).append(call["took_s"])

    @property
    def unavoidable_s(self) -> float:
        return sum(median(self.calls[service]) for service in SERVICES)

    @property
    def over_unavoidable(self) -> float:
        return median(self.answers) / self.unavoidable_s

    @property
    def over_injected(self) -> float:
        """As if the emulators answered as soon as the injected time is over."""
        return median(self.answers) / (len(SERVICES) * INJECTED_S)


async def measure(
    rows: Sequence[Row], surroundings: Surroundings, *, rounds: int, connections: int, progress: Callable[[str], None]
) -> dict[str, dict[int, Waits]]:
    """By row and number of connections. Fewer `rounds` than four are fewer answers."""
    slices = min(rounds, _MOST_SLICES)
    chosen = [row for row in rows if row.name in MEASURED]
    found = {row.name: {at_once: Waits() for at_once in (1, connections)} for row in chosen}
    control = surroundings.emulators.control("firestore")  # one process holds all three services
    with _slow_services(surroundings):
        for number in range(slices):
            progress(f"injected waits {number + 1} of {slices}")
            for row in chosen:
                for at_once, waits in found[row.name].items():
                    posts = [row.prepare() for _ in range(_POSTS_OF_A_CONNECTION * at_once)]
                    control.clear_calls(row.project)
                    await send(posts, port=row.server.port, connections=at_once, took=waits.answers)
                    waits.add_calls(control.calls(row.project))
    return found


def one_after_another(calls: Iterable[tuple[float, float]]) -> int:
    """How many waits follow one another in calls that came and ended: each begins when the one before had ended."""
    number, ended = 0, float("-inf")
    for end, begin in sorted((end, begin) for begin, end in calls):
        if begin >= ended:
            number, ended = number + 1, end
    return number


async def count(
    rows: Sequence[Row], surroundings: Surroundings, *, progress: Callable[[str], None]
) -> dict[str, list[int]]:
    """The waits of each row's request, leg by leg, while everybody else takes 20 ms longer: Google's services, the platform and
    BigQuery. What goes on when the answer has come is nobody's wait.
    """
    found: dict[str, list[int]] = {}
    with _slow_services(surroundings, _ALL_SERVICES):
        for row in rows:
            progress(f"waits of {row.name}")
            seen = [await _waits_of_one(row, surroundings) for _ in range(_COUNTED)]
            found[row.name] = [median_low(leg) for leg in zip(*seen, strict=True)]
    return found


async def _waits_of_one(row: Row, surroundings: Surroundings) -> list[int]:
    control = surroundings.emulators.control("firestore")
    control.clear_calls(row.project)
    surroundings.outside.calls.clear()
    answered = [time.perf_counter()]
    await send([row.prepare()], port=row.server.port, connections=1, answered=answered)
    calls = [
        (call["came_at"], call["came_at"] + call["took_s"])
        for call in control.calls(row.project)
        if call["took_s"] is not None
    ]
    calls += surroundings.outside.calls
    return [
        one_after_another(call for call in calls if begun < call[0] and call[1] < ended)
        for begun, ended in pairwise(answered)
    ]


@contextmanager
def _slow_services(surroundings: Surroundings, services: Iterable[Service] = SERVICES) -> Iterator[None]:
    control = surroundings.emulators.control("firestore")
    faults = [control.add_fault(CallFault(service=service, latency_s=INJECTED_S)) for service in services]
    surroundings.outside.delay_s = INJECTED_S
    try:
        yield
    finally:
        surroundings.outside.delay_s = 0.0
        for fault in faults:
            control.remove_fault(fault)
