"""`SecretVault`, driver two: payloads sealed in Firestore under data keys from Secret Manager.

Cost and write quota stay flat where there are more grants than one secret each is right for (docs/decisions). The same
contract suite holds for both drivers. Data keys are read by number; a new number is used for new payloads, old ones stay
readable as long as their key version does.
"""

from __future__ import annotations

from typing import Final

from cab.adapters.secret_names import MAX_PAYLOAD_BYTES, checked_secret, checked_version
from cab.encoding import sealing
from cab.ports import (
    AlreadyExists,
    Conflict,
    Create,
    Delete,
    Document,
    Documents,
    NotFound,
    Replace,
    SecretReader,
    Unavailable,
)

DATA_KEY_SECRET: Final = "cab-grant-data-key"
_MAX_RACERS: Final = 50
_WHAT: Final = "secrets"


class SealedDocumentsVault:
    """A secret is a document `payloads/SECRET` with its last version's number; a version is one `payloads/SECRET.NUMBER`.

    Both are written in one commit, so numbers grow by one without gaps, and a number is never given twice. What was sealed for
    another secret or number, or changed since, does not open: it counts as not there.
    """

    def __init__(self, documents: Documents, keys: SecretReader, *, key_version: int = 1) -> None:
        self._documents = documents
        self._keys = keys
        self._key_version = key_version

    async def access(self, secret: str, version: int) -> bytes:
        checked_secret(secret), checked_version(version)
        document = await self._documents.read(_path(secret, version))
        if document is None or "sealed" not in document.fields:  # releases before left the rest of a destroyed one
            raise NotFound
        key = await self._key(document.fields["key_version"])
        try:
            return sealing.unseal(key, document.fields["sealed"], context=f"{secret}.{version}")
        except sealing.CannotOpen as error:
            raise NotFound from error

    async def create(self, secret: str) -> None:
        try:
            await self._documents.write(Create(f"payloads/{checked_secret(secret)}", {"last": 0}))
        except AlreadyExists:
            return

    async def add(self, secret: str, payload: bytes) -> int:
        checked_secret(secret)
        key = await self._key(self._key_version)
        for _ in range(_MAX_RACERS):
            head = await self._head(secret)
            if head is None or len(payload) > MAX_PAYLOAD_BYTES:
                raise Unavailable(_WHAT)
            version = int(head.fields["last"]) + 1
            sealed = sealing.seal(key, payload, context=f"{secret}.{version}")
            fields = {"key_version": self._key_version, "sealed": sealed}
            try:
                await self._documents.write(
                    Create(_path(secret, version), fields), Replace(head.path, {"last": version}, head.version)
                )
            except (AlreadyExists, Conflict):
                continue
            return version
        raise Unavailable(_WHAT)

    async def destroy(self, secret: str, version: int) -> None:
        """Its document goes. The number stays taken: the secret's last one only grows."""
        await self._documents.write(Delete(_path(checked_secret(secret), checked_version(version))))

    async def may_add(self, secret: str) -> bool:
        """Documents are written with rights that do not differ by secret: where the key can be read, writing is allowed."""
        checked_secret(secret)
        await self._key(self._key_version)
        return await self._head(secret) is not None

    async def close(self) -> None:
        """Nothing of its own to let go of: documents and keys belong to others."""

    async def _head(self, secret: str) -> Document | None:
        return await self._documents.read(f"payloads/{secret}")

    async def _key(self, version: int) -> bytes:
        try:
            return await self._keys.access(DATA_KEY_SECRET, version)
        except NotFound:
            raise Unavailable(_WHAT) from None  # a missing key is our outage: no grant is to blame


def _path(secret: str, version: int) -> str:
    return f"payloads/{secret}.{version}"
