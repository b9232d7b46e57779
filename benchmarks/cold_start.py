"""From exec to the first served exchange, beside the same function with Google's own clients imported, and beside nothing but libraries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.load import Post, send
from benchmarks.processes import Function, Server
from benchmarks.rows import EXCHANGE_TOKEN
from benchmarks.surroundings import Surroundings

PROJECT = "demo-cold"
OURS, STOCK, LIBRARIES = "exchange_token", "with stock clients", "libraries alone"
_SOURCES = {
    OURS: EXCHANGE_TOKEN,
    STOCK: "benchmarks/functions/with_stock_clients",
    LIBRARIES: "benchmarks/functions/libraries_alone",
}
_GIVE_UP_AFTER_S = 30.0


@dataclass(frozen=True)
class ColdStart:
    """CPU and time until the first token was out, memory of all processes then."""

    cpu_ms: float
    wall_ms: float
    pss_mib: float


async def measure(
    surroundings: Surroundings, *, starts: int, progress: Callable[[str], None]
) -> list[dict[str, ColdStart]]:
    """One of each in every round. The first of all only warms the disk cache and is not counted."""
    clients = await surroundings.open_project(PROJECT)
    measured = []
    for number in range(starts + 1):
        progress(f"cold start {number} of {starts}")
        started = {}
        for name, source in _SOURCES.items():
            function = surroundings.function(source, "exchange_token", project=PROJECT)
            started[name] = await until_first_exchange(surroundings, function, clients.list_opportunities)
        measured.append(started)
    return measured[1:]


async def until_first_exchange(
    surroundings: Surroundings, function: Function, prepare: Callable[[], Post]
) -> ColdStart:
    begun = time.perf_counter()
    server = Server(function, surroundings.ports.take_free())
    try:
        await _first_exchange(server, prepare)
        wall_ms = (time.perf_counter() - begun) * 1000
        return ColdStart(server.cpu_ns() / 1e6, wall_ms, server.pss_bytes() / 2**20)
    finally:
        server.stop()


async def _first_exchange(server: Server, prepare: Callable[[], Post]) -> None:
    post = prepare()
    async with asyncio.timeout(_GIVE_UP_AFTER_S):
        while True:
            try:
                await send([post], port=server.port, connections=1)
            except ConnectionRefusedError:  # nobody listens yet
                await asyncio.sleep(0.01)
            else:
                return
