"""JSON as signed things need it: UTF-8, no duplicate members, finite numbers, bounded depth. Anything else is one plain error."""

from __future__ import annotations

import codecs
import json
from typing import Any, Final, NoReturn

MAX_DEPTH = 20


class InvalidJson(ValueError):
    """The text is not strict JSON. The message never quotes it."""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidJson("a member stands twice")
    return members


def _not_finite(_: str) -> NoReturn:
    raise InvalidJson("a number is not finite")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise InvalidJson("a number is not finite")
    return number


def _too_deep(text: str) -> bool:
    """Whether brackets nest deeper than MAX_DEPTH, found before the parser recurses. Strings are skipped exactly."""
    depth = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif char in "]}":
            depth -= 1
    return False


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_not_finite, parse_float=_finite)


def loads(data: bytes | str) -> Any:
    """The parsed value. Raises InvalidJson for everything RFC 8259 leaves open and we do not want.

    A lone surrogate (`\\ud800`) is refused too: it cannot be encoded again, so it would fail later and elsewhere.
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
    except UnicodeDecodeError as error:
        raise InvalidJson("not UTF-8") from error
    # Brackets can nest only as deep as there are opening ones: most tokens skip the exact scan.
    if text.count("[") + text.count("{") > MAX_DEPTH and _too_deep(text):
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
    """An object that a server publishes. It may begin with a byte order mark, which RFC 8259 section 8.1 lets a reader ignore."""
    return load_object(body.removeprefix(codecs.BOM_UTF8))


def load_object(data: bytes | str) -> dict[str, Any]:
    value = loads(data)
    if not isinstance(value, dict):
        raise InvalidJson("not an object")
    return value
