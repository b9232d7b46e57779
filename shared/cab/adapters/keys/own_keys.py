"""The broker's own keys at run time: the active one signs, every published one verifies. Rotation needs no restart."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from cab.domain.errors import BrokerError, Reason
from cab.encoding import strict_json
from cab.ports import Clock, NotFound, SecretReader, Unavailable
from cab.protocol.jose import jwk, jws
from cab.protocol.jose.jwk import ALGORITHMS, PublicKey
from cab.single_flight import SingleFlight
from cab.stores.signing_keys import SECRET, Issuer, KeyRing, SigningKeys

RING_FRESH_FOR: Final = timedelta(seconds=60)
RING_STALE_IF_ERROR: Final = timedelta(hours=24)


class OwnKeys:
    """`Signer` and `VerificationKeys` of one of our issuers."""

    def __init__(self, issuer: Issuer, store: SigningKeys, secrets: SecretReader | None, clock: Clock) -> None:
        self._issuer = issuer
        self._store = store
        self._secrets = secrets
        self._clock = clock
        self._ring: KeyRing | None = None
        self._read_at: datetime | None = None
        self._public: dict[str, PublicKey] = {}
        self._private: dict[int, Any] = {}
        self._reads: SingleFlight[None, None] = SingleFlight()

    async def sign(self, claims: Mapping[str, Any], *, typ: str) -> str:
        active = (await self._current()).signing(self._clock.now())
        if active is None or self._secrets is None:
            raise BrokerError(Reason.STORE_UNAVAILABLE, "No signing key is active.")
        key = self._private.get(active.secret_version)
        if key is None:
            try:
                raw = await self._secrets.access(SECRET[self._issuer], active.secret_version)
            except NotFound as error:
                raise Unavailable("secrets") from error
            key = ALGORITHMS["ES256"].from_jwk(strict_json.load_object(raw))
            self._private[active.secret_version] = key
        return jws.sign(claims, typ=typ, kid=active.kid, private_key=key)

    async def find(self, issuer: str, kid: str | None, algorithm: str) -> PublicKey:
        await self._current()
        key = self._public.get(kid or "")
        if key is None and self._read_at is not None and self._clock.now() - self._read_at > timedelta(seconds=5):
            await self._reads.do(None, self._read)  # a key activated a moment ago by another instance
            key = self._public.get(kid or "")
        if key is None or key.algorithm != algorithm:
            raise NotFound(issuer)
        return key

    async def _current(self) -> KeyRing:
        now = self._clock.now()
        if self._ring is None or self._read_at is None or now - self._read_at > RING_FRESH_FOR:
            try:
                await self._reads.do(None, self._read)
            except Unavailable:
                if self._ring is None or self._read_at is None or now - self._read_at > RING_STALE_IF_ERROR:
                    raise
        if self._ring is None:
            raise Unavailable("documents")
        return self._ring

    async def _read(self) -> None:
        ring = await self._store.ring(self._issuer)
        if ring is None:
            raise Unavailable("documents")  # not initialised: `cab keys init`
        self._ring, self._read_at = ring, self._clock.now()
        self._public = {key.kid: jwk.parse(key.jwk) for key in ring.keys}
