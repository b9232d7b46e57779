"""`python -m benchmarks`: start everything, measure in interleaved rounds, print the table. About five minutes, Linux only."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import signal
import sys
from contextlib import suppress


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="The benchmark table: docs/performance.md."
    )
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds")
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long each row is asked in a round")
    parser.add_argument("--cold-starts", type=int, default=5, help="cold starts of each kind; 0 leaves them out")
    parser.add_argument("--connections", type=int, default=16, help="requests under way at once")
    parser.add_argument("--json", action="store_true", help="print every figure of every round as JSON")
    parser.add_argument("--check", action="store_true", help="exit 1 when a goal is missed")
    arguments = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("The benchmarks read Linux's CPU clocks of other processes: run them on Linux.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that every server is stopped
    with suppress(KeyboardInterrupt):
        sys.exit(asyncio.run(_run(arguments)))
    sys.exit(130)


async def _run(arguments: argparse.Namespace) -> int:
    # Below the check for Linux: these read the machine's cores when they load.
    from benchmarks import call_counts, call_waits, cold_start, injected_waits, rounds
    from benchmarks.processes import OTHER_CORES
    from benchmarks.report import Results
    from benchmarks.rows import BARE, BARE_ONE, ECHO, ECHO_ONE, LOOP, all_rows
    from benchmarks.surroundings import surroundings

    def progress(what: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{what} ...", end="", file=sys.stderr, flush=True)

    os.sched_setaffinity(0, OTHER_CORES)
    progress("starting")
    async with surroundings() as around:
        async with all_rows(around) as rows:
            measured = await rounds.measure(
                rows,
                rounds=arguments.rounds,
                seconds=arguments.seconds,
                connections=arguments.connections,
                progress=progress,
            )
            posts_together = min(call_counts.POSTS_TOGETHER, math.ceil(arguments.seconds * call_counts.POSTS_TOGETHER))
            counted = [row for row in rows if row.name not in {ECHO, ECHO_ONE}]
            one_by_one = {
                row.name: await call_counts.calls_of(row, around, posts=call_counts.POSTS_ONE_BY_ONE, connections=1)
                for row in counted
            }
            together = {
                row.name: await call_counts.calls_of(
                    row, around, posts=posts_together, connections=arguments.connections
                )
                for row in counted
            }
            loop = next(row for row in rows if row.name == LOOP)
            async with asyncio.TaskGroup() as beside:  # five requests a second, which nobody's wait is longer for
                in_a_minute = beside.create_task(
                    call_counts.paced(loop, around, pause_s=min(3.0, arguments.rounds / 3))
                )
                waits = await call_waits.measure(rows, around, samples=arguments.rounds * 10, progress=progress)
                injected = await injected_waits.measure(
                    rows, around, rounds=arguments.rounds, connections=arguments.connections, progress=progress
                )
            counted_waits = await injected_waits.count(counted, around, progress=progress)
            pss = {row.name: row.pss_bytes() / 2**20 for row in rows}
        starts = await cold_start.measure(around, starts=arguments.cold_starts, progress=progress)
    progress("done")
    results = Results(
        rows,
        measured,
        {name: counts for name, (counts, _) in one_by_one.items()},
        posts_together,
        {name: counts for name, (counts, _) in together.items()},
        {name: billed for name, (_, billed) in together.items() if name not in {BARE, BARE_ONE}}
        | {LOOP: in_a_minute.result()},
        pss,
        waits,
        injected,
        counted_waits,
        starts,
        arguments.connections,
    )
    print(json.dumps(results.as_json(), indent=2) if arguments.json else results.as_text())
    return int(arguments.check and not all(goal.is_met or goal.missed_because for goal in results.goals()))


if __name__ == "__main__":
    main()
