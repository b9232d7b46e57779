"""How long an agent waits for a platform that takes its time: with the token in hand, with a fresh token, and through the broker."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles

from aiohttp import ClientSession

from benchmarks.load import send
from benchmarks.rows import CALL, HOT, Row
from benchmarks.surroundings import ACCESS_TOKEN, PLATFORM_WAIT_S, SLOW, Surroundings

DIRECT, TOKEN_MODE, CALL_MODE = "direct", "token mode", "call mode"


@dataclass(frozen=True)
class Waits:
    """Milliseconds, over all samples."""

    p50: float
    p95: float


async def measure(
    rows: Sequence[Row], surroundings: Surroundings, *, samples: int, progress: Callable[[str], None]
) -> dict[str, Waits]:
    """One of each kind in turn, so that what disturbs the machine disturbs them all."""
    by_name = {row.name: row for row in rows}
    hot, calling = by_name[HOT], by_name[CALL]
    prepare_slow = calling.prepare_slow or calling.prepare
    taken: dict[str, list[float]] = {DIRECT: [], TOKEN_MODE: [], CALL_MODE: []}
    async with ClientSession(headers={"Authorization": f"Bearer {ACCESS_TOKEN}"}) as session:

        async def direct() -> None:
            async with session.get(f"{surroundings.platform}/opportunities", params={"account": SLOW}) as answer:
                await answer.read()

        async def token_mode() -> None:
            await send([hot.prepare()], port=hot.server.port, connections=1)
            await direct()

        async def call_mode() -> None:
            await send([prepare_slow()], port=calling.server.port, connections=1)

        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            DIRECT: direct,
            TOKEN_MODE: token_mode,
            CALL_MODE: call_mode,
        }
        for number in range(samples):
            progress(f"waits {number + 1} of {samples}")
            for name, wait in kinds.items():
                begun = time.perf_counter()
                await wait()
                taken[name].append((time.perf_counter() - begun) * 1000)
    return {name: _waits(values) for name, values in taken.items()}


def _waits(values: list[float]) -> Waits:
    hundredths = quantiles(values, n=100) if len(values) > 1 else values * 99
    return Waits(hundredths[49], hundredths[94])


def header() -> str:
    return f"Waits for a platform that answers after {PLATFORM_WAIT_S * 1000:.0f} ms, one at a time:"
