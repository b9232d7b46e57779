"""A declared intent against the catalog and against the user's task: pure comparisons."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fuzz import fuzz

from cab.domain.configured.actions import Action, Effect
from cab.domain.errors import BrokerError, Reason
from cab.domain.intents import (
    DeclaredIntent,
    Intent,
    TaskComparison,
    allowed_without_confirmation,
    check_against_catalog,
    compare_with_task,
)
from cab.domain.tasks import Task
from cab.domain.text.patterns import covered_by_any

RESOURCE = "https://crm.test"
UPDATE = Action.model_validate(
    {
        "id": "crm.deal.update",
        "title": "Change a deal",
        "effect": "write",
        "identifier": "deal/{id}",
        "parameters": {
            "stage": {"type": "string", "values": ["open", "won"], "required": True},
            "amount": {"type": "integer", "minimum": 0},
            "urgent": {"type": "boolean", "default": False},
        },
    }
)


def declared(**changes: Any) -> DeclaredIntent:
    standard = {
        "type": "cab_action",
        "actions": ("crm.deal.update",),
        "locations": (RESOURCE,),
        "identifier": "deal/1",
        "parameters": {"stage": "won"},
    }
    return DeclaredIntent(**(standard | changes))


def task(**changes: Any) -> Task:
    standard = {"type": "cab_task", "task_id": "t-1", "actions": ("crm.deal.*",), "identifiers": ("deal/*",)}
    return Task(**(standard | changes))


def checked(given: DeclaredIntent, bounds: Task | None = None) -> Intent:
    return check_against_catalog(given, UPDATE, connection="crm", resource=RESOURCE, task=bounds)


def test_an_intent_that_fits_is_completed_with_defaults_and_the_task() -> None:
    intent = checked(declared(reason="because"), task())
    assert intent == Intent(
        action=UPDATE,
        connection="crm",
        location=RESOURCE,
        identifier="deal/1",
        parameters={"urgent": False, "stage": "won"},
        task_id="t-1",
        reason="because",
    )
    assert intent.as_authorization_detail() == {
        "type": "cab_action",
        "actions": ["crm.deal.update"],
        "locations": [RESOURCE],
        "identifier": "deal/1",
        "parameters": {"urgent": False, "stage": "won"},
        "task_id": "t-1",
    }


def test_without_a_task_the_detail_names_none() -> None:
    assert "task_id" not in checked(declared()).as_authorization_detail()


@pytest.mark.parametrize("location", [RESOURCE + "/", "https://CRM.test", "http://crm.test", RESOURCE + "/api", "crm"])
def test_another_location_than_the_target_is_refused(location: str) -> None:
    with pytest.raises(BrokerError) as error:
        checked(declared(locations=(location,)))
    assert error.value.reason is Reason.LOCATION_MISMATCH


@pytest.mark.parametrize(
    ("changes", "member"),
    [
        ({"identifier": "contact/1"}, "identifier"),
        ({"identifier": "deal/*"}, "identifier"),
        ({"parameters": {}}, "parameters.stage"),
        ({"parameters": {"stage": "lost"}}, "parameters.stage"),
        ({"parameters": {"stage": "won", "amount": "1"}}, "parameters.amount"),
        ({"parameters": {"stage": "won", "amount": -1}}, "parameters.amount"),
        ({"parameters": {"stage": "won", "urgent": 1}}, "parameters.urgent"),
        ({"parameters": {"stage": "won", "Stage": "won"}}, "parameters"),
        ({"parameters": {"stage": "won", "owner": "bob"}}, "parameters"),
        ({"parameters": {"stage": ("won",)}}, "parameters.stage"),
    ],
)
def test_what_the_catalog_does_not_know_is_refused_by_member(changes: dict[str, Any], member: str) -> None:
    with pytest.raises(BrokerError) as error:
        checked(declared(**changes))
    assert (error.value.reason, error.value.remedy.member) == (Reason.INTENT_MALFORMED, member)


def test_parameters_of_two_kib_are_the_most_unless_the_catalog_knows_long_ones() -> None:
    notes = {f"note{number}": {"type": "string", "max_length": 2000} for number in (1, 2)}

    def fits(parameters: dict[str, Any], values: dict[str, str]) -> bool:
        action = Action.model_validate_json(
            json.dumps({"id": "a.b", "title": "A", "effect": "write", "identifier": "deal/*", "parameters": parameters})
        )
        said = DeclaredIntent(
            type="cab_action", actions=("a.b",), locations=("https://a",), identifier="deal/*", parameters=dict(values)
        )
        try:
            check_against_catalog(said, action, connection="a", resource="https://a", task=None)
        except BrokerError:
            return False
        return True

    most = 2048 - len(b'{"note1":"","note2":""}')
    assert fits(notes, {"note1": "x" * 1900, "note2": "x" * (most - 1900)})
    assert not fits(notes, {"note1": "x" * 1900, "note2": "x" * (most - 1899)})
    assert fits(notes | {"text": {"type": "text"}}, {"text": "x" * 16_384})


@pytest.mark.parametrize(
    ("task_id", "bounds", "comparison"),
    [
        (None, None, TaskComparison.NO_TASK),
        ("t-1", None, TaskComparison.OTHER_TASK),
        (None, {}, TaskComparison.WITHIN),
        ("t-1", {}, TaskComparison.WITHIN),
        ("t-2", {}, TaskComparison.OTHER_TASK),
        (None, {"actions": ("crm.deal.read",)}, TaskComparison.ACTION_OUTSIDE),
        (None, {"actions": ("crm.deals.*",)}, TaskComparison.ACTION_OUTSIDE),
        (None, {"identifiers": ("deal/2",)}, TaskComparison.IDENTIFIER_OUTSIDE),
        (None, {"identifiers": ("deal/1",)}, TaskComparison.WITHIN),
        ("t-2", {"actions": ("x.y",)}, TaskComparison.OTHER_TASK),
    ],
)
def test_an_intent_is_within_its_task_or_outside_for_one_reason(
    task_id: str | None, bounds: dict[str, Any] | None, comparison: TaskComparison
) -> None:
    given = None if bounds is None else task(**bounds)
    assert compare_with_task(checked(declared(task_id=task_id), given), given) is comparison


def test_only_within_or_a_read_without_task_passes_by_itself() -> None:
    passing = {
        (comparison, effect, required)
        for comparison, effect, required in product(TaskComparison, Effect, (False, True))
        if allowed_without_confirmation(comparison, effect, task_required=required)
    }
    assert passing == {(TaskComparison.WITHIN, effect, required) for effect in Effect for required in (False, True)} | {
        (TaskComparison.NO_TASK, Effect.READ, False)
    }


patterns = st.sampled_from(["*", "crm.*", "crm.deal.*", "crm.deal.update", "crm.deal.read", "c*", "x"])
places = st.sampled_from(["*", "deal/*", "deal/1", "deal/1*", "deal/2", "d*", "x"])


@given(
    st.lists(patterns, min_size=1, max_size=3, unique=True),
    st.lists(places, min_size=1, max_size=3, unique=True),
    st.sampled_from([None, "t-1", "t-2"]),
)
@fuzz(100)
def test_within_means_every_bound_holds(actions: list[str], identifiers: list[str], task_id: str | None) -> None:
    bounds = task(actions=tuple(actions), identifiers=tuple(identifiers))
    comparison = compare_with_task(checked(declared(task_id=task_id), bounds), bounds)
    holds = (
        task_id in (None, "t-1")
        and covered_by_any(actions, "crm.deal.update")
        and covered_by_any(identifiers, "deal/1")
    )
    assert (comparison is TaskComparison.WITHIN) == holds
