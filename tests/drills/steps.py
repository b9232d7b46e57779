"""The drills themselves: what is done to a serving stack. Each returns when it is done; the load goes on meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.drills.fleet import Fleet, Instance
from tests.drills.load import Load


def hand_over(fleet: Fleet, asking: Load, ending: Instance) -> float:
    """Two instances serve; one is told to stop, at the moment from which the other gets all requests. Seconds that it took."""
    function = ending.function
    fleet.serve(function, ending.url, fleet.own(function))
    asking.each_kind()
    fleet.serve_own(function)
    took = ending.end()
    assert ending.process.returncode == 0, f"{function} ended with {ending.process.returncode}"
    return took


ORDER: Final = (
    "ingest_audit",
    "publish_metadata",
    "refresh_grants",
    "connect_account",
    "exchange_token",
    "mint_assertion",
)
"""In which functions are replaced: who takes what others send stands before them. call_tool follows once exchange_token is new."""


def started(fleet: Fleet, source: Path) -> dict[str, Instance]:
    """Instances of an earlier release, with its own configuration. They share the stores with those of this tree."""
    variables = {"CAB_CONFIG_DIR": str(source / "examples" / "acme")}
    with ThreadPoolExecutor(len(ORDER)) as pool:
        earlier = list(pool.map(lambda name: fleet.start(name, source=source, variables=variables), ORDER))
    return {instance.function: instance for instance in earlier}


def upgrade(fleet: Fleet, asking: Load, earlier: Mapping[str, Instance], *, between: Callable[[], None]) -> None:
    """One function after another: both releases take turns for a while, then the earlier one is told to stop."""
    for function in ORDER:
        fleet.serve(function, earlier[function].url, fleet.own(function))
        asking.each_kind()
        fleet.serve_own(function)
        between()
        asking.each_kind()


def downgrade(fleet: Fleet, asking: Load, earlier: Mapping[str, Instance], *, between: Callable[[], None]) -> None:
    """The other way round, without ingest_audit: what it took in late would be unknown to an earlier one, and be kept aside."""
    for function in reversed(ORDER[1:]):
        fleet.serve(function, earlier[function].url, fleet.own(function))
        asking.each_kind()
        fleet.serve(function, earlier[function].url)
        between()
        asking.each_kind()
