"""Field paths and the order of Firestore values, which defines equality, range filters and sorting.

https://firebase.google.com/docs/firestore/manage-data/data-types#value_type_ordering
"""

from __future__ import annotations

import math
from typing import Any

from gcp_emulators.firestore.messages import Document, Value, new_value

NAME_FIELD = "__name__"  # the document's own name, as filters, orders and cursors address it

_TYPE_ORDER = {
    "null_value": 0,
    "boolean_value": 1,
    "integer_value": 3,
    "double_value": 3,
    "timestamp_value": 4,
    "string_value": 5,
    "bytes_value": 6,
    "reference_value": 7,
    "geo_point_value": 8,
    "array_value": 9,
    "map_value": 10,
}
_NAN_ORDER = 2  # NaN sorts before every other number and equals itself
NULL_KEY: tuple[Any, ...] = (0,)
NAN_KEY: tuple[Any, ...] = (_NAN_ORDER,)


def sort_key(value: Value) -> tuple[Any, ...]:
    """A tuple that compares as Firestore compares values; its first item is the rank of the type.

    Python compares strings by code point and integers with floats exactly, as Firestore does.
    """
    kind = value.WhichOneof("value_type")
    if kind is None or kind == "null_value":
        return NULL_KEY
    content = getattr(value, kind)
    if kind == "double_value" and math.isnan(content):
        return NAN_KEY
    if kind == "timestamp_value":
        content = content.seconds, content.nanos
    elif kind == "reference_value":
        content = tuple(content.split("/"))
    elif kind == "geo_point_value":
        content = content.latitude, content.longitude
    elif kind == "array_value":
        content = tuple(sort_key(item) for item in content.values)
    elif kind == "map_value":
        content = tuple((key, sort_key(content.fields[key])) for key in sorted(content.fields))
    return _TYPE_ORDER[kind], content


def number(value: Value | None) -> int | float | None:
    """The value as a number; None when it is missing or of another type."""
    kind = None if value is None else value.WhichOneof("value_type")
    if kind not in {"integer_value", "double_value"}:
        return None
    content: int | float = getattr(value, kind)
    return content


def null_value() -> Value:
    return new_value(null_value=0)


def number_value(content: float) -> Value:
    """An integer or double value. Integers are kept within 64 bits, as `increment` promises."""
    result = new_value()
    if isinstance(content, int):
        result.integer_value = max(-(2**63), min(2**63 - 1, content))
    else:
        result.double_value = content
    return result


def split_path(path: str) -> list[str]:
    """The segments of a field path. Segments may be quoted with backticks, within which `\\` escapes."""
    segments, current, quoted, escaped = [], "", False, False
    for character in path:
        if escaped:
            current, escaped = current + character, False
        elif quoted and character == "\\":
            escaped = True
        elif character == "`":
            quoted = not quoted
        elif character == "." and not quoted:
            segments.append(current)
            current = ""
        else:
            current += character
    return [*segments, current]


def get_field(document: Document, path: str) -> Value | None:
    """The value at a field path; None when the document has no such field."""
    if path == NAME_FIELD:
        name = new_value()
        name.reference_value = document.name
        return name
    fields = document.fields
    *parents, leaf = split_path(path)
    for segment in parents:
        if segment not in fields or fields[segment].WhichOneof("value_type") != "map_value":
            return None
        fields = fields[segment].map_value.fields
    return fields.get(leaf)


def set_field(document: Document, path: str, value: Value) -> None:
    """Set the value at a field path; whatever is not a map on the way becomes one."""
    fields = document.fields
    *parents, leaf = split_path(path)
    for segment in parents:
        if fields[segment].WhichOneof("value_type") != "map_value":
            fields[segment].map_value.SetInParent()
        fields = fields[segment].map_value.fields
    fields[leaf].CopyFrom(value)


def delete_field(document: Document, path: str) -> None:
    """Remove the value at a field path, if there is one."""
    fields = document.fields
    *parents, leaf = split_path(path)
    for segment in parents:
        if segment not in fields or fields[segment].WhichOneof("value_type") != "map_value":
            return
        fields = fields[segment].map_value.fields
    fields.pop(leaf, None)


def project(document: Document, paths: list[str]) -> Document:
    """A copy of the document with its name, times and only the given fields."""
    result = type(document)(name=document.name, create_time=document.create_time, update_time=document.update_time)
    for path in paths:
        value = None if path == NAME_FIELD else get_field(document, path)
        if value is not None:
            set_field(result, path, value)
    return result
