"""Who wants a tool called, and for whom: the call token, and the key that it may be bound to."""

from __future__ import annotations

from cab.domain.configured.clients import Agent
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.ports import CallCredentials, Clock
from cab.protocol.tokens import dpop
from cab.protocol.tokens.call_tokens import CallToken
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.audit.parties import note_agent, note_assertion
from cab.use_cases.identity.refused_credentials import credential_refused
from cab.use_cases.identity.verify_call_token import CallTokenVerifier
from cab.use_cases.identity.verify_dpop import check_binding
from cab.values import immutable


@immutable
class ToolCaller:
    """A verified call token with its agent, and what was presented: exchange_token verifies it again, and spends the proof."""

    agent: Agent
    token: CallToken
    credentials: CallCredentials

    @property
    def tenant(self) -> str:
        return self.token.assertion.tenant

    @property
    def subject(self) -> str:
        return self.token.assertion.subject


class IdentifyToolCaller:
    def __init__(self, deployment: Deployment, verifier: CallTokenVerifier, clock: Clock) -> None:
        self._deployment = deployment
        self._verifier = verifier
        self._clock = clock

    async def __call__(
        self, authorization: str | None, dpop_proof: str | None, *, method: str, url: str, facts: Facts
    ) -> ToolCaller:
        """`url` is the endpoint as configured, never the Host header.

        Raises: BrokerError CALL_TOKEN_INVALID, DPOP_PROOF_INVALID; Unavailable.
        """
        scheme, _, text = (authorization or "").partition(" ")
        scheme, text = scheme.lower(), text.strip()
        if scheme not in ("bearer", "dpop") or not text:
            raise BrokerError(Reason.CALL_TOKEN_INVALID, "Present a call token.", why="no call token")
        token = await self._verifier.verify(text)
        agent = self._deployment.agent_by_id.get(token.agent)
        if agent is None or agent.tenant != token.assertion.tenant or agent.mode == "token":
            raise credential_refused(  # what was configured when it was issued is no more
                Reason.CALL_TOKEN_INVALID, "The call token is not valid.", "the agent makes no calls", token=text
            )
        is_bound = token.jkt is not None or agent.call.dpop == "required"
        if is_bound != (scheme == "dpop"):  # RFC 9449 section 7.1: never the one for the other
            raise credential_refused(
                Reason.CALL_TOKEN_INVALID, "The call token is not valid.", "presented as of the other kind", token=text
            )
        if is_bound:
            check_binding(token.jkt or "", self._proven_key(dpop_proof, text, method=method, url=url))
        note_agent(facts, agent)
        note_assertion(facts, token.assertion, agent)
        return ToolCaller(agent, token, CallCredentials(text, method, url, dpop_proof if is_bound else None))

    def _proven_key(self, proof: str | None, token: str, *, method: str, url: str) -> str | None:
        """The proof is spent where calls are decided: here nothing is written anywhere."""
        if proof is None:
            return None
        try:
            return dpop.verify(proof, method=method, url=url, now=self._clock.now(), access_token=token).jkt
        except dpop.InvalidProof as error:
            raise credential_refused(
                Reason.DPOP_PROOF_INVALID, "The DPoP proof is not valid.", error, token=proof
            ) from error
