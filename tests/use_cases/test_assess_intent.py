"""From intent to decision: who can say no, in which order, and that nothing ever says yes alone (security.md X3, X5)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fuzz import fuzz
from tests.support.world import WAREHOUSE, deployment

from cab.domain.configured.actions import Effect
from cab.domain.decisions import Confirm, Decision, Deny, Permit, StepUp
from cab.domain.errors import BrokerError, Reason
from cab.domain.intents import DeclaredIntent, TaskComparison
from cab.domain.tasks import Task
from cab.domain.text.patterns import covered_by_any
from cab.ports import PolicyRequest, PolicyVerdict
from cab.protocol.tokens.assertions import Assertion
from cab.use_cases.exchange.decide import Case, Judgement, decide_again, policy_request, raise_refusal, read_intent
from cab.use_cases.exchange.request import Asked
from cab_ops.explain.exchange import describe

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DEPLOYMENT = deployment()
WAREHOUSE_CONNECTION = DEPLOYMENT.connection_by_id["warehouse"]

ASSERTION = Assertion(
    issuer="edge",
    subject="subject",
    tenant="acme",
    idp_issuer="idp",
    idp_subject_hash="hash",
    groups=("staff",),
    front_end="web",
    may_act="assistant",
    txn="t",
    jti="j",
    issued_at=NOW,
    expires_at=NOW + timedelta(seconds=300),
    chain=("earlier",),
    auth_time=int(NOW.timestamp()) - 90,
    acr="gold",
    amr=("pwd",),
)
ACTIONS = {
    Effect.READ: ("warehouse.query.run", "query/q1"),
    Effect.WRITE: ("warehouse.table.write", "table/t1"),
    Effect.DESTRUCTIVE: ("warehouse.table.drop", "table/t1"),
}
DECISIONS: list[Decision] = [
    Permit(("p",)),
    Confirm(("Sure?",), ("c",)),
    StepUp(("s",), max_age_s=60),
    Deny(Reason.POLICY_DENIED, ("f",)),
    Deny(Reason.POLICY_ERROR, ("e",)),
]


class Policies:
    """A policy engine that says what the test says, and remembers what it was asked."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        self.asked: list[PolicyRequest] = []

    def evaluate(self, request: PolicyRequest) -> PolicyVerdict:
        self.asked.append(request)
        return PolicyVerdict(self.decision)


def task(*actions: str, identifiers: tuple[str, ...] = ("*",)) -> Task:
    return Task(type="cab_task", task_id="t-1", actions=actions or ("*",), identifiers=identifiers)


def assessed(
    policies: Policies,
    *,
    effect: Effect = Effect.READ,
    bounds: Task | None = None,
    agent: str = "assistant",
    task_id: str | None = None,
) -> Judgement:
    action, identifier = ACTIONS[effect]
    declared = DeclaredIntent(
        type="cab_action", actions=(action,), locations=(WAREHOUSE,), identifier=identifier, task_id=task_id
    )
    assertion = replace(ASSERTION, task=bounds)
    case = Case(DEPLOYMENT.agent_by_id[agent], assertion, Asked(), NOW)
    return decide_again(case, WAREHOUSE_CONNECTION, declared, DEPLOYMENT, policies)


@pytest.mark.parametrize("effect", Effect)
@pytest.mark.parametrize("decision", DECISIONS, ids=describe)
def test_within_the_task_policy_decides(effect: Effect, decision: Decision) -> None:
    assert assessed(Policies(decision), effect=effect, bounds=task()).decision == decision


@pytest.mark.parametrize("decision", DECISIONS, ids=describe)
@pytest.mark.parametrize("bounds", [task("warehouse.report.*"), task(identifiers=("report/*",))])
def test_outside_the_task_policy_may_ask_the_user_or_for_a_login_and_never_permit(
    bounds: Task, decision: Decision
) -> None:
    result = assessed(Policies(decision), bounds=bounds).decision
    if isinstance(decision, Confirm | StepUp) or (
        isinstance(decision, Deny) and decision.reason is Reason.POLICY_ERROR
    ):
        assert result == decision
    else:
        assert result == Deny(Reason.INTENT_OUTSIDE_TASK, decision.rules)


@pytest.mark.parametrize("decision", DECISIONS, ids=describe)
@pytest.mark.parametrize("effect", [Effect.WRITE, Effect.DESTRUCTIVE])
def test_without_a_task_no_change_passes_and_policy_is_not_even_asked(effect: Effect, decision: Decision) -> None:
    policies = Policies(decision)
    assert assessed(policies, effect=effect).decision == Deny(Reason.INTENT_OUTSIDE_TASK)
    assert policies.asked == []


def test_without_a_task_a_read_is_policys_to_decide_unless_the_agent_needs_one() -> None:
    assert assessed(Policies(Permit())).decision == Permit()
    assert assessed(Policies(Permit()), agent="careful").decision == Deny(Reason.INTENT_OUTSIDE_TASK)


@pytest.mark.parametrize("bounds", [None, task()])
def test_a_task_id_of_another_task_is_refused_before_anything_else(bounds: Task | None) -> None:
    policies = Policies(Permit())
    result = assessed(policies, bounds=bounds, task_id="t-2")
    assert (result.decision, result.comparison) == (Deny(Reason.INTENT_OUTSIDE_TASK), TaskComparison.OTHER_TASK)
    assert policies.asked == []


def test_what_the_agent_may_never_do_is_refused_before_policy_is_asked() -> None:
    policies = Policies(Permit())
    result = assessed(policies, effect=Effect.WRITE, bounds=task(), agent="reader")
    assert result.decision == Deny(Reason.ACTION_NOT_ALLOWED_FOR_AGENT)
    assert policies.asked == []


def test_what_policy_sees_is_exactly_this() -> None:
    policies = Policies(Permit())
    assessed(policies, effect=Effect.WRITE, bounds=task())
    assert policies.asked == [
        PolicyRequest(
            tenant="acme",
            subject="subject",
            groups=("staff",),
            action="warehouse.table.write",
            effect="write",
            connection="warehouse",
            identifier="table/t1",
            parameters={"mode": "append"},
            agent="assistant",
            trust_zone="internal",
            mode="token",
            chain=("earlier",),
            task_comparison="within",
            task_present=True,
            trigger="user_turn",
            auth_age_s=90,
            acr="gold",
            amr=("pwd",),
            now=NOW,
        )
    ]


def test_nothing_unknown_is_assumed_to_be_good() -> None:
    declared = DeclaredIntent(
        type="cab_action", actions=("warehouse.query.run",), locations=(WAREHOUSE,), identifier="query/q1"
    )
    assertion = replace(ASSERTION, auth_time=None, acr=None, amr=())
    intent = read_intent(declared, WAREHOUSE_CONNECTION, assertion)
    request = policy_request(
        intent, TaskComparison.NO_TASK, Case(DEPLOYMENT.agent_by_id["assistant"], assertion, Asked(), NOW)
    )
    assert (request.trigger, request.task_present, request.auth_age_s, request.acr) == ("unknown", False, None, None)


def test_the_agents_own_words_are_not_among_what_policy_sees() -> None:
    assert "reason" not in PolicyRequest.__dataclass_fields__


@pytest.mark.parametrize(
    ("decision", "reason"),
    [
        (Deny(Reason.POLICY_DENIED), Reason.POLICY_DENIED),
        (Deny(Reason.POLICY_ERROR), Reason.POLICY_ERROR),
        (StepUp(max_age_s=60, acr_values="gold"), Reason.STEP_UP_REQUIRED),
    ],
)
def test_a_decision_that_ends_the_request_is_raised(decision: Decision, reason: Reason) -> None:
    with pytest.raises(BrokerError) as refused:
        raise_refusal(decision)
    assert refused.value.reason is reason
    raise_refusal(Permit())
    raise_refusal(Confirm(("Sure?",)))


patterns = st.sampled_from(["*", "warehouse.*", "warehouse.table.*", "warehouse.query.run", "crm.*", "x"])
places = st.sampled_from(["*", "table/*", "table/t1", "query/*", "query/q", "x"])
bounds_of = st.none() | st.builds(
    lambda actions, identifiers: Task(
        type="cab_task", task_id="t-1", actions=tuple(actions), identifiers=tuple(identifiers)
    ),
    st.lists(patterns, min_size=1, max_size=3, unique=True),
    st.lists(places, min_size=1, max_size=3, unique=True),
)


@given(
    bounds=bounds_of,
    effect=st.sampled_from(list(Effect)),
    agent=st.sampled_from(["assistant", "reader", "careful", "researcher", "caller"]),
    decision=st.sampled_from(DECISIONS),
    task_id=st.sampled_from([None, "t-1", "t-2"]),
)
@fuzz(400)
def test_a_permit_always_means_that_everybody_agreed(
    bounds: Task | None, effect: Effect, agent: str, decision: Decision, task_id: str | None
) -> None:
    """Issued is a subset of: what the user asked for, what the agent may ever do, and what policy permits."""
    policies = Policies(decision)
    result = assessed(policies, effect=effect, bounds=bounds, agent=agent, task_id=task_id)
    entry: Any = DEPLOYMENT.agent_by_id[agent]
    action, identifier = ACTIONS[effect]
    if isinstance(result.decision, Permit | Confirm | StepUp):
        assert result.decision == decision
        assert covered_by_any(entry.actions, action)
        assert effect in entry.effects
        assert task_id in (None, bounds.task_id if bounds else None)
    if isinstance(result.decision, Permit):
        if bounds is None:
            assert effect is Effect.READ
            assert entry.task == "optional"
        else:
            assert covered_by_any(bounds.actions, action)
            assert covered_by_any(bounds.identifiers, identifier)
