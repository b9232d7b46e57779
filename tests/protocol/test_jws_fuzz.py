"""Whatever arrives, the verifier answers with claims or with TokenRejected, and only untouched tokens give claims."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fuzz import fuzz
from tests.support.jose import b64
from tests.support.vectors import KEY, NOW, RULES, claims, token

from cab.protocol.jose import jwk, jws

PUBLIC = jwk.parse(KEY.jwk)
GOOD = token()
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=.+/ \n\x00é"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def accepted(text: str) -> bool:
    try:
        jws.verify(jws.parse(text), PUBLIC, RULES, now=NOW)
    except jws.TokenRejected:
        return False
    return True


@given(st.text(alphabet=ALPHABET, max_size=300) | st.text(max_size=100))
@fuzz(125)
def test_arbitrary_text_is_rejected(text: str) -> None:
    assert not accepted(text)


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=80))
@fuzz(125)
def test_arbitrary_bytes_in_three_parts_are_rejected(header: bytes, payload: bytes, signature: bytes) -> None:
    assert not accepted(".".join(b64(part) for part in (header, payload, signature)))


@given(st.data())
@fuzz(200)
def test_no_single_edit_of_a_good_token_is_accepted(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(GOOD) - 1))
    char = data.draw(st.sampled_from(ALPHABET))
    edit = data.draw(st.sampled_from(["replace", "insert", "delete"]))
    changed = {
        "replace": GOOD[:place] + char + GOOD[place + 1 :],
        "insert": GOOD[:place] + char + GOOD[place:],
        "delete": GOOD[:place] + GOOD[place + 1 :],
    }[edit]
    assert accepted(changed) == (changed == GOOD)


@pytest.mark.requirement("RFC8725-3.1-1")
@given(
    st.dictionaries(
        st.sampled_from(["alg", "typ", "kid", "crit", "jwk", "x5u", "enc", "x"]),
        json_values | st.sampled_from(["ES256", "at+jwt", "signer"]),
    )
)
@fuzz(125)
def test_a_signed_token_is_accepted_only_with_the_header_of_its_kind(header: dict[str, Any]) -> None:
    if not accepted(KEY.sign(json.dumps(claims()).encode(), json.dumps(header).encode())):
        return
    assert header["alg"] == "ES256"
    assert header["typ"].lower() == "at+jwt"
    assert not header.keys() & jws.FORBIDDEN_HEADERS


@given(st.dictionaries(st.sampled_from(["iss", "aud", "sub", "exp", "iat", "nbf", "jti"]), json_values, min_size=1))
@fuzz(200)
def test_signed_nonsense_in_the_claims_never_raises_anything_but_rejected(changes: dict[str, Any]) -> None:
    text = KEY.sign(json.dumps(claims() | changes).encode(), {"typ": "at+jwt"})
    try:
        verified = jws.verify(jws.parse(text), PUBLIC, RULES, now=NOW)
        for name in ("sub", "jti"):
            verified.text(name)
        verified.optional_time("auth_time")
    except jws.TokenRejected:
        return
    assert verified.claims["iss"] == claims()["iss"]
    assert verified.claims["aud"] == claims()["aud"]
    assert verified.expires_at > NOW - jws.LEEWAY
