"""Why an exchange of the past was answered as it was: its audit event, judged again by the same functions.

An event keeps what was decided on, not everything that was sent. What is not recorded is named in the notes, never guessed:
the comparison with the task is taken over from the record, since the bounds themselves are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from cab.domain.audit import AuditEvent, EventType
from cab.domain.configured.actions import Action
from cab.domain.configured.clients import Agent
from cab.domain.configured.connections import Connection
from cab.domain.configured.deployment import Deployment
from cab.domain.decisions import StepUp
from cab.domain.errors import BrokerError, Reason
from cab.domain.groups import GroupsUnknown
from cab.domain.intents import Intent, TaskComparison
from cab.domain.tasks import Task
from cab.domain.text.token_like import MARK
from cab.encoding import strict_json
from cab.encoding.records import as_json
from cab.ports import PolicyEngine
from cab.protocol.tokens.assertions import Assertion, group_claims
from cab.use_cases.exchange.decide import Case, Judgement, weigh
from cab.use_cases.exchange.request import Asked, CallAsked
from cab_ops.explain.exchange import About, Explanation, Result, Stage, Step, concluded, told

REDACTED: Final = "[redacted]"

# Where a refusal with this reason is decided. The rest happens around the decision: outages, bugs, deferred polling.
STAGE_OF_REASON: Final[Mapping[Reason, Stage]] = {
    Reason.CLIENT_AUTHENTICATION_FAILED: Stage.CLIENT,
    Reason.CLIENT_ASSERTION_REPLAYED: Stage.CLIENT,
    Reason.SUBJECT_TOKEN_INVALID: Stage.ASSERTION,
    Reason.SUBJECT_TOKEN_EXPIRED: Stage.ASSERTION,
    Reason.ASSERTION_INVALID: Stage.ASSERTION,
    Reason.MAY_ACT_VIOLATED: Stage.MAY_ACT,
    Reason.TARGET_MISSING: Stage.TARGET,
    Reason.TARGET_REPEATED: Stage.TARGET,
    Reason.TARGET_UNKNOWN: Stage.TARGET,
    Reason.TARGET_NOT_ALLOWED: Stage.TARGET,
    Reason.GRANT_TYPE_NOT_ALLOWED: Stage.MODE,
    Reason.INTENT_MISSING: Stage.INTENT,
    Reason.INTENT_MALFORMED: Stage.CATALOG,
    Reason.LOCATION_MISMATCH: Stage.CATALOG,
    Reason.SCOPE_NOT_GRANTABLE: Stage.SCOPES,
    Reason.RATE_LIMITED: Stage.RATE_LIMIT,
    Reason.CONFIRMATION_REFUSED: Stage.CONFIRMATION,
    Reason.TASK_EXHAUSTED: Stage.USES,
    Reason.GRANT_MISSING: Stage.GRANT,
    Reason.GRANT_NEEDS_REAUTH: Stage.GRANT,
    Reason.GRANT_REVOKED: Stage.GRANT,
}
_BEFORE_DECISION: Final = tuple(Stage)[: tuple(Stage).index(Stage.TASK)]
_GONE: Final = {
    Stage.CLIENT: Reason.CLIENT_AUTHENTICATION_FAILED,
    Stage.TARGET: Reason.TARGET_UNKNOWN,
    Stage.CATALOG: Reason.INTENT_MALFORMED,
}
_ELSEWHERE: Final = "elsewhere"  # a task id or pattern that no real one is compared with


class NotExplainable(Exception):
    """The event is no decision on an exchange that this version can read. The message says what it is."""


@dataclass(frozen=True, slots=True)
class ExplainedEvent:
    """`explanation` is today's judgement of what was recorded; `agrees` says whether it is the recorded decision."""

    explanation: Explanation
    agrees: bool | None  # None where the record does not tell: it ends before a decision, or that turns on the login
    notes: tuple[str, ...]


def explain_event(event: AuditEvent, deployment: Deployment, policies: PolicyEngine) -> ExplainedEvent:
    """Raises: NotExplainable for events of other types."""
    if event.why is not None and event.decision is None:
        reason = Reason(event.reason_code) if event.reason_code in set(Reason) else None
        return ExplainedEvent(_never_decided(event, reason), None, _of_refused_credential(event))
    if event.event_type is not EventType.EXCHANGE_DECIDED:
        raise NotExplainable(f"the event is of type {event.event_type.value}, not a decision on an exchange")
    if event.token is not None and event.token.kind == "assertion":
        raise NotExplainable("the event is a delegation to another agent: there was no intent to decide on")
    reason = Reason(event.reason_code) if event.reason_code in set(Reason) else None
    if event.decision is None:
        explanation = _never_decided(event, reason)
        return ExplainedEvent(explanation, None, ("the exchange was refused before anything was decided",))
    notes = list(_notes(event, deployment))
    explanation = _judged_again(event, deployment, policies)
    explanation = _with_recorded_refusal(explanation, event, reason)
    return ExplainedEvent(explanation, _agrees(explanation, event), tuple(notes))


def _judged_again(event: AuditEvent, deployment: Deployment, policies: PolicyEngine) -> Explanation:
    facts = _Recorded(event)
    steps: list[Step] = []
    agent = deployment.agent_by_id.get(facts.agent)
    if agent is None:
        return _gone(steps, Stage.CLIENT, "The agent is not registered any more.", {"agent": facts.agent})
    about = About("agent", agent.client_id)
    steps.append(Step(Stage.CLIENT, Result.RECORDED, "authenticated", {"agent": facts.agent}, about))
    who = {"sub": facts.subject, **group_claims(facts.groups, facts.groups_unknown), "idp": facts.idp_issuer}
    steps.append(Step(Stage.ASSERTION, Result.RECORDED, "verified", who))
    steps.append(Step(Stage.TENANT, Result.RECORDED, "of one tenant", {"tenant": event.tenant}))
    steps.append(Step(Stage.MAY_ACT, Result.RECORDED, "named this agent", {"may_act": facts.agent}))
    connection = deployment.connection_by_id.get(facts.connection)
    where = {"connection": facts.connection}
    if connection is None:
        return _gone(steps, Stage.TARGET, "The connection is not configured any more.", where)
    steps.append(Step(Stage.TARGET, Result.RECORDED, "registered", where, About("connection", connection.id)))
    is_call = event.tool is not None and event.tool.mode == "call"
    allowed = "allowed to have the broker call" if is_call else "allowed to hold tokens"
    steps.append(Step(Stage.MODE, Result.RECORDED, allowed))
    inputs = {"action": facts.action, "identifier": facts.identifier, "parameters": facts.parameters}
    steps.append(Step(Stage.INTENT, Result.RECORDED, "declared", inputs))
    action = connection.action_by_id.get(facts.action)
    if action is None:
        return _gone(steps, Stage.CATALOG, "The action is not in the catalog any more.", {})
    fitted = f"fitted the catalog entry, effect {action.effect.value}"
    steps.append(Step(Stage.CATALOG, Result.RECORDED, fitted, about=About("action", facts.action)))
    requested = event.scopes.requested if event.scopes else []
    steps.append(Step(Stage.SCOPES, Result.RECORDED, "grantable", {"requested": requested}))
    return told(steps, _weighed(event, facts, agent, connection, action, policies), deployment)


def _weighed(
    event: AuditEvent,
    facts: _Recorded,
    agent: Agent,
    connection: Connection,
    action: Action,
    policies: PolicyEngine,
) -> Judgement:
    requested = event.scopes.requested if event.scopes else []
    intent = _intent(facts, action, connection)
    called = event.call if event.tool is not None and event.tool.mode == "call" else None
    call = None if called is None else CallAsked(called.id or "", (), is_chosen=False)
    case = Case(agent, facts.assertion(intent, agent), Asked(), event.occurred_at, call=call)
    scopes = tuple(scope for scope in action.scopes if not requested or scope in requested)
    judgement = Judgement(case, connection=connection, intent=intent, scopes=scopes)
    weigh(judgement, intent, policies)
    return judgement


def judge_again(event: AuditEvent, deployment: Deployment, policies: PolicyEngine) -> Judgement | Reason:
    """What this configuration decides on what a decided event records; the reason where it knows agent, target or action no more."""
    facts = _Recorded(event)
    agent = deployment.agent_by_id.get(facts.agent)
    if agent is None:
        return _GONE[Stage.CLIENT]
    connection = deployment.connection_by_id.get(facts.connection)
    if connection is None:
        return _GONE[Stage.TARGET]
    action = connection.action_by_id.get(facts.action)
    if action is None:
        return _GONE[Stage.CATALOG]
    return _weighed(event, facts, agent, connection, action, policies)


def is_recorded_whole(event: AuditEvent) -> bool:
    """Whether every parameter that was decided on is in the record, and none redacted or cut."""
    return all(_is_recorded(value) for value in _Recorded(event).parameters.values())


def _gone(steps: list[Step], stage: Stage, sentence: str, inputs: dict[str, Any]) -> Explanation:
    """What the exchange was about is not in today's configuration: it cannot be judged again."""
    return concluded([*steps, Step(stage, Result.FAILED, sentence, inputs)], BrokerError(_GONE[stage], sentence))


def _intent(facts: _Recorded, action: Action, connection: Connection) -> Intent:
    return Intent(
        action=action,
        connection=connection.id,
        location=connection.resource,
        identifier=facts.identifier,
        parameters={
            name: value if _is_recorded(value) else REDACTED
            for name, value in facts.parameters.items()
            # The stand-in of a redacted value is text: where rules expect another type it would be a policy error.
            if _is_recorded(value) or (name in action.parameters and action.parameters[name].type in ("string", "text"))
        },
        task_id=facts.task_id,
        reason=facts.reason,
    )


def _is_recorded(value: object) -> bool:
    """Not what stands for a redacted value, nor for one too long to be kept."""
    return value != REDACTED and not isinstance(value, dict)


class _Recorded:
    """What the event says, with the empty value where it says nothing."""

    def __init__(self, event: AuditEvent) -> None:
        actor, subject, tool, intent, task = event.actor, event.subject, event.tool, event.intent, event.task
        self.tenant = event.tenant or ""
        self.txn = event.txn or ""
        self.at = event.occurred_at
        self.agent = (actor and actor.agent_id) or ""
        # Until schema version 3 the agent itself stood first.
        self.chain = tuple(actor.chain if event.schema_version >= 3 else actor.chain[1:]) if actor else ()
        self.login = event.login
        self.front_end = (actor and actor.client_id) or ""
        self.subject = (subject and subject.key) or ""
        self.groups = tuple(subject.groups) if subject else ()
        self.idp_issuer = (subject and subject.idp_issuer) or ""
        self.connection = (tool and tool.connection) or ""
        self.action = (tool and tool.action) or ""
        self.identifier = (intent and intent.identifier) or ""
        self.task_id = intent.task_id if intent else None
        self.trigger = intent.trigger if intent else None
        self.reason = intent.reason if intent else None
        try:
            self.groups_unknown = GroupsUnknown(subject.groups_unknown) if subject and subject.groups_unknown else None
            self.comparison = TaskComparison(task.comparison) if task and task.comparison else TaskComparison.NO_TASK
            self.parameters = strict_json.load_object((intent and intent.parameters) or "{}")
        except ValueError as error:
            raise NotExplainable("the event says what this version does not know") from error

    def assertion(self, intent: Intent, agent: Agent) -> Assertion:
        return Assertion(
            issuer="",
            subject=self.subject,
            tenant=self.tenant,
            idp_issuer=self.idp_issuer,
            idp_subject_hash="",
            groups=self.groups,
            groups_unknown=self.groups_unknown,
            front_end=self.front_end,
            may_act=agent.client_id,
            txn=self.txn,
            jti="",
            issued_at=self.at,
            expires_at=self.at + timedelta(seconds=1),
            chain=self.chain,
            task=self._task(intent),
            auth_time=int(self.login.auth_time.timestamp()) if self.login and self.login.auth_time else None,
            acr=self.login.acr if self.login else None,
        )

    def _task(self, intent: Intent) -> Task | None:
        """A task with which the intent compares as recorded. Nothing but the comparison and the trigger is ever looked at."""
        if self.trigger is None or self.comparison is TaskComparison.NO_TASK:
            return None
        outside = self.comparison is TaskComparison.ACTION_OUTSIDE
        elsewhere = self.comparison is TaskComparison.IDENTIFIER_OUTSIDE
        return Task.model_validate(
            {
                "type": "cab_task",
                "task_id": _ELSEWHERE if self.comparison is TaskComparison.OTHER_TASK else intent.task_id,
                "trigger": self.trigger,
                "actions": [_ELSEWHERE if outside else intent.action.id],
                "identifiers": [_ELSEWHERE if elsewhere else intent.identifier],
            }
        )


def _never_decided(event: AuditEvent, reason: Reason | None) -> Explanation:
    """The event stops before a decision: what it says of the way there, and nothing else."""
    failed = STAGE_OF_REASON.get(reason) if reason else None
    steps: list[Step] = []
    for stage in _BEFORE_DECISION:
        if failed is None or stage is failed:
            break
        steps.append(Step(stage, Result.RECORDED, "passed: a later step was refused"))
    if failed is not None and reason is not None:
        facts = _Recorded(event)
        inputs = {
            "agent": facts.agent,
            "subject": facts.subject,
            "connection": facts.connection,
            "action": facts.action,
        }
        because = f"recorded: {reason.value}" + (f": {event.why}" if event.why else "")
        steps.append(Step(failed, Result.FAILED, because, {k: v for k, v in inputs.items() if v}))
    return concluded(steps, BrokerError(reason) if reason else None)


def _of_refused_credential(event: AuditEvent) -> tuple[str, ...]:
    notes = [f"refused before anything was decided, because: {event.why}"]
    if event.unverified is not None:
        claimed = as_json(event.unverified)
        notes.append("the credential claims, unverified: " + ", ".join(f"{k} {v}" for k, v in claimed.items()))
    return tuple(notes)


def _with_recorded_refusal(explanation: Explanation, event: AuditEvent, reason: Reason | None) -> Explanation:
    """What only the running broker could know is known for the past: put it in the place of what was left open."""
    stage = STAGE_OF_REASON.get(reason) if reason else None
    steps = tuple(_as_recorded(step, event, reason, stage) for step in explanation.steps)
    if _turns_on_login(explanation, event):
        steps = tuple(
            replace(step, result=Result.RECORDED, finding=f"{step.finding}: recorded as met")
            if step.check is Stage.POLICY
            else step
            for step in steps
        )
    refusal, decision = explanation.refusal, explanation.decision
    if _turns_on_login(explanation, event) and event.decision in ("permit", "confirm"):
        refusal, decision = None, event.decision
    if decision == "confirm" and event.outcome == "issued" and event.confirmation_id:
        refusal, decision = None, "permit"
    elif decision != "deny" and stage is not None and reason is not None:
        refusal, decision = BrokerError(reason), "deny"
    granted = explanation.granted
    if granted is not None and event.intent and event.intent.intent_hash:
        granted = replace(granted, intent_hash=event.intent.intent_hash)  # of all parameters, redacted ones included
    return replace(explanation, steps=steps, refusal=refusal, decision=decision, granted=granted)


_STAGES: Final = tuple(Stage)


def _turns_on_login(explanation: Explanation, event: AuditEvent) -> bool:
    """Rules ask for a login of some age or strength, which is not recorded, and the record says that it was good enough."""
    judgement = explanation.judgement
    return (
        judgement is not None
        and isinstance(judgement.decision, StepUp)
        and event.reason_code != Reason.STEP_UP_REQUIRED.value
    )


def _as_recorded(step: Step, event: AuditEvent, reason: Reason | None, stage: Stage | None) -> Step:
    if step.result is Result.NOT_REACHED:
        return step
    if step.check is Stage.TASK:
        return replace(step, inputs=_without_bounds(step.inputs))
    if step.check is Stage.CONFIRMATION and event.confirmation_id:
        return _confirmation(step, event, reason)
    if step.check not in (Stage.RATE_LIMIT, Stage.USES, Stage.GRANT):
        return step
    if step.check is stage and reason is not None:
        return replace(step, result=Result.FAILED, finding=f"recorded: {reason.value}")
    if event.outcome == "issued":
        return replace(step, result=Result.RECORDED, finding="passed: a token was issued")
    # A refusal is counted before it is given, so it too has passed the rate limit.
    last = stage or (Stage.CONFIRMATION if event.decision == "deny" or event.confirmation_id else None)
    if last is not None and _STAGES.index(step.check) < _STAGES.index(last):
        return replace(step, result=Result.RECORDED, finding="passed: a later step was refused")
    return replace(step, result=Result.OPEN, finding="not reached, or not recorded")


def _without_bounds(inputs: Mapping[str, Any]) -> dict[str, Any]:
    task = inputs.get("task")
    if not task:
        return dict(inputs)
    return {**inputs, "task": {"trigger": task["trigger"], "actions": "not recorded", "identifiers": "not recorded"}}


def _confirmation(step: Step, event: AuditEvent, reason: Reason | None) -> Step:
    inputs = {**step.inputs, "confirmation": event.confirmation_id}
    if reason is Reason.CONFIRMATION_REFUSED:
        return replace(step, result=Result.FAILED, finding="recorded: the user refused", inputs=inputs)
    if event.outcome == "issued":
        return replace(step, result=Result.RECORDED, finding="the user had agreed", inputs=inputs)
    return replace(step, inputs=inputs)


def _agrees(explanation: Explanation, event: AuditEvent) -> bool | None:
    """Whether the same was decided, as far as the record tells. What ended the exchange after a decision (an outage, say) is no
    disagreement."""
    refusal = explanation.refusal
    if _turns_on_login(explanation, event):
        return None
    if explanation.judgement is None or explanation.judgement.decision is None:
        return False
    if event.outcome == "issued":
        return explanation.decision == "permit"
    if event.reason_code in {reason.value for reason in STAGE_OF_REASON} or event.decision == "deny":
        return refusal is not None and refusal.reason.value == event.reason_code
    return explanation.decision == event.decision


def _notes(event: AuditEvent, deployment: Deployment) -> list[str]:
    """What the reader must know to weigh the answer."""
    facts = _Recorded(event)
    recorded_version = event.policy.version if event.policy else None
    notes = []
    if recorded_version and recorded_version != deployment.policy_version:
        notes.append(
            f"decided under configuration {recorded_version}; judged here under {deployment.policy_version}: "
            "check out that version to see the rules of that time"
        )
    if facts.comparison is not TaskComparison.NO_TASK:
        notes.append("the bounds of the task are not recorded; how the intent compares with them is, and is taken over")
    redacted = [name for name, value in facts.parameters.items() if not _is_recorded(value)]
    if redacted:
        notes.append(f"not recorded, so rules that look at them cannot be judged: {', '.join(redacted)}")
    written = [*facts.parameters.items(), ("identifier", facts.identifier), ("reason", facts.reason)]
    fingerprinted = [name for name, value in written if isinstance(value, str) and MARK in value]
    if fingerprinted:
        notes.append(f"looked like a credential, so recorded and judged as its fingerprint: {', '.join(fingerprinted)}")
    unknown = "amr" if facts.login else "auth_time, acr, amr"
    notes.append(f"age and strength of the login ({unknown}) are not recorded: rules see them as unknown")
    return notes
