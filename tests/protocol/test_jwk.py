"""Key sets of others, read strictly: a doubtful key is no key, and takes no good one with it (security.md, T8)."""

from __future__ import annotations

import json
import math
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fuzz import fuzz
from tests.support.jose import ABSENT, b64, ec_key, key_set, present, rsa_key

from cab.protocol.jose import jwk

EC = ec_key("a").jwk
RSA = rsa_key("other").jwk


def _other_curve() -> dict[str, Any]:
    numbers = ec.generate_private_key(ec.SECP384R1()).public_key().public_numbers()
    x, y = (b64(number.to_bytes(48, "big")) for number in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-384", "x": x, "y": y, "kid": "p384"}


def _ed25519() -> dict[str, Any]:
    raw = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    return {"kty": "OKP", "crv": "Ed25519", "x": b64(raw), "kid": "ed"}


def _rsa(modulus: int, exponent: int = 65537) -> dict[str, Any]:
    def number(value: int) -> str:
        return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))

    return {"kty": "RSA", "n": number(modulus), "e": number(exponent), "kid": "rsa"}


ROCA_PRIMES = (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)
BIG = rsa_key("other").private.public_key().public_numbers().n
# 1 is in every subgroup of powers, so a modulus that leaves 1 for each prime has the fingerprint (Nemec et al., CCS 2017).
ROCA = 2**2047 - (2**2047 % math.prod(ROCA_PRIMES)) + math.prod(ROCA_PRIMES) * 2 + 1

UNUSABLE: dict[str, dict[str, Any]] = {
    "private EC": ec_key("a").private_jwk,
    "private RSA": RSA | {"d": "AQAB"},
    "RSA with prime factors": RSA | {"p": "AQAB", "q": "AQAB"},
    "symmetric": {"kty": "oct", "k": "c2VjcmV0", "kid": "s"},
    "for encryption": EC | {"use": "enc"},
    "for wrapping keys": EC | {"key_ops": ["wrapKey"]},
    "for signing only": EC | {"key_ops": ["sign"]},
    "no operation": EC | {"key_ops": []},
    "operations as text": EC | {"key_ops": "verify"},
    "operations as a number": EC | {"key_ops": 7},
    "use is not text": EC | {"use": ["sig"]},
    "P-384": _other_curve(),
    "P-256 named P-384": EC | {"crv": "P-384"},
    "Ed25519": _ed25519(),
    "curve is not text": EC | {"crv": ["P-256"]},
    "type is not text": EC | {"kty": ["EC"]},
    "no type": present(EC | {"kty": ABSENT}),
    "RSA with a curve": RSA | {"crv": "P-256"},
    "EC for RS256": EC | {"alg": "RS256"},
    "EC for ES384": EC | {"alg": "ES384"},
    "RSA for PS256": RSA | {"alg": "PS256"},
    "RSA for RS512": RSA | {"alg": "RS512"},
    "HMAC by name": EC | {"alg": "HS256"},
    "alg is not text": EC | {"alg": ["ES256"]},
    "off the curve": EC | {"y": EC["x"]},
    "point at zero": EC | {"x": b64(bytes(32)), "y": b64(bytes(32))},
    "short coordinate": EC | {"x": b64(b"x" * 16)},
    "long coordinate": EC | {"x": b64(b"x" * 48)},
    "no coordinate": present(EC | {"y": ABSENT}),
    "coordinate is a number": EC | {"x": 7},
    "coordinate is a list": EC | {"x": ["AA"]},
    "coordinate is null": EC | {"x": None},
    "coordinate is not base64url": EC | {"x": "é" * 43},
    "RSA-1024": _rsa(rsa.generate_private_key(65537, 1024).public_key().public_numbers().n),  # noqa: S505
    "RSA-2040": _rsa(BIG >> 8 | 1),
    "RSA-16384": _rsa(2**16_383 + 1),
    "exponent 1": _rsa(BIG, 1),
    "exponent 3": _rsa(BIG, 3),
    "even exponent": _rsa(BIG, 65538),
    "exponent beyond the modulus": _rsa(BIG, BIG + 2),
    "modulus zero": RSA | {"n": ""},
    "modulus is a number": RSA | {"n": 7},
    "kid is a number": EC | {"kid": 7},
    "a modulus of the flawed library": _rsa(ROCA),
}


@pytest.mark.requirement("RFC7517-4-1")
@pytest.mark.parametrize("key", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_unusable_key_is_refused(key: dict[str, Any]) -> None:
    with pytest.raises(jwk.InvalidKey):
        jwk.parse(key)


@pytest.mark.parametrize("key", [key for key in UNUSABLE.values() if key.get("kty") != "oct"])
def test_an_unusable_member_never_drops_the_good_ones(key: dict[str, Any]) -> None:
    assert jwk.parse_set({"keys": [key, EC | {"kid": "good"}, RSA | {"kid": "good-rsa"}]}).keys() == {
        "good",
        "good-rsa",
    }


@pytest.mark.parametrize("member", [None, "key", 7, [], True])
def test_a_member_that_is_no_object_is_left_out(member: Any) -> None:
    assert jwk.parse_set({"keys": [member, EC]}).keys() == {"a"}


@pytest.mark.requirement("RFC8725-3.1-1")
def test_one_symmetric_key_makes_the_whole_set_suspect() -> None:
    with pytest.raises(jwk.InvalidKey, match="symmetric"):
        jwk.parse_set({"keys": [EC, {"kty": "oct", "k": "c2VjcmV0"}]})


@pytest.mark.parametrize("times", [2, 3])
def test_a_kid_that_stands_more_than_once_is_usable_for_nobody(times: int) -> None:
    doubles = [ec_key(f"double-{number}").jwk | {"kid": "double"} for number in range(times)]
    assert jwk.parse_set({"keys": [*doubles, EC]}).keys() == {"a"}


def test_a_kid_shared_with_a_key_of_another_algorithm_is_usable_for_nobody() -> None:
    assert jwk.parse_set({"keys": [EC, RSA | {"kid": "a"}, ec_key("b").jwk]}).keys() == {"b"}


def test_a_key_that_is_listed_twice_is_one_key() -> None:
    """As the same key with its certificate and without. It was usable for nobody."""
    again = {name: value for name, value in EC.items() if name not in ("use", "alg")} | {"x5t": "ignored"}
    assert jwk.parse_set({"keys": [EC, again, RSA, EC]}).keys() == {"a", "other"}


def test_keys_without_kid_stand_under_their_position() -> None:
    nameless = present(EC | {"kid": ABSENT})
    assert jwk.parse_set({"keys": [nameless, RSA, RSA | {"kid": None}]}).keys() == {0, "other", 2}


@pytest.mark.parametrize(
    "kid",
    [
        "T8q+ZK06a0I0vpYnBN/cugV8xAPV5wXv4uYrrpwwSNK0=",
        "wU3ifIIaLOUAReRB/FG6eM1P1QM=",
        "20190204-00:00:00",
        "../k",
        "ключ",
        "k" * 500,
    ],
)
def test_a_kid_is_any_text(kid: str) -> None:
    assert jwk.parse_set({"keys": [EC | {"kid": kid}]}).keys() == {kid}


def test_a_member_that_is_null_counts_as_absent() -> None:
    assert jwk.parse(RSA | {"use": None, "alg": None, "key_ops": None, "x5c": None}).kid == "other"


def test_a_modulus_that_fails_the_fingerprint_for_one_prime_only_is_sound() -> None:
    """Most sound keys have some residues in the subgroups: all seventeen must be there."""
    assert jwk.parse(RSA)
    sound = ROCA
    while sound % 11 in {pow(65537, power, 11) for power in range(11)}:
        sound += 2 * 2**40
    assert jwk.parse(_rsa(sound))


@pytest.mark.parametrize(
    "document",
    [{}, {"keys": None}, {"keys": {}}, {"keys": "k"}, {"keys": []}, {"keys": [{}]}, {"keys": [EC | {"use": "enc"}]}],
)
def test_a_set_with_nothing_usable_is_an_error_not_an_empty_set(document: dict[str, Any]) -> None:
    with pytest.raises(jwk.InvalidKey):
        jwk.parse_set(document)


def test_a_set_of_more_than_a_hundred_keys_is_refused() -> None:
    with pytest.raises(jwk.InvalidKey):
        jwk.parse_set({"keys": [EC] * 1001})


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"<html>", b'{"keys":[],"keys":[]}', b"\xff", b'{"keys":' * 50])
def test_what_is_not_a_strict_json_object_is_not_a_set(body: bytes) -> None:
    with pytest.raises(jwk.InvalidKey):
        jwk.parse_set_bytes(body)


def test_keys_as_they_are_published_everywhere_are_usable() -> None:
    keys = jwk.parse_set(key_set(ec_key("a"), rsa_key("other")))
    assert {kid: key.algorithm for kid, key in keys.items()} == {"a": "ES256", "other": "RS256"}
    bare = {name: EC[name] for name in ("kty", "crv", "x", "y", "kid")}
    assert jwk.parse(bare | {"key_ops": ["verify"], "x5t": "ignored", "ext": True}).kid == "a"


@pytest.mark.requirement("RFC7638-3-1")
def test_the_thumbprint_is_that_of_the_specifications_own_example() -> None:
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMst"
        "n64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajr"
        "n1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    example = {"kty": "RSA", "n": modulus, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}
    assert jwk.thumbprint(example) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_the_published_half_of_a_key_holds_nothing_private() -> None:
    private = ec_key("a").private_jwk
    assert jwk.public_jwk(private) == EC
    assert not jwk.PRIVATE_MEMBERS & jwk.public_jwk(private).keys()


@given(
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "n", "e", "kid", "use", "alg", "key_ops", "d", "k"]),
        st.none()
        | st.integers()
        | st.text(max_size=50)
        | st.lists(st.text(max_size=5), max_size=3)
        | st.sampled_from(["EC", "RSA", "P-256", "sig", "ES256", "RS256", "AQAB", EC["x"], EC["y"], RSA["n"]]),
    )
)
@fuzz(100)
def test_an_arbitrary_object_is_a_key_or_an_invalid_key(members: dict[str, Any]) -> None:
    try:
        key = jwk.parse(members)
    except jwk.InvalidKey:
        return
    assert key.algorithm in ("ES256", "RS256")
    assert not key.verifies(b"anything", b"not a signature")


# --- keys of our own ---

RSA_PRIVATE = jwt.algorithms.RSAAlgorithm.to_jwk(rsa_key("other").private, as_dict=True) | {"kid": "other"}
PRIVATE = ec_key("a").private_jwk


@pytest.mark.parametrize(
    ("members", "kid", "kind"), [(PRIVATE, "a", ec.EllipticCurvePrivateKey), (RSA_PRIVATE, "other", rsa.RSAPrivateKey)]
)
def test_a_signing_key_is_read_with_its_kid(members: dict[str, Any], kid: str, kind: type[Any]) -> None:
    name, key = jwk.parse_private(json.dumps(members).encode())
    assert name == kid
    assert isinstance(key, kind)


NO_SIGNING_KEYS = {
    "public": EC,
    "public RSA": RSA,
    "nameless": {name: value for name, value in PRIVATE.items() if name != "kid"},
    "of another pair": PRIVATE | {"d": ec_key("b").private_jwk["d"]},
    "for encryption": PRIVATE | {"use": "enc"},
    "for another algorithm": PRIVATE | {"alg": "ES384"},
    "symmetric": {"kty": "oct", "k": "c2VjcmV0", "kid": "k"},
    "empty": {},
}


@pytest.mark.parametrize("members", NO_SIGNING_KEYS.values(), ids=NO_SIGNING_KEYS)
def test_what_cannot_sign_is_no_signing_key(members: dict[str, Any]) -> None:
    with pytest.raises(jwk.InvalidKey):
        jwk.parse_private(json.dumps(members).encode())


@pytest.mark.parametrize("raw", [b"", b"x", b"[]", b"-----BEGIN PRIVATE KEY-----", b'{"kty":"EC","kty":"EC"}'])
def test_what_is_no_json_object_is_no_signing_key(raw: bytes) -> None:
    with pytest.raises(jwk.InvalidKey):
        jwk.parse_private(raw)


@pytest.mark.parametrize("key", [EC, RSA], ids=["EC", "RSA"])
@pytest.mark.parametrize(
    "written",
    [
        lambda text: text,
        lambda text: text + "=" * (-len(text) % 4),
        lambda text: text + "==",
        lambda text: text.replace("-", "+").replace("_", "/"),
        lambda text: f"{text[:10]}\n{text[10:]}",
        lambda text: f"{text[:10]}é{text[10:]}",
        lambda text: f"A{text}",
        lambda text: f"AAAA{text}",
        lambda text: text[:-2],
        lambda _: "",
        lambda _: 7,
        lambda _: ["AQAB"],
    ],
)
@pytest.mark.parametrize("member", [0, 1])
def test_a_key_is_read_as_pyjwt_reads_it_or_refused_as_there(key: dict[str, Any], written: Any, member: int) -> None:
    name = (("x", "y") if key is EC else ("n", "e"))[member]
    changed = key | {name: written(key[name])}
    try:
        read = jwk.pyjwt("ES256" if key is EC else "RS256").from_jwk(changed).public_numbers()
    except (jwt.InvalidKeyError, ValueError, TypeError):
        read = None
    try:
        ours = jwk.parse(changed).key.public_numbers()
    except jwk.InvalidKey as error:
        ours = None
        if str(error) != "is malformed":  # read, and refused for what it is
            return
    assert ours == read
