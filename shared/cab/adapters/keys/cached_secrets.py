"""A bounded cache before a `SecretReader`. Sound because a version, once written, never changes.

For keys and client secrets, of which a process reads few again and again. Not for grants: a process would collect the
tokens of many users in memory, and a destroyed version would still be served.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from cab.domain.lru import remember
from cab.ports import SecretReader


class CachedSecretReader:
    """Keeps the payloads of the `capacity` versions used last. Concurrent first readers share one access."""

    def __init__(self, reader: SecretReader, *, capacity: int = 64) -> None:
        self._reader = reader
        self._capacity = capacity
        self._payloads: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._accesses: dict[tuple[str, int], asyncio.Task[bytes]] = {}

    async def access(self, secret: str, version: int) -> bytes:
        key = secret, version
        if key in self._payloads:
            self._payloads.move_to_end(key)
            return self._payloads[key]
        if key not in self._accesses:
            self._accesses[key] = asyncio.create_task(self._access(secret, version))
        # Shielded: when one reader is cancelled, the others still get their payload.
        return await asyncio.shield(self._accesses[key])

    async def _access(self, secret: str, version: int) -> bytes:
        key = secret, version
        try:
            payload = await self._reader.access(secret, version)
        finally:
            del self._accesses[key]
        remember(self._payloads, key, payload, most=self._capacity)
        return payload
