"""`python -m benchmarks.pythons PYTHON ...`: the hot exchange and the cold start on several Pythons, in turn in one run.

Each PYTHON is an interpreter in whose environment `requirements/stack.txt` is installed. Quotients are over the first.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from benchmarks import rounds
from benchmarks.cold_start import until_first_exchange
from benchmarks.processes import OTHER_CORES
from benchmarks.rounds import spread
from benchmarks.rows import EXCHANGE_TOKEN, HOT, VERIFY_ES256, Row
from benchmarks.surroundings import surroundings

PROJECT = "demo-pythons"


async def run(pythons: Sequence[str], *, count: int, connections: int) -> None:
    os.sched_setaffinity(0, OTHER_CORES)
    async with surroundings() as around:
        clients = await around.open_project(PROJECT)
        function = around.function(EXCHANGE_TOKEN, "exchange_token", project=PROJECT)
        functions = {_name(python): replace(function, python=python) for python in pythons}
        with ExitStack() as stack:
            start = stack.enter_context(around.servers())
            rows = [
                Row(name, HOT, start(on), PROJECT, clients.list_opportunities, {VERIFY_ES256: 2})
                for name, on in functions.items()
            ]
            measured = await rounds.measure(rows, rounds=count, connections=connections, progress=lambda _: None)
        starts: dict[str, list[float]] = {name: [] for name in functions}
        for number in range(count + 1):
            for name, on in functions.items():
                started = await until_first_exchange(around, on, clients.list_opportunities)
                if number:  # the first of all only warms the disk cache
                    starts[name].append(started.cpu_ms)
    first = next(iter(functions))
    print(f"{count} rounds, {connections} connections; medians.")
    print(f"{'':<26} {'hot, CPU us':>11} {'/ first':>8} {'quartiles':>11} {'cold start, CPU ms':>19} {'/ first':>8}")
    for name in functions:
        hot = spread(it.cpu_us[name] for it in measured)
        ratio = spread(it.cpu_us[name] / it.cpu_us[first] for it in measured)
        cold, quotient = min(starts[name]), min(starts[name]) / min(starts[first])
        print(
            f"{name:<26} {hot.middle:11.0f} {ratio.middle:8.2f} {ratio.lower:5.2f}-{ratio.upper:<5.2f} {cold:19.0f} {quotient:8.2f}"
        )


def _name(python: str) -> str:
    """Version and compiler, as the interpreter itself says."""
    asked = "import platform; print(platform.python_version(), platform.python_compiler())"
    return subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pythons", description=__doc__)
    parser.add_argument("pythons", nargs="+", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--connections", type=int, default=16)
    arguments = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("The benchmarks read Linux's CPU clocks of other processes: run them on Linux.")
    asyncio.run(run(arguments.pythons, count=arguments.rounds, connections=arguments.connections))


if __name__ == "__main__":
    main()
