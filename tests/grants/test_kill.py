"""Real processes of refresh_grants, killed and stopped at every step and at random moments. `make soak` does it by the thousand."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from tests.grants.processes.crowding import Crowd, ask_for_many
from tests.grants.processes.killing import KINDS, STEPS, ask_together, carry_out, draw_plans
from tests.grants.processes.site import Connected, Site, running_site

KILL_POINTS = 15  # for each class of provider


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site")) as running:
        yield running


def test_killed_and_stopped_processes_lose_nothing_but_what_only_they_had_seen(site: Site) -> None:
    dice = random.Random(20_261_121)  # noqa: S311 - repeatable
    plans = [plan for kind in KINDS for plan in draw_plans(kind, KILL_POINTS, dice)]

    report = carry_out(site, plans, user="killed")

    assert report.violations() == []
    assert report.struck >= len(KINDS) * len(STEPS)
    lost = report.lost()
    assert lost["static"] == lost["leeway"] == 0
    assert lost["strict"] == report.lost_in_window()["strict"] >= 1, "killed after the answer, before the write"
    assert report.settled_within_s < 90
    assert report.unaudited(site.audit_events()) == []


@pytest.mark.parametrize("kind", ["strict", "leeway"])
def test_200_callers_in_5_processes_cause_one_refresh_and_get_one_token(site: Site, kind: str) -> None:
    truth, answers, windows = ask_together(site, kind, user=f"together-{kind}")
    assert truth.refreshes == 1
    assert truth.is_alive
    ((answer, count),) = answers.items()
    assert answer.startswith("token ")
    assert count == 200
    assert len(windows) == 1, "one process refreshed, the others waited for it"


def test_50_expired_grants_with_20_callers_each_cost_50_upstream_calls(site: Site) -> None:
    crowd = ask_for_many(site, 50, user="crowd")
    assert crowd.violations() == []
    assert (crowd.upstream_calls, crowd.answers) == (50, 1000)


def test_a_second_call_and_a_second_token_are_seen_in_a_crowd() -> None:
    one, two, three = (Connected("strict", f"g{n}", f"p{n}", "") for n in (1, 2, 3))
    answers = {
        "g1": Counter({"token a": 20}),
        "g2": Counter({"token b": 19, "token c": 1}),
        "g3": Counter({"token d": 20}),
    }
    calls = Counter({"p1": 1, "p2": 1, "p3": 2})
    crowd = Crowd([one, two, three], answers, calls, {"token a", "token b", "token c", "token d"}, 20, 5, 0.0)
    assert crowd.violations() == ["strict: {'token': 20}", "strict: 2 upstream calls for one grant"]
