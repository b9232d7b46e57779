"""Tokens of providers in memory: each is asked for once, however many want it, and kept until shortly before its end."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

from cab.domain.errors import BrokerError, Reason, Remedy
from cab.domain.grants import RefreshOutcome
from cab.domain.identifiers import token_sha256
from cab.domain.lru import remember
from cab.ports import Clock
from cab.single_flight import SingleFlight
from cab.use_cases.upstream.answers import Granted

CACHE_SIZE: Final = 4096
REJECTION_PAUSE: Final = timedelta(seconds=60)

_Key = TypeVar("_Key", bound=Hashable)


class KeptTokens(Generic[_Key]):
    """A key names everything that a token depends on. What is kept says nothing about whether it may still be handed out."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tokens: OrderedDict[_Key, Granted] = OrderedDict()
        self._rejections: OrderedDict[_Key, datetime] = OrderedDict()
        self._pauses: OrderedDict[_Key, datetime] = OrderedDict()
        self._requests: SingleFlight[_Key, Granted] = SingleFlight()

    def get(self, key: _Key, *, rejected: str | None = None) -> Granted | None:
        """What is kept, unless its time is over, or it is the one that the platform has just `rejected` (SHA-256, hex). Once
        a minute such a wish is followed: a platform that refuses every token must not make us ask for one each time.
        """
        kept, now = self._tokens.get(key), self._clock.now()
        if kept is None or now >= kept.usable_until:
            return None
        if rejected is not None and token_sha256(kept.access_token) == rejected:
            followed_at = self._rejections.get(key)
            if followed_at is None or now >= followed_at + REJECTION_PAUSE:
                remember(self._rejections, key, now, most=CACHE_SIZE)
                return None
        return kept

    async def fetch(
        self, key: _Key, request: Callable[[], Coroutine[Any, Any, Granted]]
    ) -> tuple[Granted, RefreshOutcome]:
        """A new token by one `request`, which goes on although its caller may leave. Raises: BrokerError PROVIDER_UNAVAILABLE
        while the provider wants to be left alone; what `request` raises.
        """
        outcome = RefreshOutcome.JOINED if key in self._requests else RefreshOutcome.SUCCESS
        return await self._requests.do(key, lambda: self._fetch(key, request)), outcome

    async def _fetch(self, key: _Key, request: Callable[[], Coroutine[Any, Any, Granted]]) -> Granted:
        now = self._clock.now()
        until = self._pauses.get(key, now)
        if now < until:
            raise BrokerError(
                Reason.PROVIDER_UNAVAILABLE,
                "The system behind this connection does not answer.",
                remedy=Remedy(retry_after_s=int((until - now).total_seconds()) + 1),
            )
        try:
            granted = await request()
        except BrokerError as error:
            if error.remedy.retry_after_s is not None:
                until = self._clock.now() + timedelta(seconds=error.remedy.retry_after_s)
                remember(self._pauses, key, until, most=CACHE_SIZE)
            raise
        remember(self._tokens, key, granted, most=CACHE_SIZE)
        return granted
