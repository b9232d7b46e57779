"""The drills themselves: what is done to a serving stack. Each returns when it is done; the load goes on meanwhile."""

from __future__ import annotations

from tests.drills.fleet import Fleet, Instance
from tests.drills.load import Load

SERVED_BY_LOAD = ("mint_assertion", "exchange_token", "refresh_grants", "call_tool", "publish_metadata")


def hand_over(fleet: Fleet, asking: Load, ending: Instance) -> float:
    """Two instances serve; one is told to stop, at the moment from which the other gets all requests. Seconds that it took."""
    function = ending.function
    fleet.serve(function, ending.url, fleet.own(function))
    asking.each_kind()
    fleet.serve_own(function)
    took = ending.end()
    assert ending.process.returncode == 0, f"{function} ended with {ending.process.returncode}"
    return took
