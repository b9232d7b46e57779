"""`make drills`: what happens on a day with changes, at a stack under load. Minutes each.

    python -m tests.drills [--only NAME ...] [--requests N] [--connections N]

Prints what was asked and answered in each drill, and ends with status 1 if any promise was broken.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.drills import steps
from tests.drills.fleet import Fleet, fleet
from tests.drills.load import Load, load
from tests.running_stack import ROOT, Stack, running_stack


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def shutdown(running: Fleet, asking: Load) -> None:
    for function in steps.SERVED_BY_LOAD:
        took = steps.hand_over(running, asking, running.start(function))
        say(f"  {function} ended within {took:.1f} s, its successor serves")


DRILLS: Final[Mapping[str, Callable[[Fleet, Load], None]]] = {"shutdown": shutdown}


@contextmanager
def busy_stack(folder: Path) -> Iterator[Stack]:
    """Acme, whose users may ask as often as they like."""
    config = folder / "acme"
    shutil.copytree(ROOT / "examples" / "acme", config)
    broker = config / "broker.yaml"
    text, changed = re.subn(r"limit: \d+", "limit: 1000000", broker.read_text("utf-8"))
    assert changed == 3
    broker.write_text(text, "utf-8")
    with running_stack(folder / "state", "--config", str(config)) as stack:
        yield stack


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.drills", description=__doc__)
    parser.add_argument("--only", choices=DRILLS, action="append")
    parser.add_argument("--requests", type=int, default=1000, help="at least, in each drill")
    parser.add_argument("--connections", type=int, default=8)
    arguments = parser.parse_args()
    broken: list[str] = []
    with tempfile.TemporaryDirectory() as folder, busy_stack(Path(folder)) as stack:
        for name in arguments.only or DRILLS:
            say(name)
            with fleet(stack) as running:
                with load(stack, connections=arguments.connections, pause_s=0.2) as asking:
                    DRILLS[name](running, asking)
                    asking.until(arguments.requests)
                say(f"  {asking}")
                found = asking.violations()
            for violation in found:
                say(f"  BROKEN: {violation}")
            broken += found
    say("all promises kept" if not broken else f"{len(broken)} promises broken")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
