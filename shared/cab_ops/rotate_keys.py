"""Key rotation with overlap: publish, activate, retire. No step can make a verification fail; each says when the next may come."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric import ec

from cab.domain.identifiers import base64url
from cab.ports import Clock, Conflict, SecretVault, Unavailable
from cab.protocol.jose import jwk
from cab.stores.signing_keys import (
    JWKS_MAX_AGE,
    JWKS_REMEMBERED,
    LONGEST_TOKEN_LIFE,
    SECRET,
    Issuer,
    KeyRing,
    KeyState,
    SigningKey,
    SigningKeys,
)


class TooEarly(Exception):
    """The step would let some verification fail. `why` is a sentence, `ready_at` says when it will not."""

    def __init__(self, why: str, ready_at: datetime) -> None:
        super().__init__(f"Too early: {why}. Wait until {ready_at.isoformat(timespec='seconds')}.")
        self.why = why
        self.ready_at = ready_at


class NotDestroyed(Exception):
    """Keys are off the set, and the private half of one may still be read. The same command again destroys it."""

    def __init__(self, secret: str, version: int) -> None:
        super().__init__(
            f"The key is off the set, but version {version} of {secret} is not destroyed: Secret Manager cannot be reached, "
            "or you may not. Run this again."
        )


@dataclass(frozen=True, slots=True)
class Step:
    """What was done, and what comes next."""

    done: str
    kid: str
    next: str | None
    ready_at: datetime | None


class RotateKeys:
    def __init__(self, store: SigningKeys, vault: SecretVault, clock: Clock) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock

    async def init(self, issuer: Issuer) -> Step | None:
        """The first key of a new deployment, active at once. None when there is one already: safe to repeat."""
        ring = await self._store.ring(issuer)
        if ring is not None and ring.active is not None:
            return None
        key = await self._new_key(issuer, KeyState.ACTIVE)
        await self._save(issuer, (key,), ring)
        return Step("activated", key.kid, None, None)

    async def publish(self, issuer: Issuer) -> Step:
        """Add a key that verifies but does not sign yet."""
        ring = await self._ring(issuer)
        key = await self._new_key(issuer, KeyState.PUBLISHED)
        await self._save(issuer, (*ring.keys, key), ring)
        return Step("published", key.kid, "activate", key.changed_at + JWKS_MAX_AGE)

    async def activate(self, issuer: Issuer) -> Step:
        """Sign with the published key. Raises TooEarly while a verifier may hold a key set without it."""
        ring = await self._ring(issuer)
        waiting = next((key for key in ring.keys if key.state is KeyState.PUBLISHED), None)
        if waiting is None:
            raise LookupError("no key is published: run `cab keys rotate publish` first")
        now = self._clock.now()
        if now < waiting.changed_at + JWKS_MAX_AGE:
            why = "a verifier may still hold a key set without the new key"
            raise TooEarly(why, waiting.changed_at + JWKS_MAX_AGE)
        keys = tuple(
            replace(key, state=KeyState.ACTIVE, changed_at=now)
            if key.kid == waiting.kid
            else replace(key, state=KeyState.RETIRED, changed_at=now)
            if key.state is KeyState.ACTIVE
            else key
            for key in ring.keys
        )
        await self._save(issuer, keys, ring)
        return Step("activated", waiting.kid, "retire", now + LONGEST_TOKEN_LIFE + JWKS_MAX_AGE)

    async def retire(self, issuer: Issuer) -> Step:
        """Take retired keys off the set. Raises TooEarly while a token they signed may live."""
        ring = await self._ring(issuer)
        retired = tuple(key for key in ring.keys if key.state is KeyState.RETIRED)
        if not retired and ring.removed:  # they were taken off before
            await self._destroy_removed(issuer)
            return Step("retired", ring.removed[0].kid, None, None)
        if not retired:
            raise LookupError(
                "no key is retired, so there is nothing to take off: `cab keys rotate activate` retires the active one "
                "once another is published"
            )
        ready_at = max(key.changed_at for key in retired) + LONGEST_TOKEN_LIFE + JWKS_MAX_AGE
        if self._clock.now() < ready_at:
            raise TooEarly("a token that a retired key signed may still be in use", ready_at)
        await self._take_off(issuer, ring, tuple(key for key in ring.keys if key not in retired), retired)
        return Step("retired", retired[0].kid, None, None)

    async def replace_leaked(self, issuer: Issuer, kid: str) -> Step:
        """For a private key that somebody else may have: take it off the set and destroy it, at once.

        If it signs, a new key takes its place without the usual wait. What it signed fails from then on, everywhere it is
        verified anew; verifiers that keep key sets accept it until `ready_at` at the latest. Raises NotDestroyed when the last
        part is left to do, which the same call does.
        """
        ring = await self._ring(issuer)
        forgotten_by = self._clock.now() + JWKS_MAX_AGE + JWKS_REMEMBERED
        if any(key.kid == kid for key in ring.removed):
            await self._destroy_removed(issuer)
            return Step("removed", kid, "forgotten by every verifier", forgotten_by)
        leaked = next((key for key in ring.keys if key.kid == kid), None)
        if leaked is None:
            raise LookupError("there is no such key: `cab keys list` shows them")
        keys = [key for key in ring.keys if key.kid != kid]
        if leaked.state is KeyState.ACTIVE:
            waiting = next((key for key in keys if key.state is KeyState.PUBLISHED), None)
            if waiting is None:
                keys.append(await self._new_key(issuer, KeyState.ACTIVE))
            else:
                keys[keys.index(waiting)] = replace(waiting, state=KeyState.ACTIVE, changed_at=self._clock.now())
        await self._take_off(issuer, ring, tuple(keys), (leaked,))
        return Step("removed", kid, "forgotten by every verifier", forgotten_by)

    async def _ring(self, issuer: Issuer) -> KeyRing:
        ring = await self._store.ring(issuer)
        if ring is None:
            raise LookupError("there are no keys yet: run `cab keys init` first")
        return ring

    async def _new_key(self, issuer: Issuer, state: KeyState) -> SigningKey:
        private = new_private_jwk()
        await self._vault.create(SECRET[issuer])
        version = await self._vault.add(SECRET[issuer], orjson.dumps(private))
        return SigningKey(private["kid"], version, state, jwk.public_jwk(private), self._clock.now())

    async def _take_off(
        self, issuer: Issuer, ring: KeyRing, keys: tuple[SigningKey, ...], gone: tuple[SigningKey, ...]
    ) -> None:
        """The set first: nothing may sign with what is destroyed. Noted there, so that what an outage leaves is found again."""
        await self._save(issuer, keys, ring, gone)
        await self._destroy_removed(issuer)

    async def _destroy_removed(self, issuer: Issuer) -> None:
        ring = await self._ring(issuer)
        for key in ring.removed:
            try:
                await self._vault.destroy(SECRET[issuer], key.secret_version)
            except Unavailable as error:
                raise NotDestroyed(SECRET[issuer], key.secret_version) from error
        await self._store.save(issuer, ring.keys, read=ring)  # where another changed it: destroyed twice is well, too

    async def _save(
        self, issuer: Issuer, keys: tuple[SigningKey, ...], read: KeyRing | None, gone: tuple[SigningKey, ...] = ()
    ) -> None:
        removed = gone if read is None else (*read.removed, *gone)
        if not await self._store.save(issuer, keys, read=read, removed=removed):
            raise Conflict("another operator changed the keys: look again")


def new_private_jwk() -> dict[str, Any]:
    """A new ES256 key as a private JWK; its kid is its RFC 7638 thumbprint."""
    numbers = ec.generate_private_key(ec.SECP256R1()).private_numbers()
    coordinates = numbers.public_numbers
    members = {
        "kty": "EC",
        "crv": "P-256",
        "x": base64url(coordinates.x.to_bytes(32, "big")),
        "y": base64url(coordinates.y.to_bytes(32, "big")),
    }
    return members | {"d": base64url(numbers.private_value.to_bytes(32, "big")), "kid": jwk.thumbprint(members)}
