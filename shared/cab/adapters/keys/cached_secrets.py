"""A bounded cache before a `SecretReader`. Sound because a version, once written, never changes.

For keys and client secrets, of which a process reads few again and again. Not for grants: a process would collect the
tokens of many users in memory, and a destroyed version would still be served.
"""

from __future__ import annotations

from collections import OrderedDict

from cab.domain.lru import remember
from cab.ports import SecretReader
from cab.single_flight import SingleFlight


class CachedSecretReader:
    """Keeps the payloads of the `capacity` versions used last. Concurrent first readers share one access."""

    def __init__(self, reader: SecretReader, *, capacity: int = 64) -> None:
        self._reader = reader
        self._capacity = capacity
        self._payloads: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._accesses: SingleFlight[tuple[str, int], bytes] = SingleFlight()

    async def access(self, secret: str, version: int) -> bytes:
        key = secret, version
        if key in self._payloads:
            self._payloads.move_to_end(key)
            return self._payloads[key]
        return await self._accesses.do(key, lambda: self._access(secret, version))

    async def _access(self, secret: str, version: int) -> bytes:
        payload = await self._reader.access(secret, version)
        remember(self._payloads, (secret, version), payload, most=self._capacity)
        return payload
