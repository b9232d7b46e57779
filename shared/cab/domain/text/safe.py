"""Text of unknown origin, made safe to look at: what would be invisible, or would change how its neighbours look, is shown as
its code point. Nothing is dropped, joined or shortened, so that what a person agrees to is what will be done.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from typing import Final

from cab.values import immutable

MAX_MARKS: Final = 2  # combining marks on one letter; more of them paint over the lines around
_BLANK: Final = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufffc"
)  # letters and symbols that show nothing
_IGNORABLE: Final = (range(0x180B, 0x1810), range(0xFE00, 0xFE10), range(0xE0000, 0xE1000))  # variation selectors, tags
_SIGNS: Final = {"\n": "↵", "\t": "⇥"}
_LOOKALIKES: Final = frozenset(
    {"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU", "FULLWIDTH", "MATHEMATICAL"}
)


@immutable
class Segment:
    """A piece of shown text. `escaped` pieces stand for a character that was there and say so; the page marks them."""

    text: str
    escaped: bool


def segments(text: str) -> tuple[Segment, ...]:
    """The whole of `text` in order. Line breaks and tabs stay, with a visible sign before them."""
    found: list[Segment] = []
    for piece, escaped in _pieces(text):
        if found and not escaped and not found[-1].escaped:
            found[-1] = Segment(found[-1].text + piece, escaped=False)
        else:
            found.append(Segment(piece, escaped=escaped))
    return tuple(found)


def plain(text: str) -> str:
    """The same as one string, for places that take no markup."""
    return "".join(f"[{segment.text}]" if segment.escaped else segment.text for segment in segments(text))


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    marks = 0
    beside_latin = _beside_latin(text)
    for position, char in enumerate(text):
        marks = marks + 1 if unicodedata.category(char) in ("Mn", "Me") else 0
        if char in _SIGNS:
            yield _SIGNS[char], True
            yield char, False
        elif (
            _misleads(char)
            or marks > MAX_MARKS
            or (marks and position == 0)
            or (beside_latin[position] and _alphabet(char) in _LOOKALIKES)
        ):
            yield f"U+{ord(char):04X}", True
        else:
            yield char, False


def _misleads(char: str) -> bool:
    """Control, format (bidi, zero width), private, unassigned, surrogate; any space but the plain one; blanks."""
    if char == " " or "!" <= char <= "~":
        return False
    code = ord(char)
    return unicodedata.category(char)[0] in "CZ" or char in _BLANK or any(code in span for span in _IGNORABLE)


@lru_cache(maxsize=2048)
def _alphabet(char: str) -> str:
    """The first word of a letter's name: LATIN, CYRILLIC, ... Empty for what is no letter."""
    return unicodedata.name(char, "").partition(" ")[0] if char.isalpha() else ""


def _beside_latin(text: str) -> list[bool]:
    """For each character whether its word also has Latin letters: there an alphabet that imitates Latin misleads.

    Each character is looked at once: the text may be an agent's, and as long as it likes.
    """
    found: list[bool] = []
    for is_word, group in groupby(text, str.isalnum):
        word = list(group)
        found += [is_word and any(_alphabet(char) == "LATIN" for char in word)] * len(word)
    return found
