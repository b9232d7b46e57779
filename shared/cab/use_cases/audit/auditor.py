"""How every request ends: its facts become one audit event, and no token leaves before that event is acknowledged."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import field, replace
from datetime import datetime, timedelta
from typing import Any, Final, Generic, Literal, TypeVar

from cab.domain import audit
from cab.domain.decisions import decided_by
from cab.domain.errors import BrokerError, Claimed, Reason
from cab.ports import AuditLog, Clock, Randomness, Unavailable
from cab.protocol.oauth_errors import status_of
from cab.use_cases.audit.lines import tell_refusal
from cab.use_cases.audit.waits import collected_in
from cab.values import immutable, mutable

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")

REASON_BY_DEPENDENCY: Final = {
    "audit": Reason.AUDIT_UNAVAILABLE,
    "documents": Reason.STORE_UNAVAILABLE,
    "secrets": Reason.STORE_UNAVAILABLE,
    "identity_provider": Reason.IDP_UNAVAILABLE,
    "provider": Reason.PROVIDER_UNAVAILABLE,
    "grants": Reason.PROVIDER_UNAVAILABLE,
    "policy": Reason.POLICY_UNAVAILABLE,
    "decisions": Reason.POLICY_UNAVAILABLE,  # exchange_token, as call_tool sees it
}
# Refusals of logins, callbacks and those who act, whose fixed sentence tells the fault where nothing inner does.
_TOLD_BY_DETAIL: Final = frozenset(
    {
        Reason.STATE_INVALID,
        Reason.CSRF_INVALID,
        Reason.LOGIN_FAILED,
        Reason.CONSENT_REFUSED,
        Reason.AUTHORIZATION_FAILED,
        Reason.ISSUER_MISMATCH,
        Reason.STEP_UP_REQUIRED,
        Reason.ASSERTION_INVALID,
        Reason.ACTOR_TOKEN_INVALID,
        Reason.ACTOR_MISMATCH,
        Reason.MAY_ACT_VIOLATED,
        Reason.DPOP_PROOF_INVALID,
        Reason.SUBJECT_TOKEN_INVALID,
    }
)
UNAUTHENTICATED_EVENTS_PER_MINUTE: Final = 5
TRACKED_SOURCES: Final = 1000
COUNTED_AT_ONCE: Final = 20  # no stranger waits for more


@immutable
class RequestContext:
    """What transport knows about a request before anybody looked at its content."""

    txn: str
    caller_ip_prefix: str | None = None
    trace_id: str | None = None


@mutable
class Facts:
    """The audit event in the making: filled in as facts become known, sent once at the end, whatever the end is."""

    event_type: audit.EventType
    context: RequestContext
    started_at: datetime
    started_clock: float = field(default_factory=time.perf_counter)
    client_authenticated: bool = False
    tenant: str | None = None
    subject: audit.Subject | None = None
    actor: audit.Actor | None = None
    login: audit.LoginFacts | None = None
    assertion_jti: str | None = None
    tool: audit.Tool | None = None
    intent: audit.IntentFacts | None = None
    task: audit.TaskFacts | None = None
    decision: Literal["permit", "deny", "confirm"] | None = None
    policy: audit.PolicyFacts | None = None
    scopes: audit.Scopes | None = None
    token: audit.TokenFacts | None = None
    grant: audit.GrantFacts | None = None
    call: audit.CallFacts | None = None
    observed_by: audit.Observer | None = None
    confirmation_id: str | None = None
    txn: str | None = None  # the assertion's, once verified: one transaction from login to call
    awaited_until: datetime | None = None  # after which nobody takes the answer any more
    latency: dict[str, float] = field(default_factory=dict)
    beside: list[Coroutine[Any, Any, None]] = field(default_factory=list)  # writes that run beside the publish
    undo: list[Callable[[], Coroutine[Any, Any, None]]] = field(
        default_factory=list
    )  # when we fail: what not to charge
    release: list[Callable[[], Coroutine[Any, Any, None]]] = field(
        default_factory=list
    )  # whenever there is no answer: what was only reserved for it

    @property
    def outcome(self) -> audit.Outcome:
        """How a request ended that was answered."""
        if self.event_type is audit.EventType.TOOL_EXECUTED and self.call is not None and self.call.outcome is not None:
            return audit.OUTCOME_OF_CALL[self.call.outcome]
        return audit.Outcome.ISSUED if self.token else audit.Outcome.EXECUTED

    def event(self, *, event_id: str, outcome: audit.Outcome, reason: Reason | None) -> audit.AuditEvent:
        total = (time.perf_counter() - self.started_clock) * 1000
        return audit.AuditEvent(
            event_id=event_id,
            event_type=self.event_type,
            occurred_at=self.started_at,
            tenant=self.tenant,
            subject=self.subject,
            actor=self.actor,
            login=self.login,
            assertion_jti=self.assertion_jti,
            tool=self.tool,
            intent=self.intent,
            task=self.task,
            decision=self.decision,
            reason_code=reason.value if reason else None,
            decided_by=decided_by(reason, decision=self.decision, confirmed=self.confirmation_id is not None)
            if self.actor is None or self.actor.depth is None
            else "allow_list",  # a delegation: to whom one may is in the agent's entry
            policy=self.policy,
            scopes=self.scopes,
            token=self.token,
            grant=self.grant,
            call=self.call,
            observed_by=self.observed_by,
            confirmation_id=self.confirmation_id,
            outcome=outcome,
            latency_ms=audit.Latency(
                total=_rounded(total), **{name: _rounded(value) for name, value in self.latency.items()}
            ),
            txn=self.txn or self.context.txn,
            trace_id=self.context.trace_id,
            caller_ip_prefix=self.context.caller_ip_prefix,
        )


@immutable
class Answered(Generic[_Answer]):
    """A request's end: an answer or a refusal, audited, with its `txn`."""

    txn: str
    answer: _Answer | None = None
    refusal: BrokerError | None = None


@mutable
class _Source:
    window_ends_at: datetime
    seen: int = 0
    first_at: datetime | None = None  # of those that were only counted


class Auditor:
    """Runs a use case to its audited end. One per process."""

    def __init__(
        self, log: AuditLog, clock: Clock, randomness: Randomness, *, window: timedelta = timedelta(minutes=1)
    ) -> None:
        """Refusals of strangers are listed and then counted, by source and `window`."""
        self._log = log
        self._clock = clock
        self._randomness = randomness
        self._window = window
        self._sources: dict[str | None, _Source] = {}
        self._next_count: asyncio.TimerHandle | None = None
        self._counting: asyncio.Task[None] | None = None

    async def run(
        self,
        event_type: audit.EventType,
        context: RequestContext,
        work: Callable[[Facts], Awaitable[_Answer]],
        *,
        silent: bool = False,
    ) -> Answered[_Answer]:
        """Do the work, publish its event, then answer.

        An answer whose event is not acknowledged is withheld: the caller gets `audit_unavailable` instead. A refusal is
        answered anyway. `silent` work leaves an event only when refused (pages a person merely looks at).
        """
        facts = Facts(event_type, context, self._clock.now())
        try:
            with collected_in(facts.latency):
                answer = await work(facts)
        except Exception as error:  # noqa: BLE001  # of a bug the caller gets JSON, the log type and place, nobody the text
            refusal = _refusal_of(error, txn=context.txn)
        else:
            if silent:
                return Answered(facts.txn or context.txn, answer=answer)
            try:
                event = facts.event(event_id=self._randomness.event_id(), outcome=facts.outcome, reason=None)
                await self._publish(event, facts)
            except Exception as error:  # noqa: BLE001  # what takes the event back is the record of that
                refusal = _refusal_of(error, txn=context.txn)
                await self._undo(facts, refusal)
                return Answered(facts.txn or context.txn, refusal=refusal)
            return Answered(facts.txn or context.txn, answer=answer)
        await self._undo(facts, refusal)
        await self._record_refusal(facts, refusal)
        return Answered(facts.txn or context.txn, refusal=refusal)

    async def _undo(self, facts: Facts, refusal: BrokerError) -> None:
        """What a request is charged that fails through us. Where even that fails, the charge remains: it ends by itself."""
        for undo in [*(facts.undo if status_of(refusal.reason) >= 500 else []), *facts.release]:
            try:
                await undo()
            except Unavailable:
                _log.warning("a request that failed stays counted, txn %s", facts.txn or facts.context.txn)

    async def close(self) -> None:
        """Publish the refusals that were only counted so far, whether their minute is over or not: nobody comes later."""
        if self._next_count is not None:
            self._next_count.cancel()
        while self._sources:
            events = self._counted(all_of_them=True)
            await asyncio.gather(*(self._publish_anyway(event) for event in events))

    async def _publish(self, event: audit.AuditEvent, facts: Facts) -> None:
        """Returns when the event is acknowledged and everything beside it is done, in time. Raises: BrokerError, Unavailable.

        An event that says `issued` is then taken back: nobody gets that token. Nothing vouches for it before.
        """
        beside = [asyncio.create_task(it) for it in (*facts.beside, *map(self._publish_anyway, self._counted()))]
        answered = asyncio.get_running_loop().create_future() if beside else None
        take_back = self._taking_back(event, Reason.AUDIT_UNAVAILABLE)
        try:
            await self._log.publish(event, if_withheld=take_back, answered=answered)
        except BaseException:
            await asyncio.gather(*beside, return_exceptions=True)
            raise
        else:
            await self._done_in_time(event, beside, facts.awaited_until)
        finally:
            if answered is not None:
                answered.set_result(None)

    async def _done_in_time(
        self, event: audit.AuditEvent, beside: list[asyncio.Task[None]], awaited_until: datetime | None
    ) -> None:
        """What is beside an event that was acknowledged."""
        failed: list[BaseException]
        try:
            ended = await asyncio.gather(*beside, return_exceptions=True)
        except asyncio.CancelledError as cancelled:  # its caller goes away: it gets nothing
            failed = [cancelled]
        else:
            failed = [error for error in ended if error is not None]
            if awaited_until is not None and self._clock.now() > awaited_until:
                failed.append(Unavailable("audit"))
        if failed:
            take_back = self._taking_back(event, _reason_of(failed[0]))
            if take_back is not None:
                await self._publish_anyway(take_back())
            raise failed[0]

    def _taking_back(self, event: audit.AuditEvent, reason: Reason) -> Callable[[], audit.AuditEvent] | None:
        if event.outcome is not audit.Outcome.ISSUED:
            return None
        return lambda: audit.withheld(event, event_id=self._randomness.event_id(), reason_code=reason.value)

    async def _record_refusal(self, facts: Facts, refusal: BrokerError) -> None:
        for write in facts.beside:
            write.close()
        facts.token = None
        outcome = audit.Outcome.FAILED if refusal.reason is Reason.INTERNAL_ERROR else audit.Outcome.REFUSED
        event = facts.event(event_id=self._randomness.event_id(), outcome=outcome, reason=refusal.reason)
        claimed = refusal.claimed or Claimed()
        why = refusal.why or (refusal.detail if refusal.reason in _TOLD_BY_DETAIL else None) or None
        event = replace(event, why=why, unverified=audit.unverified(claimed.client_id, claimed.issuer))
        counted = self._counted()  # before this one opens its source's next minute
        events = [event]
        if not facts.client_authenticated:
            events = events if self._is_within_budget(facts.context) else []
        if event in events:
            tell_refusal(event)
        await asyncio.gather(*(self._publish_anyway(event) for event in (*counted, *events)))

    async def _publish_anyway(self, event: audit.AuditEvent) -> None:
        try:
            await self._log.publish(event)
        except Unavailable:
            _log.warning("audit event %s is not acknowledged yet", event.event_id)

    def _is_within_budget(self, context: RequestContext) -> bool:
        """Strangers may not flood the audit: a few events per source and minute, the rest is only counted."""
        ends_at = self._clock.now() + self._window
        source = self._sources.setdefault(context.caller_ip_prefix, _Source(ends_at))
        source.seen += 1
        if source.seen <= UNAUTHENTICATED_EVENTS_PER_MINUTE:
            return True
        source.first_at = source.first_at or self._clock.now()
        self._count_in_time()
        return False

    def _count_in_time(self) -> None:
        """Once the minute is over, whether anybody comes or not. Without CPU after an answer: as soon as there is some."""
        if self._next_count is None:
            loop = asyncio.get_running_loop()
            self._next_count = loop.call_later(self._window.total_seconds(), self._start_counting)

    def _start_counting(self) -> None:
        self._next_count = None
        self._counting = asyncio.create_task(self._publish_counted())

    async def _publish_counted(self) -> None:
        while events := self._counted():
            await asyncio.gather(*(self._publish_anyway(event) for event in events))
        if any(source.first_at is not None for source in self._sources.values()):
            self._count_in_time()

    def _counted(self, *, all_of_them: bool = False) -> list[audit.AuditEvent]:
        """One event for each source whose minute is over (or that must make room) with refusals that were only counted.

        A timer takes them, or whoever comes next, answered or refused: a flooder need not return to be on record. They have
        the time and network of the flood, and a transaction of their own.
        """
        events: list[audit.AuditEvent] = []
        if not self._sources:
            return events
        now = self._clock.now()
        while self._sources and len(events) < COUNTED_AT_ONCE:
            prefix, source = next(iter(self._sources.items()))  # the oldest: every window is as long as any other
            if not all_of_them and source.window_ends_at > now and len(self._sources) < TRACKED_SOURCES:
                break
            del self._sources[prefix]
            if source.seen <= UNAUTHENTICATED_EVENTS_PER_MINUTE:
                continue
            about = RequestContext(self._randomness.token(16), caller_ip_prefix=prefix)
            facts = Facts(audit.EventType.REQUESTS_REFUSED_COUNTED, about, source.first_at or now)
            event = facts.event(event_id=self._randomness.event_id(), outcome=audit.Outcome.REFUSED, reason=None)
            events.append(replace(event, count=source.seen - UNAUTHENTICATED_EVENTS_PER_MINUTE))
        return events


def _rounded(milliseconds: float) -> float:
    """To microseconds. `round` would go by the number's text."""
    return int(milliseconds * 1000 + 0.5) / 1000


def _refusal_of(error: Exception, *, txn: str) -> BrokerError:
    if isinstance(error, BrokerError):
        return error
    if not isinstance(error, Unavailable):
        log_bug(error, txn=txn)
    return BrokerError(_reason_of(error))


def _reason_of(error: BaseException) -> Reason:
    """Why nobody gets an answer, be it on record already."""
    if isinstance(error, BrokerError):
        return error.reason
    if isinstance(error, Unavailable):
        return REASON_BY_DEPENDENCY.get(error.what, Reason.STORE_UNAVAILABLE)
    return Reason.AUDIT_UNAVAILABLE if isinstance(error, asyncio.CancelledError) else Reason.INTERNAL_ERROR


def log_bug(error: BaseException, *, txn: str) -> None:
    """Type and place of an unexpected error. Never its text: it may quote what must not be logged."""
    place: Any = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place is not None else "?"
    _log.error("internal error %s at %s, txn %s", type(error).__name__, where, txn)
