"""Why an exchange would be answered as it would: the same checks in the same order, written down, with nothing issued or counted.

Pure but for one throw-away signature: claims are signed with a key made on the spot, so that the assertion goes through the
verifier of the exchange. What only a running broker knows (is the grant alive, are uses left) is named as open, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from cab.domain.configured.clients import Agent
from cab.domain.configured.connections import Connection
from cab.domain.configured.deployment import Deployment, limit_of
from cab.domain.decisions import Confirm, StepUp
from cab.domain.errors import BrokerError, Reason
from cab.domain.intents import Intent, TaskComparison
from cab.ports import PolicyEngine
from cab.protocol import names
from cab.protocol.authorization_details import PARAMETER, details_hash, parse_intent
from cab.protocol.jose import jws
from cab.protocol.jose.jwk import PublicKey
from cab.protocol.tokens import assertions
from cab.protocol.tokens.assertions import Assertion, group_claims
from cab.use_cases.exchange.decide import Assessment, assess, describe, raise_refusal, read_intent
from cab.use_cases.exchange.issue import is_broker_jwt
from cab.use_cases.exchange.request import (
    check_may_act,
    check_mode,
    check_tenant,
    default_intent,
    find_target,
    scopes_for,
)


class Stage(StrEnum):
    """Every step of an exchange, in order."""

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
    """One exchange to explain: the agent, the decoded claims of its assertion, the form it would send, and when."""

    agent: str
    claims: Mapping[str, Any]
    form: Mapping[str, str]
    at: datetime


@dataclass(frozen=True, slots=True)
class Granted:
    """What would be handed out: a description of the credential, never one."""

    kind: Literal["broker_jwt", "downstream"]
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
    assessment: Assessment | None
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
    proof = Proof()
    try:
        _walk(question, deployment, policies, proof)
    except BrokerError as refusal:
        return proof.concluded(refusal)
    return proof.concluded(None)


class Proof:
    """The steps so far. A refusal inside a step is that step's finding."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self.assessment: Assessment | None = None
        self.granted: Granted | None = None

    def note(self, step: Step) -> None:
        self._steps.append(step)

    @contextmanager
    def checking(self, check: Stage, inputs: Mapping[str, Any], about: About | None = None) -> Iterator[Finding]:
        found = Finding(inputs=dict(inputs), about=about)
        try:
            yield found
        except BrokerError as refusal:
            self.note(Step(check, Result.FAILED, refusal.detail, found.inputs, found.about))
            raise
        self.note(Step(check, found.result, found.text, found.inputs, found.about))

    def concluded(self, refusal: BrokerError | None) -> Explanation:
        reached = {step.check for step in self._steps}
        rest = (Step(check, Result.NOT_REACHED, "") for check in Stage if check not in reached)
        decision: Literal["permit", "deny", "confirm"] = "permit"
        if refusal is not None:
            decision = "confirm" if refusal.reason is Reason.CONFIRMATION_REQUIRED else "deny"
        return Explanation((*self._steps, *rest), decision, refusal, self.assessment, self.granted)


@dataclass
class Finding:
    """Filled in while a step is being checked."""

    inputs: dict[str, Any]
    about: About | None
    result: Result = Result.PASSED
    text: str = ""


def _walk(question: Question, deployment: Deployment, policies: PolicyEngine, proof: Proof) -> None:
    form = question.form
    agent = _agent(question, deployment, proof)
    assertion = _assertion(question, deployment, proof)
    with proof.checking(Stage.TENANT, {"assertion": assertion.tenant, "agent": agent.tenant}) as found:
        check_tenant(assertion, agent)
        found.text = "the assertion and the agent are of one tenant"
    with proof.checking(Stage.MAY_ACT, {"may_act": assertion.may_act, "agent": agent.client_id}) as found:
        check_may_act(assertion, agent)
        found.text = "the assertion names this agent"
    targets = {name: form[name] for name in ("resource", "audience") if name in form}
    with proof.checking(Stage.TARGET, targets) as found:
        connection = find_target(form, assertion, deployment)
        found.about = About("connection", connection.id)
        found.text = f"this is connection {connection.id}, open to tenant {assertion.tenant}"
    with proof.checking(Stage.MODE, {"mode": agent.mode}, About("agent", agent.client_id)) as found:
        check_mode(agent)
        found.text = "the agent may hold tokens"
    intent, scopes = _intent(form, assertion, agent, connection, proof)
    decide(intent, assertion, agent, deployment, policies, proof, scopes=scopes, now=question.at)


def _agent(question: Question, deployment: Deployment, proof: Proof) -> Agent:
    with proof.checking(Stage.CLIENT, {"agent": question.agent}) as found:
        agent = deployment.agent_by_id.get(question.agent)
        if agent is None:
            raise BrokerError(Reason.CLIENT_AUTHENTICATION_FAILED, "No agent of this name is registered.")
        found.result = Result.ASSUMED
        found.about = About("agent", agent.client_id)
        methods = ", ".join(dict.fromkeys(entry.method for entry in agent.authentication))
        found.text = f"registered; taken to have authenticated by {methods}"
    return agent


def _assertion(question: Question, deployment: Deployment, proof: Proof) -> Assertion:
    """The claims through the verifier of the exchange, under a signature made for the occasion."""
    broker = deployment.broker
    private_key = ec.generate_private_key(ec.SECP256R1())
    issuer = question.claims.get("iss")
    with proof.checking(
        Stage.ASSERTION,
        {name: question.claims.get(name) for name in ("iss", "aud", "sub", "groups", "groups_unknown", "exp")},
    ) as found:
        if issuer not in (broker.edge_issuer, broker.sts_issuer):
            raise BrokerError(
                Reason.SUBJECT_TOKEN_INVALID,
                f"iss is neither {broker.edge_issuer} nor {broker.sts_issuer}.",
            )
        token = jws.sign(question.claims, typ=names.ASSERTION_TYP, kid=_ASSUMED_KEY, private_key=private_key)
        key = PublicKey(kid=_ASSUMED_KEY, algorithm="ES256", key=private_key.public_key())
        try:
            rules = assertions.rules(issuer, broker.sts_issuer)
            verified = jws.verify(jws.parse(token), key, rules, now=question.at)
        except jws.TokenRejected as error:
            reason = Reason.SUBJECT_TOKEN_EXPIRED if error.expired else Reason.SUBJECT_TOKEN_INVALID
            raise BrokerError(reason, f"The assertion is refused: {error.why}.") from error
        found.result = Result.ASSUMED
        found.text = "issuer, audience and times are right; the signature is taken to be ours"
        try:
            return assertions.read(verified)
        except jws.TokenRejected as error:
            raise Unreadable(error.why) from error


def _intent(
    form: Mapping[str, str], assertion: Assertion, agent: Agent, connection: Connection, proof: Proof
) -> tuple[Intent, tuple[str, ...]]:
    with proof.checking(Stage.INTENT, {}) as found:
        declared = None if PARAMETER in form else default_intent(agent, connection, form.get("scope"))
        found.text = "declared by the agent" if declared is None else "the agent's registered default intent"
        declared = declared or parse_intent(form.get(PARAMETER))
        found.inputs = declared.model_dump(mode="json", exclude_none=True, exclude={"type"})
    with proof.checking(
        Stage.CATALOG,
        {"action": declared.actions[0], "identifier": declared.identifier, "parameters": declared.parameters},
    ) as found:
        if declared.actions[0] in connection.action_by_id:
            found.about = About("action", declared.actions[0])
        intent = read_intent(declared, connection, assertion)
        filled = {name: value for name, value in intent.parameters.items() if name not in declared.parameters}
        found.text = f"fits the catalog entry, effect {intent.action.effect.value}" + (
            f"; filled in: {', '.join(f'{name}={value}' for name, value in filled.items())}" if filled else ""
        )
    with proof.checking(
        Stage.SCOPES,
        {"requested": form.get("scope"), "catalog": list(intent.action.scopes)},
        About("action", intent.action.id),
    ) as found:
        scopes = scopes_for(form.get("scope"), intent.action)
        found.text = f"{' '.join(scopes) or 'no scope'}: what was asked for and the action needs"
    return intent, scopes


def decide(
    intent: Intent,
    assertion: Assertion,
    agent: Agent,
    deployment: Deployment,
    policies: PolicyEngine,
    proof: Proof,
    *,
    scopes: tuple[str, ...],
    now: datetime,
) -> None:
    """From the intent on: assess, and what follows from that. Raises: BrokerError, noted in the proof."""
    assessment = proof.assessment = assess(intent, assertion, agent, policies, now=now)
    _note_assessment(assessment, assertion, agent, proof)
    limited = limit_of(deployment.broker.rate_limits, intent.action)
    if limited is None:
        proof.note(Step(Stage.RATE_LIMIT, Result.PASSED, f"no limit on {intent.action.id}"))
    else:
        position, limit = limited
        finding = f"counts against {limit.limit} requests in {limit.window_s} s of this user and agent"
        counts: dict[str, Any] = {"effects": list(limit.effects)} if limit.effects else {"actions": list(limit.actions)}
        proof.note(Step(Stage.RATE_LIMIT, Result.OPEN, finding, counts, About("rate_limit", str(position))))
    raise_refusal(assessment.decision)
    connection = deployment.connection_by_id[intent.connection]
    details = [intent.as_authorization_detail()]
    proof.granted = Granted(
        kind="broker_jwt" if is_broker_jwt(connection) else "downstream",
        scopes=scopes,
        authorization_details=details,
        intent_hash=details_hash(details),
        lifetime=f"{deployment.broker.lifetimes.token_s} s"
        if is_broker_jwt(connection)
        else "what is left of the platform's token",
    )
    _note_confirmation(assessment, deployment, proof)
    _note_uses(assertion, proof)
    _note_grant(connection, proof)
    if isinstance(assessment.decision, Confirm):
        raise BrokerError(Reason.CONFIRMATION_REQUIRED, "The user must confirm this action in a browser.")


def _note_assessment(assessment: Assessment, assertion: Assertion, agent: Agent, proof: Proof) -> None:
    passed = {check.name: check.passed for check in assessment.checks}
    decision = assessment.decision
    proof.note(_task_step(assessment, assertion, agent, passed=passed[Stage.TASK]))
    if Stage.ALLOW_LIST in passed:
        finding = "on the agent's list" if passed[Stage.ALLOW_LIST] else "not on the agent's list"
        inputs = {"actions": list(agent.actions), "effects": [effect.value for effect in agent.effects]}
        result = Result.PASSED if passed[Stage.ALLOW_LIST] else Result.FAILED
        proof.note(Step(Stage.ALLOW_LIST, result, finding, inputs, About("agent", agent.client_id)))
    if Stage.POLICY in passed:
        task = assertion.task
        facts = {
            **group_claims(assertion.groups, assertion.groups_unknown),
            "agent": agent.client_id,
            "trust_zone": agent.trust_zone,
            "trigger": task.trigger if task else "unknown",
            "comparison": assessment.comparison.value,
            "auth_time": assertion.auth_time,
            "acr": assertion.acr,
        }
        finding = next(check.detail for check in assessment.checks if check.name == Stage.POLICY)
        result = Result.PASSED if passed[Stage.POLICY] else Result.FAILED
        if isinstance(decision, Confirm):
            result = Result.ASKS
        elif isinstance(decision, StepUp):
            result = Result.FAILED
        proof.note(Step(Stage.POLICY, result, finding, facts))


_COMPARED: Final[Mapping[TaskComparison, str]] = {
    TaskComparison.WITHIN: "within what the user asked for",
    TaskComparison.NO_TASK: "the assertion carries no task",
    TaskComparison.OTHER_TASK: "the intent names another task than the assertion carries",
    TaskComparison.ACTION_OUTSIDE: "the action is outside what the user asked for",
    TaskComparison.IDENTIFIER_OUTSIDE: "the action is what the user asked for, on something the user did not name",
}


def _task_step(assessment: Assessment, assertion: Assertion, agent: Agent, *, passed: bool) -> Step:
    """`passed` is what bounds alone say; a question to the user may lift them, and a task id without a task never passes."""
    intent, task = assessment.intent, assertion.task
    finding = _COMPARED[assessment.comparison]
    result = Result.PASSED if passed else Result.FAILED
    if assessment.comparison is TaskComparison.OTHER_TASK and task is None:
        result, finding = Result.FAILED, "the intent names a task and the assertion carries none"
    elif assessment.comparison is TaskComparison.NO_TASK:
        needs = "a task is required of this agent" if agent.task == "required" else "only reads need none"
        finding = f"{finding}; {needs}, and this is a {intent.action.effect.value}"
    if result is Result.FAILED and isinstance(assessment.decision, Confirm):
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
        "comparison": assessment.comparison.value,
    }
    return Step(Stage.TASK, result, finding, inputs)


def _note_confirmation(assessment: Assessment, deployment: Deployment, proof: Proof) -> None:
    decision = assessment.decision
    if not isinstance(decision, Confirm):
        proof.note(Step(Stage.CONFIRMATION, Result.PASSED, "nobody has to be asked"))
        return
    lifetimes = deployment.broker.lifetimes
    finding = (
        f"the user is asked, waits {lifetimes.approval_wait_s} s for the answer, which is then good for one exchange "
        f"within {lifetimes.approval_valid_s} s; an approval already given is not looked up here"
    )
    proof.note(Step(Stage.CONFIRMATION, Result.ASKS, finding, {"prompts": list(decision.prompts)}))


def _note_uses(assertion: Assertion, proof: Proof) -> None:
    task = assertion.task
    if task is None or task.max_uses is None:
        proof.note(Step(Stage.USES, Result.PASSED, "no bound on the number of uses"))
        return
    finding = f"spends one of the {task.max_uses} uses of task {task.task_id}; how many are left is not looked up here"
    proof.note(Step(Stage.USES, Result.OPEN, finding, {"max_uses": task.max_uses}))


def _note_grant(connection: Connection, proof: Proof) -> None:
    about = About("connection", connection.id)
    if is_broker_jwt(connection):
        finding = "none needed: the resource trusts tokens that the broker signs"
        proof.note(Step(Stage.GRANT, Result.PASSED, finding, {"grant_kind": connection.grant_kind.value}, about))
        return
    finding = f"the user's own grant at {connection.id} must be alive; its status is not looked up here"
    if connection.grant_kind.is_trusted:
        finding = (
            "the organisation's approval is enough, unless the user's access was ended; that is not looked up here"
        )
    proof.note(Step(Stage.GRANT, Result.OPEN, finding, {"grant_kind": connection.grant_kind.value}, about))


def describe_shadow(assessment: Assessment | None) -> str | None:
    """What the candidate policies would have decided, where that differs."""
    return None if assessment is None or assessment.shadow is None else describe(assessment.shadow)
