"""Key rotation by steps, each refused while it could fail a verification (security.md T11)."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cab.encoding import strict_json
from cab.ports import Conflict, NotFound
from cab.protocol.jose import jwk
from cab.stores.signing_keys import (
    JWKS_MAX_AGE,
    JWKS_REMEMBERED,
    LONGEST_TOKEN_LIFE,
    SECRET,
    Issuer,
    KeyState,
    SigningKeys,
)
from cab_dev.fakes.clock import SettableClock
from cab_dev.fakes.documents import InMemoryDocuments
from cab_dev.fakes.secrets import InMemoryVault
from cab_ops.rotate_keys import NotDestroyed, RotateKeys, TooEarly, new_private_jwk


class Bench:
    def __init__(self) -> None:
        self.clock = SettableClock()
        self.vault = InMemoryVault()
        self.store = SigningKeys(InMemoryDocuments())
        self.rotate = RotateKeys(self.store, self.vault, self.clock)

    async def states(self, issuer: Issuer = Issuer.STS) -> list[tuple[int, KeyState]]:
        ring = await self.store.ring(issuer)
        assert ring is not None
        return [(key.secret_version, key.state) for key in ring.keys]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_the_first_key_signs_at_once_and_making_it_again_does_nothing(bench: Bench) -> None:
    step = await bench.rotate.init(Issuer.STS)
    assert step is not None
    assert (step.done, step.next) == ("activated", None)
    assert await bench.rotate.init(Issuer.STS) is None
    assert await bench.states() == [(1, KeyState.ACTIVE)]


async def test_a_rotation_publishes_activates_and_retires(bench: Bench) -> None:
    await bench.rotate.init(Issuer.STS)
    published = await bench.rotate.publish(Issuer.STS)
    assert published.ready_at == bench.clock.now() + JWKS_MAX_AGE
    assert await bench.states() == [(1, KeyState.ACTIVE), (2, KeyState.PUBLISHED)]
    bench.clock.advance(JWKS_MAX_AGE)
    activated = await bench.rotate.activate(Issuer.STS)
    assert activated.kid == published.kid
    assert await bench.states() == [(1, KeyState.RETIRED), (2, KeyState.ACTIVE)]
    bench.clock.advance(LONGEST_TOKEN_LIFE + JWKS_MAX_AGE)
    await bench.rotate.retire(Issuer.STS)
    assert await bench.states() == [(2, KeyState.ACTIVE)]
    with pytest.raises(NotFound):
        await bench.vault.access(SECRET[Issuer.STS], 1)


@pytest.mark.parametrize("published_before", [False, True])
async def test_a_leaked_key_is_gone_at_once_and_another_signs(bench: Bench, published_before: bool) -> None:
    step = await bench.rotate.init(Issuer.STS)
    assert step is not None
    if published_before:
        await bench.rotate.publish(Issuer.STS)
    removed = await bench.rotate.replace_leaked(Issuer.STS, step.kid)
    assert removed.ready_at == bench.clock.now() + JWKS_MAX_AGE + JWKS_REMEMBERED
    assert await bench.states() == [(2, KeyState.ACTIVE)]
    ring = await bench.store.ring(Issuer.STS)
    assert ring is not None
    assert step.kid not in {key["kid"] for key in ring.jwks()["keys"]}
    with pytest.raises(NotFound):
        await bench.vault.access(SECRET[Issuer.STS], 1)


async def test_a_leaked_key_that_signs_no_more_goes_without_disturbing_the_one_that_does(bench: Bench) -> None:
    first = await bench.rotate.init(Issuer.STS)
    assert first is not None
    await bench.rotate.publish(Issuer.STS)
    bench.clock.advance(JWKS_MAX_AGE)
    await bench.rotate.activate(Issuer.STS)
    await bench.rotate.replace_leaked(Issuer.STS, first.kid)
    assert await bench.states() == [(2, KeyState.ACTIVE)]
    with pytest.raises(LookupError):
        await bench.rotate.replace_leaked(Issuer.STS, first.kid)


async def two_keys(bench: Bench) -> str:
    """The second signs; the kid of the first, whose tokens are over."""
    first = await bench.rotate.init(Issuer.STS)
    assert first is not None
    await bench.rotate.publish(Issuer.STS)
    bench.clock.advance(JWKS_MAX_AGE)
    await bench.rotate.activate(Issuer.STS)
    bench.clock.advance(LONGEST_TOKEN_LIFE + JWKS_MAX_AGE)
    return first.kid


@pytest.mark.parametrize("by", ["retire", "replace_leaked"])
async def test_a_key_that_could_not_be_destroyed_is_off_the_set_and_destroyed_by_the_same_command_again(
    bench: Bench, by: str
) -> None:
    kid = await two_keys(bench)

    async def command() -> str:
        if by == "retire":
            return (await bench.rotate.retire(Issuer.STS)).kid
        return (await bench.rotate.replace_leaked(Issuer.STS, kid)).kid

    bench.vault.is_down = True
    for _ in range(2):
        with pytest.raises(NotDestroyed, match="version 1 of cab-sts-signing is not destroyed"):
            await command()
        assert await bench.states() == [(2, KeyState.ACTIVE)]
    bench.vault.is_down = False
    assert await bench.vault.access(SECRET[Issuer.STS], 1)
    await bench.rotate.publish(Issuer.STS)  # what else is done meanwhile does not lose it
    assert await command() == kid
    with pytest.raises(NotFound):
        await bench.vault.access(SECRET[Issuer.STS], 1)
    assert await bench.vault.access(SECRET[Issuer.STS], 2)
    with pytest.raises(LookupError):
        await command()


async def test_each_step_that_comes_too_early_says_its_own_reason(bench: Bench) -> None:
    await bench.rotate.init(Issuer.STS)
    await bench.rotate.publish(Issuer.STS)
    with pytest.raises(TooEarly, match="a verifier may still hold a key set without the new key"):
        await bench.rotate.activate(Issuer.STS)
    bench.clock.advance(JWKS_MAX_AGE)
    await bench.rotate.activate(Issuer.STS)
    with pytest.raises(TooEarly, match="a token that a retired key signed may still be in use"):
        await bench.rotate.retire(Issuer.STS)


async def test_no_step_is_taken_a_second_too_early(bench: Bench) -> None:
    await bench.rotate.init(Issuer.STS)
    await bench.rotate.publish(Issuer.STS)
    bench.clock.advance(JWKS_MAX_AGE - timedelta(seconds=1))
    with pytest.raises(TooEarly) as early:
        await bench.rotate.activate(Issuer.STS)
    assert early.value.ready_at == bench.clock.now() + timedelta(seconds=1)
    bench.clock.advance(timedelta(seconds=1))
    await bench.rotate.activate(Issuer.STS)
    bench.clock.advance(LONGEST_TOKEN_LIFE + JWKS_MAX_AGE - timedelta(seconds=1))
    with pytest.raises(TooEarly):
        await bench.rotate.retire(Issuer.STS)
    assert await bench.vault.access(SECRET[Issuer.STS], 1)


async def test_steps_out_of_order_are_refused_with_what_to_do(bench: Bench) -> None:
    for step in (bench.rotate.publish, bench.rotate.activate, bench.rotate.retire):
        with pytest.raises(LookupError, match="init"):
            await step(Issuer.STS)
    await bench.rotate.init(Issuer.STS)
    with pytest.raises(LookupError, match="publish"):
        await bench.rotate.activate(Issuer.STS)
    with pytest.raises(LookupError, match="activate"):
        await bench.rotate.retire(Issuer.STS)


async def test_the_issuers_rotate_apart(bench: Bench) -> None:
    await bench.rotate.init(Issuer.STS)
    await bench.rotate.init(Issuer.EDGE)
    await bench.rotate.publish(Issuer.EDGE)
    assert await bench.states(Issuer.STS) == [(1, KeyState.ACTIVE)]
    assert len(await bench.states(Issuer.EDGE)) == 2


async def test_two_operators_at_once_do_not_undo_each_other(bench: Bench) -> None:
    await bench.rotate.init(Issuer.STS)
    ring = await bench.store.ring(Issuer.STS)
    await bench.rotate.publish(Issuer.STS)
    assert await bench.store.save(Issuer.STS, (), read=ring) is False
    with pytest.raises(Conflict):
        await bench.rotate._save(Issuer.STS, (), ring)
    assert len(await bench.states()) == 2


async def test_the_store_holds_public_halves_only_and_the_vault_the_private_one(bench: Bench) -> None:
    await bench.rotate.init(Issuer.STS)
    ring = await bench.store.ring(Issuer.STS)
    assert ring is not None
    assert not jwk.PRIVATE_MEMBERS & ring.keys[0].jwk.keys()
    private = strict_json.load_object(await bench.vault.access(SECRET[Issuer.STS], 1))
    assert private["kid"] == ring.keys[0].kid == jwk.thumbprint(private)
    assert jwk.public_jwk(private) == ring.keys[0].jwk


def test_new_keys_are_fresh_p256_keys() -> None:
    keys = [new_private_jwk() for _ in range(20)]
    assert len({key["kid"] for key in keys}) == 20
    for key in keys:
        assert {len(key[name]) for name in ("x", "y", "d")} == {43}
        loaded = jwk.private_key(key)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        assert isinstance(loaded.curve, ec.SECP256R1)
