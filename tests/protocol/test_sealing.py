"""Sealed secrets open with their own key, in their own place, unchanged, or not at all."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fuzz import fuzz

from cab.encoding.sealing import CannotOpen, seal, unseal

KEY = b"k" * 32


@given(st.binary(max_size=300), st.text(max_size=40))
@fuzz(60)
def test_what_is_sealed_opens_in_its_place(plaintext: bytes, context: str) -> None:
    assert unseal(KEY, seal(KEY, plaintext, context=context), context=context) == plaintext


def test_the_same_secret_never_seals_to_the_same_text() -> None:
    assert len({seal(KEY, b"secret", context="a") for _ in range(100)}) == 100


def test_another_key_or_place_does_not_open_it() -> None:
    sealed = seal(KEY, b"secret", context="grant.1")
    for key, context in ((b"x" * 32, "grant.1"), (KEY, "grant.2"), (KEY, "grant.1 "), (KEY, "")):
        with pytest.raises(CannotOpen):
            unseal(key, sealed, context=context)


def test_no_changed_bit_goes_unnoticed() -> None:
    raw = base64.b64decode(seal(KEY, b"secret", context="a"))
    for place in range(len(raw)):
        changed = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        with pytest.raises(CannotOpen):
            unseal(KEY, base64.b64encode(changed).decode(), context="a")


@pytest.mark.parametrize("sealed", ["", "AQ==", "AQAAAAAAAAAAAAAAAA==", "not base64", "é", "\n", "AQ" * 5])
def test_what_was_never_sealed_does_not_open(sealed: str) -> None:
    with pytest.raises(CannotOpen):
        unseal(KEY, sealed, context="a")
