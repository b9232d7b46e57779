"""Taking back a revocation where no user can: at connections that the organisation approves, nobody can consent anew."""

from __future__ import annotations

from typing import Final

from cab.domain import audit
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.domain.grant_transitions import reconnected
from cab.domain.grants import ENDED, NO_TOKENS, GrantStatus
from cab.ports import Clock, Randomness, Unavailable
from cab.stores.grants import Grants
from cab.use_cases.audit.outbox import Outbox, grant_event

_TRIES: Final = 4


class ReinstateGrant:
    def __init__(
        self, deployment: Deployment, store: Grants, outbox: Outbox, clock: Clock, randomness: Randomness
    ) -> None:
        self._deployment = deployment
        self._store = store
        self._outbox = outbox
        self._clock = clock
        self._randomness = randomness

    async def __call__(self, name: str, *, cause: str, txn: str, by: str | None = None) -> bool:
        """Whether the grant had ended. Tokens of before are not served again: its epoch is a new one.

        Raises: BrokerError GRANT_MISSING, TARGET_NOT_ALLOWED where users consent for themselves, GRANT_REVOKED while the
        revocation is still under way; Unavailable.
        """
        for _ in range(_TRIES):
            stored = await self._store.read(name)
            if stored is None:
                raise BrokerError(Reason.GRANT_MISSING, "There is no such grant.")
            grant = stored.grant
            connection = self._deployment.connection_by_id.get(grant.connection)
            if connection is None or not connection.grant_kind.is_trusted:
                raise BrokerError(Reason.TARGET_NOT_ALLOWED, "Only the user can connect this system again.")
            if grant.status not in ENDED:
                return False
            if grant.status is GrantStatus.QUARANTINED and grant.keeps_tokens:
                raise BrokerError(Reason.GRANT_REVOKED, "Revoke the grant first: what it keeps must be destroyed.")
            to_be_destroyed = (grant.clean_below or 0) > grant.destroy_below
            if grant.status is GrantStatus.REVOKING or to_be_destroyed:
                raise BrokerError(Reason.GRANT_REVOKED, "The grant is still being ended.")
            now = self._clock.now()
            event = grant_event(
                audit.EventType.GRANT_CONNECTED,
                grant,
                cause=cause,
                now=now,
                randomness=self._randomness,
                txn=txn,
                by=by,
            )
            allowed = reconnected(
                grant,
                version=NO_TOKENS,
                scopes=[],
                upstream_account=None,
                access_expires_at=None,
                now=now,
                event=event,
            )
            done = await self._store.replace(stored, allowed)
            if done is not None:
                await self._outbox.flush(done)
                return True
        raise Unavailable("documents")
