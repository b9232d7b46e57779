"""`make drills`: what happens on a day with changes, at a stack under load. Minutes each.

    python -m tests.drills [--only NAME ...] [--requests N] [--times N] [--connections N]

Prints what was asked and answered in each drill, and ends with status 1 if any promise was broken.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import requests
from tests.drills import deployment, steps
from tests.drills.fleet import Fleet, Instance, fleet
from tests.drills.load import Load, load
from tests.drills.restore import USE_THEM, refresh, restore, short_lived_tokens
from tests.drills.signals import close_accounts
from tests.e2e.audit_rows import TODAY, query
from tests.e2e.caller import Caller
from tests.running_stack import ROOT, Stack, running_stack

from cab.stores.signing_keys import JWKS_MAX_AGE

RELEASE: Final = "v0.1.0"
MOST_TOLD: Final = 10


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@dataclass
class Drill:
    """What a drill has at hand. It says its figures, and returns what was broken beside what the load finds."""

    fleet: Fleet
    asking: Load
    folder: Path
    times: int
    earlier: Mapping[str, Instance]


def shutdown(drill: Drill) -> list[str]:
    for function in (*steps.ORDER[1:], "call_tool"):
        took = steps.hand_over(drill.fleet, drill.asking, drill.fleet.start(function))
        say(f"  {function} ended within {took:.1f} s, its successor serves")
    return []


def last_release(running: Fleet, folder: Path) -> dict[str, Instance]:
    """Every function is of the last release, and nothing that this tree has published waits any more."""
    earlier = steps.started(running, earlier_release(folder / RELEASE))
    before, now = -1, rows_of(running.stack)
    while before != now:
        time.sleep(15)  # a push that failed comes again within ten
        before, now = now, rows_of(running.stack)
    for function, instance in earlier.items():
        running.serve(function, instance.url)
    return earlier


def upgrade(drill: Drill) -> list[str]:
    """From the last release to this tree, function by function, and back, as when an upgrade is undone."""
    before, caller = refreshes(drill), Caller(drill.fleet.stack)
    with short_lived_tokens(drill.fleet.stack):
        steps.upgrade(drill.fleet, drill.asking, drill.earlier, between=lambda: refresh(caller))
        say(f"  all functions are of this tree: {drill.asking}")
        steps.downgrade(drill.fleet, drill.asking, drill.earlier, between=lambda: refresh(caller))
        say(f"  all but ingest_audit are {RELEASE} again: {drill.asking}; {refreshes(drill) - before} refreshes")
        for function in steps.ORDER:
            drill.fleet.serve_own(function)
    return []


def deploy(drill: Drill) -> list[str]:
    """Another client secret, another escrow key, one more tenant with its identity provider; and all of it taken back."""
    stack = drill.fleet.stack
    crm = deployment.CrmSecrets(stack)
    crm.accept(crm.older, crm.newer)
    secret = deployment.cab(stack, "keys", "add-secret", deployment.CRM_SECRET, standard_input=crm.newer)["version"]
    key = deployment.cab(stack, "keys", "add-data-key", "--of", "escrow")["version"]
    config = deployment.next_organisation(stack, drill.folder / "next", crm_secret=secret, escrow_key=key)
    with short_lived_tokens(stack):
        following = [drill.fleet.start(name, variables={"CAB_CONFIG_DIR": str(config)}) for name in deployment.ORDER]
        deployment.roll_out(drill.fleet, drill.asking, following)
        crm.accept(crm.newer)
        before = refreshes(drill)
        for _ in range(drill.times):
            drill.asking.each_kind()
        status, minted = deployment.globex_assertion(stack)
        served = deployment.globex_exchange(stack, minted.get("access_token", ""))[0]
        say(f"  {refreshes(drill) - before} refreshes with the new client secret; a new tenant: {status}, {served}")
        crm.accept(crm.older, crm.newer)
        for instance in reversed(following):
            steps.hand_over(drill.fleet, drill.asking, instance)
        gone = deployment.globex_exchange(stack, minted.get("access_token", ""))[0]
        say(f"  taken back; the tenant's assertion: {gone}")
    crm.accept(crm.older)
    return [] if (status, served, gone) == (200, 200, 401) else ["the tenant came or went otherwise"]


def signing_keys(drill: Drill) -> list[str]:
    """Published, and active five minutes later. That they are taken off an hour later is played in tests/functions."""
    stack = drill.fleet.stack
    for issuer in ("sts", "edge"):
        deployment.cab(stack, "keys", "rotate", "publish", "--issuer", issuer)
    say("  published; waiting five minutes")
    ready_at = time.monotonic() + JWKS_MAX_AGE.total_seconds() + 1
    while time.monotonic() < ready_at:
        drill.asking.each_kind()
    kids = [
        deployment.cab(stack, "keys", "rotate", "activate", "--issuer", issuer)["kid"] for issuer in ("sts", "edge")
    ]
    signed_by_new = time.monotonic() + 61  # by then every instance has read the set anew
    while time.monotonic() < signed_by_new:
        drill.asking.each_kind()
    say(f"  active: {', '.join(kids)}")
    return []


def signals(drill: Drill) -> list[str]:
    stack = drill.fleet.stack
    config = deployment.next_organisation(stack, drill.folder / "signals", crm_secret=1, escrow_key=1)
    told, asked = (
        drill.fleet.start(name, variables={"CAB_CONFIG_DIR": str(config)}).url
        for name in ("connect_account", "exchange_token")
    )
    seen = close_accounts(drill.fleet, told, asked, drill.times)
    say(
        f"  {len(seen.until_refused)} accounts closed, {seen.exchanges} exchanges on another instance: first refused "
        f"{seen.p99() * 1000:.0f} ms (p99) after the event was sent; {seen.served_after} began after it was taken and were served"
    )
    return ([] if seen.p99() <= 1 else ["later than 1 s"]) + (["served after"] if seen.served_after else [])


def going_back(drill: Drill) -> list[str]:
    with short_lived_tokens(drill.fleet.stack):
        successors = {name: drill.fleet.start(name).url for name in USE_THEM}
        seen = restore(drill.fleet, drill.asking, successors)
    say(f"  {seen}")
    kept = set(seen.spent_again.values()) == {"deferral_code_invalid", "client_assertion_replayed"}
    return [] if kept and seen.refreshes >= 2 and not seen.refused_refreshes else [str(seen)]


DRILLS: Final[Mapping[str, Callable[[Drill], list[str]]]] = {
    "shutdown": shutdown,
    "upgrade": upgrade,
    "deployment": deploy,
    "signing-keys": signing_keys,
    "signals": signals,
    "restore": going_back,
}
WITHOUT_CALLS: Final = ("upgrade", "deployment")
"""The last release has no call_tool. Where policies change, calls are told `policy_version_skew` until call_tool is new too."""


def rows_of(stack: Stack) -> int:
    return int(query(stack, f"SELECT COUNT(*) AS n FROM cab_audit.events_raw WHERE {TODAY}")[0]["n"])


def refreshes(drill: Drill) -> int:
    crm = drill.fleet.stack.file.connections["crm"].resource
    entries = requests.get(f"{crm}/_control/ledger", timeout=10).json()["entries"]
    return sum(entry["event"] == "refreshed" for entry in entries)


def earlier_release(folder: Path) -> Path:
    """The tree of the last release, with limits as wide as this stack's."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", RELEASE], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        sys.exit(f"This clone does not have the tag {RELEASE}: git fetch --tags")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    widen_limits(folder / "examples" / "acme" / "broker.yaml")
    return folder


def widen_limits(broker: Path) -> None:
    text, changed = re.subn(r"limit: \d+", "limit: 1000000", broker.read_text("utf-8"))
    assert changed == 3
    broker.write_text(text, "utf-8")


@contextmanager
def busy_stack(folder: Path) -> Iterator[Stack]:
    """Acme, whose users may ask as often as they like."""
    config = folder / "acme"
    shutil.copytree(ROOT / "examples" / "acme", config)
    widen_limits(config / "broker.yaml")
    with running_stack(folder / "state", "--config", str(config)) as stack:
        yield stack


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.drills", description=__doc__)
    parser.add_argument("--only", choices=DRILLS, action="append")
    parser.add_argument("--requests", type=int, default=500, help="at least, in each drill")
    parser.add_argument("--times", type=int, default=100, help="accounts that are closed, rounds with a new secret")
    parser.add_argument("--connections", type=int, default=4)
    arguments = parser.parse_args()
    broken: list[str] = []
    with tempfile.TemporaryDirectory() as folder, busy_stack(Path(folder)) as stack:
        for name in arguments.only or DRILLS:
            say(name)
            with fleet(stack) as running:
                calls = name not in WITHOUT_CALLS
                earlier = last_release(running, Path(folder)) if name == "upgrade" else {}
                with load(stack, connections=arguments.connections, pause_s=2.0, calls=calls) as asking:
                    found = DRILLS[name](Drill(running, asking, Path(folder), arguments.times, earlier))
                    asking.until(arguments.requests)
                say(f"  {asking}")
                found += asking.violations()
            for violation in found[:MOST_TOLD]:
                say(f"  BROKEN: {violation}")
            if len(found) > MOST_TOLD:
                say(f"  BROKEN: {len(found) - MOST_TOLD} times more")
            broken += found
    say("all promises kept" if not broken else f"{len(broken)} promises broken")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
