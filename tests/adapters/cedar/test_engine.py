"""What the engine decides, one claim each."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import cedarpy
import pytest
from tests.adapters.cedar.policy_cases import LIST, PLAIN, UPDATE, decide, engine

from cab.adapters.cedar.engine import ANSWERS_REMEMBERED
from cab.domain.decisions import Confirm, Deny, Permit, StepUp, differ
from cab.domain.errors import Reason

OVERFLOW = "context.parameters has amount && context.parameters.amount + 9223372036854775807 > 0"


def test_nothing_is_permitted_without_a_matching_permit() -> None:
    assert decide('@id("a") permit (principal in CAB::Group::"ops", action, resource);') == Deny(Reason.POLICY_DENIED)


def test_a_permit_names_every_rule_that_determined_it() -> None:
    two = PLAIN + '@id("also") permit (principal in CAB::Group::"sales", action, resource);'
    assert decide(two) == Permit(rules=("also", "plain"))


def test_a_forbid_wins_over_any_permit_and_is_named() -> None:
    assert decide(PLAIN + '@id("no") forbid (principal, action, resource);') == Deny(
        Reason.POLICY_DENIED, rules=("no",)
    )


def test_a_failing_forbid_denies_although_cedar_would_skip_it() -> None:
    assert decide(PLAIN + f'@id("no") forbid (principal, action, resource) when {{ {OVERFLOW} }};') == Deny(
        Reason.POLICY_ERROR, rules=("no",)
    )


def test_a_failing_permit_denies_even_beside_a_good_one() -> None:
    assert decide(PLAIN + f'@id("bad") permit (principal, action, resource) when {{ {OVERFLOW} }};') == Deny(
        Reason.POLICY_ERROR, rules=("bad",)
    )


def test_a_rule_that_fails_for_another_action_does_not_disturb_this_one() -> None:
    rule = f'@id("no") forbid (principal, action == CAB::Action::"crm.deal.update", resource) when {{ {OVERFLOW} }};'
    assert decide(PLAIN + rule, LIST) == Permit(rules=("plain",))


def test_one_determining_confirm_asks_although_a_plain_permit_stands_beside_it() -> None:
    ask = '@id("ask") @confirm("Changes a deal.") permit (principal, action, resource);'
    assert decide(PLAIN + ask) == Confirm(("Changes a deal.",), rules=("ask", "plain"))


def test_every_question_is_asked_once_in_the_order_of_rule_names() -> None:
    asks = "".join(
        f'@id("{name}") @confirm("{prompt}") permit (principal, action, resource);'
        for name, prompt in (("c", "Same."), ("b", "Same."), ("a", "Other."))
    )
    assert decide(asks) == Confirm(("Other.", "Same."), rules=("a", "b", "c"))


def test_a_confirm_that_does_not_match_does_not_ask() -> None:
    ask = '@id("ask") @confirm("Sure?") permit (principal, action, resource) when { context.trigger == "event" };'
    assert decide(PLAIN + ask) == Permit(rules=("plain",))


def test_a_forbid_is_not_softened_by_a_question() -> None:
    both = '@id("ask") @confirm("Sure?") permit (principal, action, resource);@id("no") forbid (principal, action, resource);'
    assert decide(both) == Deny(Reason.POLICY_DENIED, rules=("no",))


@pytest.mark.parametrize(
    ("annotations", "age", "acr", "expected"),
    [
        ('@max_age("100")', 100, None, Permit(("r",))),
        ('@max_age("99")', 100, None, StepUp(("r",), max_age_s=99)),
        ('@max_age("99")', None, None, StepUp(("r",), max_age_s=99)),
        ('@acr("gold silver")', None, "silver", Permit(("r",))),
        ('@acr("gold platinum")', 1, "silver", StepUp(("r",), acr_values="gold platinum")),
        ('@acr("gold")', 1, None, StepUp(("r",), acr_values="gold")),
        ('@acr("gold") @max_age("60")', 61, "gold", StepUp(("r",), max_age_s=60, acr_values="gold")),
        ('@acr("gold") @max_age("60") @confirm("Sure?")', 61, "gold", StepUp(("r",), max_age_s=60, acr_values="gold")),
        ('@acr("gold") @max_age("60") @confirm("Sure?")', 1, "gold", Confirm(("Sure?",), ("r",), "gold")),
        ('@max_age("60") @confirm("Sure?")', 1, "gold", Confirm(("Sure?",), ("r",))),
    ],
)
def test_a_login_that_is_too_old_too_weak_or_unknown_is_stepped_up(
    annotations: str, age: int | None, acr: str | None, expected: Any
) -> None:
    rule = f'@id("r") {annotations} permit (principal, action, resource);'
    assert decide(rule, auth_age_s=age, acr=acr) == expected


def test_a_step_up_meets_every_determining_rule_at_once() -> None:
    rules = (
        '@id("a") @acr("gold silver") @max_age("600") permit (principal, action, resource);'
        '@id("b") @acr("platinum gold") @max_age("60") permit (principal, action, resource);'
    )
    assert decide(rules) == StepUp(("a", "b"), max_age_s=60, acr_values="gold")


def test_levels_that_no_login_can_meet_together_are_an_error_not_a_loop() -> None:
    rules = (
        '@id("a") @acr("gold") permit (principal, action, resource);'
        '@id("b") @acr("silver") permit (principal, action, resource);'
    )
    assert decide(rules) == Deny(Reason.POLICY_ERROR, rules=("a", "b"))


def test_an_intent_outside_its_task_can_be_asked_about() -> None:
    rules = (
        '@id("in") permit (principal, action, resource) when { context.task.comparison == "within" };'
        '@id("out") @confirm("Not part of your request.") permit (principal, action, resource)'
        ' when { context.task.comparison == "identifier_outside" };'
    )
    assert decide(rules, task_comparison="identifier_outside") == Confirm(("Not part of your request.",), ("out",))
    assert decide(rules, task_comparison="action_outside") == Deny(Reason.POLICY_DENIED)


@pytest.mark.parametrize(
    "condition",
    [
        'principal.tenant == "acme"',
        'principal == CAB::User::"subject-1-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"',
        'principal in CAB::Group::"sales"',
        'action in CAB::Action::"write" && action in CAB::Action::"crm"',
        'resource in CAB::Connection::"crm" && resource.connection == "crm"',
        'resource == CAB::Resource::"crm/deal/0061" && resource.identifier like "deal/*"',
        'context.agent == {id: "helper", trust_zone: "internal", mode: "token"}',
        'context.chain.contains("helper") && !context.chain.contains("assistant")',
        'context.parameters.stage == "open" && context.parameters has amount && context.parameters.amount == 5',
        'context.task.present && context.task.comparison == "within"',
        'context.trigger == "user_turn"',
        'context.auth has age_s && context.auth.age_s == 100 && context.auth has acr && context.auth.acr == "silver"',
        'context.auth.amr.contains("pwd")',
        'context.time.epoch_s == 1795350600 && context.time.hour_utc == 12 && context.time.weekday == "sunday"',
    ],
)
def test_policies_see(condition: str) -> None:
    scope = '(principal, action == CAB::Action::"crm.deal.update", resource)'
    assert decide(f'@id("r") permit {scope} when {{ {condition} }};') == Permit(("r",))


def test_what_is_unknown_is_absent() -> None:
    rule = (
        '@id("r") permit (principal, action, resource)'
        " when { !(context.auth has age_s) && !(context.auth has acr) && !(context.parameters has amount) };"
    )
    assert decide(rule, auth_age_s=None, acr=None, amr=(), parameters={"stage": "open"}) == Permit(("r",))


@pytest.mark.parametrize(
    "changes",
    [
        {"action": "crm.deal.unknown"},
        {"parameters": {"amount": 2**70}},
        {"parameters": {"amount": None}},
        {"parameters": {"stage": "\ud800"}},
        {"parameters": {"stage": object()}},
        {"groups": (None,)},
        {"subject": None},
        {"now": None},
    ],
)
def test_a_request_that_cedar_cannot_read_is_denied(changes: dict[str, Any]) -> None:
    assert decide(PLAIN, **changes) == Deny(Reason.POLICY_ERROR)


ONE_DEAL = '@id("one") permit (principal, action, resource) when { resource.identifier == "deal/0061" };'
BY_TIME = '@id("late") permit (principal, action, resource) when { context.time.hour_utc >= 12 };'
BY_AGE = '@id("fresh") @max_age("60") permit (principal, action, resource);'


@pytest.mark.parametrize(
    ("rule", "changes", "times"),
    [
        (PLAIN, {}, 1),
        (PLAIN, {"identifier": "deal/1"}, 1),
        (PLAIN, {"now": UPDATE.now + timedelta(hours=5)}, 1),
        (ONE_DEAL, {"identifier": "deal/1"}, 2),
        (BY_TIME, {"now": UPDATE.now + timedelta(hours=5)}, 2),
        (PLAIN, {"parameters": {"stage": "won"}}, 2),
        (PLAIN, {"groups": ()}, 2),
        (PLAIN, {"tenant": "globex"}, 2),
        (PLAIN, {"subject": "another"}, 2),
        (PLAIN, {"action": "crm.deal.list", "parameters": {}}, 2),
    ],
)
def test_cedar_is_asked_again_only_where_a_rule_reads_something_else(
    monkeypatch: pytest.MonkeyPatch, rule: str, changes: dict[str, Any], times: int
) -> None:
    policy_engine, asked = engine(rule), counting(monkeypatch)
    for request in (UPDATE, replace(UPDATE, **changes)):
        assert policy_engine.evaluate(request) == engine(rule).evaluate(request)
        assert policy_engine.evaluate(request) == policy_engine.evaluate(request)
    fresh = 2  # engines made to compare with
    assert len(asked) - fresh == times


def test_what_is_remembered_is_bounded_by_number_and_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    policy_engine, asked = engine(PLAIN), counting(monkeypatch)
    for _ in range(2):
        policy_engine.evaluate(replace(UPDATE, parameters={"stage": "x" * 2000}))
    assert len(asked) == 2
    for number in range(ANSWERS_REMEMBERED + 10):
        policy_engine.evaluate(replace(UPDATE, parameters={"amount": number}))
    assert len(policy_engine._active._answers) == ANSWERS_REMEMBERED


def test_how_old_a_login_is_counts_at_every_decision() -> None:
    policy_engine = engine(BY_AGE)
    assert policy_engine.evaluate(replace(UPDATE, auth_age_s=10)).decision == Permit(("fresh",))
    assert isinstance(policy_engine.evaluate(replace(UPDATE, auth_age_s=100)).decision, StepUp)


def counting(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    asked: list[object] = []
    really = cedarpy.is_authorized

    def counted(question: Any, *rest: Any) -> cedarpy.AuthzResult:
        asked.append(question)
        return really(question, *rest)

    monkeypatch.setattr(cedarpy, "is_authorized", counted)
    return asked


def test_whatever_fails_inside_the_engine_denies(monkeypatch: pytest.MonkeyPatch) -> None:
    policy_engine = engine(PLAIN)

    def broken(*_: object, **__: object) -> cedarpy.AuthzResult:
        raise RuntimeError

    monkeypatch.setattr(cedarpy, "is_authorized", broken)
    assert policy_engine.evaluate(UPDATE).decision == Deny(Reason.POLICY_ERROR)


@pytest.mark.parametrize("name", ['a"b', "sales\n", "a b", "größe", "x" * 500, 'CAB::Group::"sales"'])
def test_names_from_outside_are_data_never_policy_text(name: str) -> None:
    rule = '@id("r") permit (principal in CAB::Group::"sales", action, resource);'
    assert decide(rule, groups=(name,)) == Deny(Reason.POLICY_DENIED)
    assert decide(rule, groups=(name, "sales"), subject=name, acr=name) == Permit(("r",))


def test_candidate_policies_are_always_reported_with_their_version_and_never_enforced() -> None:
    stricter = '@id("plain") permit (principal, action in [CAB::Action::"read"], resource);'
    both = engine(PLAIN, candidates=(stricter,))
    assert both.evaluate(UPDATE).decision == Permit(("plain",))
    assert both.evaluate(UPDATE).shadow == Deny(Reason.POLICY_DENIED)
    assert both.evaluate(LIST).shadow == Permit(("plain",))
    version = both.evaluate(LIST).shadow_version
    assert version == engine(PLAIN, candidates=(stricter,)).evaluate(UPDATE).shadow_version
    assert version != engine(PLAIN, candidates=(PLAIN,)).evaluate(UPDATE).shadow_version


def test_candidates_that_decide_alike_by_other_rules_do_not_differ() -> None:
    verdict = engine(PLAIN, candidates=(PLAIN.replace("plain", "renamed"),)).evaluate(UPDATE)
    assert verdict.shadow is not None
    assert not differ(verdict.decision, verdict.shadow)
    assert differ(Deny(Reason.POLICY_DENIED), Deny(Reason.POLICY_ERROR))
    assert differ(Permit(), Confirm(("Sure?",)))


def test_a_rule_is_located_by_file_and_line() -> None:
    policy_engine = engine(PLAIN, f"// first a comment\n\n{PLAIN.replace('plain', 'other')}")
    assert policy_engine.locate("plain") == ("policies/p0.cedar", 1)
    assert policy_engine.locate("other") == ("policies/p1.cedar", 3)
    with pytest.raises(KeyError):
        policy_engine.locate("unknown")


def test_the_effect_of_an_action_comes_from_the_catalog_not_from_the_request() -> None:
    rule = '@id("r") permit (principal, action in [CAB::Action::"read"], resource);'
    assert decide(rule, replace(UPDATE, effect="read")) == Deny(Reason.POLICY_DENIED)


# --- groups that are unknown ---


def unknown(policies: str, **changes: Any) -> Any:
    return decide(policies, groups=(), groups_unknown=True, **changes)


def test_unknown_groups_change_nothing_where_no_rule_looks_at_groups() -> None:
    assert unknown(PLAIN) == Permit(rules=("plain",))


@pytest.mark.parametrize(
    "rule",
    [
        'permit (principal in CAB::Group::"sales", action, resource);',
        'permit (principal is CAB::User in CAB::Group::"sales", action, resource);',
        'permit (principal, action, resource) when { principal in CAB::Group::"sales" };',
        'permit (principal, action, resource) when { principal in [CAB::Group::"sales", CAB::Group::"ops"] };',
        'permit (principal, action, resource) unless { principal in CAB::Group::"ops" };',
        'permit (principal, action, resource) when { !(principal in CAB::Group::"ops") };',
    ],
)
def test_nothing_is_permitted_by_unknown_groups(rule: str) -> None:
    assert unknown(f'@id("r") {rule}') == Deny(Reason.POLICY_DENIED)


@pytest.mark.parametrize(
    "rule",
    [
        'forbid (principal in CAB::Group::"ops", action, resource);',
        'forbid (principal, action, resource) when { principal in CAB::Group::"ops" };',
        'forbid (principal, action, resource) unless { principal in CAB::Group::"sales" };',
        'forbid (principal, action, resource) when { principal in [CAB::Group::"ops", CAB::Group::"sales"] };',
        'forbid (principal, action, resource) when { if principal in CAB::Group::"ops" then true else false };',
    ],
)
def test_a_forbid_by_group_applies_when_groups_are_unknown(rule: str) -> None:
    assert unknown(PLAIN + f'@id("no") {rule}') == Deny(Reason.POLICY_DENIED, rules=("no",))


def test_a_forbid_by_group_whose_other_conditions_fail_forbids_nothing() -> None:
    rule = '@id("no") forbid (principal in CAB::Group::"ops", action, resource) when { context.trigger == "event" };'
    assert unknown(PLAIN + rule) == Permit(rules=("plain",))


def test_a_question_that_any_group_would_bring_is_asked() -> None:
    ask = '@id("ask") @confirm("Sure?") permit (principal in CAB::Group::"ops", action, resource);'
    assert unknown(PLAIN + ask) == Confirm(("Sure?",), rules=("ask", "plain"))
    assert unknown(ask) == Deny(Reason.POLICY_DENIED)


def test_a_login_that_any_group_would_demand_is_demanded() -> None:
    fresh = '@id("fresh") @max_age("50") permit (principal in CAB::Group::"ops", action, resource);'
    assert unknown(PLAIN + fresh) == StepUp(("fresh", "plain"), max_age_s=50)


def test_a_permit_that_holds_whatever_the_groups_are_permits() -> None:
    either = (
        '@id("either") permit (principal, action, resource) '
        'when { principal in CAB::Group::"ops" || context.trigger == "user_turn" };'
    )
    assert unknown(either) == Permit(rules=("either",))


def test_a_rule_that_fails_for_some_groups_denies() -> None:
    rule = f'@id("no") forbid (principal, action, resource) when {{ principal in CAB::Group::"ops" && ({OVERFLOW}) }};'
    assert unknown(PLAIN + rule) == Deny(Reason.POLICY_ERROR, rules=("no",))


def test_known_membership_of_no_group_is_not_unknown() -> None:
    assert decide(PLAIN + '@id("no") forbid (principal in CAB::Group::"ops", action, resource);', groups=()) == Permit(
        rules=("plain",)
    )
