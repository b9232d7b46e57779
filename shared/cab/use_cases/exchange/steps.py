"""One exchange, top to bottom: decide, count, confirm, issue, record, answer. Every flow that ends in a token goes through `run`.

What can run side by side does; nothing is issued before all of it is known. The event is published by the auditor around it:
no answer leaves before that is acknowledged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final, TypeVar, overload

from cab.begun import Begun
from cab.domain import audit
from cab.domain.accounts import account_behind
from cab.domain.calls.rendering import render, repeats_safely
from cab.domain.configured.deployment import Deployment
from cab.domain.decisions import Confirm, Permit
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.domain.grants import Grant
from cab.domain.tasks import Task
from cab.ports import Clock, PolicyEngine, Randomness, Signer
from cab.protocol import names
from cab.protocol.authorization_details import details_hash
from cab.protocol.drafts import SUB_PROFILE_AI_AGENT
from cab.protocol.tokens.assertions import Assertion, actor_claim, whole_seconds_until
from cab.protocol.tokens.attempts import LIFE as ATTEMPT_LIFE
from cab.protocol.tokens.attempts import TYP as ATTEMPT_TYP
from cab.protocol.tokens.attempts import Attempt
from cab.stores.approvals import Binding, Question
from cab.stores.calls import CallClaim, CallIds, CallKey
from cab.stores.issued_tokens import IssuedToken, IssuedTokens
from cab.stores.limits import Counted, RateLimits, TaskBudgets
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.exchange.confirm import Agreed, Confirmations, Waiting
from cab.use_cases.exchange.decide import Case, Decided, Judgement, decide, decided, raise_refusal
from cab.use_cases.exchange.identify import Caller
from cab.use_cases.exchange.issue import BrokerTokens, DownstreamTokens, Issued, is_broker_jwt
from cab.use_cases.exchange.record import note_issued, note_judgement
from cab.use_cases.exchange.request import CallAsked
from cab.values import immutable

_F = TypeVar("_F")
_S = TypeVar("_S")
_T = TypeVar("_T")
STAND_IN_LIFE: Final = timedelta(seconds=60)

Deferrer = Callable[[Decided, Caller, Waiting], Awaitable[BrokerError]]


class TaskUse(Enum):
    """How it stands with the one use of a task that an answer costs."""

    UNCOUNTED = "the task's uses are not counted"
    DUE = "to be spent before the answer"
    SPENT = "spent, and given back if there is no answer"
    NONE_LEFT = "there was none to spend"


@immutable
class GrantStanding:
    """What the stores say of the user's side: the grant, if one was asked for, and the use of the task."""

    grant: Grant | None
    use: TaskUse


class Steps:
    """The steps that token exchange, ID-JAG and deferral share. Built in bootstrap; holds no state of a request."""

    def __init__(
        self,
        deployment: Deployment,
        *,
        policies: PolicyEngine,
        rate_limits: RateLimits,
        budgets: TaskBudgets,
        confirmations: Confirmations,
        broker_tokens: BrokerTokens,
        downstream_tokens: DownstreamTokens,
        issued_tokens: IssuedTokens,
        signer: Signer,
        call_ids: CallIds,
        defer: Deferrer,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._deployment = deployment
        self._policies = policies
        self._rate_limits = rate_limits
        self._budgets = budgets
        self._confirmations = confirmations
        self._broker_tokens = broker_tokens
        self._downstream_tokens = downstream_tokens
        self._issued_tokens = issued_tokens
        self._signer = signer
        self._call_ids = call_ids
        self._defer = defer
        self._clock = clock
        self._randomness = randomness

    async def run(self, case: Case, caller: Caller, facts: Facts, *, subject_token: str | None) -> dict[str, Any]:
        """The JSON body of a success. `subject_token` is None where no assertion of ours was presented (ID-JAG).

        Raises: BrokerError; Unavailable.
        """
        asked_for = self.judge(lambda: decide(case, self._deployment, self._policies), facts)
        if isinstance(asked_for.decision, Confirm):
            return await self._confirm(asked_for, asked_for.decision, caller, facts, subject_token=subject_token)
        # A refusal costs the caller its rate limit too: probing is not free. Policy ran before the grant is read: a denied
        # agent never learns whether there is one. What the count writes meets the mark of the client's assertion in one commit.
        counted, standing, _ = await all_of(
            self._counted(asked_for, facts), self.read_standing(asked_for, spend_for=facts), caller.spending
        )
        _check_limit(counted)
        raise_refusal(asked_for.decision)
        self._check_servable(asked_for, standing)  # a missing grant costs the task no use: what was spent is given back
        await self._claim_call(asked_for, facts)
        await self._spend_use(asked_for, standing, facts)
        issued = await self._issue(asked_for, standing, caller, facts, subject_token=subject_token)
        return await self._answer(asked_for, issued, standing, caller, facts)

    def judge(self, judge: Callable[[], Judgement], facts: Facts) -> Decided:
        """Run the checks and note what they found. Raises: BrokerError when the request could not be read."""
        started = time.perf_counter()
        judgement = judge()
        facts.latency["policy"] = (time.perf_counter() - started) * 1000
        note_judgement(facts, judgement, policy_version=self._deployment.policy_version)
        return decided(judgement)

    # --- count, and read what issuing needs ---

    async def _counted(self, asked_for: Decided, facts: Facts, *, unless: bool = False) -> Counted | None:
        """The request as counted, None where nothing limits it; taken back should it fail through us. Raises: Unavailable."""
        if unless:
            return None
        case = asked_for.judgement.case
        counted = await self._rate_limits.count(
            tenant=case.assertion.tenant,
            subject=case.assertion.subject,
            agent=case.agent.client_id,
            action=asked_for.intent.action,
            now=case.at,
        )
        if counted is not None:
            facts.undo.append(lambda: self._rate_limits.take_back(counted))
        return counted

    async def _take_back(self, counted: Counted | None) -> None:
        """Of what is the same action as one that was counted before."""
        if counted is not None:
            await self._rate_limits.take_back(counted)

    async def read_standing(self, asked_for: Decided, *, spend_for: Facts | None = None) -> GrantStanding:
        """`spend_for`: a limited task's use is spent along, and given back should there be no answer."""
        assertion = asked_for.judgement.case.assertion
        if not isinstance(asked_for.decision, Permit | Confirm):
            return GrantStanding(None, TaskUse.UNCOUNTED)
        using = asyncio.create_task(self._use(assertion, spend_for)) if assertion.task else None
        try:
            grant = await self._read_grant(asked_for)
        finally:
            use = await using if using else TaskUse.UNCOUNTED
        return GrantStanding(grant, use)

    async def _read_grant(self, asked_for: Decided) -> Grant | None:
        if is_broker_jwt(asked_for.connection):
            return None
        # A confirmation is bound to the account: an answer of some seconds ago does not do.
        return await self._downstream_tokens.read_grant(
            asked_for.connection,
            asked_for.judgement.case.assertion,
            fresh=isinstance(asked_for.decision, Confirm),
        )

    # --- confirm ---

    async def _confirm(
        self, asked_for: Decided, decision: Confirm, caller: Caller, facts: Facts, *, subject_token: str | None
    ) -> dict[str, Any]:
        """The answer that the user agreed to. Raises: BrokerError with the question while it waits; as `run`.

        The question is what the rate limit counts, once: asking again while it waits and fetching what was agreed to are the
        same action of the same person.
        """
        case = asked_for.judgement.case
        binding = self._binding(asked_for)
        asked_here = self._confirmations.is_asked_here(
            binding, case.at
        )  # then this is hardly another question to count
        (grant, counted), current, _ = await all_of(
            all_of(self._read_grant(asked_for), self._counted(asked_for, facts, unless=asked_here)),
            self._confirmations.current(binding),
            caller.spending,
        )
        standing = GrantStanding(grant, TaskUse.UNCOUNTED)
        facts.confirmation_id = current.request.id if current else None  # what a refusal is about, too
        try:
            # Whoever must connect first is not asked, and no yes is spent on nothing.
            self._check_servable(asked_for, standing)
            account = account_behind(asked_for.connection, grant)
            answer = None
            if (
                current is not None
            ):  # of a task's uses only an answer costs one: a question needs to know nothing of them
                use, answer = await all_of(
                    self._use(case.assertion, None),
                    self._confirmations.answer_to(current, decision, account=account, now=case.at),
                )
                standing = GrantStanding(grant, use)
        except BrokerError:  # a refusal is counted, as everywhere
            _check_limit(counted or await self._counted(asked_for, facts, unless=not asked_here))
            raise
        if isinstance(answer, Agreed):
            facts.confirmation_id = answer.question.request.id
            await self._take_back(counted)
            given = await self.issue_agreed(answer, asked_for, standing, caller, facts, subject_token=subject_token)
            if given is not None:
                return given
            answer, counted = None, await self._counted(asked_for, facts)  # another request was faster
        elif answer is None and asked_here:
            counted = await self._counted(asked_for, facts)
        if answer is None:
            _check_limit(counted)
            answer = await self._ask(asked_for, decision, binding, current)
        else:
            await self._take_back(counted)
        waiting = answer
        facts.decision, facts.confirmation_id = "confirm", waiting.request.id
        if waiting.request.request_digest is not None:
            facts.call = audit.CallFacts(request_digest=waiting.request.request_digest)
        if case.asked.deferred:
            raise await self._defer(asked_for, caller, waiting)
        raise self._confirmations.refusal(waiting)

    def _binding(self, asked_for: Decided) -> Binding:
        """What a yes is for: this, and nothing else."""
        case, intent = asked_for.judgement.case, asked_for.intent
        return Binding(
            tenant=case.assertion.tenant,
            subject=case.assertion.subject,
            agent=case.agent.client_id,
            intent_hash=_intent_hash(asked_for),
            policy_version=self._deployment.policy_version,
            task_id=intent.task_id,
        )

    async def _ask(self, asked_for: Decided, decision: Confirm, binding: Binding, ended: Question | None) -> Waiting:
        case = asked_for.judgement.case
        return await self._confirmations.ask(
            binding,
            asked_for.intent,
            decision,
            instead_of=ended,
            detail=asked_for.intent.as_authorization_detail(),
            txn=case.assertion.txn,
            request_digest=_request_digest(asked_for),
            front_end=case.assertion.front_end,
            now=case.at,
        )

    async def issue_agreed(
        self,
        agreed: Agreed,
        asked_for: Decided,
        standing: GrantStanding,
        caller: Caller,
        facts: Facts,
        *,
        subject_token: str | None,
    ) -> dict[str, Any] | None:
        """The answer to what the user agreed to; None when another request has spent that, the account was just replaced, or
        another request would be sent than was shown.

        The yes is spent when the token is there: a provider that is away, or a grant that turns out to have ended, costs
        the user no second click.
        """
        if agreed.question.request.request_digest not in (None, _request_digest(asked_for)):
            return None  # the catalog's address has changed since: that request was not agreed to
        self._check_servable(asked_for, standing)
        issued = await self._issue(asked_for, standing, caller, facts, subject_token=subject_token)
        issued = await issued.arrived()
        if await self._is_of_another_account(issued, asked_for, standing):
            return None
        await self._claim_call(asked_for, facts)
        is_ours, _ = await all_of(self._confirmations.spend(agreed), self._spend_use(asked_for, standing, facts))
        if not is_ours:
            return None
        return await self._answer(asked_for, issued, standing, caller, facts)

    async def issue_again(
        self, asked_for: Decided, caller: Caller, facts: Facts, *, rejected: str, account: str | None
    ) -> dict[str, Any]:
        """Another token for a call that was let through, since the platform refuses that one (`rejected`: SHA-256, hex).

        `account` is the one that the call began as: replacing it may be what ended the token.

        Raises: BrokerError GRANT_*, PROVIDER_UNAVAILABLE, also where another account is connected now; Unavailable.
        """
        standing = await self.read_standing(asked_for)
        self._check_servable(asked_for, standing)
        is_another = account not in (None, account_behind(asked_for.connection, standing.grant))
        if not is_another:
            issued = await self._issue(asked_for, standing, caller, facts, subject_token=None, rejected=rejected)
            issued = await issued.arrived()
            is_another = await self._is_of_another_account(issued, asked_for, standing)
        if is_another:
            raise BrokerError(Reason.PROVIDER_UNAVAILABLE, "Another account was connected while the call was made.")
        return await self._answer(asked_for, issued, standing, caller, facts)

    async def _is_of_another_account(self, issued: Issued, asked_for: Decided, standing: GrantStanding) -> bool:
        """Whether the token came of a consent that the grant did not have yet when the user's yes was looked at."""
        if standing.grant is None or issued.secret_version in (None, standing.grant.secret_version):
            return False
        connection, assertion = asked_for.connection, asked_for.judgement.case.assertion
        now = await self._downstream_tokens.read_grant(connection, assertion, fresh=True)
        return account_behind(connection, now) != account_behind(connection, standing.grant)

    # --- issue ---

    def _check_servable(self, asked_for: Decided, standing: GrantStanding) -> None:
        if not is_broker_jwt(asked_for.connection):
            self._downstream_tokens.check_servable(asked_for.connection, standing.grant)

    async def _issue(
        self,
        asked_for: Decided,
        standing: GrantStanding,
        caller: Caller,
        facts: Facts,
        *,
        subject_token: str | None,
        rejected: str | None = None,
    ) -> Issued:
        assertion, connection = asked_for.judgement.case.assertion, asked_for.connection
        started = time.perf_counter()
        if is_broker_jwt(connection):
            issued = await self._broker_tokens.issue(
                connection,
                assertion,
                caller.agent,
                scopes=asked_for.scopes,
                details=[asked_for.intent.as_authorization_detail()],
                txn=assertion.txn,
                jkt=caller.jkt,
            )
        else:
            issued = await self._downstream_tokens.issue(
                connection,
                standing.grant,
                assertion,
                subject_assertion=lambda: self._presented(subject_token, assertion),
                scopes=asked_for.scopes,
                rejected=rejected or asked_for.judgement.case.asked.rejected,
            )
        facts.latency["grant"] = (time.perf_counter() - started) * 1000
        return issued

    # --- record, and answer ---

    async def _answer(
        self, asked_for: Decided, issued: Issued, standing: GrantStanding, caller: Caller, facts: Facts
    ) -> dict[str, Any]:
        case, now = asked_for.judgement.case, self._clock.now()
        details = [asked_for.intent.as_authorization_detail()]
        note_issued(facts, issued)
        if issued.grant_id is not None:
            self._record_hand_out(asked_for, caller, issued, details, facts, now)
        if case.call is not None:
            body = await self._answer_call(asked_for, case.call, issued, standing, facts)
        else:
            body = self._body(asked_for, issued, details, now)
        if issued.arriving is not None:
            facts.beside.append(self._complete(body, issued))
        return body

    def _body(self, asked_for: Decided, issued: Issued, details: list[dict[str, Any]], now: datetime) -> dict[str, Any]:
        body = {
            "access_token": issued.token,
            "issued_token_type": names.ACCESS_TOKEN_TYPE,
            "token_type": "DPoP" if issued.jkt else "Bearer",
            "expires_in": whole_seconds_until(issued.expires_at, now),
            "scope": " ".join(issued.scopes),
            "authorization_details": details,
            "txn": asked_for.judgement.case.assertion.txn,
        }
        return body if issued.narrowed is not False else body | {"narrowed": False}

    async def _complete(self, body: dict[str, Any], issued: Issued) -> None:
        """Beside the event: the answer leaves after both. Raises as `Issued.arrived`; then the event is taken back."""
        body["access_token"] = (await issued.arrived()).token
        body["expires_in"] = whole_seconds_until(issued.expires_at, self._clock.now())

    # --- what only calls have ---

    async def _claim_call(self, asked_for: Decided, facts: Facts) -> None:
        """Make sure that a call whose client chose its id is let through once, unless it may be repeated safely.

        Raises: BrokerError CALL_ALREADY_ATTEMPTED, CALL_ID_REUSED; Unavailable.
        """
        case = asked_for.judgement.case
        if case.call is None or not case.call.is_chosen:
            return
        key, is_once = _call_key(case, case.call), not repeats_safely(asked_for.intent.action)
        claim = await self._call_ids.claim(key, _intent_hash(asked_for), now=case.at)
        if claim is CallClaim.REUSED:
            raise BrokerError(Reason.CALL_ID_REUSED, "The call_id belongs to another call.")
        if claim is CallClaim.FIRST and is_once:  # of the others a repetition may be under way, with this id as its key
            facts.release.append(lambda: self._call_ids.release(key))
        elif is_once:
            raise BrokerError(
                Reason.CALL_ALREADY_ATTEMPTED,
                "This call was made before. Look what came of it; a second one needs another call_id.",
            )

    async def _answer_call(
        self, asked_for: Decided, call: CallAsked, issued: Issued, standing: GrantStanding, facts: Facts
    ) -> dict[str, Any]:
        """For `call_tool` alone. What it sends must have this digest; `attempt` serves to ask once more."""
        case, intent, connection = asked_for.judgement.case, asked_for.intent, asked_for.connection
        now = self._clock.now()
        detail = intent.as_authorization_detail()
        rendered = render(intent.action, connection, intent)
        attempt = Attempt(
            tenant=case.assertion.tenant,
            subject=case.assertion.subject,
            agent=case.agent.client_id,
            connection=connection.id,
            scopes=asked_for.scopes,
            detail=detail,
            call_id=call.id,
            jti=self._randomness.token(16),
            expires_at=(now + ATTEMPT_LIFE).replace(microsecond=0),
            account=account_behind(connection, standing.grant),
        )
        facts.call = audit.CallFacts(
            id=call.id,
            method=rendered.method,
            host=rendered.host,
            path_template=rendered.path_template,
            request_digest=rendered.digest,
            request_bytes=rendered.size,
        )
        sts_issuer = self._deployment.broker.sts_issuer
        return {
            "access_token": issued.token,
            "token_type": "Bearer",
            "expires_in": whole_seconds_until(issued.expires_at, now),
            "connection": connection.id,
            "authorization_details": [detail],
            "intent_hash": _intent_hash(asked_for),
            "request_digest": rendered.digest,
            "call_id": call.id,
            "idempotency_key": _call_key(case, call).idempotency_key,
            "attempt": await self._signer.sign(attempt.claims(sts_issuer, now=now), typ=ATTEMPT_TYP),
            "txn": case.assertion.txn,
        }

    async def _use(self, assertion: Assertion, spend_for: Facts | None) -> TaskUse:
        task = assertion.task
        if task is None:
            return TaskUse.UNCOUNTED
        if spend_for is not None and task.max_uses is not None:
            return await self._spend(assertion, task, spend_for)
        limited = await self._budgets.is_limited(
            task, tenant=assertion.tenant, front_end=assertion.front_end, subject=assertion.subject
        )
        return TaskUse.DUE if limited else TaskUse.UNCOUNTED

    async def _spend(self, assertion: Assertion, task: Task, facts: Facts) -> TaskUse:
        of_whom = {"tenant": assertion.tenant, "front_end": assertion.front_end, "subject": assertion.subject}
        left = await self._budgets.spend(task, **of_whom, not_after=assertion.expires_at)
        facts.release.append(lambda: self._budgets.give_back(task, **of_whom, not_after=assertion.expires_at))
        return TaskUse.SPENT if left else TaskUse.NONE_LEFT

    async def _spend_use(self, asked_for: Decided, standing: GrantStanding, facts: Facts) -> None:
        """Raises: BrokerError TASK_EXHAUSTED; Unavailable."""
        assertion, use = asked_for.judgement.case.assertion, standing.use
        if use is TaskUse.DUE and assertion.task is not None:
            use = await self._spend(assertion, assertion.task, facts)
        if use is TaskUse.NONE_LEFT:
            raise BrokerError(Reason.TASK_EXHAUSTED, "The task has no uses left.")

    async def _presented(self, subject_token: str | None, assertion: Assertion) -> str:
        return subject_token or await self._vouch(assertion)

    async def _vouch(self, assertion: Assertion) -> str:
        """A deferral may outlive its assertion; refresh_grants still wants one. Same in all but who issued it, and one minute long."""
        now = self._clock.now()
        sts_issuer = self._deployment.broker.sts_issuer
        stand_in = replace(
            assertion,
            issuer=sts_issuer,
            jti=self._randomness.token(16),
            issued_at=now,
            expires_at=(now + STAND_IN_LIFE).replace(microsecond=0),
        )
        claims = stand_in.claims(audience=sts_issuer, sts_issuer=sts_issuer)
        return await self._signer.sign(claims, typ=names.ASSERTION_TYP)

    def _record_hand_out(
        self,
        asked_for: Decided,
        caller: Caller,
        issued: Issued,
        details: list[dict[str, Any]],
        facts: Facts,
        now: datetime,
    ) -> None:
        """For introspection and revocation of a token that is not ours: whose it is and what it was for. And for the user's page.

        Of several the first of a kind in a task, where `Deployment.records_each` allows that and nobody was asked.
        """
        case, connection = asked_for.judgement.case, asked_for.connection
        assertion = case.assertion
        record = IssuedToken(
            tenant=assertion.tenant,
            subject=assertion.subject,
            client_id=caller.agent.client_id,
            connection=connection.id,
            grant_id=issued.grant_id or "",
            scope=" ".join(issued.scopes),
            details=details,
            act=actor_claim(
                (caller.agent.client_id, *assertion.chain),
                self._deployment.broker.sts_issuer,
                sub_profile=SUB_PROFILE_AI_AGENT,
            ),
            txn=assertion.txn,
            issued_at=now,
            expires_at=issued.expires_at,
            by_broker=case.call is not None,
            call_id=case.call.id if case.call else None,
        )
        each = self._deployment.records_each(connection, asked_for.intent.action)
        if each or isinstance(asked_for.decision, Confirm):
            facts.beside.append(self._issued_tokens.remember(issued.sha256, record))
        elif not self._issued_tokens.is_recorded(issued.sha256, record):
            facts.beside.append(self._issued_tokens.remember_first(issued.sha256, record))


def _check_limit(counted: Counted | None) -> None:
    """Raises: BrokerError RATE_LIMITED."""
    if counted is not None and counted.wait_s is not None:
        raise BrokerError(Reason.RATE_LIMITED, "Too many requests.", remedy=Remedy(retry_after_s=counted.wait_s))


def _intent_hash(asked_for: Decided) -> str:
    return details_hash([asked_for.intent.as_authorization_detail()])


def _request_digest(asked_for: Decided) -> str | None:
    """Of what the broker is to send, None where the agent makes the call."""
    if asked_for.judgement.case.call is None:
        return None
    return render(asked_for.intent.action, asked_for.connection, asked_for.intent).digest


def _call_key(case: Case, call: CallAsked) -> CallKey:
    return CallKey(case.assertion.tenant, case.assertion.subject, case.agent.client_id, call.id)


@overload
async def all_of(first: Awaitable[_F], second: Awaitable[_S], /) -> tuple[_F, _S]: ...
@overload
async def all_of(first: Awaitable[_F], second: Awaitable[_S], third: Awaitable[_T], /) -> tuple[_F, _S, _T]: ...
async def all_of(first: Awaitable[Any], /, *others: Awaitable[Any]) -> tuple[Any, ...]:
    """All results, side by side: the first that has to wait goes on in this task, those after it in tasks of their own.

    Each has its end before anything is raised; the last one's error counts before the others'. Who cancels this cancels all.
    """
    beside: list[Begun[Any] | asyncio.Future[Any]] = []
    waits = False
    for work in (first, *others):
        if isinstance(work, Coroutine) and not waits:
            begun = Begun(work)
            waits = not begun.done()
            beside.append(begun)
        else:
            beside.append(work if isinstance(work, Begun) else asyncio.ensure_future(work))
    results: list[Any] = []
    errors: list[BaseException] = []
    for awaited in beside:
        try:
            results.append(await awaited)
        except asyncio.CancelledError as cancelled:
            for other in beside:
                other.cancel()
            errors.append(cancelled)
        except Exception as error:  # noqa: BLE001 - raised when all have ended
            errors.append(error)
    if errors:
        raise next((error for error in errors if isinstance(error, asyncio.CancelledError)), errors[-1])
    return tuple(results)
