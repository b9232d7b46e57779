"""The audit events that travel with a grant: written together with a state change, published right after, then taken off."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import ValidationError

from cab.domain import audit, grant_transitions
from cab.domain.configured.deployment import Deployment
from cab.domain.grants import PRODUCTION_TIMINGS, Grant, Timings
from cab.domain.token_life import keepalive
from cab.encoding.records import as_json
from cab.ports import AuditLog, Clock, Randomness, Unavailable
from cab.stores.grants import Grants, StoredGrant
from cab.use_cases.audit.lines import tell_change
from cab.use_cases.audit.waits import so_far, waiting_for

APPROVED: Final = "approved by the organisation"  # why there is a grant that no user consented to


class Outbox:
    def __init__(
        self,
        deployment: Deployment,
        store: Grants,
        log: AuditLog,
        clock: Clock,
        *,
        timings: Timings = PRODUCTION_TIMINGS,
    ) -> None:
        self._deployment = deployment
        self._store = store
        self._log = log
        self._clock = clock
        self._timings = timings
        self._under_way: set[asyncio.Task[StoredGrant]] = set()

    def flush_soon(self, stored: StoredGrant) -> None:
        """`flush`, without anybody's waiting for it. What a process that stands still or dies leaves, the sweeper publishes."""
        task = asyncio.create_task(self.flush(stored))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def flush(self, stored: StoredGrant) -> StoredGrant:
        """Publish the events that came with a change, then take them off. What fails stays, for the sweeper.

        So does what a newer revision wrote and this one cannot read: another is to publish it.
        """
        known, left = _parted(stored.grant.outbox)
        if not known:
            return stored
        try:
            for told in known:
                with waiting_for("publish"):
                    await self._log.publish(told)
                tell_change(told)
            delivered = grant_transitions.delivered(
                stored.grant,
                left=left,
                keepalive=keepalive_of(stored.grant, self._deployment),
                now=self._clock.now(),
                timings=self._timings,
            )
            done = await self._store.replace(stored, delivered)
        except Unavailable:
            return stored
        return done or stored


def _parted(outbox: list[dict[str, Any]]) -> tuple[list[audit.AuditEvent], list[dict[str, Any]]]:
    """What can be read, and what cannot."""
    known: list[audit.AuditEvent] = []
    left: list[dict[str, Any]] = []
    for event in outbox:
        try:
            known.append(audit.read(event))
        except ValidationError:
            left.append(event)
    return known, left


def keepalive_of(grant: Grant, deployment: Deployment) -> timedelta | None:
    """How long the provider lets a refresh token lie unused; None where it never idles out, or where there is none."""
    if not grant.keeps_tokens or not grant.lasts:
        return None
    provider = deployment.provider_by_id.get(grant.provider)
    return None if provider is None else keepalive(provider, grant.grant_id)


def grant_event(
    event_type: audit.EventType,
    grant: Grant,
    *,
    cause: str,
    now: datetime,
    randomness: Randomness,
    txn: str | None = None,
    by: str | None = None,
    upstream_revoked: bool | None = None,
    provider_error: str | None = None,
    provider_ms: float | None = None,
) -> dict[str, Any]:
    """The event of a state change, as `grant` is after it. `by` names the service or operator that asked for it.

    `provider_error`: the provider's own word for it; `provider_ms`: how long its answer took; without it what the
    request waited for so far.
    """
    waited = so_far() | ({} if provider_ms is None else {"provider": round(provider_ms, 3)})
    failures = (audit.EventType.GRANT_NEEDS_REAUTH, audit.EventType.GRANT_QUARANTINED)
    event = audit.AuditEvent(
        event_id=randomness.event_id(),
        event_type=event_type,
        occurred_at=now,
        tenant=grant.tenant,
        subject=audit.Subject(key=grant.subject),
        actor=None if by is None else audit.Actor(client_id=by),
        tool=audit.Tool(connection=grant.connection, provider=grant.provider),
        grant=audit.GrantFacts(
            id=grant.grant_id,
            seq=grant.seq,
            secret_version=grant.secret_version,
            cause=cause,
            upstream_revoked=upstream_revoked,
            provider_error=provider_error,
        ),
        latency_ms=audit.Latency(**waited) if waited else None,
        outcome=audit.Outcome.FAILED if event_type in failures else audit.Outcome.EXECUTED,
        txn=txn,
    )
    return as_json(event)
