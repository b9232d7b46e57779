"""Why an exchange would be answered as it would: the exchange's own checks, run on its own code, and told in words.

Pure but for one throw-away signature: claims are signed with a key made on the spot, so that the assertion goes through the
verifier of the exchange. What only a running broker knows (is the grant alive, are uses left) is named as open, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from cab.domain.calls.rendering import RenderedCall, render
from cab.domain.configured.actions import tool_scope
from cab.domain.configured.clients import Agent
from cab.domain.configured.connections import Connection
from cab.domain.configured.deployment import Deployment, limit_of
from cab.domain.decisions import Confirm, Decision, Deny, Permit, StepUp, differ
from cab.domain.errors import BrokerError, Reason
from cab.domain.intents import Intent, TaskComparison
from cab.ports import PolicyEngine
from cab.protocol import names
from cab.protocol.authorization_details import details_hash
from cab.protocol.jose import jws
from cab.protocol.jose.jwk import PublicKey
from cab.protocol.tokens import assertions
from cab.protocol.tokens.assertions import Assertion, group_claims
from cab.use_cases.exchange.decide import Case, Judgement, Stage, decide, raise_refusal
from cab.use_cases.exchange.issue import is_broker_jwt
from cab.use_cases.exchange.request import Asked, CallAsked

__all__ = ["Stage"]


class Result(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    ASSUMED = "assumed"  # needs a token, a proof or a signature, which an explanation does not have
    RECORDED = "recorded"  # taken from the audit event, not checked again
    ASKS = "asks"  # the user must agree first
    OPEN = "open"  # decided by state that only the running broker has
    NOT_REACHED = "not reached"


class About(NamedTuple):
    """What of the configuration a step looked at, so that its file and line can be shown."""

    kind: Literal["agent", "connection", "action", "rate_limit"]
    name: str


@dataclass(frozen=True, slots=True)
class Step:
    check: Stage
    result: Result
    finding: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    about: About | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One exchange to explain: the agent, the decoded claims of its assertion, what it would ask for, and when.

    `calls`: the broker is to make the call itself, with a call token for all that the agent may do.
    """

    agent: str
    claims: Mapping[str, Any]
    asked: Asked
    at: datetime
    calls: bool = False


@dataclass(frozen=True, slots=True)
class Granted:
    """What would be handed out: a description of the credential, never one."""

    kind: Literal["broker_jwt", "downstream"]
    request: RenderedCall | None  # what the broker would send, where it makes the call itself
    scopes: tuple[str, ...]
    authorization_details: list[dict[str, Any]]
    intent_hash: str
    lifetime: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The proof. `refusal` is the error the client would get; with decision `confirm` it is the demand for confirmation."""

    steps: tuple[Step, ...]
    decision: Literal["permit", "deny", "confirm"]
    refusal: BrokerError | None
    judgement: Judgement | None
    granted: Granted | None

    @property
    def failing(self) -> Step | None:
        """The step that decided a refusal. Bounds of the task come before whatever policy says about what is outside of them."""
        failed = [step for step in self.steps if step.result is Result.FAILED]
        if self.refusal is not None and self.refusal.reason is Reason.INTENT_OUTSIDE_TASK:
            return next(step for step in failed if step.check is Stage.TASK)
        return failed[-1] if failed else None


class Unreadable(Exception):
    """The claims are none of an assertion. The message is a fixed phrase that names the claim."""


_ASSUMED_KEY: Final = "assumed"


def explain(question: Question, deployment: Deployment, policies: PolicyEngine) -> Explanation:
    """Walk the way of one exchange (docs/architecture.md) up to where a token would be issued.

    Raises: Unreadable when the claims have not the shape of an assertion's at all.
    """
    steps: list[Step] = []
    try:
        agent = _agent(question, deployment, steps)
        assertion = _assertion(question, deployment, steps)
    except BrokerError as refusal:
        return concluded(steps, refusal)
    call = None
    if question.calls:
        call = CallAsked("explained", tuple(map(tool_scope, agent.effects)), is_chosen=False)
    judgement = decide(Case(agent, assertion, question.asked, question.at, call=call), deployment, policies)
    return told(steps, judgement, deployment)


def told(steps: list[Step], judgement: Judgement, deployment: Deployment) -> Explanation:
    """What a judgement found, in words, and what would follow from it."""
    steps = [*steps, *(_told(stage, judgement, deployment) for stage in judgement.trail)]
    if judgement.intent is None or judgement.decision is None or judgement.connection is None:
        return concluded(steps, judgement.refusal, judgement)
    steps.append(_rate_limit(judgement.intent, deployment))
    try:
        raise_refusal(judgement.decision)
    except BrokerError as refusal:
        return concluded(steps, refusal, judgement)
    steps += [
        _confirmation(judgement.decision, deployment),
        _uses(judgement.case.assertion),
        _grant(judgement.connection),
    ]
    asks = isinstance(judgement.decision, Confirm)
    question = BrokerError(Reason.CONFIRMATION_REQUIRED, "The user must confirm this action in a browser.")
    granted = _granted(judgement, judgement.intent, judgement.connection, deployment)
    return concluded(steps, question if asks else None, judgement, granted)


def concluded(
    steps: list[Step],
    refusal: BrokerError | None,
    judgement: Judgement | None = None,
    granted: Granted | None = None,
) -> Explanation:
    """An explanation with every stage in it: those that were not reached come last."""
    reached = {step.check for step in steps}
    rest = (Step(check, Result.NOT_REACHED, "") for check in Stage if check not in reached)
    decision: Literal["permit", "deny", "confirm"] = "permit"
    if refusal is not None:
        decision = "confirm" if refusal.reason is Reason.CONFIRMATION_REQUIRED else "deny"
    return Explanation((*steps, *rest), decision, refusal, judgement, granted)


def _agent(question: Question, deployment: Deployment, steps: list[Step]) -> Agent:
    agent = deployment.agent_by_id.get(question.agent)
    inputs = {"agent": question.agent}
    if agent is None:
        refusal = BrokerError(Reason.CLIENT_AUTHENTICATION_FAILED, "No agent of this name is registered.")
        steps.append(Step(Stage.CLIENT, Result.FAILED, refusal.detail, inputs))
        raise refusal
    methods = ", ".join(dict.fromkeys(entry.method for entry in agent.authentication))
    finding = f"registered; taken to have authenticated by {methods}"
    steps.append(Step(Stage.CLIENT, Result.ASSUMED, finding, inputs, About("agent", agent.client_id)))
    return agent


def _assertion(question: Question, deployment: Deployment, steps: list[Step]) -> Assertion:
    """The claims through the verifier of the exchange, under a signature made for the occasion."""
    inputs = {name: question.claims.get(name) for name in ("iss", "aud", "sub", "groups", "groups_unknown", "exp")}
    try:
        verified = _verified(question, deployment)
    except BrokerError as refusal:
        steps.append(Step(Stage.ASSERTION, Result.FAILED, refusal.detail, inputs))
        raise
    finding = "issuer, audience and times are right; the signature is taken to be ours"
    steps.append(Step(Stage.ASSERTION, Result.ASSUMED, finding, inputs))
    try:
        return assertions.read(verified)
    except jws.TokenRejected as error:
        raise Unreadable(error.why) from error


def _verified(question: Question, deployment: Deployment) -> jws.VerifiedClaims:
    broker = deployment.broker
    private_key = ec.generate_private_key(ec.SECP256R1())
    issuer = question.claims.get("iss")
    if issuer not in (broker.edge_issuer, broker.sts_issuer):
        raise BrokerError(Reason.SUBJECT_TOKEN_INVALID, f"iss is neither {broker.edge_issuer} nor {broker.sts_issuer}.")
    token = jws.sign(question.claims, typ=names.ASSERTION_TYP, kid=_ASSUMED_KEY, private_key=private_key)
    key = PublicKey(kid=_ASSUMED_KEY, algorithm="ES256", key=private_key.public_key())
    try:
        rules = assertions.rules(issuer, broker.sts_issuer)
        return jws.verify(jws.parse(token), key, rules, now=question.at)
    except jws.TokenRejected as error:
        reason = Reason.SUBJECT_TOKEN_EXPIRED if error.expired else Reason.SUBJECT_TOKEN_INVALID
        raise BrokerError(reason, f"The assertion is refused: {error.why}.") from error


# --- a step of the judgement, told ---


def _told(stage: Stage, judgement: Judgement, deployment: Deployment) -> Step:
    if judgement.refusal is not None and stage is judgement.trail[-1]:
        inputs, about = _looked_at(stage, judgement)
        return Step(stage, Result.FAILED, judgement.refusal.detail, inputs, about)
    return _TELLERS[stage](judgement)


def _looked_at(stage: Stage, judgement: Judgement) -> tuple[dict[str, Any], About | None]:
    """The inputs of a check, as far as it could read them, and the place in the configuration that it is about."""
    case, declared, intent = judgement.case, judgement.declared, judgement.intent
    agent, assertion, asked = case.agent, case.assertion, case.asked
    match stage:
        case Stage.TENANT:
            return {"assertion": assertion.tenant, "agent": agent.tenant}, None
        case Stage.MAY_ACT:
            return {"may_act": assertion.may_act, "agent": agent.client_id}, None
        case Stage.TARGET:
            named = {"resource": asked.resource, "audience": asked.audience}
            found = judgement.connection
            return (
                {name: value for name, value in named.items() if value is not None},
                About("connection", found.id) if found else None,
            )
        case Stage.MODE:
            zones = {}
            if judgement.refusal and judgement.refusal.reason is Reason.TARGET_NOT_ALLOWED and judgement.connection:
                zones = {"zone of the agent": agent.trust_zone, "zone of the target": judgement.connection.trust_zone}
            return {"mode": agent.mode, **zones}, About("agent", agent.client_id)
        case Stage.INTENT if declared is not None:
            return declared.model_dump(mode="json", exclude_none=True, exclude={"type"}), None
        case Stage.CATALOG if declared is not None and judgement.connection is not None:
            action = declared.actions[0]
            known = action in judgement.connection.action_by_id
            return (
                {"action": action, "identifier": declared.identifier, "parameters": declared.parameters},
                About("action", action) if known else None,
            )
        case Stage.SCOPES if intent is not None:
            catalog = list(intent.action.scopes)
            return {"requested": asked.scope, "catalog": catalog}, About("action", intent.action.id)
    return {}, None


def _told_tenant(judgement: Judgement) -> Step:
    return _passed(Stage.TENANT, judgement, "the assertion and the agent are of one tenant")


def _told_may_act(judgement: Judgement) -> Step:
    return _passed(Stage.MAY_ACT, judgement, "the assertion names this agent")


def _told_target(judgement: Judgement) -> Step:
    connection = judgement.connection.id if judgement.connection else ""
    finding = f"this is connection {connection}, open to tenant {judgement.case.assertion.tenant}"
    return _passed(Stage.TARGET, judgement, finding)


def _told_mode(judgement: Judgement) -> Step:
    held = "the agent may hold tokens" if judgement.case.call is None else "the broker may make the agent's calls"
    return _passed(Stage.MODE, judgement, held)


def _told_intent(judgement: Judgement) -> Step:
    own = judgement.case.asked.details is not None
    return _passed(Stage.INTENT, judgement, "declared by the agent" if own else "the agent's registered default intent")


def _told_catalog(judgement: Judgement) -> Step:
    intent, declared = judgement.intent, judgement.declared
    if intent is None or declared is None:
        return _passed(Stage.CATALOG, judgement, "")
    filled = [f"{name}={value}" for name, value in intent.parameters.items() if name not in declared.parameters]
    finding = f"fits the catalog entry, effect {intent.action.effect.value}"
    return _passed(Stage.CATALOG, judgement, finding + (f"; filled in: {', '.join(filled)}" if filled else ""))


def _told_scopes(judgement: Judgement) -> Step:
    scopes = " ".join(judgement.scopes) or "no scope"
    return _passed(Stage.SCOPES, judgement, f"{scopes}: what was asked for and the action needs")


def _passed(stage: Stage, judgement: Judgement, finding: str) -> Step:
    inputs, about = _looked_at(stage, judgement)
    return Step(stage, Result.PASSED, finding, inputs, about)


_COMPARED: Final[Mapping[TaskComparison, str]] = {
    TaskComparison.WITHIN: "within what the user asked for",
    TaskComparison.NO_TASK: "the assertion carries no task",
    TaskComparison.OTHER_TASK: "the intent names another task than the assertion carries",
    TaskComparison.ACTION_OUTSIDE: "the action is outside what the user asked for",
    TaskComparison.IDENTIFIER_OUTSIDE: "the action is what the user asked for, on something the user did not name",
}


def _told_task(judgement: Judgement) -> Step:
    """What bounds alone say; a question to the user may lift them, and a task id without a task never passes."""
    assertion, agent, intent = judgement.case.assertion, judgement.case.agent, judgement.intent
    comparison = judgement.comparison
    if intent is None or comparison is None:
        raise ValueError("the task is compared with an intent that could be read")
    task = assertion.task
    finding = _COMPARED[comparison]
    result = Result.FAILED if Stage.TASK in judgement.failed else Result.PASSED
    if comparison is TaskComparison.OTHER_TASK and task is None:
        result, finding = Result.FAILED, "the intent names a task and the assertion carries none"
    elif comparison is TaskComparison.NO_TASK:
        needs = "a task is required of this agent" if agent.task == "required" else "only reads need none"
        finding = f"{finding}; {needs}, and this is a {intent.action.effect.value}"
    if result is Result.FAILED and isinstance(judgement.decision, Confirm):
        result, finding = Result.ASKS, f"{finding}; policy asks the user instead"
    bounds = task and {
        "task_id": task.task_id,
        "trigger": task.trigger,
        "actions": list(task.actions),
        "identifiers": list(task.identifiers),
    }
    inputs = {
        "action": intent.action.id,
        "identifier": intent.identifier,
        "task_id": intent.task_id,
        "task": bounds,
        "comparison": comparison.value,
    }
    return Step(Stage.TASK, result, finding, inputs)


def _told_allow_list(judgement: Judgement) -> Step:
    agent = judgement.case.agent
    inputs = {"actions": list(agent.actions), "effects": [effect.value for effect in agent.effects]}
    about = About("agent", agent.client_id)
    if Stage.ALLOW_LIST in judgement.failed:
        return Step(Stage.ALLOW_LIST, Result.FAILED, "not on the agent's list", inputs, about)
    return Step(Stage.ALLOW_LIST, Result.PASSED, "on the agent's list", inputs, about)


def _told_policy(judgement: Judgement) -> Step:
    assertion, agent = judgement.case.assertion, judgement.case.agent
    task = assertion.task
    inputs = {
        **group_claims(assertion.groups, assertion.groups_unknown),
        "agent": agent.client_id,
        "trust_zone": agent.trust_zone,
        "trigger": task.trigger if task else "unknown",
        "comparison": judgement.comparison.value if judgement.comparison else None,
        "auth_time": assertion.auth_time,
        "acr": assertion.acr,
    }
    result = Result.FAILED if Stage.POLICY in judgement.failed else Result.PASSED
    if isinstance(judgement.decision, Confirm):
        result = Result.ASKS
    elif isinstance(judgement.decision, StepUp):
        result = Result.FAILED
    return Step(Stage.POLICY, result, describe(judgement.verdict) if judgement.verdict else "", inputs)


_TELLERS: Final[Mapping[Stage, Callable[[Judgement], Step]]] = {
    Stage.TENANT: _told_tenant,
    Stage.MAY_ACT: _told_may_act,
    Stage.TARGET: _told_target,
    Stage.MODE: _told_mode,
    Stage.INTENT: _told_intent,
    Stage.CATALOG: _told_catalog,
    Stage.SCOPES: _told_scopes,
    Stage.TASK: _told_task,
    Stage.ALLOW_LIST: _told_allow_list,
    Stage.POLICY: _told_policy,
}


# --- what would follow ---


def _rate_limit(intent: Intent, deployment: Deployment) -> Step:
    limited = limit_of(deployment.broker.rate_limits, intent.action)
    if limited is None:
        return Step(Stage.RATE_LIMIT, Result.PASSED, f"no limit on {intent.action.id}")
    position, limit = limited
    finding = f"counts against {limit.limit} requests in {limit.window_s} s of this user and agent"
    counts: dict[str, Any] = {"effects": list(limit.effects)} if limit.effects else {"actions": list(limit.actions)}
    return Step(Stage.RATE_LIMIT, Result.OPEN, finding, counts, About("rate_limit", str(position)))


def _granted(judgement: Judgement, intent: Intent, connection: Connection, deployment: Deployment) -> Granted:
    details = [intent.as_authorization_detail()]
    ours = is_broker_jwt(connection)
    return Granted(
        kind="broker_jwt" if ours else "downstream",
        request=render(intent.action, connection, intent) if judgement.case.call and intent.action.call else None,
        scopes=judgement.scopes,
        authorization_details=details,
        intent_hash=details_hash(details),
        lifetime=f"{deployment.broker.lifetimes.token_s} s" if ours else "what is left of the platform's token",
    )


def _confirmation(decision: Decision, deployment: Deployment) -> Step:
    if not isinstance(decision, Confirm):
        return Step(Stage.CONFIRMATION, Result.PASSED, "nobody has to be asked")
    lifetimes = deployment.broker.lifetimes
    finding = (
        f"the user is asked, waits {lifetimes.approval_wait_s} s for the answer, which is then good for one exchange "
        f"within {lifetimes.approval_valid_s} s; an approval already given is not looked up here"
    )
    return Step(Stage.CONFIRMATION, Result.ASKS, finding, {"prompts": list(decision.prompts)})


def _uses(assertion: Assertion) -> Step:
    task = assertion.task
    if task is None or task.max_uses is None:
        return Step(Stage.USES, Result.PASSED, "no bound on the number of uses")
    finding = f"spends one of the {task.max_uses} uses of task {task.task_id}; how many are left is not looked up here"
    return Step(Stage.USES, Result.OPEN, finding, {"max_uses": task.max_uses})


def _grant(connection: Connection) -> Step:
    about = About("connection", connection.id)
    inputs = {"grant_kind": connection.grant_kind.value}
    if is_broker_jwt(connection):
        finding = "none needed: the resource trusts tokens that the broker signs"
        return Step(Stage.GRANT, Result.PASSED, finding, inputs, about)
    finding = f"the user's own grant at {connection.id} must be alive; its status is not looked up here"
    if connection.grant_kind.is_trusted:
        finding = (
            "the organisation's approval is enough, unless the user's access was ended; that is not looked up here"
        )
    return Step(Stage.GRANT, Result.OPEN, finding, inputs, about)


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


def describe_shadow(judgement: Judgement | None) -> tuple[str, bool] | None:
    """What the candidate policies would have decided, and whether that ends the request differently. None without any."""
    if judgement is None or judgement.shadow is None or judgement.verdict is None:
        return None
    return describe(judgement.shadow), differ(judgement.shadow, judgement.verdict)
