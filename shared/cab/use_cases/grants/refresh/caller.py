"""Access tokens of grants: exactly one upstream refresh however many ask, and no token lost by a crash of ours.

Here is the caller's side: serve what is committed, join whoever refreshes, or start an attempt (`refresh_attempt`).
docs/grants.md explains the protocol.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from cab.domain import audit, grant_transitions
from cab.domain.configured.connections import Connection, Provider
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.domain.grants import PRODUCTION_TIMINGS, Grant, GrantStatus, RefreshOutcome, Timings
from cab.domain.identifiers import token_sha256
from cab.domain.token_life import TokenLife, keepalive, token_life
from cab.ports import AccessToken, Clock, Foretell, NotFound, Randomness, Unavailable
from cab.single_flight import SingleFlight
from cab.stores.grant_payloads import CorruptPayload, GrantPayloads, Payload, Usable
from cab.stores.grants import Grants, StoredGrant
from cab.use_cases.audit.outbox import Outbox, grant_event, keepalive_of
from cab.use_cases.grants.outages import Outages
from cab.use_cases.grants.refresh.attempt import (
    FAULT_OF_OURS,
    AttemptParts,
    Committed,
    Saved,
    Step,
    Wanted,
    WriteProof,
    attempt,
    no_step,
)
from cab.use_cases.grants.refresh.escrow import Escrow
from cab.use_cases.grants.refresh.fence import FencedWrites
from cab.use_cases.grants.refresh.orphaned_tokens import OrphanedTokens
from cab.use_cases.grants.uses import Uses
from cab.use_cases.upstream.provider_client import ProviderCalls
from cab.use_cases.upstream.revoke import RevokeUpstream
from cab.use_cases.upstream.servable import check_consented, not_connected

_logger = logging.getLogger(__name__)

_POLL_FIRST_S: Final = 0.05
_POLL_LONGEST_S: Final = 0.5
_LAST_MARGIN: Final = timedelta(seconds=5)  # life that a token must have left when no better one is available
# A platform that refuses every token must not make us spend a refresh token for each of its refusals.
REFRESHED_FOR_A_REJECTION_AT_MOST_EVERY: Final = timedelta(seconds=60)
_STALE_AFTER: Final = timedelta(
    milliseconds=500
)  # a status read longer ago than this is read again before a token leaves

Observe = Callable[[RefreshOutcome], None]


def _log_outcome(outcome: RefreshOutcome) -> None:
    _logger.info("grant request: %s", outcome.value)


class RefreshGrant:
    def __init__(
        self,
        deployment: Deployment,
        store: Grants,
        payloads: GrantPayloads,
        calls: ProviderCalls,
        escrow: Escrow,
        revoke_upstream: RevokeUpstream,
        outbox: Outbox,
        clock: Clock,
        randomness: Randomness,
        *,
        timings: Timings = PRODUCTION_TIMINGS,
        step: Step = no_step,
        observe: Observe = _log_outcome,
    ) -> None:
        """`observe` is told the outcome of every request for a token that was answered, once."""
        self._deployment = deployment
        self._store = store
        self._payloads = payloads
        self._clock = clock
        self._randomness = randomness
        self._timings = timings
        self._observe = observe
        self._outbox = outbox
        self._uses = Uses(deployment, store, clock)
        self._orphans = OrphanedTokens(
            store, payloads, escrow, calls, revoke_upstream, outbox, clock, randomness, timings=timings
        )
        self._parts = AttemptParts(
            writes=FencedWrites(store),
            payloads=payloads,
            escrow=escrow,
            calls=calls,
            orphans=self._orphans,
            outbox=outbox,
            write_proof=WriteProof(timings),
            clock=clock,
            randomness=randomness,
            timings=timings,
            step=step,
        )
        self._attempts: SingleFlight[str, Committed | None] = SingleFlight()
        self._began: dict[asyncio.Task[Any], asyncio.Task[Any] | None] = {}  # by attempt: whose request began it
        self._watches: SingleFlight[str, None] = SingleFlight()
        self._outages = Outages()

    # --- serving ---

    async def access_token(self, grant_id: str, wanted: Wanted, foretell: Foretell | None = None) -> AccessToken:
        """A token with at least the wanted scopes, and with life left beyond the provider's refresh margin. `foretell` is as in
        `GrantTokens`.

        Raises: BrokerError GRANT_MISSING, GRANT_NEEDS_REAUTH, GRANT_REVOKED, PROVIDER_UNAVAILABLE, SCOPE_NOT_GRANTABLE;
        Unavailable.
        """
        outcome: RefreshOutcome | None = RefreshOutcome.BUG
        try:
            token = await self._access_token(grant_id, wanted, foretell)
            outcome = RefreshOutcome(token.outcome)
        except asyncio.CancelledError:
            outcome = None  # the caller left; nothing was answered
            raise
        except BrokerError as error:
            outcome = await self._outcome_of_refusal(error.reason, grant_id)
            raise
        except Unavailable:
            outcome = RefreshOutcome.PERSIST_TRANSIENT
            raise
        finally:
            if outcome is not None:
                self._observe(outcome)
        return token

    async def _access_token(self, grant_id: str, wanted: Wanted, foretell: Foretell | None) -> AccessToken:
        deadline = self._clock.now() + self._timings.answer_within
        how = RefreshOutcome.CACHED
        known = self._known_to_be_too_wide(grant_id, wanted)
        if known is not None:
            token, how = await self._token_of_attempt(known, wanted, deadline, how, foretell)
            if token is not None:
                return token
        while True:
            read_at = self._clock.now()
            stored, payload = await self._in_use(grant_id, wanted)
            now = self._clock.now()
            if payload is not None:
                token = self._fresh_token(payload, stored.grant, wanted, now, how)
                if token is not None and now - read_at <= _STALE_AFTER:
                    return token
                if token is not None:
                    continue
            if grant_transitions.is_held(stored.grant, now) or grant_id in self._attempts:
                if now >= deadline:
                    return self._last_resort(stored.grant, payload, wanted, now)
                how = RefreshOutcome.JOINED
                await self._wait_for_holder(grant_id, longest_s=(deadline - now).total_seconds())
                continue
            waits = stored.grant.next_try_at is not None and now < stored.grant.next_try_at
            if waits or deadline - now < self._timings.shortest_send:
                return self._last_resort(stored.grant, payload, wanted, now)
            if payload is not None and _lives_without_renewal(stored.grant, payload, now):
                raise BrokerError(
                    Reason.SCOPE_NOT_GRANTABLE,
                    "The connected system gave no refresh token, so the token that there is cannot be narrowed.",
                )
            token, how = await self._token_of_attempt(stored, wanted, deadline, how, foretell)
            if token is not None:
                return token

    async def _token_of_attempt(
        self,
        stored: StoredGrant,
        wanted: Wanted,
        deadline: datetime,
        how: RefreshOutcome,
        foretell: Foretell | None,
    ) -> tuple[AccessToken | None, RefreshOutcome]:
        """The token that an attempt brings, and how the request is served. Without one, the document says why, or will, while the
        attempt goes on listening.
        """

        def saved(grant: Grant, payload: Payload, outcome: RefreshOutcome) -> None:
            if (
                foretell is None or self._clock.now() >= deadline
            ):  # who has waited so long is answered with something else
                return
            token = self._token_of_commit(grant, payload, wanted, outcome)
            if token is not None:
                foretell(token.foretold())

        started = self._start_attempt(stored, wanted, saved)
        done, _ = await asyncio.wait({started}, timeout=(deadline - self._clock.now()).total_seconds())
        committed = started.result() if done else None
        if committed is None:
            return None, how
        is_stale = self._clock.now() - committed.at > _STALE_AFTER
        return None if is_stale else await self._committed_token(committed, wanted), committed.outcome

    def _known_to_be_too_wide(self, grant_id: str, wanted: Wanted) -> StoredGrant | None:
        """The grant as it was when this process saw it last, if by that only other scopes are missing: its token still lives.

        An attempt may begin from it without a read, because taking the lease is a compare-and-set and fails when the grant has changed.
        Nothing is refused or served by it.
        """
        stored, now = self._store.seen(grant_id), self._clock.now()
        if stored is None or not wanted.scopes or grant_id in self._attempts or not self._uses.is_noted(stored.grant):
            return None
        grant = stored.grant
        payload = self._payloads.known(grant, grant.secret_version)
        is_at_rest = grant.status is GrantStatus.ACTIVE and grant.suspect_since is None and grant.next_try_at is None
        if payload is None or not is_at_rest or not grant.lasts or not wanted.provider.narrows_at_refresh:
            return None
        if grant.scopes and wanted.provider.scope_names.missing(wanted.scopes, grant.scopes):
            return None
        lives = payload.newest.expires_at is not None and now < payload.newest.expires_at - _LAST_MARGIN
        return stored if lives and not any(_fits(usable, wanted) for usable in payload.all_usable()) else None

    async def _in_use(self, grant_id: str, wanted: Wanted) -> tuple[StoredGrant, Payload | None]:
        """The grant with this use on record, and its committed tokens, read while the use is written."""
        while True:
            found = self._servable(await self._store.read(grant_id), wanted)
            if self._uses.is_noted(found.grant):
                return found, await self._committed_payload(found, wanted.provider)
            noting = asyncio.ensure_future(self._uses.noted(found))
            try:
                payload = await self._committed_payload(found, wanted.provider)
            finally:
                stored = await noting
            if stored is not None:
                return stored, payload

    async def _wait_for_holder(self, grant_id: str, *, longest_s: float) -> None:
        """Until the attempt of this process ends, or that of another, which one watcher looks out for on behalf of all."""
        attempt_here = self._attempts.get(grant_id)
        holder: asyncio.Task[Any] = attempt_here or self._watches.start(grant_id, lambda: self._watch(grant_id))
        await asyncio.wait({holder}, timeout=longest_s)

    async def _watch(self, grant_id: str) -> None:
        """Returns when the grant is held no longer, or cannot be read: whoever waits will see for themselves."""
        until = self._clock.now() + self._timings.answer_within
        pause_s = _POLL_FIRST_S
        while self._clock.now() < until:
            await asyncio.sleep(pause_s * random.uniform(0.7, 1.3))  # noqa: S311 - jitter, not a secret
            pause_s = min(pause_s * 1.6, _POLL_LONGEST_S)
            try:
                stored = await self._store.read(grant_id)
            except Unavailable:
                return
            if stored is None or not grant_transitions.is_held(stored.grant, self._clock.now()):
                return

    def _start_attempt(
        self, stored: StoredGrant, wanted: Wanted, saved: Saved | None = None
    ) -> asyncio.Task[Committed | None]:
        """The one attempt of this process at this grant. It goes on although its caller may leave."""
        name = stored.grant.grant_id
        task = self._attempts.start(name, lambda: attempt(self._parts, stored, wanted, saved))
        self._began[task] = asyncio.current_task()
        task.add_done_callback(lambda ended: self._began.pop(ended, None))
        return task

    async def until_settled(self, grant_id: str) -> None:
        """Returns when no attempt at the grant that the present request began is under way.

        Where a process may stand still once it has answered, the request that began an attempt stays open that long. Others
        that wait for the same attempt need not.
        """
        task = self._attempts.get(grant_id)
        if task is not None and self._began.get(task) is asyncio.current_task():
            await asyncio.wait({task})

    def _servable(self, stored: StoredGrant | None, wanted: Wanted) -> StoredGrant:
        connect_uri = self._deployment.broker.connect_uri(wanted.connection.id)
        if stored is None:
            raise not_connected(connect_uri)
        check_consented(stored.grant, connect_uri=connect_uri)
        if stored.grant.scopes and wanted.provider.scope_names.missing(wanted.scopes, stored.grant.scopes):
            # No refresh can bring what the user did not grant: asking would only spend a token.
            raise BrokerError(
                Reason.SCOPE_NOT_GRANTABLE, "The user has not granted the scopes of this action to the broker."
            )
        extra = wanted.beyond(stored.grant.scopes)
        narrows = wanted.provider.narrows_at_refresh or wanted.provider.narrows_by_exchange
        if extra and not narrows and not wanted.connection.allow_unnarrowed:
            raise BrokerError(
                Reason.SCOPE_NOT_GRANTABLE,
                "This system cannot narrow tokens, and the connection does not accept wide ones.",
            )
        return stored

    async def _committed_payload(self, stored: StoredGrant, provider: Provider) -> Payload | None:
        """Step 0. None when its tokens may be dead, or its version is gone: an attempt will find out."""
        if stored.grant.suspect_since is not None:
            return None
        try:
            return await self._payloads.load(stored.grant, stored.grant.secret_version, provider)
        except CorruptPayload:
            await self._quarantine(stored)
            raise BrokerError(Reason.GRANT_REVOKED, "The user's connection to this system has ended.") from None
        except NotFound:
            return None

    def _fresh_token(
        self, payload: Payload, grant: Grant, wanted: Wanted, now: datetime, how: RefreshOutcome
    ) -> AccessToken | None:
        # What cannot be renewed is good to its end.
        margin = None if grant.lasts else _LAST_MARGIN
        usable = _choose(payload, grant, wanted, now, margin)
        if usable is None or _is_rejected(usable, grant, wanted, now):
            return None
        return _access_token(grant, payload, usable, wanted, how)

    async def _committed_token(self, committed: Committed, wanted: Wanted) -> AccessToken | None:
        """The token that this attempt brought. However short its life, the provider gives no better one."""
        grant = committed.stored.grant
        payload = await self._payloads.load(grant, grant.secret_version, wanted.provider)
        token = self._token_of_commit(grant, payload, wanted, committed.outcome)
        if token is not None:
            return token
        if committed.outcome is RefreshOutcome.SUCCESS:
            raise BrokerError(
                Reason.SCOPE_NOT_GRANTABLE, "The connected system did not grant exactly the scopes this action needs."
            )
        return None

    def _token_of_commit(
        self, grant: Grant, payload: Payload, wanted: Wanted, outcome: RefreshOutcome
    ) -> AccessToken | None:
        usable = _choose(payload, grant, wanted, self._clock.now(), timedelta(0))
        return None if usable is None else _access_token(grant, payload, usable, wanted, outcome)

    def _last_resort(self, grant: Grant, payload: Payload | None, wanted: Wanted, now: datetime) -> AccessToken:
        """No refresh now. A committed token that still lives, though inside the margin, is better than an error."""
        usable = None if payload is None else _choose(payload, grant, wanted, now, _LAST_MARGIN)
        if payload is not None and usable is not None:
            return _access_token(grant, payload, usable, wanted, RefreshOutcome.CACHED)
        if grant.fail_cause == FAULT_OF_OURS:
            raise Unavailable("secrets")
        wait_s = 2 if grant.next_try_at is None else max(1, int((grant.next_try_at - now).total_seconds()) + 1)
        raise BrokerError(
            Reason.PROVIDER_UNAVAILABLE,
            "The system behind this connection does not answer.",
            remedy=Remedy(retry_after_s=min(wait_s, 60)),
        )

    async def _quarantine(self, stored: StoredGrant) -> None:
        now = self._clock.now()
        cause = "payload does not fit its grant"
        event = grant_event(
            audit.EventType.GRANT_QUARANTINED, stored.grant, cause=cause, now=now, randomness=self._randomness
        )
        done = await self._store.replace(
            stored, grant_transitions.quarantined(stored.grant, cause=cause, now=now, event=event)
        )
        if done is not None:
            await self._outbox.flush(done)

    async def _outcome_of_refusal(self, reason: Reason, grant_id: str) -> RefreshOutcome:
        match reason:
            case Reason.PROVIDER_UNAVAILABLE:
                return RefreshOutcome.UPSTREAM_TRANSIENT
            case Reason.GRANT_REVOKED:
                return RefreshOutcome.REVOKED
            case Reason.GRANT_NEEDS_REAUTH:
                try:
                    stored = await self._store.read(grant_id)
                except Unavailable:
                    stored = None
                lost = stored is not None and stored.grant.fail_cause == RefreshOutcome.LOST_IN_WINDOW.value
                return RefreshOutcome.LOST_IN_WINDOW if lost else RefreshOutcome.NEEDS_REAUTH_CONFIRMED
            case _:
                return RefreshOutcome.REFUSED

    # --- the sweeper ---

    async def attend(self, grant_id: str, connection: Connection, provider: Provider) -> None:
        """Drive a lapsed lease to an end state, refresh what would idle out, look once more for what came late.

        Raises: Unavailable.
        """
        stored = await self._store.read(grant_id)
        now = self._clock.now()
        if stored is None or grant_transitions.is_held(stored.grant, now) or grant_id in self._attempts:
            return
        grant = stored.grant
        if not grant.keeps_tokens:
            return
        if grant.status is GrantStatus.NEEDS_REAUTH:
            await self._look_once_more(stored, provider, now)
            return
        if grant.next_try_at is not None and now < grant.next_try_at:
            return
        lapsed = grant.status in (GrantStatus.REFRESHING, GrantStatus.RECOVERING)
        ended = grant.ends_at is not None and grant.ends_at <= now  # an attempt will find that nothing can renew it
        doubtful = ended or grant.suspect_since is not None or _idles(grant, provider, now)
        if lapsed or (grant.status is GrantStatus.ACTIVE and doubtful):
            later = self._outages.put_off_until(grant, now)
            if later is not None:
                await self._store.replace(stored, grant.model_copy(update={"due_at": later}))
                return
            try:
                committed = await asyncio.shield(self._start_attempt(stored, Wanted((), connection, provider)))
            except BrokerError:
                return  # recorded on the grant; the next visit is scheduled there
            if committed is None:
                self._outages.failed(provider.id, grant_id, now)
            else:
                self._outages.succeeded(provider.id)

    async def _look_once_more(self, stored: StoredGrant, provider: Provider, now: datetime) -> None:
        grant = stored.grant
        if await self._orphans.look(stored, provider) is not None:
            return
        if grant.next_try_at is None or now >= grant.next_try_at:
            idle = keepalive_of(grant, self._deployment)
            await self._store.replace(
                stored,
                grant_transitions.looked_once_more(grant, keepalive=idle, now=now, timings=self._timings),
            )


def _choose(payload: Payload, grant: Grant, wanted: Wanted, now: datetime, margin: timedelta | None) -> Usable | None:
    """The first token of the payload that fits the action and lives beyond the margin; without one: that need not be renewed."""
    for usable in payload.all_usable():
        if not _fits(usable, wanted):
            continue
        life = _life(payload, usable, grant, wanted.provider)
        if life is None or usable.expires_at is None:
            return usable
        if now < (life.renew_at if margin is None else usable.expires_at - margin):
            return usable
    return None


def _life(payload: Payload, usable: Usable, grant: Grant, provider: Provider) -> TokenLife | None:
    """None for a token without an end. What is carried along was given at an earlier refresh, and lives as long."""
    if usable.expires_at is None:
        return None
    received_at = payload.stored.received_at
    if usable is not payload.newest and payload.newest.expires_at is not None:
        received_at = usable.expires_at - (payload.newest.expires_at - received_at)
    if not grant.lasts:  # nothing will be refreshed
        return TokenLife(usable.expires_at - _LAST_MARGIN, usable.expires_at)
    idle = keepalive(provider, grant.grant_id)
    kept_alive_at = None if idle is None else (grant.refreshed_at or grant.connected_at) + idle
    return token_life(provider, received_at=received_at, expires_at=usable.expires_at, kept_alive_at=kept_alive_at)


def _fits(usable: Usable, wanted: Wanted) -> bool:
    """Wide enough for the action; and no wider where a refresh can narrow, unless that does no harm."""
    if wanted.provider.scope_names.missing(wanted.scopes, usable.scopes):
        return False
    return wanted.may_be_wide or not wanted.beyond(usable.scopes)


def _access_token(
    grant: Grant, payload: Payload, usable: Usable, wanted: Wanted, outcome: RefreshOutcome
) -> AccessToken:
    extra = wanted.beyond(usable.scopes)
    life = _life(payload, usable, grant, wanted.provider)
    return AccessToken(
        access_token=usable.access_token,
        expires_at=usable.expires_at,
        scopes=tuple(dict.fromkeys((*wanted.scopes, *extra))),
        narrowed=not extra,
        grant_id=grant.grant_id,
        seq=grant.seq,
        secret_version=payload.version,
        outcome=outcome.value,
        renew_at=None if life is None else life.renew_at,
        works_until=None if life is None else life.works_until,
    )


def _lives_without_renewal(grant: Grant, payload: Payload, now: datetime) -> bool:
    """Whether an attempt could only end a grant whose token still works for other actions."""
    ends_at = payload.newest.expires_at
    return not grant.lasts and (ends_at is None or now < ends_at - _LAST_MARGIN)


def _is_rejected(usable: Usable, grant: Grant, wanted: Wanted, now: datetime) -> bool:
    """Whether a refresh may replace a token that the platform refuses. Not when it was just got: the fault is not its age."""
    if wanted.rejected is None or not grant.lasts:
        return False
    got_at = grant.refreshed_at or grant.connected_at
    return (
        now >= got_at + REFRESHED_FOR_A_REJECTION_AT_MOST_EVERY and token_sha256(usable.access_token) == wanted.rejected
    )


def _idles(grant: Grant, provider: Provider, now: datetime) -> bool:
    idle = keepalive(provider, grant.grant_id)
    return grant.lasts and idle is not None and now >= (grant.refreshed_at or grant.connected_at) + idle
