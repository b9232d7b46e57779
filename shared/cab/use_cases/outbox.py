"""The audit events that travel with a grant: written together with a state change, published right after, then taken off."""

from __future__ import annotations

from datetime import datetime, timedelta

from cab.domain import audit, grants
from cab.domain.connections import Provider
from cab.domain.deployment import Deployment
from cab.domain.grants import Grant, GrantStatus
from cab.ports import AuditLog, Unavailable
from cab.stores.grants import Grants, StoredGrant


class Outbox:
    def __init__(self, deployment: Deployment, store: Grants, log: AuditLog) -> None:
        self._deployment = deployment
        self._store = store
        self._log = log

    async def flush(self, stored: StoredGrant) -> StoredGrant:
        """Publish the events that came with a change, then take them off. What fails stays, for the sweeper."""
        if not stored.grant.outbox:
            return stored
        try:
            for event in stored.grant.outbox:
                await self._log.publish(audit.AuditEvent.model_validate(event))
            due_at = next_visit(stored.grant, self._deployment.provider_by_id.get(stored.grant.provider))
            done = await self._store.replace(stored, stored.grant.model_copy(update={"outbox": [], "due_at": due_at}))
        except Unavailable:
            return stored
        return done or stored


def next_visit(grant: Grant, provider: Provider | None) -> datetime | None:
    """When the sweeper should look again: old versions to destroy, then the keepalive, else never."""
    if grant.destroy_below < grant.secret_ver or grant.status is GrantStatus.REVOKED:
        settled = grant.leeway_until or grant.refreshed_at or grant.connected_at
        return settled + grants.CLEAN_UP_AFTER
    if grant.status is GrantStatus.ACTIVE and provider is not None and provider.keepalive_s is not None:
        return (grant.refreshed_at or grant.connected_at) + timedelta(seconds=provider.keepalive_s)
    return None
