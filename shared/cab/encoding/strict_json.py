"""JSON as signed things need it: UTF-8, no duplicate members, finite numbers, bounded depth. Anything else is one plain error."""

from __future__ import annotations

import codecs
import json
import re
from typing import Any, Final, NoReturn

import orjson

from cab.encoding.packing import unpacked

MAX_DEPTH = 20
_MOST_UNPACKED: Final = 1_048_576


class InvalidJson(ValueError):
    """The text is not strict JSON. The message never quotes it."""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidJson("duplicate member")
    return members


def _not_finite(_: str) -> NoReturn:
    raise InvalidJson("a number is not finite")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise InvalidJson("a number is not finite")
    return number


# A whole string (or what is left of the text, when it does not end), so that brackets inside are not counted; or one bracket.
_NESTING: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)


def _too_deep(text: str, max_depth: int) -> bool:
    """Whether brackets nest deeper, found before the parser recurses."""
    depth = 0
    for found in _NESTING.finditer(text):
        mark = found[0]
        if mark in "[{":
            depth += 1
            if depth > max_depth:
                return True
        elif mark in "]}":
            depth -= 1
    return False


def _compact(data: bytes | str) -> Any:
    """The value of what is written as most programs write it, in a fifth of the time; None for everything else, which may be good, too.

    Who writes the value again and gets the very bytes has read no member twice, no number that is not finite or that others read
    otherwise, and no half character.
    """
    try:
        raw = data.encode() if isinstance(data, str) else data
        if raw.find(b'": ') >= 0:  # with spaces, nearly always: to be written otherwise
            return None
        value = orjson.loads(raw)
        return value if orjson.dumps(value) == raw else None
    except (ValueError, TypeError):
        return None


_NESTS: Final = (dict, list)


def _is_deeper(value: Any, most: int) -> bool:
    """Whether lists and objects nest deeper: level by level, each in one go."""
    level = [value] if isinstance(value, _NESTS) else []
    for _ in range(most):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, _NESTS)
        ]
        if not level:
            break
    return bool(level)


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_not_finite, parse_float=_finite)


def loads(data: bytes | str, *, max_depth: int = MAX_DEPTH) -> Any:
    """The parsed value. Raises InvalidJson for everything RFC 8259 leaves open and we do not want.

    A lone surrogate (`\\ud800`) is refused too: it cannot be encoded again, so it would fail later and elsewhere.
    """
    # Brackets can nest only as deep as there are opening ones: most tokens skip the exact looks.
    opening = data.count(b"[") + data.count(b"{") if isinstance(data, bytes) else data.count("[") + data.count("{")
    value = _compact(data)
    if value is not None:
        if opening > max_depth and _is_deeper(value, max_depth):
            raise InvalidJson("nested too deep")
        return value
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
    except UnicodeDecodeError as error:
        raise InvalidJson("not UTF-8") from error
    if opening > max_depth and _too_deep(text, max_depth):
        raise InvalidJson("nested too deep")
    try:
        value = _DECODER.decode(text)
    except InvalidJson:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidJson("not JSON") from error
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InvalidJson("a lone surrogate") from error
    return value


def load_document(body: bytes) -> dict[str, Any]:
    """An object that a server publishes. It may begin with a byte order mark, which RFC 8259 section 8.1 lets a reader ignore,
    and be compressed, as by a cache that does so for everybody. Raises: InvalidJson.
    """
    faults: list[InvalidJson] = []
    for data in unpacked(body, most=_MOST_UNPACKED):
        try:
            return load_object(data.removeprefix(codecs.BOM_UTF8))
        except InvalidJson as error:
            faults.append(error)
    raise faults[0]


def load_object(data: bytes | str) -> dict[str, Any]:
    value = loads(data)
    if not isinstance(value, dict):
        raise InvalidJson("not an object")
    return value
