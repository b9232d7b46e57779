"""Interleaved rounds: in each, the floors and then every row, so that what disturbs the machine disturbs them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from benchmarks.crypto_floor import CryptoFloor
from benchmarks.load import send
from benchmarks.rows import ECHO, Row

_WARM_UP_POSTS = 60
_MOST_POSTS = 3_000


@dataclass(frozen=True)
class Round:
    """`cpu_us` per request by row, `operation_us` per call by cryptographic operation."""

    cpu_us: dict[str, float]
    per_s: dict[str, float]
    operation_us: dict[str, float]

    def floor_us(self, row: Row) -> float:
        """What is left when everything that is ours costs nothing."""
        return self.cpu_us[ECHO] + self.crypto_us(row)

    def crypto_us(self, row: Row) -> float:
        return sum(self.operation_us[name] * count for name, count in row.operations.items())


@dataclass(frozen=True)
class Spread:
    """A figure over all rounds."""

    lower: float
    middle: float
    upper: float


def spread(values: Iterable[float]) -> Spread:
    listed = list(values)
    lower, _, upper = quantiles(listed, n=4) if len(listed) > 1 else listed * 3
    return Spread(lower, median(listed), upper)


async def measure(
    rows: Sequence[Row], *, rounds: int, connections: int, progress: Callable[[str], None], seconds: float = 1.0
) -> list[Round]:
    posts = {row.name: await _posts_per_round(row, seconds, connections) for row in rows}
    crypto = CryptoFloor()
    measured = []
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        operations = {name: ns / 1000 for name, ns in crypto.measure().items()}
        taken = {row.name: await _cpu_and_rate(row, posts[row.name], connections) for row in rows}
        measured.append(
            Round(
                cpu_us={name: cpu_us for name, (cpu_us, _) in taken.items()},
                per_s={name: per_s for name, (_, per_s) in taken.items()},
                operation_us=operations,
            )
        )
    return measured


async def _posts_per_round(row: Row, seconds: float, connections: int) -> int:
    """Warms the function up: keys fetched, connections open, caches filled. Then as many requests as take about so long."""
    await _cpu_and_rate(row, max(_WARM_UP_POSTS, row.people), connections)
    _, per_s = await _cpu_and_rate(row, _WARM_UP_POSTS, connections)
    return min(_MOST_POSTS, max(_WARM_UP_POSTS, int(per_s * seconds)))


async def _cpu_and_rate(row: Row, posts: int, connections: int) -> tuple[float, float]:
    """CPU microseconds of a request, and requests per second."""
    prepared = [row.prepare() for _ in range(posts)]
    cpu_before, time_before = row.cpu_ns(), time.perf_counter()
    await send(prepared, port=row.server.port, connections=row.connections or connections)
    cpu_ns, seconds = row.cpu_ns() - cpu_before, time.perf_counter() - time_before
    return cpu_ns / posts / 1000, posts / seconds
