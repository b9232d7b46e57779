"""`SecretVault`, driver two: payloads sealed in Firestore under data keys from Secret Manager.

Cost and write quota stay flat where there are more grants than one secret each is right for (docs/decisions). The same
contract suite holds for both drivers. Data keys are read by number; a new number is used for new payloads, old ones stay
readable as long as their key version does.
"""

from __future__ import annotations

from typing import Final

from cab.ports import AlreadyExists, Condition, Create, Documents, NotFound, Replace, SecretReader, Unavailable
from cab.protocol import sealing

DATA_KEY_SECRET: Final = "cab-grant-data-key"
MAX_RACERS: Final = 20


class SealedDocumentsVault:
    """Versions of a secret are documents `payloads/SECRET.NUMBER`; creating one is the claim on its number."""

    def __init__(self, documents: Documents, keys: SecretReader, *, key_version: int = 1) -> None:
        self._documents = documents
        self._keys = keys
        self._key_version = key_version

    async def access(self, secret: str, version: int) -> bytes:
        document = await self._documents.read(_path(secret, version))
        if document is None or "sealed" not in document.fields:
            raise NotFound(f"{secret}/{version}")
        key = await self._keys.access(DATA_KEY_SECRET, document.fields["key_version"])
        try:
            return sealing.unseal(key, document.fields["sealed"], context=f"{secret}.{version}")
        except sealing.CannotOpen as error:
            raise NotFound(f"{secret}/{version}") from error

    async def create(self, secret: str) -> None:
        """Nothing to prepare: the first version makes the secret."""

    async def add(self, secret: str, payload: bytes) -> int:
        key = await self._keys.access(DATA_KEY_SECRET, self._key_version)
        version = await self._highest(secret) + 1
        for _ in range(MAX_RACERS):
            sealed = sealing.seal(key, payload, context=f"{secret}.{version}")
            fields = {"secret": secret, "number": version, "key_version": self._key_version, "sealed": sealed}
            try:
                await self._documents.write(Create(_path(secret, version), fields))
            except AlreadyExists:
                version += 1
                continue
            return version
        raise Unavailable("documents")

    async def destroy(self, secret: str, version: int) -> None:
        """The ciphertext goes, the number stays taken: it is never given to another payload."""
        document = await self._documents.read(_path(secret, version))
        if document is None or "sealed" not in document.fields:
            return
        kept = {name: value for name, value in document.fields.items() if name != "sealed"}
        await self._documents.write(Replace(document.path, kept, document.version))

    async def may_add(self, secret: str) -> bool:
        """Documents and keys are reached with rights that do not differ by secret: readable means writable here."""
        await self._keys.access(DATA_KEY_SECRET, self._key_version)
        return True

    async def _highest(self, secret: str) -> int:
        found = await self._documents.find(
            "payloads", Condition("secret", "==", secret), order_by="number", descending=True, limit=1
        )
        return int(found[0].fields["number"]) if found else 0


def _path(secret: str, version: int) -> str:
    return f"payloads/{secret}.{version}"
