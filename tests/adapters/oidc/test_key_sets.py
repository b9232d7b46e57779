"""Keys of others: fetched rarely, kept through outages, never for a source nobody configured (security.md I1 to I7)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.support import vectors
from tests.support.jose import ec_key, key_set, rsa_key

from cab.adapters.keys.key_sets import KeyDirectory, KeySource, RemoteKeySets
from cab.ports import AnswerTooLarge, HttpAnswer, NotFound, SendFailed, Unavailable
from cab.protocol.jose import jwk, jws
from cab.use_cases.identity.verify_token import verify_token
from cab_dev.fakes.clock import SettableClock

ISSUER = "https://idp.test"
DISCOVERY = f"{ISSUER}/.well-known/openid-configuration"
JWKS = f"{ISSUER}/keys"
OLD, NEW = ec_key("old"), rsa_key("other")


class Host:
    """An `HttpClient` that answers what the test says and counts."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            DISCOVERY: {"issuer": ISSUER, "jwks_uri": JWKS},
            JWKS: key_set(OLD),
        }
        self.fetched: list[str] = []
        self.is_down = False
        self.pause: asyncio.Event | None = None

    async def get(self, url: str, **_: Any) -> HttpAnswer:
        self.fetched.append(url)
        if self.pause is not None:
            await self.pause.wait()
        answer = self.answers.get(url)
        if self.is_down or answer is None:
            raise SendFailed("identity_provider", may_have_arrived=False)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, HttpAnswer):
            return answer
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        return HttpAnswer(200, {}, body)

    async def post_form(self, *_: Any, **__: Any) -> HttpAnswer:
        raise AssertionError("keys are only ever fetched")

    post_json = post_form


class Bench:
    def __init__(self) -> None:
        self.clock = SettableClock()
        self.host = Host()
        self.keys = RemoteKeySets(
            {
                ISSUER: KeySource(issuer=ISSUER),
                "pinned": KeySource(jwks_uri="https://client.test/keys"),
                "inline": KeySource(inline=jwk.parse_set(key_set(OLD))),
            },
            self.host,
            self.clock,
        )

    def advance(self, **span: float) -> None:
        self.clock.advance(timedelta(**span))

    async def find(self, kid: str | None = "old", algorithm: str = "ES256", source: str = ISSUER) -> str | None:
        key = await self.keys.find(source, kid, algorithm)
        await asyncio.sleep(0)  # lets a fetch beside the request begin
        return key.kid


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_keys_are_found_by_discovery_once(bench: Bench) -> None:
    for _ in range(20):
        assert await bench.find() == "old"
    assert bench.host.fetched == [DISCOVERY, JWKS]


async def test_a_pinned_url_needs_no_discovery(bench: Bench) -> None:
    bench.host.answers["https://client.test/keys"] = key_set(NEW)
    assert await bench.find("other", "RS256", "pinned") == "other"
    assert bench.host.fetched == ["https://client.test/keys"]


async def test_keys_given_in_the_configuration_need_no_fetch(bench: Bench) -> None:
    assert await bench.find(source="inline") == "old"
    with pytest.raises(NotFound):
        await bench.find("unknown", source="inline")
    assert bench.host.fetched == []


async def test_nothing_is_ever_fetched_for_a_source_nobody_configured(bench: Bench) -> None:
    for number in range(100):
        with pytest.raises(NotFound):
            await bench.find(source=f"https://{number}.evil.test")
    for almost in (ISSUER + "/", ISSUER.upper(), ISSUER + "?", " " + ISSUER):
        with pytest.raises(NotFound):
            await bench.find(source=almost)
    assert bench.host.fetched == []


async def test_a_key_is_found_only_with_its_algorithm(bench: Bench) -> None:
    with pytest.raises(NotFound):
        await bench.find("old", "RS256")


async def test_without_kid_every_key_that_fits_is_tried_and_no_other(bench: Bench) -> None:
    second, encrypts = ec_key("second"), ec_key("encrypts")
    bench.host.answers[JWKS] = {"keys": [OLD.jwk, NEW.jwk, second.jwk, encrypts.jwk | {"use": "enc"}]}
    meant = await bench.keys.find(ISSUER, None, "ES256")
    assert (meant.kid, meant.algorithm) == (None, "ES256")
    assert [meant.verifies(b"x", key.signature(b"x")) for key in (OLD, second)] == [True, True]
    assert [meant.verifies(b"x", key.signature(b"x")) for key in (encrypts, ec_key("stranger"))] == [False, False]
    assert not meant.verifies(b"y", second.signature(b"x"))
    assert await bench.find(None, "RS256") == "other"
    with pytest.raises(NotFound):
        await bench.find("unknown")


async def test_without_kid_at_most_eight_keys_are_tried(bench: Bench) -> None:
    eight = [ec_key(f"key {number}") for number in range(8)]
    bench.host.answers[JWKS] = key_set(NEW, *eight)
    meant = await bench.keys.find(ISSUER, None, "ES256")
    assert meant.verifies(b"x", eight[-1].signature(b"x"))
    bench.host.answers[JWKS] = key_set(*eight, OLD)
    bench.advance(hours=25)
    with pytest.raises(NotFound):
        await bench.find(None)


async def test_several_keys_without_names_are_tried_for_a_name_that_none_has(bench: Bench) -> None:
    nameless = [{name: value for name, value in key.jwk.items() if name != "kid"} for key in (OLD, ec_key("second"))]
    bench.host.answers[JWKS] = {"keys": nameless}
    meant = await bench.keys.find(ISSUER, "some-name", "ES256")
    assert meant.verifies(b"x", OLD.signature(b"x"))


async def test_discovery_and_key_set_may_begin_with_a_byte_order_mark(bench: Bench) -> None:
    for url, document in list(bench.host.answers.items()):
        bench.host.answers[url] = b"\xef\xbb\xbf" + json.dumps(document).encode()
    assert await bench.find() == "old"


# --- changed and unknown keys ---


@pytest.mark.parametrize("kid", ["old", None])
async def test_a_key_that_was_changed_under_its_name_or_without_one_is_found(bench: Bench, kid: str | None) -> None:
    """Its tokens were refused for five minutes, and the first one after that."""
    before = await bench.keys.find(ISSUER, kid, "ES256")
    bench.host.answers[JWKS] = key_set(replace(ec_key("new"), kid="old"))
    changed = await bench.keys.find(ISSUER, kid, "ES256", instead_of=before)
    assert changed.verifies(b"x", ec_key("new").signature(b"x"))
    assert await bench.keys.find(ISSUER, kid, "ES256") == changed


async def test_a_token_of_a_changed_key_is_verified_and_a_strangers_is_not(bench: Bench) -> None:
    await bench.find()
    changed = replace(ec_key("new"), kid="old")
    bench.host.answers[JWKS] = key_set(changed)
    for of_stranger in (True, False, True):
        unverified = jws.parse(vectors.token(key=replace(ec_key("s"), kid="old") if of_stranger else changed))
        verifying = verify_token(unverified, vectors.RULES, bench.keys, now=vectors.NOW, source=ISSUER)
        if of_stranger:
            with pytest.raises(jws.TokenRejected, match="signature does not verify"):
                await verifying
        else:
            assert (await verifying).claims["sub"] == "somebody"


async def test_tokens_that_a_stranger_signed_cause_one_fetch_per_half_minute(bench: Bench) -> None:
    known = await bench.keys.find(ISSUER, "old", "ES256")
    for _ in range(4):
        bench.advance(seconds=31)
        before = len(bench.host.fetched)
        for _ in range(50):
            assert await bench.keys.find(ISSUER, "old", "ES256", instead_of=known) == known
        assert len(bench.host.fetched) - before == 2


async def test_during_an_outage_a_key_that_does_not_verify_stays_what_it_was(bench: Bench) -> None:
    known = await bench.keys.find(ISSUER, "old", "ES256")
    bench.host.is_down = True
    bench.advance(minutes=6)
    assert await bench.keys.find(ISSUER, "old", "ES256", instead_of=known) == known
    assert await bench.keys.find("inline", "old", "ES256", instead_of=known) == known


@pytest.mark.requirement("CAB-1.21-2")
async def test_an_unknown_key_causes_one_fetch_per_half_minute(bench: Bench) -> None:
    await bench.find()
    for _ in range(4):
        bench.advance(seconds=31)
        before = len(bench.host.fetched)
        for number in range(50):
            with pytest.raises(NotFound):
                await bench.find(f"unknown-{number}")
        assert len(bench.host.fetched) - before == 2
        assert await bench.find() == "old"


async def test_right_after_a_fetch_an_unknown_key_causes_one_more_and_no_third(bench: Bench) -> None:
    """The issuer may have published the key in this very moment."""
    await bench.find()
    for number in range(20):
        with pytest.raises(NotFound):
            await bench.find(f"unknown-{number}")
    assert len(bench.host.fetched) == 4


async def test_parallel_unknown_keys_share_one_fetch(bench: Bench) -> None:
    await bench.find()
    bench.advance(seconds=31)
    bench.host.pause = asyncio.Event()
    asked = [asyncio.create_task(bench.find(f"unknown-{number}")) for number in range(50)]
    await asyncio.sleep(0)
    bench.host.pause.set()
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(result) for result in results} == {NotFound}
    assert len(bench.host.fetched) == 4


async def test_one_caller_that_gives_up_does_not_take_the_fetch_from_the_others(bench: Bench) -> None:
    bench.host.pause = asyncio.Event()
    first, second = (asyncio.create_task(bench.find()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    bench.host.pause.set()
    assert await second == "old"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_key_published_a_moment_ago_is_found(bench: Bench) -> None:
    await bench.find()
    bench.advance(seconds=31)
    bench.host.answers[JWKS] = key_set(OLD, NEW)
    assert await bench.find("other", "RS256") == "other"


# --- age ---


async def test_after_five_minutes_keys_are_renewed_beside_the_request(bench: Bench) -> None:
    await bench.find()
    bench.advance(minutes=5, seconds=1)
    bench.host.pause = asyncio.Event()
    assert await bench.find() == "old"  # does not wait
    assert len(bench.host.fetched) == 3
    bench.host.pause.set()


async def test_a_removed_key_is_gone_once_the_renewal_beside_a_request_is_done(bench: Bench) -> None:
    await bench.find()
    bench.host.answers[JWKS] = key_set(NEW)
    bench.advance(minutes=5, seconds=1)
    assert await bench.find() == "old"
    for _ in range(5):
        await asyncio.sleep(0)
    with pytest.raises(NotFound):
        await bench.find()


async def test_after_an_hour_a_removed_key_is_gone(bench: Bench) -> None:
    await bench.find()
    bench.host.answers[JWKS] = key_set(NEW)
    bench.advance(hours=1, seconds=1)
    with pytest.raises(NotFound):
        await bench.find()


async def test_a_host_that_hangs_delays_nobody_whose_keys_are_good(bench: Bench) -> None:
    await bench.find()
    bench.host.pause = asyncio.Event()
    bench.advance(hours=5)
    assert await asyncio.wait_for(bench.find(), 1) == "old"
    bench.host.pause.set()


# --- outages ---


async def test_without_any_keys_an_outage_is_an_outage(bench: Bench) -> None:
    bench.host.is_down = True
    with pytest.raises(Unavailable) as away:
        await bench.find()
    assert away.value.what == "identity_provider"


async def test_good_keys_stay_good_for_a_day_of_outage(bench: Bench) -> None:
    await bench.find()
    bench.host.is_down = True
    for _ in range(23):
        bench.advance(hours=1)
        assert await bench.find() == "old"
    bench.advance(hours=1, seconds=1)
    with pytest.raises(Unavailable):
        await bench.find()
    bench.host.is_down = False
    bench.advance(seconds=5)
    assert await bench.find() == "old"


async def test_during_an_outage_an_unknown_key_may_exist_so_it_is_our_fault(bench: Bench) -> None:
    await bench.find()
    bench.host.is_down = True
    bench.advance(seconds=31)
    with pytest.raises(Unavailable):
        await bench.find("unknown")
    assert await bench.find() == "old"


async def test_during_an_outage_unknown_keys_cause_one_fetch_per_half_minute(bench: Bench) -> None:
    await bench.find()
    bench.host.is_down = True
    bench.advance(minutes=6)
    for second in range(60):
        with pytest.raises(Unavailable):
            await bench.find(f"unknown-{second}")
        bench.advance(seconds=1)
    assert len(bench.host.fetched) - 2 == 2


async def test_keys_without_names_serve_tokens_with_and_without_one(bench: Bench) -> None:
    bench.host.answers[JWKS] = {"keys": [{name: value for name, value in OLD.jwk.items() if name != "kid"}, NEW.jwk]}
    assert await bench.find("some-name") is None
    assert await bench.find(None) is None


async def test_the_key_set_may_be_on_a_configured_origin() -> None:
    host = Host()
    host.answers |= {
        DISCOVERY: {"issuer": ISSUER, "jwks_uri": "https://www.googleapis.test/certs"},
        "https://www.googleapis.test/certs": key_set(OLD),
    }
    source = KeySource(issuer=ISSUER, origins=("https://www.googleapis.test",))
    keys = RemoteKeySets({ISSUER: source}, host, SettableClock())
    assert (await keys.find(ISSUER, "old", "ES256")).kid == "old"


async def test_a_host_that_is_down_is_asked_every_five_seconds_at_most(bench: Bench) -> None:
    bench.host.is_down = True
    for _ in range(20):
        with pytest.raises(Unavailable):
            await bench.find()
        bench.advance(seconds=1)
    assert len(bench.host.fetched) == 4


GARBAGE: dict[str, Any] = {
    "nothing": b"",
    "HTML": b"<html>",
    "an empty set": {"keys": []},
    "a set of unusable keys": {"keys": [OLD.jwk | {"use": "enc"}]},
    "a set with a symmetric key": {"keys": [OLD.jwk, {"kty": "oct", "k": "c2VjcmV0"}]},
    "a set with malformed members": {"keys": [{"kty": "EC", "key_ops": 7}, 7, None]},
    "a set that is too large": AnswerTooLarge(),
    "an error": HttpAnswer(500, {}, b"{}"),
    "a redirect": HttpAnswer(302, {"location": "https://evil.test"}, b""),
    "an error with keys": HttpAnswer(404, {}, json.dumps(key_set(NEW)).encode()),
    "deep nesting": b"[" * 90_000,
    "a repeated member": b'{"keys":[],"keys":[]}',
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_is_an_outage_and_wipes_no_good_keys(bench: Bench, garbage: Any) -> None:
    await bench.find()
    bench.host.answers[JWKS] = garbage
    bench.advance(hours=2)
    assert await bench.find() == "old"
    fresh = Bench()
    fresh.host.answers[JWKS] = garbage
    with pytest.raises(Unavailable):
        await fresh.find()


MISLEADING: dict[str, Any] = {
    "another issuer": {"issuer": "https://evil.test", "jwks_uri": JWKS},
    "the issuer with a slash": {"issuer": ISSUER + "/", "jwks_uri": JWKS},
    "the issuer in capitals": {"issuer": ISSUER.upper(), "jwks_uri": JWKS},
    "no issuer": {"jwks_uri": JWKS},
    "keys on another host": {"issuer": ISSUER, "jwks_uri": "https://evil.test/keys"},
    "keys on another port": {"issuer": ISSUER, "jwks_uri": "https://idp.test:8443/keys"},
    "keys by plain http": {"issuer": ISSUER, "jwks_uri": "http://idp.test/keys"},
    "keys of a user": {"issuer": ISSUER, "jwks_uri": "https://idp.test@evil.test/keys"},
    "no keys": {"issuer": ISSUER},
    "keys that are no text": {"issuer": ISSUER, "jwks_uri": [JWKS]},
    "a URL nobody can read": {"issuer": ISSUER, "jwks_uri": "https://[idp.test/keys"},
    "a relative URL": {"issuer": ISSUER, "jwks_uri": "/keys"},
    "an array": [],
    "HTML": b"<html>",
    "an error": HttpAnswer(500, {}, b"{}"),
}


@pytest.mark.requirement("OIDCD-4.3-1")
@pytest.mark.parametrize("document", MISLEADING.values(), ids=MISLEADING.keys())
async def test_a_discovery_document_of_another_issuer_or_place_is_not_believed(bench: Bench, document: Any) -> None:
    bench.host.answers[DISCOVERY] = document
    with pytest.raises(Unavailable):
        await bench.find()
    assert bench.host.fetched == [DISCOVERY]


async def test_an_issuer_with_a_path_is_discovered_below_it() -> None:
    host, clock = Host(), SettableClock()
    issuer = "https://login.test/tenant/v2.0"
    host.answers |= {
        f"{issuer}/.well-known/openid-configuration": {"issuer": issuer, "jwks_uri": "https://login.test/keys"},
        "https://login.test/keys": key_set(OLD),
    }
    keys = RemoteKeySets({issuer: KeySource(issuer=issuer)}, host, clock)
    assert (await keys.find(issuer, "old", "ES256")).kid == "old"


async def test_a_directory_asks_our_own_rings_first_and_others_for_the_rest(bench: Bench) -> None:
    class Ring:
        async def find(self, issuer: str, kid: str | None, algorithm: str, **_: Any) -> jwk.PublicKey:
            raise NotFound(f"asked for {kid}")

    directory = KeyDirectory({"https://cab.test": Ring()}, bench.keys)
    assert (await directory.find(ISSUER, "old", "ES256")).kid == "old"
    with pytest.raises(NotFound, match="asked for k"):
        await directory.find("https://cab.test", "k", "ES256")
    with pytest.raises(NotFound):
        await directory.find("https://nobody.test", "k", "ES256")
