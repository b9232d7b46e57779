"""Token sets that arrive after their attempt lost the grant: never dropped, never trusted unseen."""

from __future__ import annotations

from collections.abc import Callable, Collection

from cab.domain import audit, grant_transitions
from cab.domain.configured.connections import Connection, Provider
from cab.domain.grants import SERVABLE, Grant, GrantStatus, RefreshOutcome, Timings
from cab.ports import AnswerTooLarge, Clock, NotFound, Randomness, Unavailable
from cab.stores.grant_payloads import CorruptPayload, GrantPayloads, Payload, read_payload
from cab.stores.grants import Grants, StoredGrant
from cab.use_cases.audit.outbox import Outbox, grant_event
from cab.use_cases.grants.refresh.escrow import Escrow
from cab.use_cases.upstream.provider_client import ProviderCalls
from cab.use_cases.upstream.revoke import RevokeUpstream, Upstream

_REVOKED = (GrantStatus.REVOKING, GrantStatus.REVOKED)
_TRIES = 4


class OrphanedTokens:
    def __init__(
        self,
        store: Grants,
        payloads: GrantPayloads,
        escrow: Escrow,
        calls: ProviderCalls,
        revoke_upstream: RevokeUpstream,
        outbox: Outbox,
        clock: Clock,
        randomness: Randomness,
        *,
        timings: Timings,
    ) -> None:
        self._store = store
        self._payloads = payloads
        self._escrow = escrow
        self._calls = calls
        self._revoke_upstream = revoke_upstream
        self._outbox = outbox
        self._clock = clock
        self._randomness = randomness
        self._timings = timings

    async def settle(self, ours: Grant, payload: Payload, connection: Connection, provider: Provider) -> None:
        """For a stored token set whose commit came too late; `ours` is the document as the attempt held it.

        Revoked meanwhile, or forgotten: the token is revoked upstream. Given up meanwhile: tried, and restored if it may live; by
        the sweeper if not here. Anyone else who holds the grant now finds it by number. Raises: Unavailable.
        """
        current = await self._store.read(ours.grant_id)
        if current is None or current.grant.status in _REVOKED:
            told = await self._revoke_upstream(payload, connection, provider) is not Upstream.FAILED
            if told or current is None:  # nobody comes for what is left of somebody who was forgotten
                await self._payloads.destroy(ours, payload.version)
            return  # else the sweeper asks again, when it destroys the grant's versions
        payload = await self._payloads.brought(payload, ours, current.grant, provider)
        given_up = await self._change(
            ours,
            (GrantStatus.NEEDS_REAUTH,),
            lambda grant: grant_transitions.to_be_looked_at(grant, now=self._clock.now(), timings=self._timings),
        )
        if given_up is not None:
            await self._restore(given_up, payload, provider)

    async def hand_over(self, ours: Grant, raw: bytes, sealed: str, connection: Connection, provider: Provider) -> bool:
        """For a token set that the vault refused, of an attempt that lost the grant: give it to whoever has it now.

        Whether it is in good hands; if not, the caller must try again. Does not raise Unavailable.
        """
        try:
            for _ in range(_TRIES):
                current = await self._store.read(ours.grant_id)
                if current is None or current.grant.status in _REVOKED:
                    return await self._revoke_raw(ours, raw, connection, provider)
                if not _wants_token_of(current.grant, ours):
                    return True
                if current.grant.status is GrantStatus.NEEDS_REAUTH:
                    following = grant_transitions.escrowed(current.grant, sealed=sealed, now=self._clock.now())
                else:
                    following = grant_transitions.with_escrow(current.grant, sealed=sealed)
                if await self._store.replace(current, following) is not None:
                    return True
        except Unavailable:
            pass
        return False

    async def suspect(self, ours: Grant) -> None:
        """Have the present tokens of the grant tried before they are served again. Raises: Unavailable."""
        await self._change(ours, SERVABLE, lambda grant: grant_transitions.suspected(grant, now=self._clock.now()))

    async def look(self, stored: StoredGrant, provider: Provider) -> StoredGrant | None:
        """The sweeper's second look at a grant that was given up. The restored grant, or None. Raises: Unavailable."""
        grant = stored.grant
        raw = await self._escrow.open(grant)
        try:
            if raw is not None:
                found: Payload | None = read_payload(raw, grant, 0, provider)
            else:
                base = await self._payloads.base(grant, provider)
                found = await self._payloads.successor(grant, base, provider)
        except (CorruptPayload, NotFound):
            return None
        return None if found is None else await self._restore(stored, found, provider, escrowed=raw)

    async def _change(
        self, ours: Grant, statuses: Collection[GrantStatus], transition: Callable[[Grant], Grant]
    ) -> StoredGrant | None:
        """The grant after the transition. None: it has none of the statuses by now, or is another consent's. Raises: Unavailable."""
        for _ in range(_TRIES):
            current = await self._store.read(ours.grant_id)
            if (
                current is None
                or current.grant.status not in statuses
                or current.grant.revoke_epoch != ours.revoke_epoch
            ):
                return None
            changed = await self._store.replace(current, transition(current.grant))
            if changed is not None:
                return changed
        raise Unavailable("documents")

    async def _restore(
        self, current: StoredGrant, payload: Payload, provider: Provider, *, escrowed: bytes | None = None
    ) -> StoredGrant | None:
        """`current` was given up. None: the token set is dead, or the grant has changed meanwhile. Raises: Unavailable.

        What no call can prove now is suspect: a refresh proves it before anything is served.
        """
        works = await self._works(payload, provider)
        if works is False:
            return None
        if escrowed is not None:
            version = await self._payloads.add(current.grant, escrowed)
            payload = self._payloads.remember(current.grant, version, escrowed, provider)
        now = self._clock.now()
        facts = current.grant.model_copy(update={"seq": current.grant.seq + 1, "secret_version": payload.version})
        event = grant_event(
            audit.EventType.GRANT_REFRESHED,
            facts,
            cause=RefreshOutcome.RACE_RECOVERED.value,
            now=now,
            randomness=self._randomness,
        )
        following = grant_transitions.committed(
            current.grant, version=payload.version, access_expires_at=payload.newest.expires_at, now=now, event=event
        )
        if works is None:
            following = grant_transitions.suspected(following, now=now)
        restored = await self._store.replace(current, following)
        return None if restored is None else await self._outbox.flush(restored)

    async def _works(self, payload: Payload, provider: Provider) -> bool | None:
        """By one real call with the late access token. None: that cannot tell, or not now."""
        expires_at = payload.newest.expires_at
        if provider.userinfo_endpoint is None or (expires_at is not None and expires_at <= self._clock.now()):
            return None
        try:
            answer = await self._calls.userinfo(provider, access_token=payload.newest.access_token)
        except (Unavailable, AnswerTooLarge):
            return None
        if 200 <= answer.status < 300:
            return True
        return False if answer.status == 401 else None

    async def _revoke_raw(self, ours: Grant, raw: bytes, connection: Connection, provider: Provider) -> bool:
        try:
            payload = read_payload(raw, ours, 0, provider)
        except CorruptPayload:
            return True  # the provider's answer held no token
        return await self._revoke_upstream(payload, connection, provider) is not Upstream.FAILED


def _wants_token_of(current: Grant, ours: Grant) -> bool:
    """Whether the document still waits for what `ours` sent: same consent, same base, no newer token set committed.

    Whoever takes over after a send is recovering, or has given up.
    """
    waits = current.status in (GrantStatus.RECOVERING, GrantStatus.NEEDS_REAUTH)
    same_base = (current.base_version or current.secret_version) == (ours.base_version or ours.secret_version)
    return waits and same_base and current.revoke_epoch == ours.revoke_epoch
