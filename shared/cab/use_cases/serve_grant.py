"""`refresh_grants` for its two callers: an access token for the verified user of an assertion, and revocation."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cab.domain import audit, grants
from cab.domain.connections import Connection, GrantKind, Provider
from cab.domain.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.domain.grants import ENDED, GrantStatus, grant_id
from cab.ports import AccessToken, Clock, NotFound, Randomness, Unavailable
from cab.stores.grants import Grants, StoredGrant
from cab.use_cases.grant_payloads import CorruptPayload, GrantPayloads
from cab.use_cases.outbox import next_visit
from cab.use_cases.refresh_grant import RefreshGrant, Wanted
from cab.use_cases.verify_subject import AssertionVerifier

MAX_REVOKED_AT_ONCE = 500


class ServeGrant:
    """`POST /grants/token`. The caller is authenticated by transport; the *user* is derived here, from the assertion alone."""

    def __init__(self, deployment: Deployment, verifier: AssertionVerifier, refresher: RefreshGrant) -> None:
        self._deployment = deployment
        self._verifier = verifier
        self._refresher = refresher

    async def __call__(self, *, subject_assertion: str, connection_id: str, scopes: tuple[str, ...]) -> AccessToken:
        """Never a grant of anyone else than the assertion's subject. Raises: BrokerError; Unavailable."""
        assertion = await self._verifier.verify(subject_assertion)
        connection = self._deployment.connection_by_id.get(connection_id)
        if connection is None or assertion.tenant not in connection.tenants:
            raise BrokerError(Reason.TARGET_UNKNOWN, "The target is not registered.")
        if connection.grant_kind is not GrantKind.AUTHORIZATION_CODE:
            raise BrokerError(Reason.TARGET_NOT_ALLOWED, "This connection keeps no grants.")
        if not set(scopes) <= set(connection.all_scopes):
            raise BrokerError(Reason.SCOPE_NOT_GRANTABLE, "The scope is in no action of this connection.")
        wanted = Wanted(scopes, connection, self._deployment.provider_of(connection))
        return await self._refresher.access_token(grant_id(assertion.tenant, assertion.subject, connection.id), wanted)


@dataclass(frozen=True, slots=True)
class Revoked:
    """What died, and what could not: one line per grant."""

    grant_id: str
    connection: str
    upstream: bool | None  # None: it had ended before


class RevokeGrants:
    """`POST /grants/revoke`: effective here at once (status in Firestore), then upstream where that exists."""

    def __init__(
        self,
        deployment: Deployment,
        store: Grants,
        payloads: GrantPayloads,
        refresher: RefreshGrant,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._deployment = deployment
        self._store = store
        self._payloads = payloads
        self._refresher = refresher
        self._clock = clock
        self._randomness = randomness

    async def matching(self, *, equal: Mapping[str, str], cause: str, txn: str) -> list[Revoked]:
        """Revoke every grant whose fields equal the given ones (tenant, subject, connection)."""
        stored = await self._store.matching(equal=equal, limit=MAX_REVOKED_AT_ONCE)
        return list(await asyncio.gather(*(self.one(item.grant.grant_id, cause=cause, txn=txn) for item in stored)))

    async def one(self, name: str, *, cause: str, txn: str) -> Revoked:
        """Raises: BrokerError GRANT_MISSING; Unavailable when the status could not be written."""
        for _ in range(10):
            stored = await self._store.read(name)
            if stored is None:
                raise BrokerError(Reason.GRANT_MISSING, "There is no such grant.")
            if stored.grant.status in (GrantStatus.REVOKING, GrantStatus.REVOKED):
                return Revoked(name, stored.grant.connection, None)
            event = self._event(stored, cause, txn)
            done = await self._store.replace(
                stored, grants.revoking(stored.grant, cause=cause, now=self._clock.now(), event=event)
            )
            if done is not None:
                return Revoked(name, done.grant.connection, await self.finish(done))
            await asyncio.sleep(0.02)  # a refresh holder writes a few times and is gone
        raise Unavailable("documents")

    async def finish(self, stored: StoredGrant) -> bool:
        """REVOKING -> REVOKED: upstream, with the newest token that can be found. Also the sweeper's way to end it."""
        connection, provider = self._places(stored)
        confirmed = False
        if connection is not None and provider is not None:
            for version in (stored.grant.secret_ver + 1, stored.grant.secret_ver):  # a refresh may just have stored one
                try:
                    payload = await self._payloads.load(stored.grant, version, provider)
                except (NotFound, CorruptPayload):
                    continue
                confirmed = await self._refresher.revoke_upstream(payload, connection, provider)
                break
        outbox = [_with_upstream(event, confirmed=confirmed) for event in stored.grant.outbox]
        done = await self._store.replace(
            stored, grants.revoked(stored.grant, now=self._clock.now()).model_copy(update={"outbox": outbox})
        )
        if done is not None:
            await self._refresher.flush(done)
        return confirmed

    def _places(self, stored: StoredGrant) -> tuple[Connection | None, Provider | None]:
        connection = self._deployment.connection_by_id.get(stored.grant.connection)
        return connection, self._deployment.provider_of(connection) if connection else None

    def _event(self, stored: StoredGrant, cause: str, txn: str) -> dict[str, Any]:
        grant = stored.grant
        return audit.AuditEvent(
            event_id=self._randomness.event_id(),
            event_type=audit.EventType.GRANT_REVOKED,
            occurred_at=self._clock.now(),
            tenant=grant.tenant,
            subject=audit.Subject(key=grant.subject),
            tool=audit.Tool(connection=grant.connection, provider=grant.provider),
            grant=audit.GrantFacts(id=grant.grant_id, seq=grant.seq, secret_version=grant.secret_ver, cause=cause),
            outcome=audit.Outcome.EXECUTED,
            txn=txn,
        ).model_dump(mode="json", exclude_none=True)


def _with_upstream(event: dict[str, Any], *, confirmed: bool) -> dict[str, Any]:
    if event["event_type"] != audit.EventType.GRANT_REVOKED.value:
        return event
    return event | {"grant": event["grant"] | {"upstream_revoked": confirmed}}


class SweepGrants:
    """Nothing is left half done: lapsed leases, unsent audit events, unfinished revocations, old versions, idle grants."""

    def __init__(
        self,
        deployment: Deployment,
        store: Grants,
        payloads: GrantPayloads,
        refresher: RefreshGrant,
        revoker: RevokeGrants,
        clock: Clock,
    ) -> None:
        self._deployment = deployment
        self._store = store
        self._payloads = payloads
        self._refresher = refresher
        self._revoker = revoker
        self._clock = clock

    async def due(self, *, limit: int) -> list[str]:
        """Ids of the grants that want a visit, the longest waiting first."""
        return [stored.grant.grant_id for stored in await self._store.due(self._clock.now(), limit=limit)]

    async def visit(self, name: str) -> None:
        """Idempotent; safe beside exchanges and other visits. Raises Unavailable to be visited again."""
        stored = await self._store.read(name)
        if stored is None or stored.grant.due_at is None or stored.grant.due_at > self._clock.now():
            return
        connection = self._deployment.connection_by_id.get(stored.grant.connection)
        if stored.grant.outbox:
            stored = await self._refresher.flush(stored)
        if stored.grant.status is GrantStatus.REVOKING:
            await self._revoker.finish(stored)
        elif connection is not None and stored.grant.status not in ENDED:
            await self._refresher.attend(name, connection, self._deployment.provider_of(connection))
        await self._clean_up(name)

    async def _clean_up(self, name: str) -> None:
        """Destroy what no reader can want any more, then say when to look again."""
        stored = await self._store.read(name)
        now = self._clock.now()
        if stored is None or stored.grant.outbox or grants.is_held(stored.grant, now):
            return
        grant = stored.grant
        if grant.status in (GrantStatus.REFRESHING, GrantStatus.RECOVERING, GrantStatus.REVOKING):
            return  # their own due_at stands
        if not _settled(grant, now):
            await self._schedule(stored, next_visit(grant, self._deployment.provider_by_id.get(grant.provider)))
            return
        below = grant.secret_ver + 1 if grant.status is GrantStatus.REVOKED else grant.secret_ver
        for version in range(grant.destroy_below, below):
            await self._payloads.destroy(grant.grant_id, version)
        cleaned = grant.model_copy(update={"destroy_below": below})
        due_at = None
        if grant.status is GrantStatus.ACTIVE:
            due_at = next_visit(cleaned, self._deployment.provider_by_id.get(grant.provider))
        await self._store.replace(stored, cleaned.model_copy(update={"due_at": due_at}))

    async def _schedule(self, stored: StoredGrant, due_at: datetime | None) -> None:
        if stored.grant.due_at != due_at:
            await self._store.replace(stored, stored.grant.model_copy(update={"due_at": due_at}))


def _settled(grant: grants.Grant, now: datetime) -> bool:
    since = grant.leeway_until or grant.refreshed_at or grant.connected_at
    return now >= since + grants.CLEAN_UP_AFTER
