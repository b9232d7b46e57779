"""Delegation: a narrower assertion for the next agent. Same subject and txn, task or smaller, never a later end (RFC 8693 section 4.1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cab.domain import audit
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason, invalid_parameter
from cab.domain.identifiers import token_sha256
from cab.domain.tasks import Task
from cab.ports import Clock, Randomness, Signer
from cab.protocol import drafts, names
from cab.protocol.authorization_details import parse_task, task_digest
from cab.protocol.tokens import assertions
from cab.protocol.tokens.assertions import Assertion, whole_seconds_until
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.exchange.identify import Caller
from cab.use_cases.exchange.request import DelegationRequest


class Delegate:
    def __init__(self, deployment: Deployment, signer: Signer, clock: Clock, randomness: Randomness) -> None:
        self._deployment = deployment
        self._signer = signer
        self._clock = clock
        self._randomness = randomness

    async def __call__(
        self, request: DelegationRequest, assertion: Assertion, caller: Caller, facts: Facts
    ) -> dict[str, Any]:
        """The JSON body of a success. A key binding stays: dropping it would widen.

        Raises: BrokerError TARGET_NOT_ALLOWED, PARAMETER_INVALID, MAY_ACT_VIOLATED, INTENT_OUTSIDE_TASK, SUBJECT_TOKEN_EXPIRED.
        """
        broker = self._deployment.broker
        if facts.actor is not None:  # also where it is refused: to whom it should have gone
            facts.actor = replace(facts.actor, delegates_to=request.may_act)
        self._check_request(request)
        chain = (caller.agent.client_id, *assertion.chain)
        self._check_next(request.may_act, assertion, caller, chain)
        task = _narrower_task(request.asked.details, assertion)
        await caller.spending
        now = self._clock.now()
        delegated = replace(
            assertion,
            issuer=broker.sts_issuer,
            may_act=request.may_act,
            chain=chain,
            task=task,
            jti=self._randomness.token(16),
            issued_at=now.replace(microsecond=0),
            expires_at=assertions.expiry(now, lifetime_s=broker.lifetimes.assertion_s, not_after=assertion.expires_at),
        )
        if delegated.expires_at <= now:
            raise BrokerError(Reason.SUBJECT_TOKEN_EXPIRED, "The subject token has expired.")
        token = await self._signer.sign(
            delegated.claims(audience=broker.sts_issuer, sts_issuer=broker.sts_issuer), typ=names.ASSERTION_TYP
        )
        facts.decision = "permit"
        if facts.actor is not None:
            facts.actor = replace(facts.actor, depth=len(chain))
        facts.task = audit.TaskFacts(bounds_digest=task_digest(task) if task else None)
        facts.token = audit.TokenFacts(
            kind="assertion", jti=delegated.jti, sha256=token_sha256(token), expires_at=delegated.expires_at
        )
        return {
            "access_token": token,
            "issued_token_type": names.JWT_TYPE,
            "token_type": names.NOT_AN_ACCESS_TOKEN,
            "expires_in": whole_seconds_until(delegated.expires_at, now),
            "txn": assertion.txn,
        }

    def _check_request(self, request: DelegationRequest) -> None:
        asked = request.asked
        if asked.audience != self._deployment.broker.sts_issuer or asked.resource is not None:
            raise BrokerError(Reason.TARGET_NOT_ALLOWED, "Assertions are made for this broker only.")
        if asked.scope is not None or asked.deferred:
            raise invalid_parameter("scope" if asked.scope is not None else drafts.COMPLETION_MODE)

    def _check_next(self, next_agent: str, assertion: Assertion, caller: Caller, chain: tuple[str, ...]) -> None:
        known = self._deployment.agent_by_id.get(next_agent)
        if (
            known is None
            or next_agent not in caller.agent.delegates_to
            or known.tenant != assertion.tenant
            or next_agent in chain
            or len(chain) >= assertions.MAX_DEPTH
        ):
            raise BrokerError(Reason.MAY_ACT_VIOLATED, "This agent may not hand the task on to that one.")


def _narrower_task(details: str | None, assertion: Assertion) -> Task | None:
    if details is None:
        return assertion.task
    task = parse_task(details)
    # Without a task the assertion is bounded to reads: adding one would widen it.
    if assertion.task is None or not assertion.task.contains(task):
        raise BrokerError(Reason.INTENT_OUTSIDE_TASK, "The task given on is wider than the one received.")
    return task
