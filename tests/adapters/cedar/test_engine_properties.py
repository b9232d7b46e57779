"""The engine against a plain model of its rules: thousands of small policy sets and requests, 0 differences."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cedarpy
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.adapters.cedar.policy_cases import LIST, UPDATE, deployment

from cab.adapters.cedar.context import context_of
from cab.adapters.cedar.engine import CedarPolicyEngine
from cab.adapters.cedar.entities import EVERYTHING, resource_entity, user_entity
from cab.adapters.cedar.schema import cedar_schema
from cab.domain.decisions import Confirm, Decision, Deny, Permit
from cab.domain.errors import Reason
from cab.domain.intents import TaskComparison
from cab.ports import PolicyRequest

WITHIN = 'context.task.comparison == "within"'
USER_TURN = 'context.trigger == "user_turn"'
FAILS = "context.time.epoch_s + 9223372036854775807 > 0"  # overflows: an evaluation error that no type check can see
BIG = "context.time.hour_utc >= 12"
ONE_DEAL = 'resource.identifier == "deal/0061"'
CRM = 'resource in CAB::Connection::"crm"'
OURS = 'principal.tenant == "acme"'


@dataclass(frozen=True)
class ModelRule:
    """One generated policy and what it means."""

    name: str
    permits: bool
    group: str | None
    action: str | None  # an action id, an effect, or None for any
    condition: str | None
    confirm: str | None

    @property
    def text(self) -> str:
        confirm = f'@confirm("{self.confirm}") ' if self.permits and self.confirm else ""
        principal = f'principal in CAB::Group::"{self.group}"' if self.group else "principal"
        action = f'action in [CAB::Action::"{self.action}"]' if self.action else "action"
        condition = f" when {{ {self.condition} }}" if self.condition else ""
        effect = "permit" if self.permits else "forbid"
        return f'@id("{self.name}") {confirm}{effect} ({principal}, {action}, resource){condition};'

    def matches_scope(self, request: PolicyRequest) -> bool:
        return (self.group is None or self.group in request.groups) and (
            self.action in (None, request.action, request.effect)
        )

    def fails(self, request: PolicyRequest) -> bool:
        return self.matches_scope(request) and self.condition == FAILS

    def satisfied(self, request: PolicyRequest) -> bool:
        holds = {
            None: True,
            WITHIN: request.task_comparison == "within",
            USER_TURN: request.trigger == "user_turn",
            BIG: request.now.hour >= 12,
            FAILS: False,
            ONE_DEAL: request.identifier == "deal/0061",
            CRM: request.connection == "crm",
            OURS: request.tenant == "acme",
        }
        return self.matches_scope(request) and holds[self.condition]


def expected(rules: list[ModelRule], request: PolicyRequest) -> Decision:
    failed = sorted(rule.name for rule in rules if rule.fails(request))
    if failed:
        return Deny(Reason.POLICY_ERROR, tuple(failed))
    forbids = sorted(rule.name for rule in rules if not rule.permits and rule.satisfied(request))
    permits = sorted((rule for rule in rules if rule.permits and rule.satisfied(request)), key=lambda rule: rule.name)
    if forbids or not permits:
        return Deny(Reason.POLICY_DENIED, tuple(forbids))
    names = tuple(rule.name for rule in permits)
    prompts = tuple(dict.fromkeys(rule.confirm for rule in permits if rule.confirm))
    return Confirm(prompts, names) if prompts else Permit(names)


def rule_sets() -> st.SearchStrategy[list[ModelRule]]:
    rule = st.builds(
        ModelRule,
        name=st.just(""),
        permits=st.booleans(),
        group=st.sampled_from([None, "sales", "ops"]),
        action=st.sampled_from([None, "crm.deal.update", "crm.deal.list", "read", "write"]),
        condition=st.sampled_from([None, None, WITHIN, USER_TURN, BIG, FAILS, ONE_DEAL, CRM, OURS]),
        confirm=st.sampled_from([None, None, "Sure?", "Really?"]),
    )
    return st.lists(rule, min_size=1, max_size=8).map(
        lambda rules: [replace(rule, name=f"r{number}") for number, rule in enumerate(rules)]
    )


def requests() -> st.SearchStrategy[PolicyRequest]:
    return st.builds(
        replace,
        st.sampled_from([UPDATE, LIST]),
        groups=st.sampled_from([(), ("sales",), ("ops",), ("sales", "ops"), ("strangers",)]),
        task_comparison=st.sampled_from([comparison.value for comparison in TaskComparison]),
        trigger=st.sampled_from(["user_turn", "schedule", "event"]),
        now=st.sampled_from([UPDATE.now, UPDATE.now.replace(hour=3)]),
        tenant=st.sampled_from(["acme", "globex"]),
        subject=st.sampled_from([UPDATE.subject, "subject-2-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"]),
        identifier=st.sampled_from(["deal/0061", "deal/1"]),
    )


@given(rules=rule_sets(), asked=st.lists(requests(), min_size=1, max_size=6))
@settings(max_examples=300, deadline=None)
def test_every_decision_is_the_one_the_rules_mean(rules: list[ModelRule], asked: list[PolicyRequest]) -> None:
    policy_engine = CedarPolicyEngine(deployment("\n".join(rule.text for rule in rules)))
    for request in (*asked, *asked):  # the second time from memory
        assert policy_engine.evaluate(request).decision == expected(rules, request)


@given(rules=rule_sets(), request=requests(), data=st.data())
@settings(max_examples=100, deadline=None)
def test_neither_order_nor_files_matter(rules: list[ModelRule], request: PolicyRequest, data: st.DataObject) -> None:
    together = CedarPolicyEngine(deployment("\n".join(rule.text for rule in rules)))
    shuffled = data.draw(st.permutations(rules))
    apart = CedarPolicyEngine(deployment(*(rule.text for rule in shuffled)))
    assert together.evaluate(request) == apart.evaluate(request)


@given(rules=rule_sets(), request=requests())
@settings(max_examples=100, deadline=None)
def test_a_forbid_more_never_opens_and_a_confirm_more_never_silences(
    rules: list[ModelRule], request: PolicyRequest
) -> None:
    def decision(*more: str) -> Decision:
        return (
            CedarPolicyEngine(deployment("\n".join([*(rule.text for rule in rules), *more]))).evaluate(request).decision
        )

    before = decision()
    assert isinstance(decision('@id("no") forbid (principal, action, resource);'), Deny)
    asked = decision('@id("ask") @confirm("Also?") permit (principal, action, resource);')
    assert not isinstance(asked, Permit)
    if isinstance(before, Deny) and (before.rules or before.reason is Reason.POLICY_ERROR):
        assert asked == before


@given(text=st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_text_that_is_no_policy_never_permits(text: str) -> None:
    from cab.adapters.configuration.problems import ConfigurationRefused

    try:
        policy_engine = CedarPolicyEngine(deployment(text))
    except ConfigurationRefused:
        return
    assert not isinstance(policy_engine.evaluate(UPDATE).decision, Permit)


def _entities(asked: PolicyRequest, resource: str) -> str:
    whole = (
        user_entity(asked.subject, asked.tenant, asked.groups, EVERYTHING),
        resource_entity(resource, asked.connection, "", asked.identifier, EVERYTHING.resource or frozenset()),
    )
    return orjson.dumps([entity for text in whole for entity in orjson.loads(text)]).decode()


@given(
    request=requests(),
    amount=st.none() | st.integers(0, 1000),
    age=st.none() | st.integers(0, 10**9),
    acr=st.none() | st.text(st.characters(codec="utf-8"), max_size=40),
    chain=st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_what_the_engine_sends_always_fits_the_schema_that_policies_were_checked_against(
    request: PolicyRequest, amount: int | None, age: int | None, acr: str | None, chain: list[str]
) -> None:
    known = deployment('@id("p") permit (principal, action, resource);')
    reads = dict.fromkeys(("agent", "chain", "parameters", "task", "trigger", "auth", "time"))
    schema = cedarpy.Schema.from_json_str(orjson.dumps(cedar_schema(known)).decode())
    parameters = (
        {} if request.action == LIST.action else {"stage": "open"} | ({} if amount is None else {"amount": amount})
    )
    asked = replace(
        request,
        parameters=parameters,
        auth_age_s=age,
        acr=acr,
        chain=tuple(chain),
        groups=tuple(group for group in request.groups if group != "strangers"),
    )
    resource = f"{asked.connection}/{asked.identifier}"
    result = cedarpy.is_authorized(
        {
            "principal": {"type": "CAB::User", "id": asked.subject},
            "action": {"type": "CAB::Action", "id": asked.action},
            "resource": {"type": "CAB::Resource", "id": resource},
            "context": context_of(asked, reads),
        },
        "permit (principal, action, resource);",
        _entities(asked, resource),
        schema,
    )
    assert (result.allowed, result.diagnostics.errors) == (True, [])
