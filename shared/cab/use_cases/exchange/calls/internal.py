"""`POST /internal/calls`: decide on a call that `call_tool` is to make, and give it the one token for that.

The same steps as any exchange. The agent is not the client here: it presents its call token, and never sees what comes out.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any, Final

import orjson

from cab.domain.configured.clients import Agent
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.domain.intents import DeclaredIntent
from cab.ports import Clock, PolicyEngine, Randomness
from cab.protocol.authorization_details import validate_detail
from cab.protocol.tokens.call_tokens import CallToken
from cab.stores.single_use import Kind, SingleUse
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.audit.parties import note_agent, note_assertion
from cab.use_cases.exchange.calls.told import Attempts, not_under_way
from cab.use_cases.exchange.decide import Case, decide_again, raise_refusal
from cab.use_cases.exchange.deferral import Poll
from cab.use_cases.exchange.identify import Caller
from cab.use_cases.exchange.request import Asked, Bounds, CallAsked, PollRequest, check_mode, check_tenant
from cab.use_cases.exchange.steps import Steps
from cab.use_cases.identity.still_here import StillHere
from cab.use_cases.identity.verify_call_token import CallTokenVerifier
from cab.use_cases.identity.verify_dpop import DpopVerifier, check_binding
from cab.values import immutable

MADE_ID_BYTES: Final = 16


@immutable
class PresentedToken:
    """What the agent presented at `call_tool`, which gives it on: the token, and the proof of possession for that URL."""

    call_token: str
    dpop_proof: str | None
    dpop_url: str | None
    dpop_method: str = "POST"

    def __repr__(self) -> str:
        return "PresentedToken()"


@immutable
class NewCall:
    """A call of a connection's action. `detail` is the declared intent; without a `call_id` one is made up here."""

    presented: PresentedToken
    connection: str
    detail: dict[str, Any]
    call_id: str | None
    deferred: bool


@immutable
class PendingCall:
    """A call that waited for a person, asked for again."""

    presented: PresentedToken
    deferral_code: str


@immutable
class RefusedCall:
    """A call under way whose token the platform has refused: another one is wanted."""

    presented: PresentedToken
    attempt: str
    rejected_token_sha256: str


CallRequest = NewCall | PendingCall | RefusedCall


class DecideCall:
    def __init__(
        self,
        deployment: Deployment,
        *,
        policies: PolicyEngine,
        verifier: CallTokenVerifier,
        attempts: Attempts,
        single_use: SingleUse,
        steps: Steps,
        poll: Poll,
        still_here: StillHere,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._deployment = deployment
        self._policies = policies
        self._verifier = verifier
        self._attempts = attempts
        self._single_use = single_use
        self._steps = steps
        self._poll = poll
        self._still_here = still_here
        self._clock = clock
        self._randomness = randomness

    async def __call__(
        self, request: CallRequest, policy_version: str, facts: Facts, *, awaited_until: datetime | None = None
    ) -> dict[str, Any]:
        """What `call_tool` needs to make the call: `_answer_call` of `steps`.

        After `awaited_until` it has given up: then nothing is let through, and the record says that nothing was sent.

        Raises: BrokerError as an exchange does, and POLICY_VERSION_SKEW, CALL_TOKEN_INVALID, CALL_NOT_CONFIGURED,
        SCOPE_NOT_GRANTABLE, CALL_ALREADY_ATTEMPTED, CALL_ID_REUSED; Unavailable.
        """
        if policy_version != self._deployment.policy_version:
            # During a roll-out the two functions may have other catalogs: what one decides on, the other would not send.
            raise BrokerError(Reason.POLICY_VERSION_SKEW, "The configuration is being changed. Try again.")
        facts.awaited_until = awaited_until
        token = await self._verifier.verify(request.presented.call_token)
        facts.txn = token.assertion.txn
        agent = self._deployment.agent_by_id.get(token.agent)
        if agent is None:  # taken out of the configuration since
            raise BrokerError(Reason.CALL_TOKEN_INVALID, "The call token is not valid.", why="no such agent any more")
        check_tenant(token.assertion, agent)
        note_agent(facts, agent)
        note_assertion(facts, token.assertion, agent)
        await self._still_here.check(token.assertion, reason=Reason.CALL_TOKEN_INVALID)
        caller = Caller(agent, None, _nothing_to_spend())  # the platform's token is bound to no key of the agent's
        if not isinstance(request, RefusedCall):  # whose proof was spent when the call was decided
            await self._check_possession(request.presented, token, agent)
        match request:
            case NewCall():
                return await self._new(request, token, caller, facts)
            case PendingCall():
                check_mode(agent, calls=True)
                poll = PollRequest(request.deferral_code, call_scopes=token.scopes, asker=token.assertion)
                return await self._poll(poll, caller, facts)
            case RefusedCall():
                return await self._again(request, token, caller, facts)

    async def _new(self, request: NewCall, token: CallToken, caller: Caller, facts: Facts) -> dict[str, Any]:
        chosen = request.call_id
        call = CallAsked(chosen or self._randomness.token(MADE_ID_BYTES), token.scopes, is_chosen=chosen is not None)
        asked = Asked(
            audience=request.connection, details=orjson.dumps([request.detail]).decode(), deferred=request.deferred
        )
        bounds = None if token.intents is None else Bounds(details=token.intents)
        case = Case(caller.agent, token.assertion, asked, self._clock.now(), bounds=bounds, call=call)
        return await self._steps.run(case, caller, facts, subject_token=None)

    async def _check_possession(self, presented: PresentedToken, token: CallToken, agent: Agent) -> None:
        """RFC 9449 section 7: a bound token works only with a proof of that key, for this token and URL, once."""
        if token.jkt is None and agent.call.dpop != "required":
            return
        verifier = DpopVerifier(presented.dpop_url or "", self._single_use, self._clock, method=presented.dpop_method)
        jkt = await verifier.key_of(presented.dpop_proof, tenant=agent.tenant, access_token=presented.call_token)
        check_binding(token.jkt or "", jkt)

    # --- another token for a call under way ---

    async def _again(self, request: RefusedCall, token: CallToken, caller: Caller, facts: Facts) -> dict[str, Any]:
        attempt = await self._attempts.read(request.attempt)
        assertion, now = token.assertion, self._clock.now()
        whose = (attempt.tenant, attempt.subject, attempt.agent)
        connection = self._deployment.connection_by_id.get(attempt.connection)
        if whose != (assertion.tenant, assertion.subject, token.agent) or connection is None:
            raise not_under_way("the attempt is of another user or agent", request.attempt)
        first = await self._single_use.claim(
            Kind.CALL_ATTEMPT,
            tenant=attempt.tenant,
            issuer=self._deployment.broker.sts_issuer,
            identifier=attempt.jti,
            until=attempt.expires_at,
        )
        if not first:
            raise not_under_way("used before", request.attempt)
        call = CallAsked(attempt.call_id, token.scopes, is_chosen=False)
        case = Case(caller.agent, assertion, Asked(scope=" ".join(attempt.scopes) or None), now, call=call)
        declared = validate_detail(DeclaredIntent, attempt.detail)
        # Rules may have changed meanwhile; the user's yes, the counts and the uses were taken when the call was let through.
        asked_for = self._steps.judge(
            lambda: decide_again(case, connection, declared, self._deployment, self._policies), facts
        )
        raise_refusal(asked_for.decision)
        return await self._steps.issue_again(
            asked_for, caller, facts, rejected=request.rejected_token_sha256, account=attempt.account
        )


def _nothing_to_spend() -> asyncio.Future[None]:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done
