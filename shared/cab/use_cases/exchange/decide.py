"""From a declared intent to a decision: catalog, task bounds, allow-list, policy. Pure: no I/O, no clock of its own.

The same path serves the exchange and `cab explain`; every step leaves a `Check` with its inputs and result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cab.domain.configured.clients import Agent
from cab.domain.configured.connections import Connection
from cab.domain.decisions import Check, Confirm, Decision, Deny, Permit, StepUp
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

SENTENCES = {
    Reason.INTENT_OUTSIDE_TASK: "The intent is not within what the user asked for.",
    Reason.ACTION_NOT_ALLOWED_FOR_AGENT: "The action is not on this agent's list.",
    Reason.POLICY_DENIED: "Policy does not allow this.",
    Reason.POLICY_ERROR: "Policy could not be evaluated, so this is refused.",
}


# Without a task, or under another task's name, there is nothing the user said that a question could extend.
NEVER_CONFIRMED = frozenset({TaskComparison.NO_TASK, TaskComparison.OTHER_TASK})


@dataclass(frozen=True, slots=True)
class Assessment:
    """What was decided about one intent, and how. `decision` is never a permit unless every check passed."""

    intent: Intent
    comparison: TaskComparison
    decision: Decision
    shadow: Decision | None
    checks: tuple[Check, ...]


@dataclass
class _Path:
    checks: list[Check] = field(default_factory=list)

    def note(self, name: str, passed: bool, detail: str) -> bool:  # noqa: FBT001
        self.checks.append(Check(name, passed, detail))
        return passed


def read_intent(declared: DeclaredIntent, connection: Connection, assertion: Assertion) -> Intent:
    """The intent as the connection's catalog understands it. Raises: BrokerError INTENT_MALFORMED, LOCATION_MISMATCH."""
    action = connection.action_by_id.get(declared.actions[0])
    if action is None:
        raise malformed("actions", "is not in the catalog of this target")
    return check_against_catalog(
        declared, action, connection=connection.id, resource=connection.resource, task=assertion.task
    )


def assess(intent: Intent, assertion: Assertion, agent: Agent, policies: PolicyEngine, *, now: datetime) -> Assessment:
    """Decide. Order matters: what the user did not ask for is refused before anybody looks at what policy would allow."""
    path = _Path()
    comparison = compare_with_task(intent, assertion.task)
    effect = intent.action.effect
    within = allowed_without_confirmation(comparison, effect, task_required=agent.task == "required")
    path.note("task bounds", within, f"the intent is {comparison.value} the task, effect {effect.value}")
    if not within and comparison in NEVER_CONFIRMED:
        return _denied(intent, comparison, Reason.INTENT_OUTSIDE_TASK, path)
    on_list = covered_by_any(agent.actions, intent.action.id) and effect in agent.effects
    if not path.note("agent allow-list", on_list, f"{agent.client_id} may use {', '.join(agent.actions) or 'nothing'}"):
        reason = Reason.ACTION_NOT_ALLOWED_FOR_AGENT if within else Reason.INTENT_OUTSIDE_TASK
        return _denied(intent, comparison, reason, path)
    verdict = policies.evaluate(policy_request(intent, comparison, assertion, agent, now=now))
    decision = verdict.decision
    path.note("policy", not isinstance(decision, Deny), describe(decision))
    if not within and not isinstance(decision, Confirm | StepUp):
        # Policy may turn "outside the task" into a question to the user, never into a permit.
        rules = decision.rules
        decision = Deny(
            Reason.POLICY_ERROR
            if isinstance(decision, Deny) and decision.reason is Reason.POLICY_ERROR
            else Reason.INTENT_OUTSIDE_TASK,
            rules,
        )
    return Assessment(intent, comparison, decision, verdict.shadow, tuple(path.checks))


def policy_request(
    intent: Intent, comparison: TaskComparison, assertion: Assertion, agent: Agent, *, now: datetime
) -> PolicyRequest:
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
        mode=agent.mode,
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


def describe(decision: Decision) -> str:
    rules = ", ".join(decision.rules) or "no rule"
    match decision:
        case Permit():
            return f"permit by {rules}"
        case Deny(reason=reason):
            return f"deny ({reason.value}) by {rules}"
        case Confirm():
            return f"confirm by {rules}"
        case StepUp():
            return f"a fresher or stronger login by {rules}"


def _denied(intent: Intent, comparison: TaskComparison, reason: Reason, path: _Path) -> Assessment:
    return Assessment(intent, comparison, Deny(reason), None, tuple(path.checks))


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
