"""The broker's own signing keys: public halves and rotation state here, private halves in Secret Manager by version number.

Rotation never fails a verification: a key is published at least one cache lifetime before it signs, and stays published
until the last token it signed has expired (`cab keys rotate`: publish, activate, retire).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from cab.ports import AlreadyExists, Conflict, Create, Documents, Replace
from cab.stores.fields import from_fields, to_fields
from cab.values import immutable

JWKS_MAX_AGE = timedelta(seconds=300)  # Cache-Control of the key sets: how long verifiers may not know a new key
JWKS_REMEMBERED = timedelta(seconds=30)  # beside that: how long an instance that publishes them does not look again
LONGEST_TOKEN_LIFE = timedelta(seconds=3600)


class Issuer(StrEnum):
    EDGE = "edge"
    STS = "sts"


SECRET = {Issuer.EDGE: "cab-edge-signing", Issuer.STS: "cab-sts-signing"}


class KeyState(StrEnum):
    PUBLISHED = "published"
    ACTIVE = "active"
    RETIRED = "retired"  # signs no more, still verifies


@immutable
class SigningKey:
    kid: str
    secret_version: int
    state: KeyState
    jwk: dict[str, Any]  # public
    changed_at: datetime


@immutable
class KeyRing:
    keys: tuple[SigningKey, ...]
    version: object
    removed: tuple[SigningKey, ...] = ()  # on no set any more; their private halves are still to be destroyed

    @property
    def active(self) -> SigningKey | None:
        return next((key for key in self.keys if key.state is KeyState.ACTIVE), None)

    def signing(self, now: datetime) -> SigningKey | None:
        """The key to sign with: the active one, but in its first moments the one that it replaced.

        Keys are activated JWKS_MAX_AGE after they were published. A key set handed out just before an instance looked again
        is older than that by as much as the instance remembers.
        """
        active = self.active
        if active is None or now >= active.changed_at + JWKS_REMEMBERED:
            return active
        replaced = (key for key in self.keys if key.state is KeyState.RETIRED and key.changed_at == active.changed_at)
        return next(replaced, active)

    def jwks(self) -> dict[str, Any]:
        return {"keys": [key.jwk for key in self.keys]}


class SigningKeys:
    """State of one broker's key rings, in database `keys`."""

    def __init__(self, keys: Documents) -> None:
        self._keys = keys

    async def ring(self, issuer: Issuer) -> KeyRing | None:
        document = await self._keys.read(f"signing_keys/{issuer.value}")
        if document is None:
            return None
        keys = tuple(from_fields(SigningKey, item) for item in document.fields["keys"])
        removed = tuple(from_fields(SigningKey, item) for item in document.fields.get("removed", ()))
        return KeyRing(keys, document.version, removed)

    async def save(
        self,
        issuer: Issuer,
        keys: tuple[SigningKey, ...],
        *,
        read: KeyRing | None,
        removed: tuple[SigningKey, ...] = (),
    ) -> bool:
        """Write the ring. False when another operator changed it since it was read."""
        fields = {"keys": [to_fields(key) for key in keys], "removed": [to_fields(key) for key in removed]}
        path = f"signing_keys/{issuer.value}"
        try:
            await self._keys.write(Create(path, fields) if read is None else Replace(path, fields, read.version))
        except (AlreadyExists, Conflict):
            return False
        return True
