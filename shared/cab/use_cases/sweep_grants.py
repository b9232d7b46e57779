"""The sweep: nothing is left half done. Lapsed leases, unsent audit events, unfinished revocations, old versions, idle grants."""

from __future__ import annotations

from cab.domain import grant_transitions
from cab.domain.connections import GrantKind
from cab.domain.deployment import Deployment
from cab.domain.grants import ENDED, PRODUCTION_TIMINGS, GrantStatus, Timings
from cab.ports import Clock
from cab.stores.grants import Grants, StoredGrant
from cab.use_cases.grant_payloads import GrantPayloads
from cab.use_cases.outbox import keepalive_of
from cab.use_cases.refresh_grant import RefreshGrant
from cab.use_cases.revoke_grants import RevokeGrants


class SweepGrants:
    def __init__(
        self,
        deployment: Deployment,
        store: Grants,
        payloads: GrantPayloads,
        refresher: RefreshGrant,
        revoker: RevokeGrants,
        clock: Clock,
        *,
        timings: Timings = PRODUCTION_TIMINGS,
    ) -> None:
        self._deployment = deployment
        self._store = store
        self._payloads = payloads
        self._refresher = refresher
        self._revoker = revoker
        self._clock = clock
        self._timings = timings

    async def due(self, *, limit: int) -> list[str]:
        """Ids of the grants that want a visit, the longest waiting first."""
        return [stored.grant.grant_id for stored in await self._store.due(self._clock.now(), limit=limit)]

    async def visit(self, name: str) -> None:
        """Idempotent; safe beside exchanges and other visits. Raises: Unavailable, to be visited again."""
        stored = await self._store.read(name)
        if stored is None or not self._is_due(stored):
            return
        try:
            await self._drive(stored)
            await self._clean_up(name)
        finally:
            await self._let_others_by(name)

    def _is_due(self, stored: StoredGrant) -> bool:
        return stored.grant.due_at is not None and stored.grant.due_at <= self._clock.now()

    async def _drive(self, stored: StoredGrant) -> None:
        grant = stored.grant
        if grant.status is GrantStatus.REVOKING:
            await self._revoker.finish(stored)
            return
        if grant.outbox:
            await self._refresher.outbox.flush(stored)
        connection = self._deployment.connection_by_id.get(grant.connection)
        if connection is None or not grant.keeps_tokens or grant.status in ENDED:
            return
        if connection.grant_kind is GrantKind.AUTHORIZATION_CODE:
            await self._refresher.attend(grant.grant_id, connection, self._deployment.provider_of(connection))
        else:
            await self._revoker.lay_aside(grant.grant_id, connection)

    async def _clean_up(self, name: str) -> None:
        """Destroy what no reader can want any more."""
        stored = await self._store.read(name)
        now = self._clock.now()
        if stored is None or stored.grant.status in (
            GrantStatus.REFRESHING,
            GrantStatus.RECOVERING,
            GrantStatus.REVOKING,
        ):
            return
        grant = stored.grant
        wanted = grant.clean_below is None or now < grant_transitions.may_clean_at(grant, self._timings)
        if not wanted and (grant.status is GrantStatus.REVOKED or not grant.keeps_tokens):
            await self._revoker.bury(stored)
            return
        keepalive = keepalive_of(grant, self._deployment)
        following = grant_transitions.scheduled(grant, keepalive=keepalive, now=now, timings=self._timings)
        if not wanted:
            for version in range(grant.destroy_below, grant.clean_below or 1):
                await self._payloads.destroy(grant.grant_id, version)
            following = grant_transitions.cleaned(grant, keepalive=keepalive, now=now, timings=self._timings)
        if following != grant:
            await self._store.replace(stored, following)

    async def _let_others_by(self, name: str) -> None:
        """A visit that changed nothing must not stay first in the queue: others wait behind it."""
        stored = await self._store.read(name)
        if stored is not None and self._is_due(stored):
            later = self._clock.now() + self._timings.visit_again
            await self._store.replace(stored, stored.grant.model_copy(update={"due_at": later}))
