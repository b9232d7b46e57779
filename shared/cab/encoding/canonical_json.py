"""The one form of a JSON value that is hashed (RFC 8785, JSON Canonicalization Scheme)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import orjson
import rfc8785

_SORTED: Final = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
_IN_ORDER: Final = orjson.OPT_UTC_Z | orjson.OPT_STRICT_INTEGER
# What orjson writes otherwise: 1.0 for 1, exponents elsewhere than the RFC, and names in the order of UTF-8 instead of UTF-16,
# which differs only for characters of four bytes. Text that looks like such a number is found too, and costs only time.
_WHOLE_FLOAT: Final = re.compile(rb"\.0(?:[,\]}]|\Z)")
_EXPONENT: Final = re.compile(rb"e(?<=[0-9]e)[-+]?[0-9]+(?:[,\]}]|\Z)")
_FOUR_BYTES: Final = re.compile(rb"[\xf0-\xf4]")


def canonical(value: Any, *, floats: Iterable[float] | None = None) -> bytes:
    """The canonical bytes of a JSON value, by orjson where it writes the same: in a tenth of the time. `floats` are all that
    are in the value, from who knows them; else the text is searched for them, which takes longer than writing it.

    Raises: rfc8785.CanonicalizationError for integers that not every JSON reader can hold (beyond 2^53), and for what is not
    JSON.
    """
    try:
        written = orjson.dumps(value, option=_SORTED)
    except orjson.JSONEncodeError:
        return rfc8785.dumps(value)
    is_plain = _are_plain(written) if floats is None else _are_all_plain(floats)
    return written if is_plain and (written.isascii() or not _FOUR_BYTES.search(written)) else rfc8785.dumps(value)


def canonical_in_order(value: Any, *, floats: Iterable[float]) -> bytes | None:
    """The same of a value whose members have ASCII names and stand in their order already, and with instants in it, which become
    text with a Z. None where orjson would not write the canonical form of one of its `floats`.

    Raises: orjson.JSONEncodeError, a TypeError, for other integers and for what is not JSON.
    """
    return orjson.dumps(value, option=_IN_ORDER) if _are_all_plain(floats) else None


def _are_plain(written: bytes) -> bool:
    return not (_WHOLE_FLOAT.search(written) or _EXPONENT.search(written))


def _are_all_plain(numbers: Iterable[float]) -> bool:
    for number in numbers:  # a call for each would cost as much again
        if isinstance(number, float) and not (0.001 <= number < 1e15 and not number.is_integer()):
            return False
    return True
