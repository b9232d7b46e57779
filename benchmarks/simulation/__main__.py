"""`python -m benchmarks.simulation`: three hours of 10 million grants and 5,000 exchanges a second, in some minutes. docs/capacity.md
holds what came of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from benchmarks.simulation.grants import HERD, HOTTEST, OLDEST_S, WINDOW_S, Course, Load, Seen, Simulation
from benchmarks.simulation.memories import INSTANCES, Remembered, measure
from benchmarks.simulation.pressure import RECOVERED_S, SERVED_P99_S, Pressed, press
from benchmarks.simulation.rules import Rules, provider

PROVIDERS = ("crm", "mail", "tracker")


def simulate(
    load: Load,
    course: Course | None = None,
    *,
    spreads: bool = True,
    spares_outages: bool = True,
    instances: int = 20,
    progress: Callable[[str], None] = lambda _: None,
) -> Seen:
    """At three providers, the first of which is out for an hour."""
    rules = [Rules(provider(name), spreads=spreads) for name in PROVIDERS]
    return Simulation(load, rules, course, instances=instances, spares_outages=spares_outages).run(progress)


def table(seen: Seen, pressed: Pressed) -> str:
    """As Markdown: what came of it, and what would be too much."""
    rows = [
        ("exchanges", f"{seen.exchanges:,}", ""),
        ("refreshes at providers", f"{seen.refreshes:,}", ""),
        ("exchanges that a provider's outage turned away", f"{seen.turned_away:,}", ""),
        ("visits of the sweep", f"{seen.visits:,}", ""),
        (
            f"most that a provider is asked in {WINDOW_S} s, over what agents ask of it (a herd)",
            f"{seen.herd:.2f}",
            f"<= {HERD}",
        ),
        (
            "writes a second of the grant that is written most, over a minute",
            f"{seen.writes_per_s:.2f}",
            f"<= {HOTTEST:.0f}",
        ),
        ("longest that a grant waited for its visit, the standstill included", f"{seen.waited_s} s", ""),
        (
            "longest that one waited for it while visits could be made",
            f"{seen.waited_while_up_s} s",
            f"<= {OLDEST_S} s",
        ),
        ("most grants due at a time", f"{max(seen.due):,}", ""),
        (
            "overload at 1.5 x capacity, callers refused come back up to five times: p99 of what is served",
            f"{pressed.p99:.2f} s",
            f"<= {SERVED_P99_S:.0f} s",
        ),
        ("last refusal after it", f"{pressed.recovered_s:.0f} s", f"<= {RECOVERED_S:.0f} s"),
    ]
    return "\n".join(
        ["| | | bound |", "|---|---|---|", *(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows)]
    )


def shared(memories: Sequence[Remembered]) -> str:
    """As Markdown, of the exchanges of loops by number of instances."""
    lines = [
        "| instances | ask `refresh_grants` | write a counter | writes of one counter in its minute, by an agent far beyond 120 a minute |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {it.instances} | {it.asks_refresh_grants:.2f} | {it.counter_writes:.2f} | {it.most_writes_of_a_counter} |"
        for it in memories
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=__doc__)
    parser.add_argument("--part", type=int, default=1, metavar="N", help="an Nth part of the grants and of the load")
    arguments = parser.parse_args()

    def progress(what: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{what} ...", end="", file=sys.stderr, flush=True)

    seen = simulate(Load().divided_by(arguments.part), instances=max(1, 20 // arguments.part), progress=progress)
    pressed = press()
    print(table(seen, pressed), shared([measure(instances) for instances in INSTANCES]), sep="\n\n")
    faults = [*seen.faults, *pressed.faults]
    print(*(f"FAULT: {fault}" for fault in faults), sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
