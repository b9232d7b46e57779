"""Writes of a grant's holder: each succeeds only while the fence is the holder's, whatever else changes in the document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cab.domain.grants import Grant
from cab.ports import Unavailable
from cab.stores.grants import Grants, StoredGrant

Transition = Callable[[Grant], Grant]
_TRIES: Final = 4


class FenceLost(Exception):
    """Another holder, a revocation or a reconnect took over while we worked."""


class FencedWrites:
    def __init__(self, store: Grants) -> None:
        self._store = store

    async def acquire(self, stored: StoredGrant, taken: Grant) -> StoredGrant | None:
        """Step 1. `taken` is the grant with this attempt as its holder. None when another was faster. Raises: Unavailable."""
        try:
            return await self._store.replace(stored, taken)
        except Unavailable:
            current = await self._store.read(stored.grant.grant_id)
            if current is not None and current.grant.attempt_id == taken.attempt_id:
                return current  # it was written, only the answer was lost
            raise

    async def apply(self, held: StoredGrant, transition: Transition) -> StoredGrant:
        """Write what follows from the current document. Changes by others that leave the fence alone are kept.

        `transition` may be called more than once. Raises: FenceLost, Unavailable.
        """
        for _ in range(_TRIES):
            following = transition(held.grant)
            try:
                done = await self._store.replace(held, following)
            except Unavailable:
                done = None
            if done is not None:
                return done
            current = await self._store.read(held.grant.grant_id)
            if current is None:
                raise FenceLost
            if current.grant == following:
                return current  # it was written, only the answer was lost
            if not _same_holder(current.grant, held.grant):
                raise FenceLost
            held = current
        raise Unavailable("documents")


def _same_holder(one: Grant, other: Grant) -> bool:
    return (one.fence, one.attempt_id, one.revoke_epoch) == (other.fence, other.attempt_id, other.revoke_epoch)
