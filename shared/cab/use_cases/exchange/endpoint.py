"""`POST /oauth2/token`: authenticate the agent, read what it asks for, and hand it to the flow of that grant."""

from __future__ import annotations

from typing import Any, assert_never

from cab.domain.configured.clients import Agent
from cab.domain.errors import BrokerError, Reason
from cab.ports import Clock
from cab.protocol.tokens.assertions import Assertion
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.audit.parties import note_agent, note_assertion
from cab.use_cases.exchange.calls.token import CallTokens
from cab.use_cases.exchange.decide import Case
from cab.use_cases.exchange.deferral import Poll
from cab.use_cases.exchange.delegate import Delegate
from cab.use_cases.exchange.id_jag import RedeemIdJag
from cab.use_cases.exchange.identify import Caller, Subjects
from cab.use_cases.exchange.request import (
    DelegationRequest,
    ExchangeRequest,
    IdJagRequest,
    PollRequest,
    grant_type_of,
    read,
)
from cab.use_cases.exchange.steps import Steps
from cab.use_cases.identity.authenticate_client import ClientAuthenticator, Credentials, Spending, after_spending
from cab.use_cases.identity.still_here import StillHere
from cab.use_cases.identity.verify_dpop import DpopVerifier, check_binding


class ExchangeToken:
    """One token endpoint, its flows sharing their steps. Holds no state of a request."""

    def __init__(
        self,
        *,
        authenticator: ClientAuthenticator[Agent],
        dpop: DpopVerifier,
        subjects: Subjects,
        redeem_id_jag: RedeemIdJag,
        steps: Steps,
        delegate: Delegate,
        call_tokens: CallTokens,
        poll: Poll,
        still_here: StillHere,
        clock: Clock,
    ) -> None:
        self._authenticator = authenticator
        self._dpop = dpop
        self._subjects = subjects
        self._redeem_id_jag = redeem_id_jag
        self._steps = steps
        self._delegate = delegate
        self._call_tokens = call_tokens
        self._poll = poll
        self._still_here = still_here
        self._clock = clock

    async def __call__(self, form: dict[str, str], credentials: Credentials, facts: Facts) -> dict[str, Any]:
        """The JSON body of a success. Raises: BrokerError (docs/api.md); Unavailable."""
        grant_type_of(form)
        agent, spending = await self._authenticator.authenticate(credentials)
        note_agent(facts, agent)
        return await after_spending(spending, self._answer(form, agent, credentials, facts, spending))

    async def _answer(
        self, form: dict[str, str], agent: Agent, credentials: Credentials, facts: Facts, spending: Spending
    ) -> dict[str, Any]:
        jkt = await self._dpop.key_of(credentials.dpop_proof, tenant=agent.tenant)
        caller = Caller(agent, jkt, spending)
        match read(form):
            case ExchangeRequest() as request:
                return await self._exchange(request, caller, facts)
            case DelegationRequest() as request:
                assertion = await self._subjects.verify(request.subject_token, request.actor_token, caller, facts)
                return await self._delegate(request, assertion, caller, facts)
            case IdJagRequest() as request:
                return await self._redeem(request, caller, facts)
            case PollRequest() as request:
                return await self._poll(request, caller, facts)
            case never:
                assert_never(never)

    async def _exchange(self, request: ExchangeRequest, caller: Caller, facts: Facts) -> dict[str, Any]:
        assertion = await self._subjects.verify(request.subject_token, request.actor_token, caller, facts)
        if self._call_tokens.are_asked_for(request.asked):
            return await self._call_tokens(request.asked, assertion, caller, facts)
        case = Case(caller.agent, assertion, request.asked, self._clock.now())
        return await self._steps.run(case, caller, facts, subject_token=request.subject_token)

    async def _redeem(self, request: IdJagRequest, caller: Caller, facts: Facts) -> dict[str, Any]:
        """Grants at most what the ID-JAG carries: its resource, its scopes, its details."""
        if not caller.agent.accepts_id_jag:
            raise BrokerError(Reason.GRANT_TYPE_NOT_ALLOWED, "This client may not use the jwt-bearer grant.")
        redeemed = await self._redeem_id_jag(request.assertion, caller.agent, txn=facts.context.txn)
        assertion: Assertion = redeemed.assertion
        note_assertion(facts, assertion, caller.agent)
        check_binding(assertion.jkt, caller.jkt)
        await self._still_here.check(assertion, reason=Reason.ASSERTION_INVALID)
        bounds = redeemed.bounds
        if self._call_tokens.are_asked_for(request.asked, bounds=bounds):
            return await self._call_tokens(request.asked, assertion, caller, facts, bounds=bounds)
        case = Case(caller.agent, assertion, request.asked, self._clock.now(), bounds=bounds)
        return await self._steps.run(case, caller, facts, subject_token=None)
