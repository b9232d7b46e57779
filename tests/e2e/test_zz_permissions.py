"""The stack runs under Terraform's permissions: a few taken away are noticed, and what is given is used.

The whole count is `python -m tests.e2e.rehearsal`; here are one of each kind. Named to run after what uses them.
"""

from __future__ import annotations

import pytest
from tests.e2e import rehearsal
from tests.running_stack import Stack, emulators

from cab_dev.permissions import rows_for

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def played(stack: Stack) -> Stack:
    if emulators() == "official":
        pytest.skip("Google's emulators look at no permissions")
    assert rehearsal.first_trouble(stack, rehearsal.QUICK) is None
    if rehearsal.unexplained(stack):  # this file alone is run, and nothing has played the demo yet
        assert rehearsal.first_trouble(stack, (rehearsal.the_demo,)) is None
    return stack


def test_what_terraform_gives_is_used_or_said_why_not(played: Stack) -> None:
    assert rehearsal.unexplained(played) == []


def test_a_wide_permission_is_told_as_one_that_nobody_uses(played: Stack) -> None:
    project = played.file.project_id
    wide = [
        {"identity": "call_tool", "permissions": ["secretmanager.versions.access"], "resource": f"projects/{project}"},
        {"identity": "mint_assertion", "permissions": ["network.send"], "resource": "network"},
    ]
    rows = [*rows_for(project), *({**row, "condition": None} for row in wide)]
    found = set(rehearsal.too_much(rows, rehearsal.used(played)))
    assert {(row["identity"], row["permissions"][0], row["resource"]) for row in wide} <= found


def test_every_exception_is_of_something_that_is_given(played: Stack) -> None:
    nothing_used = list(rehearsal.too_much(rows_for(played.file.project_id), set()))
    given = [(identity, where) for identity, _, where in nothing_used]
    unknown = [
        (identity, named)
        for identity, _, named in rehearsal.EXCEPTIONS
        if not any(identity == holder and named in where for holder, where in given)
    ]
    assert unknown == []


UNSENT = 'resource.name == "projects/demo-cab/databases/unsent"'
KEYS = 'resource.name == "projects/demo-cab/databases/keys"'


@pytest.mark.parametrize(
    ("use", "journeys"),
    [
        (("publish_metadata", "datastore.entities.get", "projects/demo-cab", KEYS), rehearsal.look_up_metadata),
        (("exchange_token", "network.send", "network", None), rehearsal.connect_and_disconnect),
        (
            ("scheduler", "run.routes.invoke", "projects/demo-cab/services/refresh-grants", None),
            rehearsal.sweep,
        ),
        (
            ("connect_account", "datastore.entities.list", "projects/demo-cab", UNSENT),
            rehearsal.connect_and_disconnect,
        ),
    ],
    ids=["a permission", "a route", "an invoker", "what is in nobody's way"],
)
def test_a_permission_or_route_that_is_taken_away_is_noticed(
    played: Stack, use: rehearsal.Use, journeys: rehearsal.Journey
) -> None:
    with rehearsal.without(played, use):
        assert rehearsal.first_trouble(played, (journeys,)) is not None
    rehearsal.until_well(played)
