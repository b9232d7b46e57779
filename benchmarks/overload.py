"""`python -m benchmarks.overload`: half as much again as a process can carry, at the process that is deployed. A minute, Linux only.

Measured first is what the hot exchange's process answers in a second. Then so many callers as are to be in flight begin one after the
other, and ask at one and a half times that rate together, each again when its time comes and its last request was answered. They ask
over the connection that was used last, as a front end does: the server ends one that lies idle for two seconds, and takes a new one in
each turn of its loop. Said are the time of what was served, the time of what was refused, whether every refusal is a 503 with
`Retry-After`, and how soon after the last of it a request is answered as it was before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from statistics import median, quantiles
from typing import Any

from benchmarks.clients import Clients
from benchmarks.load import Connections, send, status_of

IN_FLIGHT = (512, 1500)
OVER = 1.5
PAUSE_S = 0.05  # between two probes of a process that recovers
PROBES = 5  # answered in their usual time one after another: recovered
USUAL = 3.0  # times the median of a quiet process, or what the machine adds
SERVED_P99_S, REFUSED_P99_S, RECOVERED_S = 2.0, 0.05, 2.0


@dataclass(frozen=True)
class Overload:
    """Seconds. `capacity` is per second."""

    in_flight: int
    capacity: float
    sent: int
    served: int
    served_p50: float
    served_p99: float
    refused: int
    refused_p50: float
    refused_p99: float
    otherwise: int  # neither served nor refused as promised
    recovered: float

    @property
    def misses(self) -> list[str]:
        """What is not as it should be, in words."""
        return [
            text
            for missed, text in (
                (self.otherwise > 0, f"{self.otherwise} answers are neither 200 nor 503 with Retry-After"),
                (self.refused == 0, "nothing was refused: it was no overload"),
                (self.served_p99 > SERVED_P99_S, f"p99 of what is served is over {SERVED_P99_S:g} s"),
                (self.refused_p99 > REFUSED_P99_S, f"p99 of what is refused is over {REFUSED_P99_S * 1000:g} ms"),
                (self.recovered > RECOVERED_S, f"it took over {RECOVERED_S:g} s to recover"),
            )
            if missed
        ]

    def as_text(self) -> str:
        return (
            f"{self.in_flight} in flight, {OVER:g} x {self.capacity:.0f}/s: {self.served} served "
            f"(p50 {self.served_p50 * 1000:.0f} ms, p99 {self.served_p99 * 1000:.0f} ms), {self.refused} refused "
            f"(p50 {self.refused_p50 * 1000:.0f} ms, p99 {self.refused_p99 * 1000:.0f} ms), "
            f"recovered after {self.recovered:.2f} s"
        )


@dataclass
class _Answers:
    served: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    otherwise: int = 0

    def add(self, head: bytes, seconds: float) -> None:
        if status_of(head) == 200:
            self.served.append(seconds)
        elif status_of(head) == 503 and b"\r\nretry-after: " in head.lower():
            self.refused.append(seconds)
        else:
            self.otherwise += 1


async def measure(clients: Clients, *, port: int, in_flight: int, seconds: float) -> Overload:
    """At a warm process that listens on `port`."""
    capacity = await _capacity(clients, port)
    usual_s = await _usual(clients, port)
    each_s = in_flight / (OVER * capacity)  # between two requests of a connection
    waiting = deque(
        clients.list_opportunities().as_bytes() for _ in range(max(in_flight, int(OVER * capacity * seconds)))
    )
    sent, answers = len(waiting), _Answers()
    async with AsyncExitStack() as stack:
        idle = [Connections(stack) for _ in range(in_flight)]
        for first in range(0, in_flight, 64):  # an accept queue holds only so many
            await asyncio.gather(*(connections.open(port) for connections in idle[first : first + 64]))
        began = time.perf_counter()
        await asyncio.gather(
            *(
                _insist(idle, waiting, port, began + each_s * number / in_flight, each_s, answers)
                for number in range(in_flight)
            )
        )
    recovered = await _recovery(clients, port, usual_s)
    return Overload(
        in_flight,
        capacity,
        sent,
        len(answers.served),
        *_p50_and_p99(answers.served),
        len(answers.refused),
        *_p50_and_p99(answers.refused),
        answers.otherwise,
        recovered,
    )


async def _capacity(clients: Clients, port: int) -> float:
    """Requests a second over 64 connections."""
    await send([clients.list_opportunities() for _ in range(200)], port=port, connections=64)
    prepared = [clients.list_opportunities() for _ in range(600)]
    begun = time.perf_counter()
    await send(prepared, port=port, connections=64)
    return len(prepared) / (time.perf_counter() - begun)


async def _usual(clients: Clients, port: int) -> float:
    took: list[float] = []
    await send([clients.list_opportunities() for _ in range(50)], port=port, connections=1, took=took)
    return median(took)


async def _insist(
    idle: list[Connections], waiting: deque[bytes], port: int, due: float, each_s: float, answers: _Answers
) -> None:
    """One caller that asks at its pace from `due` on, whatever came of the request before."""
    while True:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if not waiting:
            return
        request, connections = waiting.popleft(), idle.pop()
        begun = time.perf_counter()
        head, _ = await connections.ask_again(request, port)
        answers.add(head, time.perf_counter() - begun)
        idle.append(connections)
        due += each_s


async def _recovery(clients: Clients, port: int, usual_s: float) -> float:
    """Seconds until `PROBES` requests in a row are answered in their usual time."""
    begun, first_good, good = time.perf_counter(), 0.0, 0
    async with AsyncExitStack() as stack:
        connections = Connections(stack)
        while good < PROBES and time.perf_counter() - begun < 10 * RECOVERED_S:
            asked = time.perf_counter()
            head, _ = await connections.ask(clients.list_opportunities().as_bytes(), port)
            answered = time.perf_counter()
            if status_of(head) == 200 and answered - asked <= USUAL * usual_s + PAUSE_S:
                first_good = first_good or answered - begun
                good += 1
            else:
                first_good, good = 0.0, 0
            await asyncio.sleep(PAUSE_S)
    return first_good if good == PROBES else time.perf_counter() - begun


def _p50_and_p99(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return (values[0], values[0]) if values else (0.0, 0.0)
    hundredths = quantiles(values, n=100, method="inclusive")
    return hundredths[49], hundredths[98]


async def _run(arguments: argparse.Namespace) -> int:
    from benchmarks.processes import OTHER_CORES
    from benchmarks.rows import EXCHANGE_TOKEN
    from benchmarks.surroundings import surroundings

    os.sched_setaffinity(0, OTHER_CORES)
    async with surroundings() as around:
        clients = await around.open_project("demo-overload")
        with around.servers() as start:
            server = start(around.function(EXCHANGE_TOKEN, "exchange_token", project="demo-overload"))
            found = [
                await measure(clients, port=server.port, in_flight=in_flight, seconds=arguments.seconds)
                for in_flight in arguments.in_flight
            ]
    if arguments.json:
        shown: list[dict[str, Any]] = [asdict(overload) | {"misses": overload.misses} for overload in found]
        print(json.dumps(shown, indent=2))
    else:
        for overload in found:
            print(overload.as_text(), *(f"  MISSED: {miss}" for miss in overload.misses), sep="\n")
    return int(arguments.check and any(overload.misses for overload in found))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overload", description="What a process does with half as much again as it can carry."
    )
    parser.add_argument("--in-flight", type=int, nargs="+", default=list(IN_FLIGHT))
    parser.add_argument("--seconds", type=float, default=15.0, help="how long each lasts")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help="exit 1 when a goal is missed")
    arguments = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("The benchmarks read Linux's CPU clocks of other processes: run them on Linux.")
    sys.exit(asyncio.run(_run(arguments)))


if __name__ == "__main__":
    main()
