"""The broker's own keys at run time: rotation without restart, signing through outages, no key that was not published."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from tests.support.jose import header_of

from cab.adapters.keys.own_keys import OwnKeys
from cab.domain.errors import BrokerError, Reason
from cab.ports import NotFound, Unavailable
from cab.protocol.jose import jws
from cab.stores.signing_keys import JWKS_MAX_AGE, JWKS_REMEMBERED, Issuer, SigningKeys
from cab_dev.fakes.clock import SettableClock
from cab_dev.fakes.documents import InMemoryDocuments, Method, Outage
from cab_dev.fakes.secrets import InMemoryVault
from cab_ops.rotate_keys import RotateKeys

ISSUER = "https://cab.test/oauth2"
ALWAYS: frozenset[Method] = frozenset({"read", "write", "tally", "find"})


class Bench:
    def __init__(self) -> None:
        self.clock = SettableClock()
        self.vault = InMemoryVault()
        self.documents = InMemoryDocuments()
        store = SigningKeys(self.documents)
        self.rotation = RotateKeys(store, self.vault, self.clock)
        self.keys = OwnKeys(Issuer.STS, store, self.vault, self.clock)
        self.verifying = OwnKeys(Issuer.STS, store, None, self.clock)

    def advance(self, **span: float) -> None:
        self.clock.advance(timedelta(**span))

    async def sign(self) -> str:
        return await self.keys.sign({"iss": ISSUER, "n": 1}, typ="at+jwt")

    async def verifies(self, token: str, keys: OwnKeys | None = None) -> bool:
        unverified = jws.parse(token)
        key = await (keys or self.keys).find(ISSUER, unverified.kid, unverified.algorithm)
        return bool(key.verifies(unverified.signing_input, unverified.signature))


@pytest.fixture
async def bench() -> Bench:
    bench = Bench()
    await bench.rotation.init(Issuer.STS)
    return bench


async def test_what_is_signed_verifies_in_every_function(bench: Bench) -> None:
    token = await bench.sign()
    assert await bench.verifies(token)
    assert await bench.verifies(token, bench.verifying)


async def test_the_ring_is_read_once_a_minute_and_the_private_key_once(bench: Bench) -> None:
    for _ in range(50):
        await bench.verifies(await bench.sign())
    assert bench.documents.calls["read"] == 2  # one by init
    bench.advance(seconds=61)
    await bench.sign()
    assert bench.documents.calls["read"] == 3
    assert bench.vault.calls["access"] == 1


async def test_a_slow_store_holds_neither_signing_nor_verifying(bench: Bench) -> None:
    token = await bench.sign()
    assert await bench.verifies(token, bench.verifying)
    bench.advance(hours=2)
    bench.documents.delay_s = 3
    begun = time.monotonic()
    assert await bench.verifies(token, bench.verifying)
    assert await bench.verifies(await bench.sign())
    assert time.monotonic() - begun < 2


async def test_an_activated_key_signs_within_a_minute_and_the_old_one_still_verifies(bench: Bench) -> None:
    old = await bench.sign()
    await bench.rotation.publish(Issuer.STS)
    bench.clock.advance(JWKS_MAX_AGE)
    await bench.rotation.activate(Issuer.STS)
    bench.advance(seconds=61)
    new = await bench.sign()
    assert header_of(new)["kid"] != header_of(old)["kid"]
    assert await bench.verifies(old)
    assert await bench.verifies(new)


async def test_the_replaced_key_signs_until_every_published_set_has_the_new_one(bench: Bench) -> None:
    old = header_of(await bench.sign())["kid"]
    await bench.rotation.publish(Issuer.STS)
    bench.clock.advance(JWKS_MAX_AGE)
    await bench.rotation.activate(Issuer.STS)
    fresh = OwnKeys(Issuer.STS, SigningKeys(bench.documents), bench.vault, bench.clock)

    async def kid() -> str:
        return str(header_of(await fresh.sign({"iss": ISSUER}, typ="at+jwt"))["kid"])

    bench.clock.advance(JWKS_REMEMBERED - timedelta(seconds=1))
    assert await kid() == old
    bench.advance(seconds=1)
    assert await kid() != old


async def test_a_leaked_key_signs_nothing_from_the_moment_it_is_removed(bench: Bench) -> None:
    leaked = header_of(await bench.sign())["kid"]
    await bench.rotation.publish(Issuer.STS)
    await bench.rotation.replace_leaked(Issuer.STS, leaked)
    fresh = OwnKeys(Issuer.STS, SigningKeys(bench.documents), bench.vault, bench.clock)
    assert header_of(await fresh.sign({"iss": ISSUER}, typ="at+jwt"))["kid"] != leaked


async def test_a_key_another_instance_has_just_begun_to_use_is_found_within_seconds(bench: Bench) -> None:
    await bench.verifies(await bench.sign(), bench.verifying)
    await bench.rotation.publish(Issuer.STS)
    bench.clock.advance(JWKS_MAX_AGE)
    await bench.verifies(await bench.sign(), bench.verifying)
    await bench.rotation.activate(Issuer.STS)
    fresh = OwnKeys(Issuer.STS, SigningKeys(bench.documents), bench.vault, bench.clock)
    token = await fresh.sign({"iss": ISSUER}, typ="at+jwt")
    bench.advance(seconds=6)
    assert await bench.verifies(token, bench.verifying)


async def test_unknown_keys_do_not_cause_a_read_each(bench: Bench) -> None:
    await bench.sign()
    for second in range(30):
        bench.advance(seconds=0.5)
        for kid in ("unknown", f"unknown-{second}", None, ""):
            with pytest.raises(NotFound):
                await bench.keys.find(ISSUER, kid, "ES256")
    assert bench.documents.calls["read"] <= 6


async def test_a_key_is_found_for_its_own_algorithm_only(bench: Bench) -> None:
    kid = header_of(await bench.sign())["kid"]
    with pytest.raises(NotFound):
        await bench.keys.find(ISSUER, kid, "RS256")


async def test_signing_survives_a_day_without_the_store_and_not_longer(bench: Bench) -> None:
    token = await bench.sign()
    bench.documents.outage = Outage(ALWAYS)
    bench.advance(hours=24)
    assert await bench.verifies(token)
    assert await bench.sign()
    bench.advance(minutes=1)
    with pytest.raises(Unavailable):
        await bench.sign()
    bench.documents.outage = None
    assert await bench.sign()


async def test_during_an_outage_an_unknown_key_is_an_outage(bench: Bench) -> None:
    await bench.sign()
    bench.documents.outage = Outage(ALWAYS)
    bench.advance(seconds=6)
    with pytest.raises(Unavailable):
        await bench.keys.find(ISSUER, "unknown", "ES256")


async def test_without_any_ring_nothing_is_signed_or_verified() -> None:
    bench = Bench()
    for call in (bench.sign(), bench.keys.find(ISSUER, "k", "ES256")):
        with pytest.raises(Unavailable):
            await call


async def test_a_function_without_the_secrets_right_cannot_sign(bench: Bench) -> None:
    with pytest.raises(BrokerError) as refused:
        await bench.verifying.sign({}, typ="at+jwt")
    assert refused.value.reason is Reason.STORE_UNAVAILABLE


@pytest.mark.parametrize("trouble", ["destroyed", "down"])
async def test_a_private_key_that_cannot_be_had_is_an_outage(bench: Bench, trouble: str) -> None:
    if trouble == "down":
        bench.vault.is_down = True
    else:
        await bench.vault.destroy("cab-sts-signing", 1)
    with pytest.raises(Unavailable):
        await bench.sign()


async def test_parallel_first_uses_read_the_ring_once(bench: Bench) -> None:
    import asyncio

    before = bench.documents.calls["read"]
    bench.documents.delay_s = 0.001
    tokens: list[Any] = await asyncio.gather(*(bench.sign() for _ in range(50)))
    assert len({header_of(token)["kid"] for token in tokens}) == 1
    assert bench.documents.calls["read"] - before == 1
