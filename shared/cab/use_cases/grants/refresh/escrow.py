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
_KEY_VERSION: Final = 1


class Escrow:
    def __init__(self, keys: SecretReader) -> None:
        self._keys = keys

    async def key(self) -> bytes:
        """Raises: Unavailable, also when there is no key: nothing may be spent then."""
        try:
            return await self._keys.access(ESCROW_SECRET, _KEY_VERSION)
        except NotFound:
            raise Unavailable("secrets") from None

    async def open(self, grant: Grant) -> bytes | None:
        """What the grant's document keeps; None when nothing, or nothing that fits it. Raises: Unavailable."""
        if grant.escrow is None:
            return None
        try:
            return sealing.unseal(await self.key(), grant.escrow, context=secret_id(grant.grant_id))
        except sealing.CannotOpen:
            return None


def seal_token_set(key: bytes, grant: Grant, raw: bytes) -> str:
    return sealing.seal(key, raw, context=secret_id(grant.grant_id))
