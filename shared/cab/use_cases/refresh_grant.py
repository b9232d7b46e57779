"""Serving and refreshing grants: exactly one upstream refresh however many ask, and no token lost by a crash of ours.

The protocol (docs/grants.md): acquire by compare-and-set, preflight, send, persist the provider's bytes before anything else,
commit by compare-and-set, answer; recovery finds by number what a lost holder stored before anybody may send again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cab.domain import audit, grants
from cab.domain.connections import Connection, Provider, RotationClass
from cab.domain.deployment import Deployment
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.domain.grants import ENDED, Grant, GrantStatus, Outcome
from cab.ports import (
    AccessToken,
    AnswerTooLarge,
    AuditLog,
    Clock,
    HttpAnswer,
    NotFound,
    Randomness,
    SecretReader,
    SendFailed,
    Unavailable,
)
from cab.protocol import sealing, token_responses
from cab.protocol.token_responses import TokenError
from cab.stores.grants import Grants, StoredGrant
from cab.use_cases.grant_payloads import CorruptPayload, GrantPayloads, Payload, Usable, new_token_set, secret_id
from cab.use_cases.outbox import Outbox
from cab.use_cases.provider_calls import ProviderCalls

ANSWER_WITHIN: Final = timedelta(seconds=11)  # a hanging provider is answered as unavailable within 12 s
WRITE_PROVEN_FOR: Final = timedelta(seconds=60)
MAX_PROBES: Final = 20
POLL_FIRST_S: Final = 0.05
POLL_LONGEST_S: Final = 0.5
DEFINITE_REFUSALS: Final = frozenset({400, 401, 403, 404, 405, 413, 415, 429, 503})  # the token was not spent
ESCROW_SECRET: Final = "cab-escrow-key"

Step = Callable[[str], Awaitable[None]]


async def no_step(_: str) -> None:
    """Production does nothing between steps; the kill harness stops the process here."""


class FenceLost(Exception):
    """Another holder, a revocation or a reconnect took over while we worked."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one caller needs of a grant."""

    scopes: tuple[str, ...]
    connection: Connection
    provider: Provider


class RefreshGrant:
    def __init__(
        self,
        deployment: Deployment,
        store: Grants,
        payloads: GrantPayloads,
        calls: ProviderCalls,
        escrow_keys: SecretReader,
        log: AuditLog,
        clock: Clock,
        randomness: Randomness,
        *,
        step: Step = no_step,
    ) -> None:
        self._deployment = deployment
        self._store = store
        self._payloads = payloads
        self._calls = calls
        self._escrow_keys = escrow_keys
        self._outbox = Outbox(deployment, store, log)
        self._clock = clock
        self._randomness = randomness
        self._step = step
        self._last_add: datetime | None = None
        self._add_failed = False

    # --- serving ---

    async def access_token(self, grant_id: str, wanted: Wanted) -> AccessToken:
        """A token with at least the wanted scopes that lives beyond the provider's refresh margin.

        Raises: BrokerError GRANT_MISSING, GRANT_NEEDS_REAUTH, GRANT_REVOKED, PROVIDER_UNAVAILABLE, SCOPE_NOT_GRANTABLE;
        Unavailable.
        """
        deadline = self._clock.now() + ANSWER_WITHIN
        joined = False
        pause = POLL_FIRST_S
        while True:
            stored = await self._store.read(grant_id)
            stored, grant = self._servable(stored, wanted)
            now = self._clock.now()
            token = await self._committed_token(stored, wanted, now, Outcome.JOINED if joined else Outcome.CACHED)
            if token is not None:
                return token
            held = grants.is_held(grant, now)
            if now >= deadline or (not held and grant.next_try_at is not None and now < grant.next_try_at):
                return await self._last_resort(stored, wanted, now)
            if not held:
                fresh = await self._take_over(stored, wanted)
                if fresh is not None:
                    return fresh
                continue  # another was faster, or the attempt ended without a token: look again
            joined = True
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311  # jitter, not a secret
            pause = min(pause * 1.6, POLL_LONGEST_S)

    def _servable(self, stored: StoredGrant | None, wanted: Wanted) -> tuple[StoredGrant, Grant]:
        remedy = Remedy(interaction_uri=f"{self._deployment.broker.origin}/connect?connection={wanted.connection.id}")
        if stored is None:
            raise BrokerError(Reason.GRANT_MISSING, "The user has not connected this system.", remedy=remedy)
        if stored.grant.status is GrantStatus.NEEDS_REAUTH:
            raise BrokerError(Reason.GRANT_NEEDS_REAUTH, "The user must connect this system again.", remedy=remedy)
        if stored.grant.status in ENDED:
            raise BrokerError(Reason.GRANT_REVOKED, "The user's connection to this system has ended.", remedy=remedy)
        extra = set(stored.grant.scopes) - set(wanted.scopes) - set(wanted.provider.base_scopes)
        if extra and wanted.provider.narrowing == "none" and not wanted.connection.allow_unnarrowed:
            raise BrokerError(
                Reason.SCOPE_NOT_GRANTABLE,
                "This system cannot narrow tokens, and the connection does not accept wide ones.",
            )
        return stored, stored.grant

    async def _committed_token(
        self,
        stored: StoredGrant | None,
        wanted: Wanted,
        now: datetime,
        outcome: Outcome,
        *,
        margin_s: int | None = None,
    ) -> AccessToken | None:
        """The token of the committed payload, if it fits and lives long enough. Step 0 of the protocol."""
        if stored is None:
            return None
        grant = stored.grant
        try:
            payload = await self._payloads.load(grant, grant.secret_ver, wanted.provider)
        except CorruptPayload:
            await self._quarantine(stored, "payload does not fit its grant")
            raise BrokerError(Reason.GRANT_REVOKED, "The user's connection to this system has ended.") from None
        except NotFound:
            fresher = await self._store.read(grant.grant_id)
            if fresher is not None and fresher.grant.secret_ver == grant.secret_ver:
                await self._quarantine(fresher, "payload is gone")
                raise BrokerError(Reason.GRANT_REVOKED, "The user's connection to this system has ended.") from None
            return None
        margin = timedelta(seconds=wanted.provider.refresh_margin_s if margin_s is None else margin_s)
        for usable in payload.all_usable():
            alive = usable.expires_at is None or now < usable.expires_at - margin
            if alive and self._fits(usable, wanted):
                return _access_token(grant, payload, usable, wanted, outcome)
        return None

    @staticmethod
    def _fits(usable: Usable, wanted: Wanted) -> bool:
        """Wide enough for the action; and no wider where the provider can narrow, unless the connection accepts that."""
        if not set(wanted.scopes) <= set(usable.scopes):
            return False
        extra = set(usable.scopes) - set(wanted.scopes) - set(wanted.provider.base_scopes)
        return not extra or wanted.connection.allow_unnarrowed

    async def _last_resort(self, stored: StoredGrant | None, wanted: Wanted, now: datetime) -> AccessToken:
        """No refresh now. A committed token that still lives, though inside the margin, is better than an error."""
        token = await self._committed_token(stored, wanted, now, Outcome.CACHED, margin_s=5)
        if token is not None:
            return token
        next_try = stored.grant.next_try_at if stored else None
        wait_s = 2 if next_try is None else max(1, int((next_try - now).total_seconds()) + 1)
        raise BrokerError(
            Reason.PROVIDER_UNAVAILABLE,
            "The system behind this connection does not answer.",
            remedy=Remedy(retry_after_s=min(wait_s, 60)),
        )

    # --- taking over: steps 1 to 6, or recovery ---

    async def attend(self, grant_id: str, connection: Connection, provider: Provider) -> None:
        """The sweeper's visit: drive a lapsed lease to an end state, refresh what would idle out."""
        stored = await self._store.read(grant_id)
        if stored is None or grants.is_held(stored.grant, self._clock.now()):
            return
        grant = stored.grant
        if grant.status in (GrantStatus.REFRESHING, GrantStatus.RECOVERING) or grant.escrow is not None:
            try:
                await self._take_over(stored, Wanted((), connection, provider))
            except BrokerError:
                return  # recorded on the grant; the next visit is scheduled there
        elif grant.status is GrantStatus.ACTIVE and _idles(grant, provider, self._clock.now()):
            try:
                await self._take_over(stored, Wanted((), connection, provider))
            except BrokerError:
                return

    async def _take_over(self, stored: StoredGrant, wanted: Wanted) -> AccessToken | None:
        """One attempt. None when another holder was faster or nothing came of it that this caller can use."""
        now = self._clock.now()
        held = await self._store.replace(
            stored, grants.acquired(stored.grant, attempt_id=self._randomness.token(12), now=now)
        )
        if held is None:
            return None
        await self._step("acquired")
        try:
            if held.grant.status is GrantStatus.RECOVERING or held.grant.escrow is not None:
                return await self._recover(held, wanted)
            return await self._refresh(held, wanted, resend=False)
        except FenceLost:
            return None

    async def _refresh(self, held: StoredGrant, wanted: Wanted, *, resend: bool) -> AccessToken | None:
        base = await self._preflight(held, wanted)
        scopes = self._scopes_to_ask(held.grant, wanted)
        held = await self._fenced(held, grants.sending(held.grant, now=self._clock.now()))
        await self._step("before send")
        if not grants.is_held(held.grant, self._clock.now()):
            raise FenceLost  # we stood still longer than the lease: nothing was sent, the next holder decides
        if resend:
            found = await self._probe(held.grant, wanted.provider)
            if found is not None:  # the lost holder's write arrived while we prepared
                return await self._commit(held, wanted, found.version, outcome=Outcome.RACE_RECOVERED)
        try:
            answer = await self._calls.refresh(
                wanted.connection, wanted.provider, refresh_token=base.refresh_token or "", scopes=scopes
            )
        except SendFailed as error:
            await self._step("after send")
            if error.may_have_arrived:
                return await self._outcome_unknown(held, wanted, "no answer")
            return await self._unspent(held, wanted, "cannot connect", resend=resend)
        except AnswerTooLarge:
            return await self._outcome_unknown(held, wanted, "answer too large")
        await self._step("after send")
        if 200 <= answer.status < 300:
            return await self._store_and_commit(held, wanted, base, answer, scopes)
        return await self._refused(held, wanted, base, answer, resend=resend)

    async def _preflight(self, held: StoredGrant, wanted: Wanted) -> Payload:
        """Step 2. Never spend a token we cannot save, nor one that is not this grant's."""
        grant = held.grant
        try:
            base = await self._payloads.load(grant, grant.base_ver or grant.secret_ver, wanted.provider)
        except (CorruptPayload, NotFound):
            await self._quarantine(held, "base payload does not fit its grant")
            raise FenceLost from None
        except Unavailable:
            await self._release(held, "secrets")
            raise
        if base.refresh_token is None:
            event = self._event(audit.EventType.GRANT_NEEDS_REAUTH, grant, cause="no refresh token")
            now = self._clock.now()
            done = await self._fenced(held, grants.needs_reauth(grant, cause="no refresh token", now=now, event=event))
            await self.flush(done)
            raise FenceLost
        try:
            await self._calls.prepare(wanted.connection)
            await self._escrow_key()
            proven = self._last_add is not None and self._clock.now() - self._last_add < WRITE_PROVEN_FOR
            if self._add_failed or not proven:
                allowed = await self._payloads.may_add(grant.grant_id)
                if not allowed:
                    raise Unavailable("secrets")
        except (Unavailable, NotFound):
            await self._release(held, "cannot save")
            raise Unavailable("secrets") from None
        return base

    def _scopes_to_ask(self, grant: Grant, wanted: Wanted) -> tuple[str, ...]:
        """The action's minimal scopes where the provider can narrow; base scopes stay, or the next refresh token may be lost."""
        if wanted.provider.narrowing != "scope_at_refresh" or not wanted.scopes:
            return ()
        if grant.scopes and not set(wanted.scopes) <= set(grant.scopes):
            return ()  # the user granted less: ask for what there is, the answer decides
        base = tuple(scope for scope in wanted.provider.base_scopes if not grant.scopes or scope in grant.scopes)
        return tuple(dict.fromkeys((*wanted.scopes, *base)))

    async def _store_and_commit(
        self, held: StoredGrant, wanted: Wanted, base: Payload, answer: HttpAnswer, scopes: tuple[str, ...]
    ) -> AccessToken | None:
        grant = held.grant
        token_set = new_token_set(
            grant,
            body=answer.body,
            status=answer.status,
            received_at=self._clock.now(),
            requested_scopes=scopes or tuple(grant.scopes),
            base=base,
            provider=wanted.provider,
        )
        raw = token_set.model_dump_json().encode()
        version = await self._persist(held, raw)
        await self._step("persisted")
        if version is None:
            return None
        tokens = token_responses.parse(answer.body)
        if isinstance(tokens, TokenError):
            return await self._garbage(held, wanted, base, tokens, answer)
        return await self._commit(held, wanted, version)

    async def _persist(self, held: StoredGrant, raw: bytes) -> int | None:
        """Step 4. The one write that must not fail; retried while the lease lasts, then escrowed. None: nothing could be kept."""
        grant = held.grant
        pause = 0.05
        while True:
            try:
                version = await self._payloads.add_raw(grant.grant_id, raw)
            except Unavailable:
                self._add_failed = True
                await self._step("persist failed")
            else:
                self._last_add, self._add_failed = self._clock.now(), False
                return version
            if grant.lease_until is None or self._clock.now() + timedelta(seconds=8) >= grant.lease_until:
                break
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311
            pause = min(pause * 2, 2.0)
        sealed = sealing.seal(await self._escrow_key(), raw, context=secret_id(grant.grant_id))
        try:
            now = self._clock.now()
            await self._fenced(
                held,
                grant.model_copy(
                    update={"escrow": sealed, "lease_until": None, "due_at": now, "status": GrantStatus.RECOVERING}
                ),
            )
        except Unavailable:
            return None  # both stores are down: the loss, if it is one, will be reported by recovery
        return None

    async def _commit(
        self, held: StoredGrant, wanted: Wanted, version: int, *, outcome: Outcome = Outcome.SUCCESS
    ) -> AccessToken | None:
        """Step 5, then 6. On a lost fence the new token is never dropped."""
        try:
            payload = await self._payloads.load(held.grant, version, wanted.provider)
        except CorruptPayload:
            return None
        now = self._clock.now()
        event = self._event(
            audit.EventType.GRANT_REFRESHED,
            held.grant,
            cause=outcome.value,
            seq=held.grant.seq + 1,
            secret_version=version,
        )
        next_grant = grants.committed(
            held.grant, version=version, access_expires_at=payload.newest.expires_at, now=now, event=event
        )
        try:
            done = await self._fenced(held, next_grant)
        except FenceLost:
            await self._step("fence lost")
            return await self._keep_late_token(held.grant, payload, wanted)
        await self._step("committed")
        await self.flush(done)
        token = await self._committed_token(
            StoredGrant(done.grant, done.version), wanted, self._clock.now(), outcome, margin_s=0
        )
        if token is None and wanted.scopes and outcome is Outcome.SUCCESS:
            raise BrokerError(
                Reason.SCOPE_NOT_GRANTABLE, "The connected system did not grant exactly the scopes this action needs."
            )
        return token

    async def _keep_late_token(self, ours: Grant, payload: Payload, wanted: Wanted) -> AccessToken | None:
        """Our commit came too late. Revoked meanwhile: revoke the new token upstream. Given up meanwhile: restore the grant."""
        current = await self._store.read(ours.grant_id)
        if current is None:
            return None
        if current.grant.status in (GrantStatus.REVOKING, GrantStatus.REVOKED):
            await self.revoke_upstream(payload, wanted.connection, wanted.provider)
            return None
        if current.grant.status is GrantStatus.NEEDS_REAUTH and current.grant.revoke_epoch == ours.revoke_epoch:
            if not await self._works(payload, wanted.provider):
                return None
            event = self._event(
                audit.EventType.GRANT_REFRESHED,
                current.grant,
                cause=Outcome.RACE_RECOVERED.value,
                seq=current.grant.seq + 1,
                secret_version=payload.version,
            )
            restored = await self._store.replace(
                current,
                grants.committed(
                    current.grant,
                    version=payload.version,
                    access_expires_at=payload.newest.expires_at,
                    now=self._clock.now(),
                    event=event,
                ),
            )
            if restored is not None:
                await self.flush(restored)
        return None

    async def _works(self, payload: Payload, provider: Provider) -> bool:
        """One real call with the late token, where the provider offers one that costs nothing."""
        if provider.userinfo_endpoint is None:
            return True
        try:
            answer = await self._calls.userinfo(provider, access_token=payload.newest.access_token)
        except (Unavailable, AnswerTooLarge):
            return False
        return 200 <= answer.status < 300

    # --- recovery ---

    async def _recover(self, held: StoredGrant, wanted: Wanted) -> AccessToken | None:
        """A holder was lost. First look for what it stored; only then, and only past the hold-down, send again."""
        grant = held.grant
        if grant.escrow is not None:
            version = await self._restore_escrow(held)
            if version is not None:
                return await self._commit(held, wanted, version, outcome=Outcome.RACE_RECOVERED)
        found = await self._probe(grant, wanted.provider)
        if found is not None:
            return await self._commit(held, wanted, found.version, outcome=Outcome.RACE_RECOVERED)
        ready = (grant.sent_at or self._clock.now()) + grants.hold_down(grant)
        if self._clock.now() < ready:
            waiting = grant.model_copy(
                update={"lease_until": None, "attempt_id": None, "due_at": ready, "next_try_at": ready}
            )
            await self._fenced(held, waiting)
            return None
        await self._step("before resend")
        return await self._refresh(held, wanted, resend=True)

    async def _restore_escrow(self, held: StoredGrant) -> int | None:
        try:
            raw = sealing.unseal(
                await self._escrow_key(), held.grant.escrow or "", context=secret_id(held.grant.grant_id)
            )
        except sealing.CannotOpen:
            return None
        try:
            return await self._payloads.add_raw(held.grant.grant_id, raw)
        except Unavailable:
            await self._release_recovering(held, "secrets")
            raise

    async def _probe(self, grant: Grant, provider: Provider) -> Payload | None:
        """The newest intact successor of the base payload, read by number: base+1, base+2, ... until there is none."""
        base_version = grant.base_ver or grant.secret_ver
        try:
            base = await self._payloads.load(grant, base_version, provider)
        except (CorruptPayload, NotFound):
            return None
        found: Payload | None = None
        known = {base.refresh_sha256}
        for version in range(base_version + 1, base_version + 1 + MAX_PROBES):
            try:
                payload = await self._payloads.load(grant, version, provider)
            except NotFound:
                break
            except CorruptPayload:
                continue
            if payload.stored.predecessor_sha256 in known:
                known.add(payload.refresh_sha256)
                found = payload
        return found

    # --- ends of an attempt ---

    async def _refused(
        self, held: StoredGrant, wanted: Wanted, base: Payload, answer: HttpAnswer, *, resend: bool
    ) -> AccessToken | None:
        error = token_responses.parse(answer.body)
        code = error.code if isinstance(error, TokenError) else "unparsable"
        if code == "invalid_grant" and answer.status in wanted.provider.invalid_grant_statuses:
            return await self._invalid_grant(held, wanted, resend=resend)
        if code == "invalid_scope" and answer.status == 400:
            await self._release(held, "invalid_scope")
            raise BrokerError(
                Reason.SCOPE_NOT_GRANTABLE, "The connected system does not grant the scopes of this action."
            )
        if answer.status in DEFINITE_REFUSALS:
            return await self._unspent(held, wanted, f"http {answer.status}", resend=resend, answer=answer)
        return await self._outcome_unknown(held, wanted, f"http {answer.status}")

    async def _invalid_grant(self, held: StoredGrant, wanted: Wanted, *, resend: bool) -> AccessToken | None:
        """The provider says the refresh token is dead. True only if nobody stored a newer one meanwhile."""
        found = await self._probe(held.grant, wanted.provider)
        if found is not None:
            return await self._commit(held, wanted, found.version, outcome=Outcome.RACE_RECOVERED)
        strict = held.grant.provider_class is RotationClass.STRICT
        lost = resend and strict
        cause = (Outcome.LOST_IN_WINDOW if lost else Outcome.NEEDS_REAUTH_CONFIRMED).value
        event = self._event(audit.EventType.GRANT_NEEDS_REAUTH, held.grant, cause=cause)
        done = await self._fenced(
            held, grants.needs_reauth(held.grant, cause=cause, now=self._clock.now(), event=event)
        )
        await self._step("gave up")
        await self.flush(done)
        raise self._reauth_error(wanted)

    def _reauth_error(self, wanted: Wanted) -> BrokerError:
        return BrokerError(
            Reason.GRANT_NEEDS_REAUTH,
            "The user must connect this system again.",
            remedy=Remedy(
                interaction_uri=f"{self._deployment.broker.origin}/connect?connection={wanted.connection.id}"
            ),
        )

    async def _garbage(
        self, held: StoredGrant, wanted: Wanted, base: Payload, error: TokenError, answer: HttpAnswer
    ) -> AccessToken | None:
        """HTTP 200 without tokens: an error body where the provider is known for it, else nobody knows what it means."""
        if wanted.provider.error_in_200 and error.code == "invalid_grant":
            return await self._invalid_grant(held, wanted, resend=held.grant.status is GrantStatus.RECOVERING)
        if wanted.provider.error_in_200 and error.code != "unparsable":
            return await self._unspent(held, wanted, "error in 200", resend=False, answer=answer)
        return await self._outcome_unknown(held, wanted, "unusable answer")

    async def _unspent(
        self,
        held: StoredGrant,
        wanted: Wanted,
        cause: str,
        *,
        resend: bool,
        answer: HttpAnswer | None = None,
    ) -> AccessToken | None:
        if resend:
            # This send was refused without being looked at, but the earlier one is still unanswered.
            return await self._outcome_unknown(held, wanted, cause)
        done = await self._release(held, cause, retry_after=_retry_after(answer))
        return await self._last_resort(done, wanted, self._clock.now())

    async def _release(self, held: StoredGrant, cause: str, *, retry_after: timedelta | None = None) -> StoredGrant:
        if held.grant.status is GrantStatus.RECOVERING:
            return await self._release_recovering(held, cause)
        return await self._fenced(
            held, grants.released(held.grant, cause=cause, now=self._clock.now(), retry_after=retry_after)
        )

    async def _release_recovering(self, held: StoredGrant, cause: str) -> StoredGrant:
        return await self._fenced(held, grants.unknown_outcome(held.grant, cause=cause, now=self._clock.now()))

    async def _outcome_unknown(self, held: StoredGrant, wanted: Wanted, cause: str) -> AccessToken | None:
        done = await self._fenced(held, grants.unknown_outcome(held.grant, cause=cause, now=self._clock.now()))
        return await self._last_resort(done, wanted, self._clock.now())

    async def _quarantine(self, stored: StoredGrant, cause: str) -> None:
        event = self._event(audit.EventType.GRANT_QUARANTINED, stored.grant, cause=cause)
        done = await self._store.replace(
            stored, grants.quarantined(stored.grant, cause=cause, now=self._clock.now(), event=event)
        )
        if done is not None:
            await self.flush(done)

    async def _fenced(self, held: StoredGrant, next_grant: Grant) -> StoredGrant:
        """Write the next state if the fence is still ours. A conflict with our own earlier write (answer lost) is retried.

        Raises: FenceLost, Unavailable.
        """
        for _ in range(3):
            try:
                done = await self._store.replace(held, next_grant)
            except Unavailable:
                done = None
            if done is not None:
                return done
            current = await self._store.read(held.grant.grant_id)
            if current is None:
                raise FenceLost
            if current.grant == next_grant:
                return current  # it was written, only the answer was lost
            same_holder = (
                current.grant.fence == held.grant.fence
                and current.grant.attempt_id == held.grant.attempt_id
                and current.grant.revoke_epoch == held.grant.revoke_epoch
            )
            if not same_holder:
                raise FenceLost
            held = StoredGrant(held.grant, current.version)
        raise Unavailable("documents")

    # --- audit outbox and upstream revocation ---

    def _event(
        self,
        event_type: audit.EventType,
        grant: Grant,
        *,
        cause: str,
        seq: int | None = None,
        secret_version: int | None = None,
    ) -> dict[str, Any]:
        event = audit.AuditEvent(
            event_id=self._randomness.event_id(),
            event_type=event_type,
            occurred_at=self._clock.now(),
            tenant=grant.tenant,
            subject=audit.Subject(key=grant.subject),
            tool=audit.Tool(connection=grant.connection, provider=grant.provider),
            grant=audit.GrantFacts(
                id=grant.grant_id, seq=seq or grant.seq, secret_version=secret_version or grant.secret_ver, cause=cause
            ),
            outcome=audit.Outcome.EXECUTED if event_type is audit.EventType.GRANT_REFRESHED else audit.Outcome.FAILED,
        )
        return event.model_dump(mode="json", exclude_none=True)

    async def flush(self, stored: StoredGrant) -> StoredGrant:
        return await self._outbox.flush(stored)

    async def revoke_upstream(self, payload: Payload, connection: Connection, provider: Provider) -> bool:
        """RFC 7009 at the provider, unless one revocation ends more than this grant. Whether the provider confirmed."""
        if provider.revocation.endpoint is None or provider.revocation.blast_radius in ("user", "unknown"):
            return False
        token, hint = (
            (payload.refresh_token, "refresh_token")
            if payload.refresh_token is not None
            else (payload.newest.access_token, "access_token")
        )
        try:
            answer = await self._calls.revoke(connection, provider, token=token, hint=hint)
        except (Unavailable, AnswerTooLarge):
            return False
        return 200 <= answer.status < 300

    async def _escrow_key(self) -> bytes:
        return await self._escrow_keys.access(ESCROW_SECRET, 1)


def _access_token(grant: Grant, payload: Payload, usable: Usable, wanted: Wanted, outcome: Outcome) -> AccessToken:
    extra = set(usable.scopes) - set(wanted.scopes) - set(wanted.provider.base_scopes)
    return AccessToken(
        access_token=usable.access_token,
        expires_at=usable.expires_at,
        scopes=tuple(scope for scope in usable.scopes if scope in wanted.scopes or scope in extra),
        narrowed=not extra,
        grant_id=grant.grant_id,
        seq=grant.seq,
        secret_version=payload.version,
        outcome=outcome.value,
    )


def _retry_after(answer: HttpAnswer | None) -> timedelta | None:
    value = answer.headers.get("retry-after", "") if answer else ""
    return timedelta(seconds=min(int(value), 3600)) if value.isascii() and value.isdigit() and len(value) < 6 else None


def _idles(grant: Grant, provider: Provider, now: datetime) -> bool:
    last = grant.refreshed_at or grant.connected_at
    return provider.keepalive_s is not None and now >= last + timedelta(seconds=provider.keepalive_s)
