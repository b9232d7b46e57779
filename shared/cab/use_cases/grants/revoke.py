"""Revocation of grants: effective here at once (the status in Firestore), then at the provider, then in the vault."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from cab.domain import audit, grant_transitions
from cab.domain.configured.connections import Connection, Provider
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.domain.grants import ENDED, IDLE, NO_TOKENS, PRODUCTION_TIMINGS, Grant, GrantStatus, Timings
from cab.ports import Clock, NotFound, Randomness, Unavailable
from cab.stores.grant_payloads import CorruptPayload, GrantPayloads, Payload, read_payload
from cab.stores.grants import Grants, StoredGrant
from cab.use_cases.audit.outbox import APPROVED, Outbox, grant_event, keepalive_of
from cab.use_cases.grants.refresh.escrow import Escrow
from cab.use_cases.grants.replaced_tokens import ReplacedTokens
from cab.use_cases.upstream.revoke import RevokeUpstream, Upstream
from cab.values import immutable

MAX_REVOKED_AT_ONCE: Final = 500
MAX_TRIES_UPSTREAM: Final = 8  # over some minutes; then the audit says that the provider was never reached
GIVE_UP_AFTER: Final = timedelta(days=1)  # for replaced refresh tokens; the audit then says that they were not revoked
_TRIES: Final = 10


@immutable
class Revoked:
    """What died, and what could not: one line per grant."""

    grant_id: str
    connection: str
    upstream: bool | None  # None: it had ended before


class RevokeGrants:
    def __init__(
        self,
        deployment: Deployment,
        store: Grants,
        payloads: GrantPayloads,
        escrow: Escrow,
        revoke_upstream: RevokeUpstream,
        outbox: Outbox,
        clock: Clock,
        randomness: Randomness,
        *,
        timings: Timings = PRODUCTION_TIMINGS,
    ) -> None:
        self._deployment = deployment
        self._store = store
        self._payloads = payloads
        self._escrow = escrow
        self._revoke_upstream = revoke_upstream
        self._replaced = ReplacedTokens(payloads, revoke_upstream)
        self._outbox = outbox
        self._clock = clock
        self._randomness = randomness
        self._timings = timings

    async def matching(self, *, equal: Mapping[str, str], cause: str, txn: str, by: str | None = None) -> list[Revoked]:
        """Revoke every grant whose fields equal the given ones (tenant, subject, connection), so many at the same time."""
        stored = await self._store.matching(equal=equal, limit=sys.maxsize)
        done: list[Revoked] = []
        for first in range(0, len(stored), MAX_REVOKED_AT_ONCE):
            some = stored[first : first + MAX_REVOKED_AT_ONCE]
            done += await asyncio.gather(*(self.one(it.grant.grant_id, cause=cause, txn=txn, by=by) for it in some))
        return done

    async def one(self, name: str, *, cause: str, txn: str, by: str | None = None) -> Revoked:
        """From the return on, no token of the grant is served. Whether the provider knows is in `upstream`; if it could not be
        reached, the sweeper asks again. `by` names the service or operator that asked, for the audit.

        Raises: BrokerError GRANT_MISSING; Unavailable when the status could not be written.
        """
        for _ in range(_TRIES):
            stored = await self._store.read(name)
            if stored is None:
                raise BrokerError(Reason.GRANT_MISSING, "There is no such grant.")
            if stored.grant.status in (GrantStatus.REVOKING, GrantStatus.REVOKED):
                return Revoked(name, stored.grant.connection, None)
            event = self._event(stored.grant, cause, txn=txn, by=by)
            done = await self._store.replace(
                stored, grant_transitions.revoking(stored.grant, cause=cause, now=self._clock.now(), event=event)
            )
            if done is not None:
                return Revoked(name, done.grant.connection, await self._finished(done))
            await asyncio.sleep(0.02)  # a refresh holder writes a few times and is gone
        raise Unavailable("documents")

    async def unused(self, stored: StoredGrant) -> bool:
        """End a grant for lying unused, as it was judged: whoever uses it meanwhile has changed the document, and it lives on.

        Whether it has ended. Raises: Unavailable; it may then have ended, and the sweeper goes on with it.
        """
        event = self._event(stored.grant, IDLE)
        ending = grant_transitions.revoking(stored.grant, cause=IDLE, now=self._clock.now(), event=event)
        done = await self._store.replace(stored, ending)
        if done is None:
            return False
        await self._finished(done)
        return True

    async def _finished(self, stored: StoredGrant) -> bool:
        try:
            return await self.finish(stored)
        except Unavailable:
            return False  # it is revoked all the same; the sweeper finishes

    async def finish(self, stored: StoredGrant) -> bool:
        """REVOKING to REVOKED: upstream, with the newest token that can be found. Whether the provider confirmed.

        Raises: Unavailable; the grant then stays REVOKING and due.
        """
        result = await self._upstream(stored.grant, with_replaced=True)
        confirmed = result is Upstream.CONFIRMED
        now = self._clock.now()
        if result is Upstream.FAILED and stored.grant.fail_count < MAX_TRIES_UPSTREAM:
            following = grant_transitions.revoking_again(stored.grant, now=now, timings=self._timings)
        else:
            following = grant_transitions.revoked(stored.grant, now=now)
        outbox = [_with_upstream(event, confirmed=confirmed) for event in stored.grant.outbox]
        if not outbox and confirmed:  # an earlier try has told the audit that the provider was not reached
            outbox = [self._event(stored.grant, stored.grant.fail_cause or "revoked", upstream_revoked=True)]
        done = await self._store.replace(stored, following.model_copy(update={"outbox": outbox}))
        if done is not None:
            await self._outbox.flush(done)
        return confirmed

    async def lay_aside(self, name: str, connection: Connection) -> None:
        """End the tokens of a consent at a connection where users do not consent any more; the grant itself lives on.

        Upstream first: if this process dies in between, the next visit revokes once more. Raises: Unavailable, also while the
        provider cannot be reached and it is worth another try.
        """
        stored = await self._store.read(name)
        now = self._clock.now()
        if stored is None or not stored.grant.keeps_tokens or grant_transitions.is_held(stored.grant, now):
            return
        grant = stored.grant
        if grant.status in ENDED:
            return
        result = await self._upstream(grant)
        if result is Upstream.FAILED and grant.fail_count < MAX_TRIES_UPSTREAM:
            await self._store.replace(stored, grant.model_copy(update={"fail_count": grant.fail_count + 1}))
            raise Unavailable("provider")
        after = grant.model_copy(update={"secret_version": NO_TOKENS})
        events = [self._event(grant, "replaced by trust", upstream_revoked=result is Upstream.CONFIRMED)]
        if connection.grant_kind.is_trusted:
            events.append(self._event(after, APPROVED, of_type=audit.EventType.GRANT_CONNECTED))
        done = await self._store.replace(
            stored, grant_transitions.dropped_tokens(grant, now=self._clock.now(), events=events)
        )
        if done is not None:
            await self._outbox.flush(done)

    async def purge(self, stored: StoredGrant) -> None:
        """Destroy every version of tokens that have ended; one that was stored late is revoked upstream first.

        Raises: Unavailable.
        """
        grant = stored.grant
        connection, provider = self._places(grant)
        last = (grant.clean_below or 1) - 1
        if connection is not None and provider is not None and last > NO_TOKENS:
            for version, late in await self._payloads.following(grant, last, provider):
                if late is not None and self._clock.now() < late.stored.received_at + self._timings.clean_up_after:
                    return  # maybe of a new consent, to which the document points in a moment: the next visit will tell
                if late is not None and await self._tell(grant, late, connection, provider) is Upstream.FAILED:
                    raise Unavailable("provider")
                last = version
            if grant.replaced_below is not None and self._came_from(grant, connection):
                results = await self._replaced.end(grant, last + 1, connection, provider, grant_ended=True)
                waited = self._clock.now() - grant_transitions.may_clean_at(grant, self._timings)
                if Upstream.FAILED in results and waited < GIVE_UP_AFTER:
                    raise Unavailable("provider")
        for version in range(grant.destroy_below, last + 1):
            await self._payloads.destroy(grant, version)
        purged = grant_transitions.cleaned(
            grant, keepalive=keepalive_of(grant, self._deployment), now=self._clock.now(), timings=self._timings
        )
        await self._store.replace(stored, purged)

    async def end_replaced(self, grant: Grant) -> bool | None:
        """Before versions below `clean_below` are destroyed: refresh tokens of earlier consents end upstream where that harms
        nothing. Whether all of them did; None when there were none. Raises: Unavailable, within a day of the replacement.
        """
        connection, provider = self._places(grant)
        below = grant.clean_below or 0
        replaced = grant.replaced_below is not None
        if connection is None or provider is None or not (replaced or provider.revocation.blast_radius == "token"):
            return None
        if not self._came_from(grant, connection):
            return False if replaced else None
        results = await self._replaced.end(grant, below, connection, provider)
        waited = self._clock.now() - grant_transitions.may_clean_at(grant, self._timings)
        if Upstream.FAILED in results and waited < GIVE_UP_AFTER:
            raise Unavailable("provider")
        if not results and provider.revocation.endpoint is None:
            return False if replaced else None
        return all(result is Upstream.CONFIRMED for result in results) if results else None

    def _came_from(self, grant: Grant, connection: Connection) -> bool:
        """A token is shown to no system but the one it came from: the connection may lead to another one by now."""
        came_from = self._deployment.provider_by_id.get(grant.provider)
        leads_to = self._deployment.provider_by_id[connection.provider]
        return came_from is not None and came_from.revocation.endpoint == leads_to.revocation.endpoint

    async def _upstream(self, grant: Grant, *, with_replaced: bool = False) -> Upstream:
        connection, provider = self._places(grant)
        if connection is None or provider is None or not grant.keeps_tokens:
            return Upstream.IMPOSSIBLE
        try:
            payload = await self._newest(grant, provider)
        except Unavailable:
            return Upstream.FAILED
        if payload is None:
            return Upstream.IMPOSSIBLE
        result = await self._tell(grant, payload, connection, provider)
        if result is not Upstream.CONFIRMED or not with_replaced or grant.replaced_below is None:
            return result
        # Earlier consents are not cleaned up yet: "it has ended there" is true only when theirs have, too.
        replaced = await self._replaced.end(grant, grant.secret_version, connection, provider, grant_ended=True)
        return next((other for other in replaced if other is not Upstream.CONFIRMED), result)

    async def _tell(self, grant: Grant, payload: Payload, connection: Connection, provider: Provider) -> Upstream:
        if not self._came_from(grant, connection):
            return Upstream.IMPOSSIBLE
        return await self._revoke_upstream(payload, connection, provider)

    async def _newest(self, grant: Grant, provider: Provider) -> Payload | None:
        """A refresh that the revocation overtook may just have stored a token set, in the vault or in escrow."""
        try:
            raw = await self._escrow.open(grant)
            if raw is not None:
                return read_payload(raw, grant, 0, provider)
            base = await self._payloads.base(grant, provider)
        except (NotFound, CorruptPayload):
            return None
        return await self._payloads.successor(grant, base, provider) or base

    def replaced_event(self, grant: Grant, *, upstream_revoked: bool) -> dict[str, Any]:
        return self._event(grant, "replaced by a new consent", upstream_revoked=upstream_revoked)

    def _places(self, grant: Grant) -> tuple[Connection | None, Provider | None]:
        connection = self._deployment.connection_by_id.get(grant.connection)
        return connection, self._deployment.provider_of(connection) if connection else None

    def _event(
        self,
        grant: Grant,
        cause: str,
        *,
        of_type: audit.EventType = audit.EventType.GRANT_REVOKED,
        txn: str | None = None,
        by: str | None = None,
        upstream_revoked: bool | None = None,
    ) -> dict[str, Any]:
        return grant_event(
            of_type,
            grant,
            cause=cause,
            now=self._clock.now(),
            randomness=self._randomness,
            txn=txn,
            by=by,
            upstream_revoked=upstream_revoked,
        )


def _with_upstream(event: dict[str, Any], *, confirmed: bool) -> dict[str, Any]:
    if event["event_type"] != audit.EventType.GRANT_REVOKED.value:
        return event
    return event | {"grant": event["grant"] | {"upstream_revoked": confirmed}}
