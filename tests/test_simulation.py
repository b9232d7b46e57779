"""The simulation of docs/capacity.md at a four-hundredth of its size, and that it notices what would be wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks.capacity import BY_INSTANCES
from benchmarks.simulation.__main__ import shared, simulate, table
from benchmarks.simulation.grants import OLDEST_S, Course, Load
from benchmarks.simulation.memories import measure
from benchmarks.simulation.pressure import press

SMALL = Load().divided_by(400)
DOCUMENT = (Path(__file__).resolve().parents[1] / "docs" / "capacity.md").read_text("utf-8")
STANDSTILL_S = Course().restart[1] - Course().restart[0]


def rows(text: str) -> list[list[str]]:
    """Of the table that begins as the simulation's."""
    _, _, after = text.partition("| | | bound |\n|---|---|---|\n")
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in after.partition("\n\n")[0].splitlines()]


def test_an_outage_a_deploy_and_a_restart_make_no_herd_no_hot_document_and_no_backlog() -> None:
    seen = simulate(SMALL, instances=1)
    assert seen.faults == []
    assert seen.waited_s > STANDSTILL_S, "what was due as it began"
    assert seen.waited_s - STANDSTILL_S <= seen.waited_while_up_s <= OLDEST_S
    assert seen.refreshes > 0
    assert seen.turned_away > 0
    assert seen.visits > 0


def test_grants_that_are_all_kept_alive_at_the_same_age_are_noticed_as_a_herd() -> None:
    seen = simulate(SMALL, instances=1, spreads=False)
    (herd,) = seen.faults
    assert herd.startswith("a herd: ")
    assert f"as they would be at one age, makes a herd of {seen.herd:.1f}" in DOCUMENT


def test_a_sweep_that_tries_every_grant_of_a_provider_that_is_out_is_noticed_as_a_backlog() -> None:
    short = Course(ends=4_800, outage=(600, 4_200), deploy=10**6, restart=(10**6, 10**6), batch_due=300)
    assert simulate(SMALL, short, instances=1).faults == []
    seen = simulate(SMALL, short, instances=1, spares_outages=False)
    (backlog,) = seen.faults
    assert backlog.startswith("a backlog: ")
    assert f"one grant waits {seen.waited_while_up_s:,} s" in DOCUMENT


def test_instances_that_refuse_what_is_too_much_are_soon_as_before_and_others_never() -> None:
    assert press(per_s=500, instances=2).faults == []
    assert len(press(per_s=500, instances=2, bounded=False).faults) == 1


def test_the_document_holds_what_the_simulation_prints_and_all_of_it_is_within_its_bounds() -> None:
    """Those of the grants take the whole simulation minutes, so here of a small one what is measured, and what is too much."""
    printed = rows(table(simulate(SMALL, instances=1), press()))
    told = rows(DOCUMENT)
    assert [(name, bound) for name, _, bound in told] == [(name, bound) for name, _, bound in printed]
    of_overload = 2
    assert told[-of_overload:] == printed[-of_overload:], "which need no grants"
    for name, figure, bound in told:
        assert bound == "" or number(figure) <= number(bound), name
    seen = {name: number(figure) for name, figure, _ in told}
    waited, while_up = (seen[name] for name in seen if name.startswith("longest that"))
    assert waited - STANDSTILL_S <= while_up


def number(text: str) -> float:
    return float(re.sub(r"[^\d.]", "", text))


def test_the_document_holds_what_few_and_many_instances_remember() -> None:
    few = [measure(instances) for instances in (1, 4)]
    for line in shared(few).splitlines():
        assert line in DOCUMENT, "run: make simulate"
    for it in few:
        said = BY_INSTANCES[it.instances]
        assert (said.asks, said.counters) == (round(it.asks_refresh_grants, 2), round(it.counter_writes, 2))


@pytest.mark.parametrize(("instances", "most"), [(1, 0.3), (8, 0.9)])
def test_the_more_instances_the_more_counters_are_written(instances: int, most: float) -> None:
    seen = measure(instances, agents=60, busy=1)
    assert most / 3 < seen.counter_writes < most
    assert not seen.is_hot
