"""Deciding, as one sequence of checks over one case. Pure: no I/O, no clock. The exchange and `cab explain` run the same one.

The order is the rule: what cannot be read is refused first, then what the user did not ask for, then what this agent may not
do, and only then is policy asked. `Judgement` keeps what each check found and how far the sequence came; texts about it are
made by explain alone.
"""

from __future__ import annotations

from dataclasses import field
from datetime import datetime
from enum import StrEnum
from typing import Literal

from cab.domain.configured.clients import Agent
from cab.domain.configured.connections import Connection
from cab.domain.configured.deployment import Deployment
from cab.domain.decisions import Confirm, Decision, Deny, StepUp
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.domain.intents import (
    DeclaredIntent,
    Intent,
    TaskComparison,
    allowed_without_confirmation,
    check_against_catalog,
    compare_with_task,
    malformed,
)
from cab.domain.text.patterns import covered_by_any
from cab.ports import PolicyEngine, PolicyRequest
from cab.protocol.tokens.assertions import Assertion
from cab.use_cases.exchange.request import (
    Asked,
    Bounds,
    CallAsked,
    check_callable,
    check_may_act,
    check_mode,
    check_tenant,
    check_zones,
    declared_intent,
    find_target,
    scopes_for,
)
from cab.values import immutable, mutable


class Stage(StrEnum):
    """Every step of an exchange, in order. `decide` goes from TENANT to POLICY; the others need tokens or stores."""

    CLIENT = "client authentication"
    ASSERTION = "assertion"
    TENANT = "tenant"
    MAY_ACT = "may_act"
    TARGET = "target"
    MODE = "agent mode"
    INTENT = "intent"
    CATALOG = "action catalog"
    SCOPES = "scopes"
    TASK = "task bounds"
    ALLOW_LIST = "agent allow-list"
    POLICY = "policy"
    RATE_LIMIT = "rate limit"
    CONFIRMATION = "confirmation"
    USES = "task uses"
    GRANT = "grant"


SENTENCES = {
    Reason.INTENT_OUTSIDE_TASK: "The intent is not within what the user asked for.",
    Reason.ACTION_NOT_ALLOWED_FOR_AGENT: "The action is not on this agent's list.",
    Reason.POLICY_DENIED: "Policy does not allow this.",
    Reason.POLICY_ERROR: "Policy could not be evaluated, so this is refused.",
}


# Without a task, or under another task's name, there is nothing the user said that a question could extend.
NEVER_CONFIRMED = frozenset({TaskComparison.NO_TASK, TaskComparison.OTHER_TASK})


@immutable
class Case:
    """What is decided on: who asks, for whom, for what, when. `bounds` is what nothing may exceed; with a `call` the broker
    makes the call itself, and the agent gets its result.
    """

    agent: Agent
    assertion: Assertion
    asked: Asked
    at: datetime
    bounds: Bounds | None = None
    call: CallAsked | None = None

    @property
    def mode(self) -> Literal["token", "call"]:
        return "token" if self.call is None else "call"


@mutable
class Judgement:
    """How far the checks came and what each found. With a `refusal` the stage that `trail` ends with has raised it.

    A `decision` is there when the intent could be read, and is never a permit unless every check passed.
    """

    case: Case
    trail: list[Stage] = field(default_factory=list)
    connection: Connection | None = None
    declared: DeclaredIntent | None = None
    intent: Intent | None = None
    scopes: tuple[str, ...] = ()
    comparison: TaskComparison | None = None
    verdict: Decision | None = None  # what policy alone says
    decision: Decision | None = None
    shadow: Decision | None = None  # what the candidate policies say, to be held against `verdict`
    shadow_version: str | None = None
    refusal: BrokerError | None = None
    failed: set[Stage] = field(default_factory=set)  # checks that did not pass without ending the sequence


@immutable
class Decided:
    """A judgement that came to a decision, with what that took."""

    judgement: Judgement
    connection: Connection
    declared: DeclaredIntent
    intent: Intent
    scopes: tuple[str, ...]
    decision: Decision


def decide(case: Case, deployment: Deployment, policies: PolicyEngine) -> Judgement:
    """All checks of a new request."""
    found = Judgement(case)
    agent, assertion, asked = case.agent, case.assertion, case.asked
    try:
        found.trail.append(Stage.TENANT)
        check_tenant(assertion, agent)
        found.trail.append(Stage.MAY_ACT)
        check_may_act(assertion, agent)
        found.trail.append(Stage.TARGET)
        connection = found.connection = find_target(asked, assertion, deployment, bounds=case.bounds)
        found.trail.append(Stage.MODE)
        check_mode(agent, calls=case.call is not None)
        check_zones(agent, connection, deployment, calls=case.call is not None)
        found.trail.append(Stage.INTENT)
        declared = found.declared = declared_intent(asked, agent, connection, bounds=case.bounds)
        _decide_intent(found, connection, declared, policies)
    except BrokerError as refusal:
        found.refusal = refusal
    return found


def decide_again(
    case: Case, connection: Connection, declared: DeclaredIntent, deployment: Deployment, policies: PolicyEngine
) -> Judgement:
    """The checks from the agent's mode on, for a request that was read and bound before: rules may have changed since."""
    found = Judgement(case, connection=connection, declared=declared)
    try:
        found.trail.append(Stage.MODE)
        check_mode(case.agent, calls=case.call is not None)
        check_zones(case.agent, connection, deployment, calls=case.call is not None)
        _decide_intent(found, connection, declared, policies)
    except BrokerError as refusal:
        found.refusal = refusal
    return found


def _decide_intent(found: Judgement, connection: Connection, declared: DeclaredIntent, policies: PolicyEngine) -> None:
    case = found.case
    found.trail.append(Stage.CATALOG)
    intent = read_intent(declared, connection, case.assertion)
    found.intent = intent
    if case.call is not None:
        check_callable(intent.action, case.call)
    found.trail.append(Stage.SCOPES)
    found.scopes = scopes_for(case.asked.scope, intent.action, bounds=case.bounds)
    weigh(found, intent, policies)


def weigh(found: Judgement, intent: Intent, policies: PolicyEngine) -> None:
    """Decide on an intent that could be read: task, allow-list, policy. `found.decision` is set afterwards."""
    case = found.case
    agent = case.agent
    comparison = found.comparison = compare_with_task(intent, case.assertion.task)
    effect = intent.action.effect
    found.trail.append(Stage.TASK)
    within = allowed_without_confirmation(comparison, effect, task_required=agent.task == "required")
    if not within:
        found.failed.add(Stage.TASK)
        if comparison in NEVER_CONFIRMED:
            found.decision = Deny(Reason.INTENT_OUTSIDE_TASK)
            return
    found.trail.append(Stage.ALLOW_LIST)
    if not (covered_by_any(agent.actions, intent.action.id) and effect in agent.effects):
        found.failed.add(Stage.ALLOW_LIST)
        found.decision = Deny(Reason.ACTION_NOT_ALLOWED_FOR_AGENT if within else Reason.INTENT_OUTSIDE_TASK)
        return
    found.trail.append(Stage.POLICY)
    verdict = policies.evaluate(policy_request(intent, comparison, case))
    decision = found.verdict = verdict.decision
    found.shadow, found.shadow_version = verdict.shadow, verdict.shadow_version
    if isinstance(decision, Deny):
        found.failed.add(Stage.POLICY)
    if not within and not isinstance(decision, Confirm | StepUp):
        # Policy may turn "outside the task" into a question to the user, never into a permit.
        broken = isinstance(decision, Deny) and decision.reason is Reason.POLICY_ERROR
        decision = Deny(Reason.POLICY_ERROR if broken else Reason.INTENT_OUTSIDE_TASK, decision.rules)
    found.decision = decision


def decided(found: Judgement) -> Decided:
    """What the rest of an exchange goes on with. Raises: BrokerError when a check could not read the request.

    A decision to refuse is still to be counted, and raised by `raise_refusal` after that.
    """
    if found.refusal is not None:
        raise found.refusal
    if found.connection is None or found.declared is None or found.intent is None or found.decision is None:
        raise ValueError("the checks were not run to their end")
    return Decided(found, found.connection, found.declared, found.intent, found.scopes, found.decision)


def read_intent(declared: DeclaredIntent, connection: Connection, assertion: Assertion) -> Intent:
    """The intent as the connection's catalog understands it. Raises: BrokerError INTENT_MALFORMED, LOCATION_MISMATCH."""
    action = connection.action_by_id.get(declared.actions[0])
    if action is None:
        raise malformed("actions", "is not in the catalog of this target")
    return check_against_catalog(
        declared, action, connection=connection.id, resource=connection.resource, task=assertion.task
    )


def policy_request(intent: Intent, comparison: TaskComparison, case: Case) -> PolicyRequest:
    assertion, agent, now = case.assertion, case.agent, case.at
    task = assertion.task
    return PolicyRequest(
        tenant=assertion.tenant,
        subject=assertion.subject,
        groups=assertion.groups,
        action=intent.action.id,
        effect=intent.action.effect.value,
        connection=intent.connection,
        identifier=intent.identifier,
        parameters=intent.parameters,
        agent=agent.client_id,
        trust_zone=agent.trust_zone,
        mode=case.mode,
        chain=assertion.chain,
        task_comparison=comparison.value,
        task_present=task is not None,
        # Without a task nothing says that a person is present: never assume it.
        trigger=task.trigger if task else "unknown",
        auth_age_s=None if assertion.auth_time is None else max(0, int(now.timestamp()) - assertion.auth_time),
        acr=assertion.acr,
        amr=assertion.amr,
        now=now,
        groups_unknown=assertion.groups_unknown is not None,
    )


def raise_refusal(decision: Decision) -> None:
    """Turn a decision that ends the request into its refusal; a permit or a confirmation passes."""
    if isinstance(decision, Deny):
        raise BrokerError(decision.reason, SENTENCES.get(decision.reason, ""))
    if isinstance(decision, StepUp):
        raise BrokerError(
            Reason.STEP_UP_REQUIRED,
            "The user must log in again for this.",
            remedy=Remedy(acr_values=decision.acr_values, max_age_s=decision.max_age_s),
        )
