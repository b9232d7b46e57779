"""Text of unknown origin is shown whole, and nothing in it can hide or rearrange."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cab.domain.text import safe as display
from cab.domain.text.safe import Segment, plain, segments

CYRILLIC_A = "\u0430"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("Call Globex", "Call Globex"),
        ("naïve Zoë, 東京, Привет, שלום", "naïve Zoë, 東京, Привет, שלום"),
        ("a\nb\tc", "a[↵]\nb[⇥]\tc"),
        ("a\u202eb", "a[U+202E]b"),
        ("a\u2066b\u2069", "a[U+2066]b[U+2069]"),
        ("a\u200bb", "a[U+200B]b"),
        ("a\u200db", "a[U+200D]b"),
        ("\ufeffa", "[U+FEFF]a"),
        ("a\u00adb", "a[U+00AD]b"),
        ("a\x00b", "a[U+0000]b"),
        ("a\x1b[2Jb", "a[U+001B][2Jb"),
        ("a\rb", "a[U+000D]b"),
        ("a\u2028b", "a[U+2028]b"),
        ("a\u00a0b", "a[U+00A0]b"),
        ("a\u3000b", "a[U+3000]b"),
        ("a\u3164b", "a[U+3164]b"),
        ("a\u2800b", "a[U+2800]b"),
        ("a\U000e0064b", "a[U+E0064]b"),
        ("a\ufe0fb", "a[U+FE0F]b"),
        ("a\ue000b", "a[U+E000]b"),
        ("a\ud800b", "a[U+D800]b"),
        ("\u0301a", "[U+0301]a"),
        ("e\u0301", "e\u0301"),
        ("e\u0301\u0302\u0303", "e\u0301\u0302[U+0303]"),
        ("\u0430cme", "[U+0430]cme"),
        ("p\u0430y to \u043f\u0430\u0443", "p[U+0430]y to \u043f\u0430\u0443"),
        ("\uff21cme", "[U+FF21]cme"),
        ("[U+202E]", "[U+202E]"),
    ],
)
def test_what_cannot_be_seen_is_named(text: str, expected: str) -> None:
    assert plain(text) == expected


def test_a_named_character_is_told_apart_from_text_that_looks_like_its_name() -> None:
    assert segments("U+202E\u202e") == (Segment("U+202E", escaped=False), Segment("U+202E", escaped=True))


@given(st.text(max_size=60))
def test_nothing_is_dropped_joined_or_reordered(text: str) -> None:
    restored = ""
    for segment in segments(text):
        if segment.escaped and segment.text.startswith("U+"):
            restored += chr(int(segment.text[2:], 16))
        elif not segment.escaped:
            restored += segment.text

    assert restored == text


@given(st.text(max_size=60))
def test_nothing_invisible_is_left(text: str) -> None:
    left = "".join(segment.text for segment in segments(text) if not segment.escaped)

    assert not [char for char in left if unicodedata.category(char)[0] in "CZ" and char not in " \n\t"]


def test_a_long_word_of_two_alphabets_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or an agent's words would keep the pages busy."""
    asked: list[str] = []

    def counted(char: str) -> str:
        asked.append(char)
        return alphabet(char)

    alphabet = display._alphabet
    monkeypatch.setattr(display, "_alphabet", counted)
    text = CYRILLIC_A * 5000 + "a"
    assert plain(text) == "[U+0430]" * 5000 + "a"
    assert len(asked) <= 3 * len(text)
