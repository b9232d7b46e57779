"""`SecretVault` in a dictionary, with the guarantees of Secret Manager and no more."""

from __future__ import annotations

import asyncio

from cab.adapters.secret_names import MAX_PAYLOAD_BYTES, checked_secret, checked_version
from cab.ports import NotFound, Unavailable
from cab_dev.fakes.warning import warn_of_fake

_WHAT = "secrets"


class InMemoryVault:
    """`is_down` makes every call fail; `loses_answers` makes `add` fail after the version is written.

    `forbidden` holds secrets that `may_add` denies and `add` refuses. `destroy` takes effect only when
    `settle` is called while `is_lagging`, as the real one may for hours. `calls` counts calls by method.
    """

    def __init__(self, *, delay_s: float = 0.0) -> None:
        warn_of_fake(self)
        self.delay_s = delay_s
        self.is_down = False
        self.loses_answers = False
        self.is_lagging = False
        self.forbidden: set[str] = set()
        self.calls: dict[str, int] = {}
        self._secrets: dict[str, list[bytes | None]] = {}
        self._to_destroy: list[tuple[str, int]] = []

    async def access(self, secret: str, version: int) -> bytes:
        checked_secret(secret), checked_version(version)
        await self._begin("access")
        versions = self._secrets.get(secret, [])
        payload = versions[version - 1] if version <= len(versions) else None
        if payload is None:
            raise NotFound
        return payload

    async def create(self, secret: str) -> None:
        checked_secret(secret)
        await self._begin("create")
        self._secrets.setdefault(secret, [])

    async def add(self, secret: str, payload: bytes) -> int:
        checked_secret(secret)
        await self._begin("add")
        if secret in self.forbidden or secret not in self._secrets or len(payload) > MAX_PAYLOAD_BYTES:
            raise Unavailable(_WHAT)
        self._secrets[secret].append(bytes(payload))
        if self.loses_answers:
            raise Unavailable(_WHAT)
        return len(self._secrets[secret])

    async def destroy(self, secret: str, version: int) -> None:
        checked_secret(secret), checked_version(version)
        await self._begin("destroy")
        self._to_destroy.append((secret, version))
        if not self.is_lagging:
            self.settle()

    async def may_add(self, secret: str) -> bool:
        checked_secret(secret)
        await self._begin("may_add")
        return secret in self._secrets and secret not in self.forbidden

    async def close(self) -> None:
        """Nothing to let go of."""

    def settle(self) -> None:
        """Let the destructions so far take effect."""
        for secret, version in self._to_destroy:
            versions = self._secrets.get(secret, [])
            if version <= len(versions):
                versions[version - 1] = None
        self._to_destroy.clear()

    async def _begin(self, method: str) -> None:
        self.calls[method] = self.calls.get(method, 0) + 1
        await asyncio.sleep(self.delay_s)
        if self.is_down:
            raise Unavailable(_WHAT)
