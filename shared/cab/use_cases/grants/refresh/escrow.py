"""Escrow: where a token set goes when the vault refuses it after the refresh token is spent.

It lies sealed in the grant's document, under a key that only refresh_grants reads and that is loaded before anything is sent.
"""

from __future__ import annotations

from typing import Final

from cab.domain.grants import Grant
from cab.encoding import sealing
from cab.ports import NotFound, SecretReader, Unavailable
from cab.stores.grant_payloads import secret_id

ESCROW_SECRET: Final = "cab-escrow-key"
_OLDER_TRIED: Final = 3


class Escrow:
    """`version` is the key's that is sealed under. Opened is also what was sealed under one before it, or under the next: during a
    rotation, instances of the newer configuration have begun already.
    """

    def __init__(self, keys: SecretReader, version: int = 1) -> None:
        self._keys = keys
        self._version = version

    async def key(self) -> bytes:
        """Raises: Unavailable, also when there is no key: nothing may be spent then."""
        try:
            return await self._keys.access(ESCROW_SECRET, self._version)
        except NotFound:
            raise Unavailable("secrets") from None

    async def open(self, grant: Grant) -> bytes | None:
        """What the grant's document keeps; None when nothing, or nothing that fits it. Raises: Unavailable."""
        if grant.escrow is None:
            return None
        own = self._version
        for version in (own, own + 1, *range(own - 1, max(0, own - 1 - _OLDER_TRIED), -1)):
            try:
                key = await self.key() if version == own else await self._keys.access(ESCROW_SECRET, version)
                return sealing.unseal(key, grant.escrow, context=secret_id(grant.grant_id))
            except (sealing.CannotOpen, NotFound):
                continue
        return None


def seal_token_set(key: bytes, grant: Grant, raw: bytes) -> str:
    return sealing.seal(key, raw, context=secret_id(grant.grant_id))
