"""That a grant is used: on record to the day, where grants end that nobody uses (`grant_idle_days`)."""

from __future__ import annotations

from cab.domain import grant_transitions
from cab.domain.configured.deployment import Deployment
from cab.domain.grants import Grant
from cab.ports import Clock, Unavailable
from cab.stores.grants import Grants, StoredGrant


class Uses:
    def __init__(self, deployment: Deployment, store: Grants, clock: Clock) -> None:
        self._deployment = deployment
        self._store = store
        self._clock = clock

    def is_noted(self, grant: Grant) -> bool:
        """Whether nothing need be written. A holder's lease is left alone: whoever waits for it comes by again."""
        now = self._clock.now()
        return grant_transitions.use_is_noted(grant, now) or grant_transitions.is_held(grant, now)

    async def noted(self, stored: StoredGrant) -> StoredGrant | None:
        """The document with today's use in it: one write a day. None when it has changed since it was read: who uses it looks
        again, because it may have been ended for lying unused.

        What cannot be written is written at the next use.
        """
        grant = stored.grant
        idle = self._deployment.grants_last_unused(grant.connection, grant.tenant)
        try:
            return await self._store.replace(stored, grant_transitions.used(grant, idle=idle, now=self._clock.now()))
        except Unavailable:
            return stored
