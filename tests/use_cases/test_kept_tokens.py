"""Tokens in memory: handed out until shortly before their end and not a moment longer, asked for once."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from cab.domain.errors import BrokerError, Reason, Remedy
from cab.domain.grants import RefreshOutcome
from cab.domain.identifiers import token_sha256
from cab.use_cases.grants import kept_tokens
from cab.use_cases.grants.kept_tokens import KeptTokens
from cab.use_cases.upstream.answers import Granted
from cab_dev.fakes.clock import SettableClock

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def kept(clock: SettableClock) -> KeptTokens[str]:
    return KeptTokens(clock)


class Provider:
    """Answers with a new token each time, or refuses."""

    def __init__(self, clock: SettableClock) -> None:
        self._clock = clock
        self.asked = 0
        self.error: BrokerError | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self) -> Granted:
        self.asked += 1
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        now = self._clock.now()
        return Granted(f"token-{self.asked}", ("r",), True, now + 10 * MINUTE, usable_until=now + 5 * MINUTE)


@pytest.fixture
def provider(clock: SettableClock) -> Provider:
    return Provider(clock)


async def test_a_token_is_kept_until_its_margin_begins(
    kept: KeptTokens[str], provider: Provider, clock: SettableClock
) -> None:
    granted, outcome = await kept.fetch("k", provider)
    assert outcome is RefreshOutcome.SUCCESS
    assert kept.get("k") == granted
    clock.advance(5 * MINUTE - SECOND)
    assert kept.get("k") == granted
    clock.advance(SECOND)
    assert kept.get("k") is None
    assert kept.get("another") is None


async def test_who_asks_while_another_asks_gets_the_same_answer(kept: KeptTokens[str], provider: Provider) -> None:
    provider.may_answer.clear()
    first = asyncio.create_task(kept.fetch("k", provider))
    second = asyncio.create_task(kept.fetch("k", provider))
    await asyncio.sleep(0)
    provider.may_answer.set()
    (one, how_one), (two, how_two) = await asyncio.gather(first, second)
    assert one is two
    assert (how_one, how_two) == (RefreshOutcome.SUCCESS, RefreshOutcome.JOINED)
    assert provider.asked == 1
    assert (await kept.fetch("k", provider))[0].access_token == "token-2", "the request before is over"


async def test_a_request_goes_on_although_its_caller_leaves(kept: KeptTokens[str], provider: Provider) -> None:
    provider.may_answer.clear()
    caller = asyncio.create_task(kept.fetch("k", provider))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    provider.may_answer.set()
    await asyncio.sleep(0.01)
    found = kept.get("k")
    assert found is not None
    assert found.access_token == "token-1"


async def test_a_provider_that_wants_to_be_left_alone_is(
    kept: KeptTokens[str], provider: Provider, clock: SettableClock
) -> None:
    provider.error = BrokerError(Reason.PROVIDER_UNAVAILABLE, "Not now.", remedy=Remedy(retry_after_s=7))
    with pytest.raises(BrokerError):
        await kept.fetch("k", provider)
    clock.advance(3 * SECOND)
    with pytest.raises(BrokerError) as told:
        await kept.fetch("k", provider)
    assert told.value.reason is Reason.PROVIDER_UNAVAILABLE
    assert told.value.remedy.retry_after_s == 5
    assert provider.asked == 1
    provider.error = None
    assert (await kept.fetch("other", provider))[0].access_token == "token-2", "another user is not held up"
    clock.advance(4 * SECOND)
    assert (await kept.fetch("k", provider))[0].access_token == "token-3"


async def test_a_refusal_without_a_pause_is_asked_again(kept: KeptTokens[str], provider: Provider) -> None:
    provider.error = BrokerError(Reason.PROVIDER_UNAVAILABLE, "No.")
    for _ in range(2):
        with pytest.raises(BrokerError):
            await kept.fetch("k", provider)
    assert provider.asked == 2


async def test_no_more_tokens_and_pauses_are_remembered_than_there_is_room_for(
    kept: KeptTokens[str], provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_tokens, "CACHE_SIZE", 2)
    for key in ("a", "b", "c"):
        await kept.fetch(key, provider)
    assert [key for key in ("a", "b", "c") if kept.get(key)] == ["b", "c"]
    provider.error = BrokerError(Reason.PROVIDER_UNAVAILABLE, "Not now.", remedy=Remedy(retry_after_s=7))
    for key in ("x", "y", "z", "x"):
        with pytest.raises(BrokerError):
            await kept.fetch(key, provider)
    assert provider.asked == 7, "the pause of x was forgotten"


async def test_a_token_that_the_platform_refuses_is_replaced_once_a_minute(
    kept: KeptTokens[str], provider: Provider, clock: SettableClock
) -> None:
    """Followed at once, and then no more than once a minute: a platform that refuses every token must not make us ask each time."""
    granted, _ = await kept.fetch("k", provider)
    refused = token_sha256(granted.access_token)
    assert kept.get("k", rejected="0" * 64) == granted  # another token was refused
    assert kept.get("k", rejected=refused) is None
    clock.advance(MINUTE - SECOND)
    assert kept.get("k", rejected=refused) == granted
    clock.advance(SECOND)
    assert kept.get("k", rejected=refused) is None
    assert kept.get("k", rejected=refused) == granted
    assert kept.get("k") == granted
