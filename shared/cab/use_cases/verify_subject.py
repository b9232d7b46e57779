"""On whose behalf: verifying our own assertions, of the edge and of the STS, with a bounded cache of what was verified."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from cab.domain.deployment import Broker
from cab.domain.errors import BrokerError, Reason
from cab.ports import Clock, NotFound, VerificationKeys
from cab.protocol import assertions, jws
from cab.protocol.assertions import Assertion

CACHE_SIZE: Final = 2048


@dataclass(frozen=True, slots=True)
class _Cached:
    assertion: Assertion
    kid: str | None


class AssertionVerifier:
    """The same token is verified once per instance; its expiry and its key's standing are looked at on every use.

    The cache is never a replay control: assertions are reusable by design, bounded by may_act, task and limits.
    """

    def __init__(self, broker: Broker, keys: VerificationKeys, clock: Clock) -> None:
        self._issuers = frozenset({broker.edge_issuer, broker.sts_issuer})
        self._audience = broker.sts_issuer
        self._keys = keys
        self._clock = clock
        self._cache: OrderedDict[bytes, _Cached] = OrderedDict()

    async def verify(self, token: str) -> Assertion:
        """Raises: BrokerError SUBJECT_TOKEN_INVALID, SUBJECT_TOKEN_EXPIRED; Unavailable."""
        name = hashlib.sha256(token.encode()).digest()
        try:
            cached = self._cache.get(name)
            if cached is None:
                cached = await self._verify(token)
                self._cache[name] = cached
                if len(self._cache) > CACHE_SIZE:
                    self._cache.popitem(last=False)
            else:
                if cached.assertion.expires_at <= self._clock.now() - jws.LEEWAY:
                    raise jws.TokenRejected("expired", expired=True)
                await self._keys.find(cached.assertion.issuer, cached.kid, "ES256")
        except jws.TokenRejected as error:
            self._cache.pop(name, None)
            raise _refused(error) from error
        except NotFound as error:
            self._cache.pop(name, None)
            raise BrokerError(Reason.SUBJECT_TOKEN_INVALID, "The subject token is not valid.") from error
        return cached.assertion

    async def _verify(self, token: str) -> _Cached:
        unverified = jws.parse(token)
        issuer = unverified.unverified_issuer
        if issuer not in self._issuers:
            raise jws.TokenRejected("iss is not one of ours")
        key = await self._keys.find(issuer, unverified.kid, unverified.algorithm)
        verified = jws.verify(unverified, key, assertions.rules(issuer, self._audience), now=self._clock.now())
        return _Cached(assertions.read(verified), unverified.kid)


def _refused(error: jws.TokenRejected) -> BrokerError:
    if error.expired:
        return BrokerError(Reason.SUBJECT_TOKEN_EXPIRED, "The subject token has expired.")
    return BrokerError(Reason.SUBJECT_TOKEN_INVALID, "The subject token is not valid.")
