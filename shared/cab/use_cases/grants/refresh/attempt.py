"""One holder's attempt at a grant, steps 1 to 5 of docs/grants.md: acquire, preflight, send, persist, commit; or recovery.

The order is the point. A refresh token is spent only when its successor can be saved; the provider's bytes are durable before
anything looks at them; and nobody sends a token again before looking, by number, for what a lost holder stored.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from cab.domain import audit, grant_transitions
from cab.domain.configured.connections import Connection, Provider, RotationClass
from cab.domain.errors import BrokerError, Reason
from cab.domain.grants import (
    CLIENT_REFUSED,
    SCOPE_REFUSED,
    UNREAD,
    Grant,
    GrantStatus,
    RefreshOutcome,
    Timings,
)
from cab.ports import AnswerTooLarge, Clock, HttpAnswer, NotFound, Randomness, SendFailed, Unavailable
from cab.protocol import token_refusals, token_responses
from cab.protocol.token_refusals import Refusal, RefusalMeaning
from cab.protocol.token_responses import TokenError
from cab.stores.grant_payloads import (
    CorruptPayload,
    Garbage,
    GrantPayloads,
    Payload,
    Successors,
    new_payload,
    read_payload,
)
from cab.stores.grants import StoredGrant
from cab.use_cases.audit.outbox import Outbox, grant_event
from cab.use_cases.grants.refresh.escrow import Escrow, seal_token_set
from cab.use_cases.grants.refresh.fence import FencedWrites, FenceLost, Transition
from cab.use_cases.grants.refresh.orphaned_tokens import OrphanedTokens
from cab.use_cases.upstream.provider_client import ProviderCalls
from cab.values import immutable

_logger = logging.getLogger(__name__)

FAULT_OF_OURS: Final = "secrets"  # `fail_cause` of attempts that ended because of our own stores
# The provider looked at the request and refused it: the token was not spent. Of others nobody knows.
UNSPENT: Final = frozenset({400, 401, 402, 403, 404, 405, 406, 410, 411, 413, 414, 415, 421, 422, 429, 431})
GATEWAY_FAILURES: Final = frozenset({502, 504})  # a gateway gave up; what is behind it may still be at work
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0
_SAY_AGAIN_AFTER_S: Final = (0.2, 0.5, 1.0, 2.0, 4.0)

_Result = TypeVar("_Result")
Step = Callable[[str], Awaitable[None]]
Saved = Callable[[Grant, Payload, RefreshOutcome], None]


async def no_step(_: str) -> None:
    """Production does nothing between steps; the kill harness stops the process here."""


@immutable
class Wanted:
    """What one caller needs of a grant. Without scopes: whatever there is.

    `rejected` is the SHA-256 (hex) of a token that the platform has just refused although its time is not over.
    """

    scopes: tuple[str, ...]
    connection: Connection
    provider: Provider
    rejected: str | None = None

    @property
    def may_be_wide(self) -> bool:
        """Whether more scopes than wanted do no harm: the connection accepts them, or the token is narrowed before it leaves."""
        return self.connection.allow_unnarrowed or self.provider.narrows_by_exchange

    def beyond(self, scopes: Iterable[str]) -> tuple[str, ...]:
        """Which of them are neither wanted nor asked for at every connect."""
        return self.provider.scope_names.beyond(scopes, (*self.scopes, *self.provider.base_scopes))


@immutable
class Committed:
    """A token set that became the truth by this attempt. At `at`, before that was written, the grant was nobody else's."""

    stored: StoredGrant
    outcome: RefreshOutcome
    at: datetime


class WriteProof:
    """Whether the vault takes writes, as far as this process knows."""

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self._succeeded_at: datetime | None = None
        self._failed_at: datetime | None = None

    def succeeded(self, now: datetime) -> None:
        self._succeeded_at, self._failed_at = now, None

    def failed(self, now: datetime) -> None:
        self._failed_at = now

    def is_refused(self, now: datetime) -> bool:
        """A write has just failed: nothing is spent for a while."""
        return self._failed_at is not None and now < self._failed_at + self._timings.write_breaker

    def is_given(self, now: datetime) -> bool:
        """A write has just succeeded, and none failed since."""
        if self._succeeded_at is None or self._failed_at is not None:
            return False
        return now < self._succeeded_at + self._timings.write_proven_for


@immutable
class AttemptParts:
    """What every attempt of a process works with."""

    writes: FencedWrites
    payloads: GrantPayloads
    escrow: Escrow
    calls: ProviderCalls
    orphans: OrphanedTokens
    outbox: Outbox
    write_proof: WriteProof
    clock: Clock
    randomness: Randomness
    timings: Timings
    step: Step


async def attempt(
    parts: AttemptParts, stored: StoredGrant, wanted: Wanted, saved: Saved | None = None
) -> Committed | None:
    """Acquire and drive the grant as far as one attempt can. None: the document says what came of it.

    It listens to the provider as long as its lease allows: whoever waits for it may be told to come back long before.
    `saved` is told of tokens that can be lost no more, beside their commit: of the grant as that will leave it.
    Raises: BrokerError SCOPE_NOT_GRANTABLE; Unavailable.
    """
    now = parts.clock.now()
    taken = grant_transitions.acquired(
        stored.grant, attempt_id=parts.randomness.token(12), now=now, timings=parts.timings
    )
    if taken.status is GrantStatus.REFRESHING:  # nothing to recover: lease and mark are one write
        taken = grant_transitions.sending(taken, now=now)
    reads = _Reads(parts, taken, wanted)
    held = await parts.writes.acquire(stored, taken)
    if held is None:
        return None
    await parts.step("acquired")
    wait_until = grant_transitions.no_resend_before(stored.grant, parts.timings)
    try:
        return await _Attempt(parts, held, wanted, wait_until, reads, saved).run()
    except FenceLost:
        return None


class _Reads:
    """What an attempt must know before it sends, read beside the write that takes the lease: `grant` is as that leaves it.

    Versions never change, and the lease does not keep a lost holder from storing one more: seen from here, a look before
    it is taken is as good as a look after. Recovery, which knows of a send, looks again itself.
    """

    def __init__(self, parts: AttemptParts, grant: Grant, wanted: Wanted) -> None:
        self._parts = parts
        self.base = _begun(parts.payloads.base(grant, wanted.provider))
        self.escrow_key = _begun(self._preflight(grant, wanted))
        # Where a spent token must not be sent: one read tells whether the vault is ahead of the document, be it by a
        # lost holder that stored late or by a restored backup.
        looks = grant.status is GrantStatus.REFRESHING and grant.provider_class is not RotationClass.STATIC
        self.ahead = _begun(self._ahead(grant, wanted)) if looks else None

    async def _preflight(self, grant: Grant, wanted: Wanted) -> bytes:
        """Step 2. Never spend a token whose successor we cannot save. Raises: Unavailable, NotFound."""
        proof, clock = self._parts.write_proof, self._parts.clock
        await self._parts.calls.prepare(wanted.connection)
        key = await self._parts.escrow.key()
        if proof.is_refused(clock.now()):
            raise Unavailable("secrets")
        if not proof.is_given(clock.now()) and not await self._parts.payloads.may_add(grant):
            raise Unavailable("secrets")
        return key

    async def _ahead(self, grant: Grant, wanted: Wanted) -> Successors:
        return await self._parts.payloads.successors(grant, await self.base, wanted.provider)


def _begun(call: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
    """A task whose error counts as seen, also when nobody comes to need its result."""
    task = asyncio.create_task(call)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


class _Attempt:
    def __init__(
        self,
        parts: AttemptParts,
        held: StoredGrant,
        wanted: Wanted,
        no_resend_before: datetime | None,
        reads: _Reads,
        saved: Saved | None,
    ) -> None:
        self._parts = parts
        self._held = held
        self._wanted = wanted
        self._no_resend_before = no_resend_before
        self._reads = reads
        self._saved = saved
        self._escrow_key = b""
        self._waited_ms: float | None = None

    @property
    def _grant(self) -> Grant:
        return self._held.grant

    @property
    def _provider(self) -> Provider:
        return self._wanted.provider

    @property
    def _recovers(self) -> bool:
        """Whether the base token may have been spent by an earlier attempt."""
        return self._grant.status is GrantStatus.RECOVERING

    def _now(self) -> datetime:
        return self._parts.clock.now()

    async def run(self) -> Committed | None:
        base = await self._base()
        if base is None:
            return await self._adopt()
        if self._recovers:
            return await self._recover(base)
        return await self._refresh(base)

    # --- before the send ---

    async def _base(self) -> Payload | None:
        """The payload whose refresh token is to be spent; None when its version is gone."""
        try:
            return await self._reads.base
        except CorruptPayload:
            await self._quarantine("payload does not fit its grant")
            raise FenceLost from None
        except NotFound:
            return None
        except Unavailable:
            await self._put_back(FAULT_OF_OURS)
            raise

    @property
    def _base_version(self) -> int:
        return self._grant.base_version or self._grant.secret_version

    async def _adopt(self) -> Committed | None:
        """The document lags behind the vault (an older backup was restored): go on from the newest payload there is."""
        found = await self._reading(self._parts.payloads.newest(self._grant, self._base_version, self._provider))
        if found is None:
            await self._quarantine("payload is gone")
            return None
        return await self._commit(found, RefreshOutcome.RACE_RECOVERED)

    async def _recover(self, base: Payload) -> Committed | None:
        """An attempt was lost after its send. First look for what it stored; send again only past the hold-down."""
        escrowed = self._grant.escrow is not None
        stored = await self._successors(base)
        found = stored.newest or await self._from_escrow()
        if found is not None:
            return await self._commit(found, RefreshOutcome.RACE_RECOVERED)
        if self._must_wait_for_a_reader(await self._successors(base) if escrowed else stored):
            await self._wait_for_a_reader()
            return None
        until = self._no_resend_before
        if until is not None and self._now() < until:
            await self._apply(lambda grant: grant_transitions.waiting(grant, until=until))
            return None
        await self._parts.step("before resend")
        return await self._refresh(base)

    async def _from_escrow(self) -> Payload | None:
        """Move a sealed token set from the document to the vault."""
        raw = await self._reading(self._parts.escrow.open(self._grant))
        if raw is None:
            return None
        try:
            read_payload(raw, self._grant, 0, self._provider)
        except CorruptPayload as error:
            if isinstance(error, Garbage) and error.unread:  # kept like any other answer that nobody can read yet
                await self._reading(self._parts.payloads.add(self._grant, raw))
            await self._apply(lambda grant: grant.model_copy(update={"escrow": None}))
            return None
        version = await self._reading(self._parts.payloads.add(self._grant, raw))
        self._parts.write_proof.succeeded(self._now())
        await self._parts.step("restored")
        return self._parts.payloads.remember(self._grant, version, raw, self._provider)

    async def _successors(self, base: Payload) -> Successors:
        return await self._reading(self._parts.payloads.successors(self._grant, base, self._provider))

    async def _ahead(self, base: Payload) -> Successors | None:
        """What the vault has beyond the document; None where a resend does no harm."""
        if self._grant.provider_class is RotationClass.STATIC:
            return None
        if self._reads.ahead is None:
            return await self._successors(base)
        return await self._reading(self._reads.ahead)

    def _must_wait_for_a_reader(self, stored: Successors) -> bool:
        """Whether sending would spend again what an unread answer was got for. Providers that forgive a resend do so now."""
        grant = self._grant
        if stored.unread_since is None or grant.provider_class is RotationClass.STATIC:
            return False
        forgiving_until = stored.unread_since + timedelta(seconds=grant.leeway_s)
        return grant.provider_class is not RotationClass.LEEWAY or self._now() >= forgiving_until

    async def _wait_for_a_reader(self) -> None:
        """The spent token is not sent again. A release that can read the answer goes on from it; the user may connect anew."""
        _logger.error("an answer of %s cannot be read and is kept, grant %s", self._provider.id, self._grant.grant_id)
        await self._outcome_unknown(UNREAD, asked=self._parts.timings.longest_back_off)

    async def _preflight(self, base: Payload) -> None:
        if base.refresh_token is None:
            await self._give_up("no refresh token")
            raise FenceLost
        try:
            self._escrow_key = await self._reads.escrow_key
        except (Unavailable, NotFound):
            await self._put_back(FAULT_OF_OURS)
            raise Unavailable("secrets") from None

    def _scopes_to_ask(self) -> tuple[str, ...]:
        """The action's minimal scopes where the provider can narrow; base scopes stay, or the next refresh token may be lost."""
        scopes, granted = self._wanted.scopes, self._grant.scopes
        if not self._provider.narrows_at_refresh or not scopes:
            return ()
        names = self._provider.scope_names
        if granted and names.missing(scopes, granted):
            return ()  # the user granted less: ask for what there is, the answer decides
        base = tuple(
            scope for scope in self._provider.base_scopes if not granted or not names.missing([scope], granted)
        )
        return tuple(dict.fromkeys((*scopes, *base)))

    # --- the send, and what follows it ---

    async def _refresh(self, base: Payload) -> Committed | None:
        await self._preflight(base)
        scopes = self._scopes_to_ask()
        if self._recovers:
            sent_at = self._now()
            await self._apply(lambda grant: grant_transitions.sending(grant, now=sent_at))
        await self._parts.step("marked")
        ahead = await self._ahead(base)
        if ahead is not None and ahead.newest is not None:
            return await self._commit(ahead.newest, RefreshOutcome.RACE_RECOVERED)
        if ahead is not None and self._must_wait_for_a_reader(ahead):
            await self._wait_for_a_reader()
            return None
        await self._parts.step("before send")
        if self._stood_still():
            await self._put_back("stood still")  # nothing was sent
            return None
        try:
            return await self._send(base, scopes)
        except FenceLost:
            await self._warn()
            raise
        except Unavailable:
            if self._lease_is_over():  # another may have taken over, and we could not see it
                await self._warn()
            raise

    async def _send(self, base: Payload, scopes: tuple[str, ...]) -> Committed | None:
        """Step 3, and what follows from the answer. Raises: FenceLost when another took over, and no token set came of this."""
        sent_at = time.perf_counter()
        try:
            answer = await self._parts.calls.refresh(
                self._wanted.connection,
                self._provider,
                refresh_token=base.refresh_token or "",
                scopes=scopes,
                timeout_s=self._time_to_answer().total_seconds(),
            )
        except SendFailed as error:
            await self._parts.step("after send")
            if error.may_have_arrived:
                await self._outcome_unknown_in_flight()
            else:
                with suppress(FenceLost):  # nothing was sent, so whoever took over need not be warned
                    await self._put_back("cannot connect")
            return None
        except AnswerTooLarge:
            await self._too_large()
            return None
        self._waited_ms = (time.perf_counter() - sent_at) * 1000
        await self._parts.step("after send")
        if 200 <= answer.status < 300:
            return await self._keep(base, answer, scopes)
        return await self._refused(base, answer)

    async def _outcome_unknown_in_flight(self) -> None:
        try:
            await self._outcome_unknown("no answer", in_flight=True)
        except FenceLost:
            # The request may be before its answer still: what is tried now may be dead in a moment. So warn once more then.
            await self._warn()
            await asyncio.sleep(self._parts.timings.provider_timeout.total_seconds())
            raise

    def _lease_is_over(self) -> bool:
        return self._grant.lease_until is None or self._now() >= self._grant.lease_until

    def _stood_still(self) -> bool:
        """Whether the lease no longer covers a call: another may be about to take over."""
        until = self._grant.lease_until
        return until is None or self._now() + self._parts.timings.provider_timeout > until

    def _time_to_answer(self) -> timedelta:
        """Until shortly before the lease ends: a provider that has rotated and is slow to say so must still be heard."""
        timings = self._parts.timings
        left = (self._grant.lease_until or self._now()) - self._now() - timings.after_answer
        return max(left, timings.shortest_send)

    async def _keep(self, base: Payload, answer: HttpAnswer, scopes: tuple[str, ...]) -> Committed | None:
        try:
            raw = new_payload(
                self._grant,
                body=answer.body,
                status=answer.status,
                # Lives are counted from the send: the answer may have waited while this process stood still.
                received_at=self._grant.sent_at or self._now(),
                requested_scopes=scopes or tuple(self._grant.scopes),
                base=base,
                provider=self._provider,
            )
        except AnswerTooLarge:
            await self._too_large()
            return None
        version = await self._persist(raw)
        if version is None:
            return None
        await self._parts.step("persisted")
        tokens = token_responses.parse(answer.body)
        if isinstance(tokens, TokenError):
            return await self._garbage(base, tokens, answer)
        try:
            payload = self._parts.payloads.remember(self._grant, version, raw, self._provider)
        except Garbage:  # an access token, and a refresh token that cannot be taken
            await self._wait_for_a_reader()
            return None
        return await self._commit(payload, RefreshOutcome.SUCCESS)

    async def _too_large(self) -> None:
        """It may have held tokens, and cannot be kept: the operator should know why a user is asked again."""
        _logger.error("an answer of %s is too large to be kept, grant %s", self._provider.id, self._grant.grant_id)
        await self._outcome_unknown("answer too large")

    async def _persist(self, raw: bytes) -> int | None:
        """Step 4. The one write that must not fail: the vault, else the escrow, alternately until the lease expires.

        None when it is in escrow, or handed to the present holder. Raises: Unavailable when both stores failed to the end;
        whether that loses the grant, recovery will find out and say.
        """
        grant = self._grant
        sealed = seal_token_set(self._escrow_key, grant, raw)
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                version = await self._parts.payloads.add(grant, raw)
            except Unavailable:
                self._parts.write_proof.failed(self._now())
                await self._parts.step("persist failed")
            else:
                self._parts.write_proof.succeeded(self._now())
                return version
            if await self._put_in_escrow(raw, sealed):
                await self._parts.step("escrowed")
                return None
            if self._lease_is_over():
                raise Unavailable("secrets")
            await asyncio.sleep(pause_s * random.uniform(0.7, 1.3))  # noqa: S311 - jitter, not a secret
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _put_in_escrow(self, raw: bytes, sealed: str) -> bool:
        now = self._now()
        try:
            await self._apply(lambda grant: grant_transitions.escrowed(grant, sealed=sealed, now=now))
        except Unavailable:
            return False
        except FenceLost:
            return await self._parts.orphans.hand_over(
                self._grant, raw, sealed, self._wanted.connection, self._provider
            )
        return True

    async def _commit(self, payload: Payload, outcome: RefreshOutcome) -> Committed | None:
        """Step 5. On a lost fence the token set is not dropped."""
        now = self._now()
        facts = self._grant.model_copy(update={"seq": self._grant.seq + 1, "secret_version": payload.version})
        event = self._event(audit.EventType.GRANT_REFRESHED, facts, outcome.value)

        def committed(grant: Grant) -> Grant:
            return grant_transitions.committed(
                grant, version=payload.version, access_expires_at=payload.newest.expires_at, now=now, event=event
            )

        self._tell_soon(committed(self._grant), payload, outcome)
        try:
            done = await self._apply(committed)
        except (FenceLost, Unavailable) as error:
            if isinstance(error, Unavailable) and not self._lease_is_over():
                raise  # whoever takes over finds it by number
            await self._parts.step("fence lost")
            await _outlasting(
                lambda: self._parts.orphans.settle(self._grant, payload, self._wanted.connection, self._provider)
            )
            return None
        await self._parts.step("committed")
        self._parts.outbox.flush_soon(done)
        return Committed(done, outcome, now)

    def _tell_soon(self, grant: Grant, payload: Payload, outcome: RefreshOutcome) -> None:
        """By the loop: whatever comes of telling, the commit is on its way before."""
        saved = self._saved
        if saved is not None:
            asyncio.get_running_loop().call_soon(lambda: saved(grant, payload, outcome))

    # --- refusals ---

    async def _refused(self, base: Payload, answer: HttpAnswer) -> Committed | None:
        refusal = self._judge(token_responses.parse(answer.body), answer)
        match refusal.meaning:
            case RefusalMeaning.DEAD:
                return await self._invalid_grant(base, refusal.said)
            case RefusalMeaning.SCOPE if answer.status in UNSPENT:
                await self._put_back(SCOPE_REFUSED)
                raise BrokerError(
                    Reason.SCOPE_NOT_GRANTABLE, "The connected system does not grant the scopes of this action."
                )
            case RefusalMeaning.OUR_FAULT:
                await self._our_client_is_refused(refusal, answer)
            case RefusalMeaning.NO:
                return await self._refused_once_more(base, refusal, answer)
            case _:
                await self._end(f"http {answer.status}", answer)
        return None

    def _judge(self, answered: token_responses.Tokens | TokenError, answer: HttpAnswer) -> Refusal:
        return token_refusals.judge(
            answered if isinstance(answered, TokenError) else TokenError(token_responses.UNPARSABLE),
            status=answer.status,
            headers=answer.headers,
            dead_codes=self._provider.invalid_grant_errors,
            dead_statuses=self._provider.invalid_grant_statuses,
        )

    async def _end(self, cause: str, answer: HttpAnswer, *, refusal: str | None = None) -> None:
        """The end of an attempt that was answered without tokens: it is unspent where the status says so, or a no in a success."""
        says_no = refusal is not None or cause == CLIENT_REFUSED or self._provider.error_in_200
        says_unspent = answer.status in UNSPENT or (answer.status < 300 and says_no)
        if says_unspent:
            await self._put_back(cause, asked=_retry_after(answer), refusal=refusal)
        else:
            in_flight = answer.status in GATEWAY_FAILURES
            await self._outcome_unknown(cause, in_flight=in_flight, asked=_retry_after(answer), refusal=refusal)

    async def _our_client_is_refused(self, refusal: Refusal, answer: HttpAnswer) -> None:
        """No user can help, and none is asked: the operator must (docs/runbooks/client-refused.md)."""
        _logger.error(
            "%s refuses our client, connection %s: %s", self._provider.id, self._wanted.connection.id, refusal.said
        )
        await self._end(CLIENT_REFUSED, answer)

    async def _refused_once_more(self, base: Payload, refusal: Refusal, answer: HttpAnswer) -> Committed | None:
        """A definite no in words that nobody here knows: the same for days means that the user must be asked."""
        if grant_transitions.is_believed(self._grant, refusal.said, now=self._now(), timings=self._parts.timings):
            return await self._invalid_grant(base, refusal.said)
        await self._end(refusal.said, answer, refusal=refusal.said)
        return None

    async def _garbage(self, base: Payload, error: TokenError, answer: HttpAnswer) -> Committed | None:
        """2xx without tokens: an error body, an answer that cannot be read yet, or nobody knows what."""
        refusal = self._judge(error, answer)
        if refusal.meaning is RefusalMeaning.DEAD:
            return await self._invalid_grant(base, refusal.said)
        if error.may_hold_tokens and self._grant.provider_class is not RotationClass.STATIC:
            await self._wait_for_a_reader()
        elif refusal.meaning is RefusalMeaning.OUR_FAULT:
            await self._our_client_is_refused(refusal, answer)
        elif refusal.meaning is RefusalMeaning.NO:
            return await self._refused_once_more(base, refusal, answer)
        elif error.code != token_responses.UNPARSABLE:
            await self._end("error in 200", answer)
        else:
            await self._outcome_unknown("unusable answer")
        return None

    async def _invalid_grant(self, base: Payload, said: str) -> Committed | None:
        """The provider says the refresh token is dead: true only if nobody stored a newer one meanwhile."""
        found = (await self._successors(base)).newest
        if found is not None:
            committed = await self._commit(found, RefreshOutcome.RACE_RECOVERED)
            if committed is None:
                await self._warn()
            return committed
        sent_before = self._recovers and self._grant.provider_class is not RotationClass.STATIC
        lost = sent_before or self._grant.suspect_since is not None
        await self._give_up(
            (RefreshOutcome.LOST_IN_WINDOW if lost else RefreshOutcome.NEEDS_REAUTH_CONFIRMED).value, said
        )
        return None

    async def _warn(self) -> None:
        """We stood still, another took over, and then our request told, or may have told, the provider of a token spent twice.

        Raises: Unavailable.
        """
        if self._provider.rotation.reuse_revokes_family:
            await _outlasting(lambda: self._parts.orphans.suspect(self._grant))

    async def _give_up(self, cause: str, said: str | None = None) -> None:
        now, timings = self._now(), self._parts.timings
        event = self._event(audit.EventType.GRANT_NEEDS_REAUTH, self._grant, cause, said)

        def given_up(grant: Grant) -> Grant:
            if grant.escrow is not None:
                raise FenceLost  # a former holder handed over its token set while we asked
            return grant_transitions.needs_reauth(grant, cause=cause, now=now, event=event, timings=timings)

        done = await self._apply(given_up)
        await self._parts.step("gave up")
        await self._parts.outbox.flush(done)

    async def _quarantine(self, cause: str) -> None:
        now = self._now()
        event = self._event(audit.EventType.GRANT_QUARANTINED, self._grant, cause)
        done = await self._apply(lambda grant: grant_transitions.quarantined(grant, cause=cause, now=now, event=event))
        await self._parts.outbox.flush(done)

    # --- ends of an attempt without a token ---

    async def _put_back(self, cause: str, *, asked: timedelta | None = None, refusal: str | None = None) -> None:
        """This attempt spent nothing. An earlier one, whose place it took, may have. `refusal` as in the transitions."""
        if self._recovers:
            await self._outcome_unknown(cause, asked=asked, refusal=refusal)
            return
        now, timings = self._now(), self._parts.timings
        pause = self._pause(cause, may_be_spent=False, asked=asked)
        await self._apply(
            lambda grant: grant_transitions.released(
                grant, cause=cause, now=now, pause=pause, refusal=refusal, timings=timings
            )
        )

    async def _outcome_unknown(
        self, cause: str, *, in_flight: bool = False, asked: timedelta | None = None, refusal: str | None = None
    ) -> None:
        now, timings = self._now(), self._parts.timings
        pause = self._pause(cause, may_be_spent=True, asked=asked)
        await self._apply(
            lambda grant: grant_transitions.unknown_outcome(
                grant, cause=cause, now=now, pause=pause, in_flight=in_flight, refusal=refusal, timings=timings
            )
        )

    def _pause(self, cause: str, *, may_be_spent: bool, asked: timedelta | None) -> timedelta:
        if cause == FAULT_OF_OURS:  # no provider to be spared
            return self._parts.timings.first_back_off
        if cause == SCOPE_REFUSED:  # other scopes may be granted at once
            return timedelta(0)
        return grant_transitions.back_off(
            self._grant, may_be_spent=may_be_spent, asked=asked, timings=self._parts.timings
        )

    async def _reading(self, call: Awaitable[_Result]) -> _Result:
        """The result of a call to our own stores; when it is not available, the attempt ends."""
        try:
            return await call
        except Unavailable:
            await self._put_back(FAULT_OF_OURS)
            raise

    async def _apply(self, transition: Transition) -> StoredGrant:
        self._held = await self._parts.writes.apply(self._held, transition)
        return self._held

    def _event(self, event_type: audit.EventType, grant: Grant, cause: str, said: str | None = None) -> dict[str, Any]:
        return grant_event(
            event_type,
            grant,
            cause=cause,
            now=self._now(),
            randomness=self._parts.randomness,
            provider_error=said,
            provider_ms=self._waited_ms,
        )


async def _outlasting(say: Callable[[], Awaitable[None]]) -> None:
    """For what nobody else can know: an outage of ours is outlasted for a while. Raises: Unavailable."""
    for pause_s in _SAY_AGAIN_AFTER_S:
        with suppress(Unavailable):
            return await say()
        await asyncio.sleep(pause_s)
    return await say()


def _retry_after(answer: HttpAnswer) -> timedelta | None:
    asked_s = answer.retry_after_s
    return None if asked_s is None else timedelta(seconds=min(asked_s, 3600))
