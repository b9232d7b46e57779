"""Rules get of the user and the resource what they read; a user met before is not mistaken for another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.adapters.cedar.policy_cases import PLAIN, UPDATE, decide, deployment

from cab.adapters.cedar import engine as engine_module
from cab.adapters.cedar.engine import CedarPolicyEngine
from cab.adapters.cedar.entities import entity_reads
from cab.adapters.cedar.rules import read_rules
from cab.domain.decisions import Deny, Permit

ALL = frozenset({"identifier", "connection", "trust_zone"})
NONE: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("scope", "condition", "user", "resource"),
    [
        ("resource", "", NONE, None),
        ("resource", 'when { context.trigger == "event" }', NONE, None),
        ("resource", "when { principal.tenant == resource.connection }", {"tenant"}, {"connection"}),
        ("resource", 'unless { resource.identifier like "deal/*" }', NONE, {"identifier"}),
        ("resource", "when { principal has tenant && resource has identifier }", {"tenant"}, {"identifier"}),
        ("resource", 'when { resource in CAB::Connection::"crm" }', NONE, ALL),
        ('resource in CAB::Connection::"crm"', "", NONE, NONE),
        ("resource", 'when { (if true then principal else principal).tenant == "acme" }', {"tenant"}, None),
        (
            "resource",
            'when { [resource].contains(resource) && {"a": principal} == {"a": principal} }',
            {"tenant"},
            ALL,
        ),
    ],
)
def test_a_rule_gets_the_attributes_it_reads(
    scope: str, condition: str, user: frozenset[str], resource: frozenset[str] | None
) -> None:
    rules, problems = read_rules([("p.cedar", f'@id("r") permit (principal, action, {scope}) {condition};')])
    assert not problems
    reads = entity_reads(rules)
    assert (reads.user, reads.resource) == (user, resource)


def test_one_rule_that_looks_at_the_resource_is_enough() -> None:
    rules, _ = read_rules([("p.cedar", PLAIN + '@id("f") forbid (principal, action, resource is CAB::Resource);')])
    assert entity_reads(rules).resource == NONE


def test_the_resource_counts_where_only_the_scope_names_it() -> None:
    in_crm = '@id("p") permit (principal, action, resource in CAB::Connection::"crm");'
    assert isinstance(decide(in_crm), Permit)


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": ()},
        {"groups": ("ops",)},
        {"tenant": "other", "groups": ("sales",)},
        {"subject": "subject-2-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"},
    ],
)
def test_who_was_seen_before_never_stands_for_another(changes: dict[str, Any]) -> None:
    rule = """
    @id("p") permit (principal in CAB::Group::"sales", action, resource) when { principal.tenant == "acme" };
    @id("f") forbid (principal == CAB::User::"subject-2-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", action, resource);
    """
    engine = CedarPolicyEngine(deployment(rule))
    assert isinstance(engine.evaluate(UPDATE).decision, Permit)
    assert isinstance(engine.evaluate(replace(UPDATE, **changes)).decision, Deny)
    assert isinstance(engine.evaluate(UPDATE).decision, Permit)


def test_only_so_many_users_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "USERS_REMEMBERED", 3)
    engine = CedarPolicyEngine(deployment(PLAIN))
    for number in range(5):
        assert isinstance(engine.evaluate(replace(UPDATE, subject=f"s{number}")).decision, Permit)
    assert len(engine._active._users) == 3
