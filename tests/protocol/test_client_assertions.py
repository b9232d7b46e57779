"""What a client may authenticate with: the rules of its JWT, and the Basic header."""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fuzz import fuzz

from cab.domain.configured.clients import PrivateKeyJwt
from cab.protocol.client_secrets import basic_credentials
from cab.protocol.tokens.client_assertions import private_key_jwt_rules

ISSUER, ENDPOINT = "https://cab.test/oauth2", "https://cab.test/oauth2/token"


def method(**changes: bool) -> PrivateKeyJwt:
    return PrivateKeyJwt(method="private_key_jwt", jwks_uri="https://client.test/keys", **changes)


@pytest.mark.requirement("RFC7523-3-3")
def test_the_issuer_is_the_only_audience_and_five_minutes_the_longest_life() -> None:
    rules = private_key_jwt_rules(method(), client_id="c", issuer=ISSUER, endpoint=ENDPOINT)
    assert rules.audiences == {ISSUER}
    assert rules.max_life == timedelta(seconds=300)
    assert rules.issuer == "c"
    assert not rules.several_audiences
    assert not rules.one_element_audience


def test_the_compatibility_flag_adds_the_endpoint_an_hour_and_an_audience_in_an_array() -> None:
    rules = private_key_jwt_rules(method(audience_compatibility=True), client_id="c", issuer=ISSUER, endpoint=ENDPOINT)
    assert rules.audiences == {ISSUER, ENDPOINT}
    assert rules.max_life == timedelta(hours=1)
    assert not rules.several_audiences
    assert rules.one_element_audience


def basic(text: str) -> str:
    return "Basic " + b64encode(text.encode()).decode()


@pytest.mark.requirement("RFC6749-2.3.1-1")
@pytest.mark.parametrize(
    ("header", "credentials"),
    [
        (basic("id:secret"), ("id", ("secret",))),
        ("basic " + b64encode(b"id:secret").decode(), ("id", ("secret",))),
        (basic("id:a:b"), ("id", ("a:b",))),
        (basic("id:"), ("id", ("",))),
        (basic("a%20b:c%3Ad"), ("a b", ("c:d", "c%3Ad"))),
        (basic("a+b:c"), ("a b", ("c",))),
        (basic("id:abc+d/e%=="), ("id", ("abc d/e%==", "abc+d/e%=="))),  # as `curl -u` sends it
        (basic("id"), None),
        (basic("é:x"), None),
        ("Basic", None),
        ("Basic ", None),
        ("Basic !!!", None),
        ("Basic aWQ6\nc2VjcmV0", None),
        ("Bearer aWQ6c2VjcmV0", None),
        ("", None),
    ],
)
def test_basic_credentials_are_read_strictly(header: str, credentials: tuple[str, tuple[str, ...]] | None) -> None:
    assert basic_credentials(header) == credentials


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=60).map(lambda text: "Basic " + text) | st.text())
@fuzz(200)
def test_arbitrary_headers_are_credentials_or_none(header: str) -> None:
    found = basic_credentials(header)
    assert found is None or len(found) == 2
