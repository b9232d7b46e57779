"""What is asked of the token endpoint, as typed values: below this file nobody looks into a form.

`read` knows each grant's parameters and their shapes; the other functions compare what was asked with the deployment. All pure.
"""

from __future__ import annotations

import re
from typing import Any, Final

from cab.domain.configured.actions import Action, tool_scope
from cab.domain.configured.clients import Agent
from cab.domain.configured.connections import Connection
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason, Remedy, invalid_parameter
from cab.domain.intents import DeclaredIntent
from cab.protocol import drafts, names
from cab.protocol.authorization_details import PARAMETER, parse_intent, validate_detail
from cab.protocol.forms import required
from cab.protocol.tokens.assertions import Assertion
from cab.values import immutable

REJECTED: Final = "rejected_token_sha256"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
GRANT_TYPES: Final = frozenset({names.TOKEN_EXCHANGE, names.JWT_BEARER, drafts.DEFERRED_GRANT_TYPE})


@immutable
class Asked:
    """The target, the scope and the declared intent (`details`, JSON text) of a request, each as it was sent.

    `deferred`: the client rather polls than repeats when a person has to be asked. `rejected`: SHA-256 (hex) of a token for
    this target that the platform has just refused.
    """

    resource: str | None = None
    audience: str | None = None
    scope: str | None = None
    details: str | None = None
    deferred: bool = False
    rejected: str | None = None


@immutable
class Bounds:
    """What an ID-JAG carries and nothing may exceed. None where it says nothing."""

    resources: tuple[str, ...] | None = None
    scopes: tuple[str, ...] | None = None
    details: tuple[Any, ...] | None = None


@immutable
class CallAsked:
    """That the broker is to make the call itself: under which id, and with which scopes of the call token.

    `is_chosen`: the client chose the id, so that a repetition can be told from a second call.
    """

    id: str
    scopes: tuple[str, ...]
    is_chosen: bool


@immutable
class ExchangeRequest:
    """RFC 8693: a token for the target, on behalf of the assertion's subject."""

    subject_token: str
    actor_token: str | None
    asked: Asked


@immutable
class DelegationRequest:
    """RFC 8693 with a JWT as the requested type: a narrower assertion for the agent `may_act`."""

    subject_token: str
    actor_token: str | None
    may_act: str
    asked: Asked


@immutable
class IdJagRequest:
    """RFC 7523 section 2.1: a token for the target, on the word of the enterprise IdP."""

    assertion: str
    asked: Asked


@immutable
class PollRequest:
    """A deferred exchange, asked for again. Everything else was bound when it was deferred."""

    deferral_code: str
    call_scopes: tuple[str, ...] | None = None  # of the call token, when the broker is to make the call
    asker: Assertion | None = None  # what the call token says of its user


TokenRequest = ExchangeRequest | DelegationRequest | IdJagRequest | PollRequest


def grant_type_of(form: dict[str, str]) -> str:
    """Raises: BrokerError PARAMETER_MISSING, GRANT_TYPE_UNKNOWN."""
    grant_type = required(form, "grant_type")
    if grant_type not in GRANT_TYPES:
        raise BrokerError(Reason.GRANT_TYPE_UNKNOWN, "The grant type is not supported.")
    return grant_type


def read(form: dict[str, str]) -> TokenRequest:
    """Raises: BrokerError PARAMETER_MISSING, PARAMETER_INVALID naming the parameter, GRANT_TYPE_UNKNOWN."""
    match grant_type_of(form):
        case names.JWT_BEARER:
            return IdJagRequest(required(form, "assertion"), _asked(form))
        case drafts.DEFERRED_GRANT_TYPE:
            return PollRequest(required(form, drafts.DEFERRAL_CODE))
    if required(form, "subject_token_type") != names.JWT_TYPE:
        raise invalid_parameter("subject_token_type")
    subject_token = required(form, "subject_token")
    actor_token = _actor_token(form)
    match form.get("requested_token_type", names.ACCESS_TOKEN_TYPE):
        case names.ACCESS_TOKEN_TYPE:
            return ExchangeRequest(subject_token, actor_token, _asked(form))
        case names.JWT_TYPE:
            return DelegationRequest(subject_token, actor_token, required(form, "may_act"), _asked(form))
    raise invalid_parameter("requested_token_type")


def inspected_token(form: dict[str, str]) -> str:
    """Of introspection and revocation; a hint of its type changes nothing. Raises: BrokerError PARAMETER_MISSING."""
    return required(form, "token")


def _asked(form: dict[str, str]) -> Asked:
    completion = form.get(drafts.COMPLETION_MODE)
    if completion not in (None, drafts.COMPLETION_MODE_DEFERRED):
        raise invalid_parameter(drafts.COMPLETION_MODE)
    rejected = form.get(REJECTED)
    if rejected is not None and not _SHA256.fullmatch(rejected):
        raise invalid_parameter(REJECTED)
    return Asked(
        resource=form.get("resource"),
        audience=form.get("audience"),
        scope=form.get("scope"),
        details=form.get(PARAMETER),
        deferred=completion is not None,
        rejected=rejected,
    )


def _actor_token(form: dict[str, str]) -> str | None:
    """RFC 8693 section 2.1: the token and its type go together."""
    if ("actor_token" in form) != ("actor_token_type" in form):
        missing = "actor_token_type" if "actor_token" in form else "actor_token"
        raise BrokerError(
            Reason.PARAMETER_MISSING, f"The parameter {missing} is missing.", remedy=Remedy(member=missing)
        )
    if form.get("actor_token_type", names.JWT_TYPE) not in (names.JWT_TYPE, names.ID_TOKEN_TYPE):
        raise invalid_parameter("actor_token_type")
    return form.get("actor_token")


def check_tenant(assertion: Assertion, agent: Agent) -> None:
    """Nothing crosses from one tenant to another. Raises: BrokerError SUBJECT_TOKEN_INVALID, as for an assertion of nobody."""
    if assertion.tenant != agent.tenant:
        raise BrokerError(Reason.SUBJECT_TOKEN_INVALID, "The subject token is not valid.")


def check_may_act(assertion: Assertion, agent: Agent) -> None:
    """RFC 8693 section 4.4. Raises: BrokerError MAY_ACT_VIOLATED."""
    if assertion.may_act != agent.client_id:
        raise BrokerError(Reason.MAY_ACT_VIOLATED, "The assertion does not allow this agent to act.")


def check_mode(agent: Agent, *, calls: bool) -> None:
    """`calls`: the broker makes the call. Raises: BrokerError GRANT_TYPE_NOT_ALLOWED for an agent of the other mode."""
    if not calls and agent.mode == "call":
        raise BrokerError(Reason.GRANT_TYPE_NOT_ALLOWED, "This agent calls tools through the broker, without tokens.")
    if calls and agent.mode == "token":
        raise BrokerError(Reason.GRANT_TYPE_NOT_ALLOWED, "This agent gets tokens and calls the tools itself.")


def check_zones(agent: Agent, connection: Connection, deployment: Deployment, *, calls: bool) -> None:
    """The bounds of the agent's and the connection's trust zone. Raises: BrokerError TARGET_NOT_ALLOWED."""
    if not deployment.zones_allow(agent, connection, calls=calls):
        raise BrokerError(
            Reason.TARGET_NOT_ALLOWED,
            "The trust zone of the agent or of the target does not allow this target in this way.",
        )


def check_callable(action: Action, call: CallAsked) -> None:
    """Raises: BrokerError CALL_NOT_CONFIGURED; SCOPE_NOT_GRANTABLE when the call token is not for such tools."""
    if action.call is None:
        raise BrokerError(Reason.CALL_NOT_CONFIGURED, "The broker does not make calls of this action.")
    if tool_scope(action.effect) not in call.scopes:
        raise BrokerError(Reason.SCOPE_NOT_GRANTABLE, "The call token is not for tools of this effect.")


def find_target(
    asked: Asked, assertion: Assertion, deployment: Deployment, *, bounds: Bounds | None = None
) -> Connection:
    """Exactly one registered target (RFC 8707, RFC 8693 section 2.1.1), of the subject's tenant and within the `bounds`.

    An ID-JAG for one resource names the target where the request does not.
    Raises: BrokerError TARGET_MISSING, TARGET_REPEATED, TARGET_UNKNOWN (also for a target of another tenant), TARGET_NOT_ALLOWED.
    """
    resource, audience = asked.resource, asked.audience
    allowed = bounds.resources if bounds else None
    if resource is None and audience is None and allowed is not None and len(allowed) == 1:
        resource = allowed[0]
    if resource is None and audience is None:
        raise BrokerError(Reason.TARGET_MISSING, "Name the target by resource or audience.")
    if resource is not None and audience is not None:
        raise BrokerError(Reason.TARGET_REPEATED, "Ask for one target at a time.")
    known = (
        deployment.connection_by_resource.get(resource)
        if resource is not None
        else deployment.connection_by_id.get(audience or "")
    )
    if known is None or assertion.tenant not in known.tenants:
        raise BrokerError(Reason.TARGET_UNKNOWN, "The target is not registered.")
    if allowed is not None and known.resource not in allowed:
        raise BrokerError(Reason.TARGET_NOT_ALLOWED, "The assertion is for another resource.")
    return known


def declared_intent(
    asked: Asked, agent: Agent, connection: Connection, *, bounds: Bounds | None = None
) -> DeclaredIntent:
    """From the request, else what the ID-JAG carries, else the agent's registered default. A carried one also bounds.

    Raises: BrokerError INTENT_MISSING, INTENT_MALFORMED, INTENT_OUTSIDE_TASK.
    """
    carried = [
        validate_detail(DeclaredIntent, item) for item in (bounds.details or () if bounds else ()) if _is_intent(item)
    ]
    declared: DeclaredIntent | None
    if asked.details is not None:
        declared = parse_intent(asked.details)
    elif len(carried) == 1:
        declared = carried[0]
    else:
        declared = default_intent(agent, connection, asked.scope)
    if declared is None:
        return parse_intent(None)
    if carried and declared not in carried:
        raise BrokerError(Reason.INTENT_OUTSIDE_TASK, "The intent is not one that the assertion carries.")
    return declared


def _is_intent(detail: Any) -> bool:
    return not (isinstance(detail, dict) and detail.get("type") == names.TASK_TYPE)


def default_intent(agent: Agent, connection: Connection, scope: str | None) -> DeclaredIntent | None:
    """What a client that sends no authorization_details is registered to mean by this target and scope."""
    for default in agent.default_intents:
        if default.resource == connection.resource and default.scope == scope:
            detail = {
                "type": names.ACTION_TYPE,
                "actions": [default.action],
                "locations": [default.resource],
                "identifier": default.identifier,
                "parameters": default.parameters,
            }
            return validate_detail(DeclaredIntent, detail)
    return None


def scopes_for(scope: str | None, action: Action, *, bounds: Bounds | None = None) -> tuple[str, ...]:
    """The action's minimal scopes, or the part of them that was asked for: issued = requested AND catalog AND bounds.

    `scope` is the request's parameter, words with one space between (RFC 6749 section 3.3). A blank one is refused: read as
    no scope at all, it would open the whole grant. Raises: BrokerError SCOPE_NOT_GRANTABLE, also for a repeated word.
    """
    grantable = action.scopes
    if bounds is not None and bounds.scopes is not None:
        grantable = tuple(name for name in action.scopes if name in bounds.scopes)
        if action.scopes and not grantable:
            raise BrokerError(Reason.SCOPE_NOT_GRANTABLE, "The scope goes beyond what the assertion carries.")
    if scope is None:
        return grantable
    requested = scope.split(" ")
    if len(set(requested)) != len(requested) or not set(requested) <= set(grantable):
        raise BrokerError(Reason.SCOPE_NOT_GRANTABLE, "The scope goes beyond what the declared action needs.")
    return tuple(name for name in grantable if name in requested)
