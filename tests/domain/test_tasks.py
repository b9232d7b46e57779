"""When one task is within another: the rule for handing a task on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fuzz import fuzz

from cab.domain.tasks import Task, TaskLimits
from cab.domain.text.patterns import covered_by_any


def task(**changes: Any) -> Task:
    standard: dict[str, Any] = {
        "type": "cab_task",
        "task_id": "t-1",
        "actions": ("crm.deal.*", "tracker.task.create"),
        "identifiers": ("deal/*", "task/7"),
    }
    limits = changes.pop("max_uses", None)
    return Task(**(standard | changes), limits=TaskLimits(max_uses=limits) if limits else None)


@pytest.mark.parametrize(
    "narrower",
    [
        {},
        {"actions": ("crm.deal.read",)},
        {"actions": ("crm.deal.*",)},
        {"actions": ("crm.deal.note.*", "tracker.task.create")},
        {"identifiers": ("deal/1", "deal/2*")},
        {"max_uses": 5},
    ],
)
def test_a_task_contains_itself_and_what_asks_for_less(narrower: dict[str, Any]) -> None:
    assert task().contains(task(**narrower))


@pytest.mark.parametrize(
    "wider",
    [
        {"task_id": "t-2"},
        {"trigger": "schedule"},
        {"actions": ("*",)},
        {"actions": ("crm.*",)},
        {"actions": ("crm.deal.*", "crm.deals")},
        {"actions": ("tracker.task.create*",)},
        {"identifiers": ("*",)},
        {"identifiers": ("deal*",)},
        {"identifiers": ("task/7*",)},
        {"identifiers": ("task/*",)},
        {"request_digest": "sha-256:" + "A" * 43},
    ],
)
def test_a_task_does_not_contain_what_asks_for_more_or_other(wider: dict[str, Any]) -> None:
    assert not task().contains(task(**wider))


@pytest.mark.parametrize(
    ("outer", "inner", "contained"),
    [(20, 20, True), (20, 1, True), (20, 21, False), (20, None, False), (None, 5, True)],
)
def test_uses_may_only_be_lowered(outer: int | None, inner: int | None, contained: bool) -> None:
    assert task(max_uses=outer).contains(task(max_uses=inner)) is contained


names = st.text(alphabet="ab.", min_size=1, max_size=4)
pattern_sets = st.lists(names | names.map(lambda name: name + "*"), min_size=1, max_size=3, unique=True).map(tuple)


@given(pattern_sets, pattern_sets, pattern_sets, pattern_sets, names, names)
@fuzz(200)
def test_a_contained_task_allows_nothing_the_outer_one_does_not(
    actions: Any, identifiers: Any, fewer_actions: Any, fewer_identifiers: Any, action: str, identifier: str
) -> None:
    outer = task(actions=actions, identifiers=identifiers)
    inner = task(actions=fewer_actions, identifiers=fewer_identifiers)
    if not outer.contains(inner):
        return
    if covered_by_any(inner.actions, action) and covered_by_any(inner.identifiers, identifier):
        assert covered_by_any(outer.actions, action)
        assert covered_by_any(outer.identifiers, identifier)
