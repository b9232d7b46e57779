"""Opaque keys: equal only for equal parts, different in every tenant, never a piece of a name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fuzz import fuzz

from cab.domain.identifiers import digest, is_printable, subject_key, token_sha256


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
@fuzz(200)
def test_two_lists_of_parts_meet_in_one_digest_only_when_equal(left: list[str], right: list[str]) -> None:
    assert (digest(*left) == digest(*right)) == (left == right)


def test_parts_cannot_be_shifted_into_each_other() -> None:
    spellings = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc"), ("a", "b", "c")]
    assert len({digest(*parts) for parts in spellings}) == len(spellings)


def test_a_user_has_one_key_per_tenant_and_issuer() -> None:
    keys = {
        subject_key(tenant, issuer, "alice")
        for tenant in ("acme", "globex")
        for issuer in ("https://idp.test", "https://idp.test/")
    }
    assert len(keys) == 4
    assert subject_key("acme", "https://idp.test", "alice") in keys
    assert not any("alice" in key for key in keys)


def test_a_token_is_named_by_its_hash() -> None:
    assert token_sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("text", ["a", "Zoë Müller", "日本語", "a b", "😀", "x" * 255])
def test_ordinary_text_is_printable(text: str) -> None:
    assert is_printable(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 256,
        "\x00",
        "a\n",
        "\x7f",
        "\x9f",
        "\u202e",
        "\u200b",
        "\ufeff",
        "\u2066",
        "\ud800",
        "\ue000",
        "\u0378",
    ],
)
def test_invisible_private_or_unassigned_characters_are_not(text: str) -> None:
    assert not is_printable(text)
