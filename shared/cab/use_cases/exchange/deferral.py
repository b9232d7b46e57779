"""Deferred exchanges (see drafts.py): a code to poll with while a person decides, and what the poll comes to.

Everything is bound when the exchange is deferred; the poll carries neither a token nor an intent.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from cab.domain.accounts import account_behind
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.domain.intents import DeclaredIntent
from cab.ports import Clock, PolicyEngine, Randomness
from cab.protocol.authorization_details import details_hash, validate_detail
from cab.protocol.tokens import assertions
from cab.stores.deferrals import Deferral, Deferrals
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.audit.parties import note_assertion
from cab.use_cases.exchange.confirm import Confirmations, Waiting
from cab.use_cases.exchange.decide import Case, Decided, decide_again, raise_refusal
from cab.use_cases.exchange.identify import Caller
from cab.use_cases.exchange.request import Asked, CallAsked, PollRequest
from cab.use_cases.exchange.steps import Steps, all_of
from cab.use_cases.identity.still_here import StillHere
from cab.use_cases.identity.verify_dpop import check_binding

DEFERRAL_POLL_BURST: Final = 2


class Defer:
    """Turns an exchange that waits for a person into a code. Called as a step of `Steps.run`."""

    def __init__(
        self, deployment: Deployment, confirmations: Confirmations, deferrals: Deferrals, randomness: Randomness
    ) -> None:
        self._deployment = deployment
        self._confirmations = confirmations
        self._deferrals = deferrals
        self._randomness = randomness

    async def __call__(self, asked_for: Decided, caller: Caller, waiting: Waiting) -> BrokerError:
        """The answer to give: pending, with the code."""
        code = self._randomness.token(32)
        case = asked_for.judgement.case
        broker = self._deployment.broker
        await self._deferrals.open(
            code,
            Deferral(
                client_id=caller.agent.client_id,
                approval_id=waiting.request.id,
                assertion_claims=case.assertion.claims(audience=broker.sts_issuer, sts_issuer=broker.sts_issuer),
                intent=asked_for.declared.model_dump(mode="json", exclude_none=True),
                connection=asked_for.connection.id,
                scope=" ".join(asked_for.scopes) or None,
                jkt=caller.jkt,
                created_at=case.at,
                expires_at=waiting.request.waits_until + timedelta(seconds=broker.lifetimes.approval_valid_s),
                call_id=case.call.id if case.call else None,
                call_id_is_chosen=case.call is not None and case.call.is_chosen,
            ),
        )
        return self.pending(code, waiting, case.at)

    def pending(self, code: str, waiting: Waiting, now: datetime) -> BrokerError:
        return BrokerError(
            Reason.AUTHORIZATION_PENDING,
            "The user has not answered yet.",
            remedy=Remedy(
                deferral_code=code,
                interval_s=self._deployment.broker.lifetimes.deferral_interval_s,
                expires_in_s=max(0, int((waiting.request.waits_until - now).total_seconds())),
                interaction_uri=self._confirmations.interaction_uri(waiting.request),
            ),
        )


class Poll:
    """Redeems a code once the person has agreed."""

    def __init__(
        self,
        deployment: Deployment,
        *,
        policies: PolicyEngine,
        confirmations: Confirmations,
        deferrals: Deferrals,
        defer: Defer,
        steps: Steps,
        still_here: StillHere,
        clock: Clock,
    ) -> None:
        self._still_here = still_here
        self._deployment = deployment
        self._policies = policies
        self._confirmations = confirmations
        self._deferrals = deferrals
        self._defer = defer
        self._steps = steps
        self._clock = clock

    async def __call__(self, request: PollRequest, caller: Caller, facts: Facts) -> dict[str, Any]:
        """The JSON body of a success. Raises: BrokerError DEFERRAL_CODE_INVALID, DEFERRAL_EXPIRED, POLLED_TOO_FAST,
        AUTHORIZATION_PENDING, and what the steps of an exchange raise; Unavailable."""
        code = request.deferral_code
        now = self._clock.now()
        deferral, _ = await all_of(self._deferrals.read(code), caller.spending)
        if deferral is None or deferral.client_id != caller.agent.client_id or not _is_asked_alike(request, deferral):
            raise BrokerError(Reason.DEFERRAL_CODE_INVALID, "The deferral code is not valid.")
        check_binding(deferral.jkt, caller.jkt)
        assertion = assertions.restore(deferral.assertion_claims)
        note_assertion(facts, assertion, caller.agent)
        await self._still_here.check(assertion, reason=Reason.DEFERRAL_CODE_INVALID)
        facts.confirmation_id = deferral.approval_id
        connection = self._deployment.connection_by_id.get(deferral.connection)
        if now >= deferral.expires_at or connection is None:  # a deployment may have taken the connection away
            raise BrokerError(Reason.DEFERRAL_EXPIRED, "The deferral code has expired.")
        call = None
        if deferral.call_id is not None:
            call = CallAsked(deferral.call_id, request.call_scopes or (), is_chosen=deferral.call_id_is_chosen)
        case = Case(caller.agent, assertion, Asked(scope=deferral.scope, deferred=True), now, call=call)
        declared = validate_detail(DeclaredIntent, deferral.intent)
        # Policy is asked again: a rule that changed, or an agent taken off its list, ends what was only promised.
        asked_for = self._steps.judge(
            lambda: decide_again(case, connection, declared, self._deployment, self._policies), facts
        )
        (question, said), standing, _ = await all_of(
            self._confirmations.look_up(deferral.approval_id),
            self._steps.read_standing(asked_for),
            self._check_pace(code, deferral, now),
        )
        account = account_behind(asked_for.connection, standing.grant)
        if question is not None:
            binding = question.request.binding
            if binding.whose() != _whose(asked_for):
                raise BrokerError(Reason.DEFERRAL_CODE_INVALID, "The deferral code is not valid.")
            raise_refusal(asked_for.decision)
            if binding.policy_version != self._deployment.policy_version:
                raise BrokerError(Reason.DEFERRAL_EXPIRED, "Policy has changed since the user was asked.")
            answer = self._confirmations.weigh(question, said, asked_for.decision, account=account, now=now)
            if isinstance(answer, Waiting):
                raise self._defer.pending(code, answer, now)
            if answer is not None:
                given = await self._steps.issue_agreed(answer, asked_for, standing, caller, facts, subject_token=None)
                if given is not None:
                    return given
                question, said = await self._confirmations.look_up(deferral.approval_id)
        wait_over = now >= deferral.expires_at - timedelta(seconds=self._deployment.broker.lifetimes.approval_valid_s)
        raise self._confirmations.ended(question, said, account=account, wait_over=wait_over)

    async def _check_pace(self, code: str, deferral: Deferral, now: datetime) -> None:
        polls = await self._deferrals.count_poll(code, deferral)
        interval_s = self._deployment.broker.lifetimes.deferral_interval_s
        allowed = DEFERRAL_POLL_BURST + (now - deferral.created_at).total_seconds() / interval_s
        if polls > allowed:
            raise BrokerError(
                Reason.POLLED_TOO_FAST,
                "Poll no faster than the interval.",
                remedy=Remedy(deferral_code=code, interval_s=interval_s * 2),
            )


def _is_asked_alike(request: PollRequest, deferral: Deferral) -> bool:
    """What was deferred as a call never becomes a token in an agent's hands, nor the reverse; and a call stays its user's."""
    if request.asker is None:
        return deferral.call_id is None
    claims = deferral.assertion_claims
    return deferral.call_id is not None and (claims["tenant"], claims["sub"]) == (
        request.asker.tenant,
        request.asker.subject,
    )


def _whose(asked_for: Decided) -> tuple[str, str, str, str]:
    case = asked_for.judgement.case
    intent_hash = details_hash([asked_for.intent.as_authorization_detail()])
    return case.assertion.tenant, case.assertion.subject, case.agent.client_id, intent_hash
