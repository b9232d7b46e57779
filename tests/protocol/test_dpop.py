"""DPoP proofs: one key, one method, one URL, now, once (RFC 9449 section 4.3; security.md T10)."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fuzz import fuzz
from tests.support.jose import ABSENT, Key, ec_key, present, rsa_key
from tests.support.vectors import NOW, SECONDS
from tests.support.world import deployment

from cab.domain.identifiers import base64url
from cab.protocol import metadata
from cab.protocol.jose import jwk
from cab.protocol.tokens import dpop

URL = "https://cab.test/oauth2/token"
KEY = ec_key("dpop")
MUTATIONS: dict[str, dict[str, Any]] = {
    "another method": {"htm": "GET"},
    "the method in small letters": {"htm": "post"},
    "no method": {"htm": ABSENT},
    "a method that is no text": {"htm": ["POST"]},
    "another URL": {"htu": "https://cab.test/oauth2/introspect"},
    "another host": {"htu": "https://evil.test/oauth2/token"},
    "another scheme": {"htu": "http://cab.test/oauth2/token"},
    "another port": {"htu": "https://cab.test:8443/oauth2/token"},
    "a slash at the end": {"htu": URL + "/"},
    "the host in capitals": {"htu": "https://CAB.test/oauth2/token"},
    "a longer path": {"htu": URL + "/x"},
    "no URL": {"htu": ABSENT},
    "a URL that is no text": {"htu": [URL]},
    "an empty URL": {"htu": ""},
    "too old": {"iat": SECONDS - 61},
    "from the future": {"iat": SECONDS + 61},
    "no time": {"iat": ABSENT},
    "a time as text": {"iat": str(SECONDS)},
    "a time with a fraction": {"iat": SECONDS + 0.5},
    "true for a time": {"iat": True},
    "an impossible time": {"iat": 10**30},
    "a time that no float holds": {"iat": 10**400},
    "a time long before time": {"iat": -(10**400)},
    "a negative time": {"iat": -SECONDS},
    "a time of nothing": {"iat": None},
    "a time in an array": {"iat": [SECONDS]},
    "a large float": {"iat": 1e308},
    "a whole float": {"iat": float(SECONDS)},
    "no jti": {"jti": ABSENT},
    "an empty jti": {"jti": ""},
    "a numeric jti": {"jti": 7},
    "a jti of 256 characters": {"jti": "j" * 256},
}
HEADERS: dict[str, dict[str, Any]] = {
    "another type": {"typ": "JWT"},
    "an access token's type": {"typ": "at+jwt"},
    "no type": {"typ": ABSENT},
    "no key": {"jwk": ABSENT},
    "a key that is no object": {"jwk": "key"},
    "another key than signed": {"jwk": ec_key("another").jwk},
    "a private key": {"jwk": ec_key("dpop").private_jwk},
    "a symmetric key": {"jwk": {"kty": "oct", "k": "c2VjcmV0"}},
    "a key for encryption": {"jwk": ec_key("dpop").jwk | {"use": "enc"}},
    "a key on another curve": {"jwk": ec_key("dpop").jwk | {"crv": "P-384"}},
    "alg none": {"alg": "none"},
    "HMAC": {"alg": "HS256"},
    "another algorithm than the key's": {"alg": "RS256"},
    "a key by URL": {"jku": "https://evil.test/keys"},
    "a certificate by URL": {"x5u": "https://evil.test/cert"},
    "a critical extension": {"crit": ["x"], "x": 1},
    "compressed": {"zip": "DEF"},
}


def proof(*, key: Key = KEY, header: dict[str, Any] | None = None, **changes: Any) -> str:
    claims = present({"htm": "POST", "htu": URL, "iat": SECONDS, "jti": "j1"} | changes)
    return key.sign(claims, {"typ": "dpop+jwt", "jwk": key.jwk, "kid": ABSENT} | (header or {}))


def verified(text: str) -> dpop.Proof:
    return dpop.verify(text, method="POST", url=URL, now=NOW)


@pytest.mark.requirement("RFC9449-4.3-1")
@pytest.mark.requirement("RFC9449-6.1-1")
def test_a_good_proof_names_its_key_by_thumbprint() -> None:
    assert verified(proof()) == dpop.Proof(jwk.thumbprint(KEY.jwk), "j1", NOW + timedelta(seconds=60))


@pytest.mark.requirement("RFC9449-4.3-1")
@pytest.mark.parametrize("changes", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_a_proof_of_anything_else_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(dpop.InvalidProof):
        verified(proof(**changes))


@pytest.mark.requirement("RFC9449-4.3-2")
@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_a_proof_with_another_header_is_refused(header: dict[str, Any]) -> None:
    with pytest.raises(dpop.InvalidProof):
        verified(proof(header=header))


@pytest.mark.parametrize("key", [KEY, rsa_key("other")], ids=lambda key: key.algorithm)
def test_every_advertised_algorithm_is_accepted(key: Key) -> None:
    advertised = metadata.document(deployment())["dpop_signing_alg_values_supported"]
    assert key.algorithm in advertised
    assert verified(proof(key=key)).jkt == jwk.thumbprint(key.jwk)


@pytest.mark.parametrize("ath", [ABSENT, None, "", "token", "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEp"])
def test_with_an_access_token_a_proof_is_of_that_token(ath: Any) -> None:
    """RFC 9449 section 4.3, 11."""
    right = base64url(hashlib.sha256(b"the-token").digest())
    good = proof(ath=right)
    assert dpop.verify(good, method="POST", url=URL, now=NOW, access_token="the-token").jti == "j1"
    with pytest.raises(dpop.InvalidProof):
        dpop.verify(good, method="POST", url=URL, now=NOW, access_token="another-token")
    with pytest.raises(dpop.InvalidProof):
        dpop.verify(proof(ath=ath), method="POST", url=URL, now=NOW, access_token="the-token")


@pytest.mark.parametrize("offset_s", [-60, 0, 60])
def test_a_minute_of_difference_between_clocks_is_fine(offset_s: int) -> None:
    assert verified(proof(iat=SECONDS + offset_s)).spend_until == NOW + timedelta(seconds=offset_s + 60)


@pytest.mark.requirement("RFC9449-4.3-3")
@pytest.mark.parametrize("url", [URL, URL + "?a=b", URL + "#f", URL + "?a#f"])
def test_query_and_fragment_of_the_url_do_not_count(url: str) -> None:
    assert verified(proof(htu=url))


@pytest.mark.parametrize("length", [1, 255])
def test_a_jti_of_1_to_255_characters_is_fine(length: int) -> None:
    assert verified(proof(jti="j" * length)).jti == "j" * length


def test_the_name_a_key_gives_itself_changes_nothing() -> None:
    assert verified(proof(header={"kid": "whatever"})).jkt == verified(proof()).jkt


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda data: data.hex()))
@fuzz(100)
def test_arbitrary_text_is_no_proof(text: str) -> None:
    with pytest.raises(dpop.InvalidProof):
        verified(text)
