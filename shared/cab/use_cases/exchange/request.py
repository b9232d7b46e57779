"""What an exchange asks for, read strictly against the deployment: who may act, where, to do what, with which scopes.

Pure: no I/O, no clock. The exchange and `cab explain` go through the same functions, so what is explained is what happens.
"""

from __future__ import annotations

from collections.abc import Mapping

from cab.domain.configured.actions import Action
from cab.domain.configured.clients import Agent
from cab.domain.configured.connections import Connection
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.domain.intents import DeclaredIntent
from cab.protocol import names
from cab.protocol.authorization_details import validate_detail
from cab.protocol.tokens.assertions import Assertion


def check_tenant(assertion: Assertion, agent: Agent) -> None:
    """Nothing crosses from one tenant to another. Raises: BrokerError SUBJECT_TOKEN_INVALID, as for an assertion of nobody."""
    if assertion.tenant != agent.tenant:
        raise BrokerError(Reason.SUBJECT_TOKEN_INVALID, "The subject token is not valid.")


def check_may_act(assertion: Assertion, agent: Agent) -> None:
    """RFC 8693 section 4.4. Raises: BrokerError MAY_ACT_VIOLATED."""
    if assertion.may_act != agent.client_id:
        raise BrokerError(Reason.MAY_ACT_VIOLATED, "The assertion does not allow this agent to act.")


def check_mode(agent: Agent) -> None:
    """Raises: BrokerError GRANT_TYPE_NOT_ALLOWED for an agent that never gets tokens."""
    if agent.mode != "token":
        raise BrokerError(Reason.GRANT_TYPE_NOT_ALLOWED, "This agent calls tools through the broker, without tokens.")


def find_target(form: Mapping[str, str], assertion: Assertion, deployment: Deployment) -> Connection:
    """Exactly one registered target (RFC 8707, RFC 8693 section 2.1.1), of the subject's tenant.

    Raises: BrokerError TARGET_MISSING, TARGET_REPEATED, TARGET_UNKNOWN (also for a target of another tenant).
    """
    resource, audience = form.get("resource"), form.get("audience")
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
    return known


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


def scopes_for(scope: str | None, action: Action) -> tuple[str, ...]:
    """The action's minimal scopes, or the part of them that was asked for: issued = requested AND catalog.

    `scope` is the request's parameter, words with one space between (RFC 6749 section 3.3). A blank one is refused: read as
    no scope at all, it would open the whole grant. Raises: BrokerError SCOPE_NOT_GRANTABLE, also for a word that stands twice.
    """
    if scope is None:
        return action.scopes
    requested = scope.split(" ")
    if len(set(requested)) != len(requested) or not set(requested) <= set(action.scopes):
        raise BrokerError(Reason.SCOPE_NOT_GRANTABLE, "The scope goes beyond what the declared action needs.")
    return tuple(name for name in action.scopes if name in requested)
