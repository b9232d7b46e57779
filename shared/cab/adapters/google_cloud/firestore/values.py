"""Python values to and from the JSON of Firestore's values: int64 as text, bytes as base64, instants to the microsecond.

What goes out holds instants in UTC as they are: `rest` writes them into the JSON, in a tenth of the time that it takes here.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from cab.ports import Fields

_INT64 = 2**63


def to_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A document's or map's `fields`. Raises: TypeError, ValueError for a value that `Documents` does not hold."""
    return {name: to_value(value) for name, value in fields.items()}


def to_value(value: Any) -> dict[str, Any]:
    """One `Value`."""
    if value is None:
        return {"nullValue": None}
    if isinstance(value, bool):  # before int, of which it is a subclass
        return {"booleanValue": value}
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, int):
        if not -_INT64 <= value < _INT64:
            raise ValueError("Documents hold integers of 64 bits.")
        return {"integerValue": str(int(value))}
    if isinstance(value, datetime):
        return {"timestampValue": _in_utc(value)}
    if isinstance(value, dict):
        return {"mapValue": {"fields": to_fields(value)}}
    if isinstance(value, list):
        return _to_list(value)
    if isinstance(value, bytes):
        return {"bytesValue": b64encode(value).decode()}
    if isinstance(value, float):
        return {"doubleValue": value if abs(value) < _INFINITE else _NOT_IN_JSON.get(value, "NaN")}
    raise TypeError(f"Documents do not hold values of type {type(value).__name__}.")


_INFINITE = float("inf")
_NOT_IN_JSON = {_INFINITE: "Infinity", -_INFINITE: "-Infinity"}


def _to_list(values: list[Any]) -> dict[str, Any]:
    if any(isinstance(item, list) for item in values):
        raise TypeError("Documents do not hold lists of lists.")
    return {"arrayValue": {"values": [to_value(item) for item in values]}}


def _in_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise TypeError("Documents hold instants, not datetimes without a zone.")
    return value.astimezone(UTC)


def read_fields(fields: Mapping[str, Any]) -> Fields:
    """A document's or map's `fields` as Python values. Raises: LookupError, TypeError, ValueError, AttributeError."""
    return {name: read_value(value) for name, value in fields.items()}


def read_value(value: Mapping[str, Any]) -> Any:
    """One `Value` as a Python value."""
    ((kind, content),) = value.items()
    return _READERS[kind](content)


def read_instant(text: str) -> datetime:
    """A timestamp, cut to microseconds. Raises: ValueError for anything but UTC to at most nine digits."""
    seconds, _, fraction = text[:-1].partition(".")
    if not text.endswith("Z") or len(fraction) > 9 or not (fraction.isdecimal() or not fraction):
        raise ValueError(text)
    return datetime.fromisoformat(f"{seconds}.{fraction:0<6.6}+00:00")


_READERS: dict[str, Callable[[Any], Any]] = {
    "nullValue": lambda _: None,
    "booleanValue": bool,
    "integerValue": int,
    "doubleValue": float,  # of the words for what JSON has no number for, too
    "timestampValue": read_instant,
    "stringValue": str,
    "bytesValue": lambda content: b64decode(content, validate=True),
    "arrayValue": lambda content: [read_value(item) for item in content.get("values", ())],
    "mapValue": lambda content: read_fields(content.get("fields", {})),
}
