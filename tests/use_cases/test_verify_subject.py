"""Assertions are verified once per instance; what can end them is looked at on every use."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.support.jose import Key, ec_key
from tests.support.world import EDGE, STS, deployment

from cab.domain.errors import BrokerError, Reason
from cab.ports import NotFound, Unavailable
from cab.protocol.jose import jwk
from cab.use_cases.identity import verified_before as verified_tokens
from cab.use_cases.identity.verify_assertion import AssertionVerifier
from cab_dev.fakes.clock import SettableClock

KEY = ec_key("edge")


class Keys:
    """`VerificationKeys` of one ring that can be emptied or be away; counts the questions."""

    def __init__(self, *keys: Key) -> None:
        self.keys = {key.kid: jwk.parse(key.jwk) for key in keys}
        self.is_away = False
        self.asked = 0

    async def find(self, issuer: str, kid: str | None, algorithm: str, **_: Any) -> Any:
        self.asked += 1
        if self.is_away:
            raise Unavailable("documents")
        if kid not in self.keys:
            raise NotFound(issuer)
        return self.keys[kid]


class Bench:
    def __init__(self) -> None:
        self.clock = SettableClock()
        self.keys = Keys(KEY)
        self.verifier = AssertionVerifier(deployment().broker, self.keys, self.clock)

    def token(self, number: int = 1, **more: Any) -> str:
        now = int(self.clock.now().timestamp())
        claims = {
            "iss": EDGE,
            "aud": STS,
            "sub": "subject",
            "tenant": "acme",
            "idp": {"iss": "https://idp.test", "sub_hash": "hash"},
            "client_id": "web",
            "may_act": {"sub": "assistant"},
            "txn": "t",
            "iat": now,
            "exp": now + 300,
            "jti": f"j{number}",
        } | more
        return KEY.sign(claims, {"typ": "cab-assertion+jwt"})

    async def refusal(self, token: str) -> Reason:
        with pytest.raises(BrokerError) as refused:
            await self.verifier.verify(token)
        return refused.value.reason


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_an_assertion_verified_before_is_the_same_object(bench: Bench) -> None:
    token = bench.token()
    first = await bench.verifier.verify(token)
    assert await bench.verifier.verify(token) is first


async def test_a_remembered_assertion_still_ends(bench: Bench) -> None:
    token = bench.token()
    await bench.verifier.verify(token)
    bench.clock.advance(timedelta(seconds=329))
    await bench.verifier.verify(token)
    bench.clock.advance(timedelta(seconds=1))
    assert await bench.refusal(token) is Reason.SUBJECT_TOKEN_EXPIRED


async def test_a_remembered_assertion_ends_with_its_key(bench: Bench) -> None:
    """A leaked key is taken out of the ring: what it signed is worth nothing from then on."""
    token = bench.token()
    await bench.verifier.verify(token)
    bench.keys.keys.clear()
    assert await bench.refusal(token) is Reason.SUBJECT_TOKEN_INVALID


async def test_a_key_id_that_now_names_another_key_ends_what_the_first_one_signed(bench: Bench) -> None:
    token = bench.token()
    await bench.verifier.verify(token)
    bench.keys.keys[KEY.kid] = jwk.parse(ec_key("another").jwk | {"kid": KEY.kid})
    assert await bench.refusal(token) is Reason.SUBJECT_TOKEN_INVALID


async def test_while_the_keys_are_away_even_a_remembered_assertion_waits(bench: Bench) -> None:
    token = bench.token()
    await bench.verifier.verify(token)
    bench.keys.is_away = True
    with pytest.raises(Unavailable):
        await bench.verifier.verify(token)


async def test_a_refused_token_is_not_remembered(bench: Bench) -> None:
    token = bench.token()
    tampered = token[:-4] + ("AAAA" if not token.endswith("AAAA") else "BBBB")
    for _ in range(2):
        assert await bench.refusal(tampered) is Reason.SUBJECT_TOKEN_INVALID
    assert len(bench.verifier._verified) == 0


async def test_one_remembered_token_never_stands_for_another(bench: Bench) -> None:
    first, second = [await bench.verifier.verify(bench.token(number)) for number in (1, 2)]
    assert (first.jti, second.jti) == ("j1", "j2")


async def test_only_so_many_are_remembered_the_oldest_are_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified_tokens, "REMEMBERED", 3)
    tokens = [bench.token(number) for number in range(5)]
    verified = [await bench.verifier.verify(token) for token in tokens]
    assert len(bench.verifier._verified) == 3
    assert await bench.verifier.verify(tokens[4]) is verified[4]
    assert await bench.verifier.verify(tokens[0]) is not verified[0]


async def test_what_is_remembered_does_not_grow_with_what_a_token_says_beside(bench: Bench) -> None:
    await bench.verifier.verify(bench.token(more=["hundreds-of-groups"] * 500))
    assert len(bench.verifier._verified) == 1
    assert "hundreds-of-groups" not in repr(bench.verifier._verified._known)


async def test_keys_are_never_asked_for_an_issuer_that_is_not_ours(bench: Bench) -> None:
    foreign = KEY.sign({"iss": "https://evil.test", "aud": STS, "exp": 1}, {"typ": "cab-assertion+jwt"})
    assert await bench.refusal(foreign) is Reason.SUBJECT_TOKEN_INVALID
    assert bench.keys.asked == 0
