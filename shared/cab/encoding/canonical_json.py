"""The one form of a JSON value that is hashed (RFC 8785, JSON Canonicalization Scheme)."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import orjson
import rfc8785

_AS_RFC_8785: Final = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER


def canonical(value: Any) -> bytes:
    """The canonical bytes of text, integers, booleans, null, and arrays and objects of them. Not for floats.

    orjson writes the same bytes in a twentieth of the time while all characters are ASCII; beyond, it sorts names by
    UTF-8 where the RFC wants UTF-16.
    Raises: rfc8785.CanonicalizationError for integers that not every JSON reader can hold (beyond 2^53).
    """
    with suppress(orjson.JSONEncodeError):
        written = orjson.dumps(value, option=_AS_RFC_8785)
        if written.isascii():
            return written
    return rfc8785.dumps(value)
