"""Through whom and on whose behalf: the agent that called, the assertion of its user, and the proof of possession of both."""

from __future__ import annotations

from cab.domain.configured.clients import Agent
from cab.domain.errors import BrokerError, Reason
from cab.protocol.tokens.assertions import Assertion
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.audit.parties import note_assertion
from cab.use_cases.exchange.request import check_may_act, check_tenant
from cab.use_cases.identity.authenticate_client import ClientAuthenticator, Spending
from cab.use_cases.identity.still_here import StillHere
from cab.use_cases.identity.verify_assertion import AssertionVerifier
from cab.use_cases.identity.verify_dpop import check_binding
from cab.values import immutable


@immutable
class Caller:
    """An authenticated agent. `jkt` is the DPoP key that proved itself, `spending` the single use of its proofs being recorded."""

    agent: Agent
    jkt: str | None
    spending: Spending


class Subjects:
    """Verifies the assertions and actor tokens that agents present."""

    def __init__(
        self, authenticator: ClientAuthenticator[Agent], verifier: AssertionVerifier, still_here: StillHere
    ) -> None:
        self._authenticator = authenticator
        self._verifier = verifier
        self._still_here = still_here

    async def verify(self, subject_token: str, actor_token: str | None, caller: Caller, facts: Facts) -> Assertion:
        """Raises: BrokerError SUBJECT_TOKEN_INVALID, SUBJECT_TOKEN_EXPIRED, MAY_ACT_VIOLATED, ACTOR_MISMATCH, DPOP_INVALID."""
        assertion = await self._verifier.verify(subject_token)
        facts.txn = assertion.txn
        check_tenant(assertion, caller.agent)
        note_assertion(facts, assertion, caller.agent)
        check_may_act(assertion, caller.agent)
        check_binding(assertion.jkt, caller.jkt)
        await self._still_here.check(assertion)
        if actor_token is not None:
            actor = await self._authenticator.resolve_actor(actor_token)
            if actor.client_id != caller.agent.client_id:  # RFC 8693 section 2.1: the actor is who authenticated
                raise BrokerError(Reason.ACTOR_MISMATCH, "The actor token is of another client.")
        return assertion
