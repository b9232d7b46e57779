"""`python -m benchmarks.simulation`: three hours of 10 million grants and 5,000 exchanges a second, in some minutes. docs/capacity.md
holds what came of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.simulation.grants import Course, Load, Seen, Simulation
from benchmarks.simulation.memories import INSTANCES, measure
from benchmarks.simulation.pressure import press
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=__doc__)
    parser.add_argument("--part", type=int, default=1, metavar="N", help="an Nth part of the grants and of the load")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    def progress(what: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{what} ...", end="", file=sys.stderr, flush=True)

    seen = simulate(Load().divided_by(arguments.part), instances=max(1, 20 // arguments.part), progress=progress)
    pressed = press()
    memories = [
        measure(instances, agents=max(40, min(5_000, 250 * instances) // arguments.part)) for instances in INSTANCES
    ]
    figures: dict[str, Any] = {
        "exchanges": seen.exchanges,
        "refreshes at providers": seen.refreshes,
        "exchanges that a provider's outage turned away": seen.turned_away,
        "visits of the sweep": seen.visits,
        f"a provider is asked at most, over what agents ask in {10} s": round(seen.herd, 2),
        "writes a second of the document that is written most": round(seen.writes_per_s, 2),
        "longest that a grant waited for its visit, s": max(seen.oldest_s),
        "most grants due at a time": max(seen.due),
        "overload at 1.5 x capacity: p99 of what is served, s": round(pressed.p99, 2),
        "refused": pressed.refused,
        "gave up after five tries": pressed.given_up,
        "refusals end after the overload, s": round(pressed.recovered_s, 1),
    }
    faults = [*seen.faults, *pressed.faults]
    if arguments.json:
        by_instances = {str(it.instances): vars(it) for it in memories}
        print(json.dumps(figures | {"faults": faults, "by instances": by_instances}, indent=2))
    else:
        for name, figure in figures.items():
            print(f"{name:<70} {figure:>12,}")
        print()
        for it in memories:
            print(
                f"{it.instances:>4} instances: of the exchanges of a loop {it.asks_refresh_grants:.2f} ask refresh_grants, "
                f"{it.counter_writes:.2f} write a counter; the counter of an agent far beyond its limit is written "
                f"{it.most_writes_of_a_counter} times in its minute"
            )
        print(*(f"FAULT: {fault}" for fault in faults), sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
