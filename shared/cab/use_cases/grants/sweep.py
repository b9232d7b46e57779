"""The sweep: nothing is left half done. Lapsed leases, unsent audit events, unfinished revocations, old versions, idle grants."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from itertools import chain, zip_longest
from typing import Final

from cab.domain import grant_transitions
from cab.domain.configured.connections import GrantKind
from cab.domain.configured.deployment import Deployment
from cab.domain.grants import ENDED, PRODUCTION_TIMINGS, Grant, GrantStatus, Timings
from cab.ports import Clock, Unavailable
from cab.stores.grant_payloads import GrantPayloads
from cab.stores.grants import Grants, StoredGrant
from cab.use_cases.audit.outbox import Outbox, keepalive_of
from cab.use_cases.grants.move import MoveGrants
from cab.use_cases.grants.refresh.caller import RefreshGrant
from cab.use_cases.grants.revoke import RevokeGrants

FanOut = Callable[[Sequence[str]], Awaitable[None]]

PAGE: Final = 500  # grants of one query, and messages of one publish (Pub/Sub takes 1,000)
MOST_AT_ONCE: Final = 200_000  # what one sweep keeps in memory: some fifty megabytes
# The scheduler calls every minute and gives up after one. Reading ends first, so that what was read also leaves.
READ_WITHIN: Final = timedelta(seconds=25)
HAND_OVER_WITHIN: Final = timedelta(seconds=50)
# Pub/Sub itself delivers again what was not acknowledged; a grant that is still due as it was is named again only then.
NAMED_AGAIN_AFTER: Final = timedelta(minutes=5)
UNCOUNTED_EVERY: Final = timedelta(minutes=10)
VISITED_HERE: Final = 10  # grants, where Pub/Sub cannot be reached


class SweepGrants:
    def __init__(
        self,
        deployment: Deployment,
        store: Grants,
        payloads: GrantPayloads,
        refresher: RefreshGrant,
        revoker: RevokeGrants,
        mover: MoveGrants,
        outbox: Outbox,
        clock: Clock,
        *,
        timings: Timings = PRODUCTION_TIMINGS,
    ) -> None:
        self._deployment = deployment
        self._store = store
        self._payloads = payloads
        self._refresher = refresher
        self._revoker = revoker
        self._mover = mover
        self._outbox = outbox
        self._clock = clock
        self._timings = timings
        self._looked_for_uncounted_at: datetime | None = None
        self._handed_over: dict[tuple[str, datetime], datetime] = {}  # (grant, its due_at) -> when

    async def hand_over(self, fan_out: FanOut) -> int:
        """Give every grant that is due to `fan_out`, within a minute; how many were given.

        What no longer fits into the time stays due, and what this instance gave away lately is passed over, so the next
        sweep begins where this one ended. Tenants take turns: one with thousands of due grants delays no other's. Where
        `fan_out` raises Unavailable, a few grants are visited here instead: they must not wait for Pub/Sub.
        Raises: Unavailable, when not even the first grants can be read.
        """
        started_at = self._clock.now()
        waiting = [*await self._waiting(started_at), *await self._uncounted(started_at)]
        handed = 0
        for first in range(0, len(waiting), PAGE):
            if self._clock.now() - started_at >= HAND_OVER_WITHIN:
                break
            batch = waiting[first : first + PAGE]
            try:
                await fan_out([name for name, _ in batch])
            except Unavailable:
                for name, _ in batch[:VISITED_HERE]:
                    await self.visit(name)
                return handed + len(batch[:VISITED_HERE])
            self._handed_over |= dict.fromkeys(batch, self._clock.now())
            handed += len(batch)
        return handed

    async def _waiting(self, now: datetime) -> list[tuple[str, datetime]]:
        """Due grants that were not handed over lately: each tenant's longest waiting first, one tenant after the other."""
        by_tenant: dict[str, list[tuple[str, datetime]]] = defaultdict(list)
        lately: dict[tuple[str, datetime], datetime] = {}
        try:
            async for page in self._store.due_pages(now, size=PAGE, limit=MOST_AT_ONCE):
                for stored in page:
                    due = (stored.grant.grant_id, stored.grant.due_at or now)
                    handed_at = self._handed_over.get(due)
                    if handed_at is not None and now - handed_at < NAMED_AGAIN_AFTER:
                        lately[due] = handed_at
                    else:
                        by_tenant[stored.grant.tenant].append(due)
                if self._clock.now() - now >= READ_WITHIN:
                    break
        except Unavailable:
            if not by_tenant:
                raise
        self._handed_over = lately  # what is no longer due, or due anew, is forgotten
        turns = chain.from_iterable(zip_longest(*by_tenant.values()))
        return [due for due in turns if due is not None]

    async def _uncounted(self, now: datetime) -> list[tuple[str, datetime]]:
        """Grants that may end unused, and whose uses nobody counts yet: new ones, and those of before the setting."""
        if self._looked_for_uncounted_at is not None and now - self._looked_for_uncounted_at < UNCOUNTED_EVERY:
            return []
        found: list[tuple[str, datetime]] = []
        try:
            for connection, tenant in self._deployment.grants_that_end_unused:
                for status in (GrantStatus.ACTIVE, GrantStatus.NEEDS_REAUTH):
                    stored = await self._store.uncounted(connection, tenant, status, limit=PAGE)
                    found += [(it.grant.grant_id, now) for it in stored]
        except Unavailable:
            return found
        if len(found) < PAGE:  # else there are more, which the next sweep finds
            self._looked_for_uncounted_at = now
        return found

    async def due(self, *, limit: int) -> list[str]:
        """Ids of the grants that want a visit, the longest waiting first."""
        return [stored.grant.grant_id for stored in await self._store.due(self._clock.now(), limit=limit)]

    async def visit(self, name: str) -> None:
        """Idempotent; safe beside exchanges and other visits. Raises: Unavailable, to be visited again."""
        stored = await self._store.read(name)
        if stored is None or not (self._is_due(stored) or self._is_uncounted(stored.grant)):
            return
        try:
            if self._is_due(stored):
                await self._drive(stored)
            await self._clean_up(name)
            await self._mover.tidy(name)  # last: it needs a storage that may be out or configured no more
        finally:
            await self._let_others_by(name)

    def _is_due(self, stored: StoredGrant) -> bool:
        return stored.grant.due_at is not None and stored.grant.due_at <= self._clock.now()

    def _is_uncounted(self, grant: Grant) -> bool:
        ends_unused = self._deployment.grants_last_unused(grant.connection, grant.tenant) is not None
        return ends_unused and grant.last_used_at is None and grant_transitions.may_end_unused(grant)

    async def _drive(self, stored: StoredGrant) -> None:
        grant = stored.grant
        if grant.status is GrantStatus.REVOKING:
            await self._revoker.finish(stored)
            return
        if grant.outbox:
            await self._outbox.flush(stored)
        connection = self._deployment.connection_by_id.get(grant.connection)
        if connection is None or not grant.keeps_tokens or grant.status in ENDED:
            return
        if connection.grant_kind is GrantKind.AUTHORIZATION_CODE:
            await self._refresher.attend(grant.grant_id, connection, self._deployment.provider_of(connection))
        else:
            await self._revoker.lay_aside(grant.grant_id, connection)

    async def _clean_up(self, name: str) -> None:
        """Destroy what no reader can want any more: numbers of versions only grow, so that is as true of the grant a moment ago."""
        stored = await self._store.last_seen(name)
        now = self._clock.now()
        if stored is None or stored.grant.status in (
            GrantStatus.REFRESHING,
            GrantStatus.RECOVERING,
            GrantStatus.REVOKING,
        ):
            return
        idle = self._deployment.grants_last_unused(stored.grant.connection, stored.grant.tenant)
        grant = grant_transitions.counted(stored.grant, idle=idle, now=now)
        if grant_transitions.has_ended_unused(grant, now):
            await self._revoker.unused(stored)
            return
        wanted = grant.clean_below is None or now < grant_transitions.may_clean_at(grant, self._timings)
        if not wanted and (grant.status is GrantStatus.REVOKED or not grant.keeps_tokens):
            await self._revoker.purge(stored)
            return
        keepalive = keepalive_of(grant, self._deployment)
        following = grant_transitions.scheduled(grant, keepalive=keepalive, now=now, timings=self._timings)
        if not wanted:
            ended = await self._revoker.end_replaced(grant)
            for version in range(grant.destroy_below, grant.clean_below or 1):
                await self._payloads.destroy(grant, version)
            following = grant_transitions.cleaned(grant, keepalive=keepalive, now=now, timings=self._timings)
            if ended is not None:
                event = self._revoker.replaced_event(grant, upstream_revoked=ended)
                following = following.model_copy(update={"outbox": [*following.outbox, event], "due_at": now})
        if following != stored.grant:
            done = await self._store.replace(stored, following)
            if done is not None and done.grant.outbox:
                await self._outbox.flush(done)

    async def _let_others_by(self, name: str) -> None:
        """A visit that changed nothing must not stay first in the queue: others wait behind it."""
        seen = self._store.seen(name)
        if seen is not None and not self._is_due(seen):
            return
        stored = await self._store.read(name)  # what it left to be done may be done by now
        if stored is not None and self._is_due(stored):
            later = self._clock.now() + self._timings.visit_again
            await self._store.replace(stored, stored.grant.model_copy(update={"due_at": later}))
