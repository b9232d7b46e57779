"""The simulation of docs/capacity.md at a four-hundredth of its size, and that it notices what would be wrong."""

from __future__ import annotations

import pytest
from benchmarks.simulation.__main__ import simulate
from benchmarks.simulation.grants import Course, Load
from benchmarks.simulation.memories import measure
from benchmarks.simulation.pressure import press

SMALL = Load().divided_by(400)


def test_an_outage_a_deploy_and_a_restart_make_no_herd_no_hot_document_and_no_backlog() -> None:
    seen = simulate(SMALL, instances=1)
    assert seen.faults == []
    assert seen.refreshes > 0
    assert seen.turned_away > 0
    assert seen.visits > 0


def test_grants_that_are_all_kept_alive_at_the_same_age_are_noticed_as_a_herd() -> None:
    (herd,) = simulate(SMALL, instances=1, spreads=False).faults
    assert herd.startswith("a herd: ")


def test_a_sweep_that_tries_every_grant_of_a_provider_that_is_out_is_noticed_as_a_backlog() -> None:
    short = Course(ends=4_800, outage=(600, 4_200), deploy=10**6, restart=(10**6, 10**6), batch_due=300)
    assert simulate(SMALL, short, instances=1).faults == []
    (backlog,) = simulate(SMALL, short, instances=1, spares_outages=False).faults
    assert backlog.startswith("a backlog: ")


def test_instances_that_refuse_what_is_too_much_are_soon_as_before_and_others_never() -> None:
    assert press(per_s=500, instances=2).faults == []
    assert len(press(per_s=500, instances=2, bounded=False).faults) == 1


@pytest.mark.parametrize(("instances", "most"), [(1, 0.3), (8, 0.9)])
def test_the_more_instances_the_more_counters_are_written(instances: int, most: float) -> None:
    seen = measure(instances, agents=60, busy=1)
    assert most / 3 < seen.counter_writes < most
    assert not seen.is_hot
