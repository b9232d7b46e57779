"""A call token: what an agent shows at `call_tool` instead of holding tokens of platforms (docs/api.md)."""

from __future__ import annotations

from typing import Any, Final

from cab.domain import audit
from cab.domain.configured.actions import tool_scope
from cab.domain.configured.clients import Agent
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason, invalid_parameter
from cab.domain.identifiers import token_sha256
from cab.domain.intents import DeclaredIntent
from cab.ports import Clock, Randomness, Signer
from cab.protocol import drafts, names
from cab.protocol.authorization_details import PARAMETER, task_digest, validate_detail
from cab.protocol.tokens import assertions, call_tokens
from cab.protocol.tokens.assertions import Assertion, whole_seconds_until
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.exchange.identify import Caller
from cab.use_cases.exchange.request import Asked, Bounds, check_mode

LIFE_S: Final = int(call_tokens.MAX_LIFE.total_seconds())


class CallTokens:
    def __init__(self, deployment: Deployment, signer: Signer, clock: Clock, randomness: Randomness) -> None:
        self._deployment = deployment
        self._signer = signer
        self._clock = clock
        self._randomness = randomness

    def are_asked_for(self, asked: Asked, *, bounds: Bounds | None = None) -> bool:
        """Whether the target is our own tools: named, or the only resource of an ID-JAG that the request does not narrow."""
        ours = self._deployment.broker.calls_resource
        if asked.resource is not None or asked.audience is not None:
            return asked.resource == ours
        return bounds is not None and bounds.resources == (ours,)

    async def __call__(
        self, asked: Asked, assertion: Assertion, caller: Caller, facts: Facts, *, bounds: Bounds | None = None
    ) -> dict[str, Any]:
        """The JSON body of a success. The token ends with the assertion at the latest.

        Raises: BrokerError PARAMETER_INVALID, TARGET_REPEATED, TARGET_NOT_ALLOWED, GRANT_TYPE_NOT_ALLOWED, SCOPE_NOT_GRANTABLE,
        DPOP_PROOF_INVALID, SUBJECT_TOKEN_EXPIRED.
        """
        broker = self._deployment.broker
        _check_shape(asked)
        if bounds is not None and bounds.resources is not None and broker.calls_resource not in bounds.resources:
            raise BrokerError(Reason.TARGET_NOT_ALLOWED, "The assertion is for another resource.")
        check_mode(caller.agent, calls=True)
        if caller.agent.call.dpop == "required" and caller.jkt is None:
            raise BrokerError(
                Reason.DPOP_PROOF_INVALID, "This agent must prove its key (DPoP).", why="no proof where one is required"
            )
        scopes = scopes_of(caller.agent, asked.scope, bounds)
        intents = _carried(bounds)
        now = self._clock.now()
        expires_at = assertions.expiry(now, lifetime_s=LIFE_S, not_after=assertion.expires_at)
        if expires_at <= now:
            raise BrokerError(Reason.SUBJECT_TOKEN_EXPIRED, "The subject token has expired.")
        await caller.spending
        jti = self._randomness.token(16)
        token = await self._signer.sign(
            call_tokens.claims(
                assertion,
                issuer=broker.sts_issuer,
                audience=broker.calls_resource,
                agent=caller.agent.client_id,
                scopes=scopes,
                intents=intents,
                jti=jti,
                now=now,
                expires_at=expires_at,
                jkt=caller.jkt,
            ),
            typ=names.ACCESS_TOKEN_TYP,
        )
        facts.decision = "permit"
        facts.task = audit.TaskFacts(bounds_digest=task_digest(assertion.task) if assertion.task else None)
        facts.scopes = audit.Scopes(requested=asked.scope.split() if asked.scope else [], granted=list(scopes))
        facts.token = audit.TokenFacts(kind="call", jti=jti, sha256=token_sha256(token), expires_at=expires_at)
        return {
            "access_token": token,
            "issued_token_type": names.ACCESS_TOKEN_TYPE,
            "token_type": "DPoP" if caller.jkt else "Bearer",
            "expires_in": whole_seconds_until(expires_at, now),
            "scope": " ".join(scopes),
            "txn": assertion.txn,
        }


def scopes_of(agent: Agent, scope: str | None, bounds: Bounds | None) -> tuple[str, ...]:
    """What the agent may use at most, or the part that was asked for. Raises: BrokerError SCOPE_NOT_GRANTABLE."""
    grantable = tuple(tool_scope(effect) for effect in agent.effects)
    if bounds is not None and bounds.scopes is not None:
        grantable = tuple(name for name in grantable if name in bounds.scopes)
    if not grantable:
        raise BrokerError(Reason.SCOPE_NOT_GRANTABLE, "There is no tool that this token could be for.")
    if scope is None:
        return grantable
    requested = scope.split(" ")
    if len(set(requested)) != len(requested) or not set(requested) <= set(grantable):
        raise BrokerError(Reason.SCOPE_NOT_GRANTABLE, "The scope goes beyond what this agent may use.")
    return tuple(name for name in grantable if name in requested)


def _check_shape(asked: Asked) -> None:
    """A call token is for no intent: each call declares its own."""
    if asked.audience is not None:
        raise BrokerError(Reason.TARGET_REPEATED, "Ask for one target at a time.")
    if asked.details is not None:
        raise invalid_parameter(PARAMETER, "A call token carries no intent; each call declares its own.")
    if asked.deferred:
        raise invalid_parameter(drafts.COMPLETION_MODE)


def _carried(bounds: Bounds | None) -> tuple[dict[str, Any], ...] | None:
    """The intents that an ID-JAG carries: calls may declare these and no others. Raises: BrokerError INTENT_MALFORMED."""
    items = [] if bounds is None or bounds.details is None else bounds.details
    carried = [
        validate_detail(DeclaredIntent, item)
        for item in items
        if not (isinstance(item, dict) and item.get("type") == names.TASK_TYPE)
    ]
    return tuple(item.model_dump(mode="json", exclude_none=True) for item in carried) or None
