"""`make soak`: the promises about grants and calls by the thousand, with real processes. Takes the better part of an hour on two cores.

    python -m tests.soak [--kill-points N] [--concurrent-runs N] [--grants N] [--fates N] [--call-kills N] [--only grants|calls] [--seed N]

Prints one line per figure and ends with status 1 if any promise was broken.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.killing_calls import kill_under_load
from tests.grants.processes.crowding import ask_for_many
from tests.grants.processes.killing import KINDS, Report, ask_together, carry_out, draw_plans, in_milliseconds
from tests.grants.processes.site import Site, running_site
from tests.running_stack import running_stack

BATCH = 60  # grants that are under attack at the same time
ROOT = Path(__file__).resolve().parents[2]


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def kill(site: Site, number: int, dice: random.Random) -> Iterator[Report]:
    """`number` kill points for each class of provider, in batches of all classes."""
    plans = {kind: draw_plans(kind, number, dice) for kind in KINDS}
    mixed = [plan for turn in zip(*plans.values(), strict=True) for plan in turn]
    for first in range(0, len(mixed), BATCH):
        yield carry_out(site, mixed[first : first + BATCH], user=f"kill-{first}")


def kill_by_the_thousand(site: Site, number: int, dice: random.Random) -> list[str]:
    violations: list[str] = []
    lost: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    points: Counter[str] = Counter()
    windows: list[float] = []
    struck, slowest = 0, 0.0
    for report in kill(site, number, dice):
        broken = report.violations() + report.unaudited(site.audit_events())
        for violation in broken:
            say(f"\n  BROKEN: {violation}")
        violations += broken
        lost += report.lost()
        expected += report.lost_in_window()
        points += Counter(plan.kind for plan in report.plans)
        windows += report.windows_s
        struck += report.struck
        slowest = max(slowest, report.settled_within_s)
        sys.stdout.write(
            f"\r  {sum(points.values())} kill points, {sum(lost.values())} lost, {len(violations)} broken "
        )
        sys.stdout.flush()
    say("")
    for kind in KINDS:
        say(f"  {kind:<7} {points[kind]} kill points, lost {lost[kind]}, of them in the window {expected[kind]}")
    say(f"  {struck} processes met their fate before they answered; end states within {slowest:.1f} s")
    if windows:
        say(f"  answer read to durable write: {in_milliseconds(windows)}")
    say(f"  {sum(len(ids) for ids in site.audit_events().values())} audit events, each accounted for")
    return violations


def ask_together_again_and_again(site: Site, runs: int) -> list[str]:
    violations: list[str] = []
    windows: list[float] = []
    for run in range(runs):
        kind = KINDS[run % len(KINDS)]
        truth, answers, measured = ask_together(site, kind, user=f"together-{run}")
        windows += measured
        if truth.refreshes != 1 or len(answers) != 1 or sum(answers.values()) != 200:
            violations.append(f"{kind}: {truth.refreshes} refreshes, {len(answers)} different answers")
    say(f"  {runs} runs of 200 callers in 5 processes: {runs - len(violations)} with exactly one refresh")
    say(f"  answer read to durable write: {in_milliseconds(windows)}")
    return violations


def ask_for_very_many(site: Site, number: int) -> list[str]:
    crowd = ask_for_many(site, number, user="crowd")
    say(f"  {crowd}")
    return crowd.violations()


def explore(fates: int) -> list[str]:
    """The exploration of tests/grants/test_model.py, wider."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/grants/test_model.py", "--timeout=7200"]
    done = subprocess.run(command, env=os.environ | {"CAB_MODEL_RUNS": str(fates)}, cwd=ROOT, check=False)
    return [] if done.returncode == 0 else ["the exploration found a broken promise"]


def kill_calls(kills: int, dice: random.Random) -> list[str]:
    """At a stack of its own, whose users may write as often as they like."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "acme"
        shutil.copytree(ROOT / "examples" / "acme", config)
        broker = config / "broker.yaml"
        limit = "{effects: [write], limit: 120, "
        text = broker.read_text("utf-8")
        assert limit in text
        broker.write_text(text.replace(limit, limit.replace("120", "100000")), "utf-8")
        with running_stack(Path(folder) / "state", "--config", str(config)) as stack:
            seen = kill_under_load(stack, kills, dice)
    say(f"  {seen}")
    return seen.violations()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--kill-points", type=int, default=1000, help="for each class of provider")
    parser.add_argument("--concurrent-runs", type=int, default=50)
    parser.add_argument("--grants", type=int, default=1000, help="expired ones, with 20 callers each")
    parser.add_argument("--fates", type=int, default=12_000, help="pairs of fates explored in virtual time")
    parser.add_argument("--call-kills", type=int, default=50, help="of call_tool, under load")
    parser.add_argument("--only", choices=("grants", "calls"))
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)  # noqa: S311 - repeatable
    say(f"seed {arguments.seed}")
    violations: list[str] = []
    if arguments.only != "grants":
        violations += kill_calls(arguments.call_kills, dice)
    if arguments.only != "calls":
        with tempfile.TemporaryDirectory() as folder, running_site(Path(folder)) as site:
            violations += ask_for_very_many(site, arguments.grants)
            violations += ask_together_again_and_again(site, arguments.concurrent_runs)
            violations += kill_by_the_thousand(site, arguments.kill_points, dice)
        violations += explore(arguments.fates)
    for violation in violations:
        say(f"BROKEN: {violation}")
    say("all promises kept" if not violations else f"{len(violations)} promises broken")
    sys.exit(bool(violations))


if __name__ == "__main__":
    main()
