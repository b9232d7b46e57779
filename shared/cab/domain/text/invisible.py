"""Characters that nobody sees and a model reads: removed from what platforms say before it goes to an agent."""

from __future__ import annotations

import re
from typing import Final

# Control characters but tab and line breaks; soft hyphens, joiners, zero widths, bidirectional marks and overrides, fillers,
# variation selectors, interlinear and musical format characters, and the tag characters that spell whole sentences unseen.
_INVISIBLE: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffc\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)


def without_invisible(text: str) -> tuple[str, int]:
    """The text without them, and how many there were."""
    return _INVISIBLE.subn("", text)
