"""Tokens that this instance has verified before: the same token is verified once, what can end it is looked at on every use.

Never a replay control: only for tokens that are reusable by design.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, Generic, TypeVar

from cab.domain.lru import remember
from cab.ports import Clock, NotFound, VerificationKeys
from cab.protocol.jose import jws
from cab.protocol.jose.jwk import VerificationKey
from cab.values import immutable

REMEMBERED: Final = 2048  # tokens; by SHA-256, never the tokens themselves

_Meaning = TypeVar("_Meaning")


@immutable
class Verified(Generic[_Meaning]):
    """What a token means, and what that rests on. Not its claims: an identity provider may put hundreds of groups there."""

    meaning: _Meaning
    issuer: str
    expires_at: datetime
    key: VerificationKey | None

    @classmethod
    def by(cls, claims: jws.VerifiedClaims, meaning: _Meaning) -> Verified[_Meaning]:
        return cls(meaning, claims.issuer, claims.expires_at, claims.key)


class VerifiedTokens(Generic[_Meaning]):
    """One kind of token, read under one set of rules."""

    def __init__(self, keys: VerificationKeys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock
        self._known: OrderedDict[bytes, Verified[_Meaning]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    async def read(self, token: str, verify: Callable[[], Awaitable[Verified[_Meaning]]]) -> _Meaning:
        """What the token means, by `verify` where it is not remembered. Raises: Unavailable; what `verify` raises."""
        name = _name(token)
        known = await self._recall(name)
        return self._remember(name, await verify()) if known is None else known

    async def recall(self, token: str) -> _Meaning | None:
        """What the token means, if that was found out before and nothing has ended it since. Raises: Unavailable."""
        return await self._recall(_name(token)) if self._known else None

    async def _recall(self, name: bytes) -> _Meaning | None:
        known = self._known.pop(name, None)
        if known is None or not await self._still_stands(known):
            return None
        remember(self._known, name, known, most=REMEMBERED)  # the newest again
        return known.meaning

    def remember(self, token: str, verified: Verified[_Meaning]) -> _Meaning:
        """Keep what a verification found, and give its meaning. The token that was not used for longest makes room."""
        return self._remember(_name(token), verified)

    def _remember(self, name: bytes, verified: Verified[_Meaning]) -> _Meaning:
        remember(self._known, name, verified, most=REMEMBERED)
        return verified.meaning

    async def _still_stands(self, known: Verified[_Meaning]) -> bool:
        """Whether the token lives and its issuer still publishes the very key that verified it."""
        if known.key is None or known.expires_at <= self._clock.now() - jws.LEEWAY:
            return False
        try:
            key: VerificationKey = await self._keys.find(known.issuer, known.key.kid, known.key.algorithm)
        except NotFound:
            return False
        return key is known.key or key == known.key


def _name(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
