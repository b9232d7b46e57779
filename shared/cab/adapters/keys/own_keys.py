"""The broker's own keys at run time: the active one signs, every published one verifies. Rotation needs no restart."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from cab.domain.errors import BrokerError, Reason
from cab.encoding import strict_json
from cab.ports import Clock, NotFound, SecretReader, Unavailable
from cab.protocol.jose import jwk, jws
from cab.protocol.jose.jwk import PublicKey, private_key
from cab.stores.remembered import Remembered
from cab.stores.signing_keys import SECRET, Issuer, KeyRing, SigningKeys
from cab.values import immutable

RING_FRESH_FOR: Final = timedelta(seconds=60)
RING_STALE_IF_ERROR: Final = timedelta(hours=24)
UNKNOWN_KEY_PAUSE: Final = timedelta(seconds=5)  # between two reads that unknown keys force


@immutable
class _Keys:
    ring: KeyRing
    public: dict[str, PublicKey]


class OwnKeys:
    """`Signer` and `VerificationKeys` of one of our issuers."""

    def __init__(self, issuer: Issuer, store: SigningKeys, secrets: SecretReader | None, clock: Clock) -> None:
        self._issuer = issuer
        self._store = store
        self._secrets = secrets
        self._clock = clock
        self._keys = Remembered(self._read, clock, fresh_for=RING_FRESH_FOR, good_for=RING_STALE_IF_ERROR)
        self._private: dict[int, Any] = {}

    async def sign(self, claims: Mapping[str, Any], *, typ: str) -> str:
        active = (await self._keys.get()).ring.signing(self._clock.now())
        if active is None or self._secrets is None:
            raise BrokerError(Reason.STORE_UNAVAILABLE, "No signing key is active.")
        key = self._private.get(active.secret_version)
        if key is None:
            try:
                raw = await self._secrets.access(SECRET[self._issuer], active.secret_version)
            except NotFound as error:
                raise Unavailable("secrets") from error
            key = private_key(strict_json.load_object(raw))
            self._private[active.secret_version] = key
        return jws.sign(claims, typ=typ, kid=active.kid, private_key=key)

    async def find(self, issuer: str, kid: str | None, algorithm: str, *, instead_of: object = None) -> PublicKey:
        """`instead_of` changes nothing: a name of ours is that of one key for ever."""
        key = (await self._keys.get()).public.get(kid or "")
        if key is None:  # it may have been activated a moment ago by another instance
            key = (await self._keys.again(unless_read_within=UNKNOWN_KEY_PAUSE)).public.get(kid or "")
        if key is None or key.algorithm != algorithm:
            raise NotFound(issuer)
        return key

    async def _read(self) -> _Keys:
        ring = await self._store.ring(self._issuer)
        if ring is None:
            raise Unavailable("documents")  # not initialised: `cab keys init`
        return _Keys(ring, {key.kid: jwk.parse(key.jwk) for key in ring.keys})
