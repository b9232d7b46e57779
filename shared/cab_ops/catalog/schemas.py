"""JSON Schemas of an OpenAPI document as parameters of the catalog. What a parameter cannot say is refused, with the reason."""

from __future__ import annotations

from typing import Any, Final

from cab.domain.configured.actions import MAX_INTEGER, MAX_TEXT
from cab.domain.configured.calls import placeholder
from cab.domain.text.invisible import without_invisible
from cab_ops.catalog.documents import Document, DocumentRefused, shown

MAX_DEPTH: Final = 12
_MAX_STRING: Final = 2000  # of parameters of type string
_MAX_ITEM: Final = 1024
_CHOICES: Final = ("oneOf", "anyOf")


class Unmapped(Exception):
    """Why this schema is no parameter: the end of a sentence."""


def merged(document: Document, schema: Any, depth: int = 0) -> dict[str, Any]:
    """The schema with references followed, `allOf` put together and the alternative `null` dropped. Raises: Unmapped."""
    if depth > MAX_DEPTH:
        raise Unmapped("is nested too deeply")
    found = document.resolved(schema)
    for word in _CHOICES:
        if word in found:
            given = [one for one in _list(found[word]) if document.resolved(one).get("type") != "null"]
            if len(given) != 1:
                raise Unmapped(f"may be one of several kinds ({word})")
            found = {name: value for name, value in found.items() if name != word} | merged(
                document, given[0], depth + 1
            )
    if "allOf" in found:
        whole = {name: value for name, value in found.items() if name != "allOf"}
        for part in _list(found["allOf"]):
            one = merged(document, part, depth + 1)
            properties = {**_dict(whole.get("properties")), **_dict(one.get("properties"))}
            required = [*_list(whole.get("required")), *_list(one.get("required"))]
            whole = {**one, **whole, "properties": properties, "required": required}
        found = whole
    return found


def kind_of(schema: dict[str, Any]) -> str | None:
    """The one type besides null that the schema names; an object where only its members say so. Raises: Unmapped."""
    given = schema.get("type")
    types = [one for one in (given if isinstance(given, list) else [given]) if one not in (None, "null")]
    if len(types) > 1:
        raise Unmapped("may be of several types")
    if types:
        return str(types[0])
    return "object" if schema.get("properties") else "string" if schema.get("enum") else None


def fixed_value(schema: dict[str, Any]) -> str | bool | int | None:
    """The only value that fits, None when there are others. Raises: Unmapped."""
    values = [schema["const"]] if "const" in schema else _list(schema.get("enum"))
    if len(values) != 1 or not isinstance(values[0], str | bool | int):
        return None
    if placeholder(values[0]) is not None:
        raise Unmapped("has a value that the catalog would take for a parameter")
    return values[0]


def parameter_of(document: Document, schema: dict[str, Any]) -> dict[str, Any]:
    """The catalog's parameter for a merged schema, without `required`. Raises: Unmapped."""
    match kind_of(schema):
        case "boolean":
            return {"type": "boolean"}
        case "integer":
            return {"type": "integer", **_bounds(schema)}
        case "string":
            return _string(schema)
        case "array":
            item = merged(document, schema.get("items", {}))
            if kind_of(item) != "string":
                raise Unmapped("is a list of something else than strings")
            most = min(_whole(schema.get("maxItems")) or 50, 50)
            longest = min(_whole(item.get("maxLength")) or 500, _MAX_ITEM)
            values = _values(item)
            bounds: dict[str, Any] = {"values": values} if values else {"max_length": longest}
            return {"type": "strings", "max_items": max(most, 1), **bounds}
        case "number":
            raise Unmapped("is a number with a fraction: parameters hold whole ones")
        case "object":
            raise Unmapped("is an object")
        case _:
            raise Unmapped("says no type")


def words(value: object, *, limit: int) -> str | None:
    """A vendor's words as text of the catalog: one line, visible characters, bounded. None when nothing is left."""
    return shown(without_invisible(value)[0], limit=limit) or None if isinstance(value, str) else None


def _string(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("format") in ("binary", "byte"):
        raise Unmapped("is binary")
    if values := _values(schema):
        return {"type": "string", "values": values}
    longest = _whole(schema.get("maxLength"))
    if longest is None:
        return {"type": "string"}
    if longest <= _MAX_STRING:
        return {"type": "string", "max_length": longest}
    return {"type": "text", "max_length": min(longest, MAX_TEXT)}


def _values(schema: dict[str, Any]) -> list[str]:
    values = [one for one in _list(schema.get("enum")) if one is not None]
    if not all(isinstance(one, str) for one in values):
        raise Unmapped("has allowed values that are not all strings")
    return values


def _bounds(schema: dict[str, Any]) -> dict[str, int]:
    if schema.get("enum"):
        raise Unmapped("is an integer with a list of allowed values")
    bounds = {}
    for name, ours, exclusive, step in (
        ("minimum", "minimum", "exclusiveMinimum", 1),
        ("maximum", "maximum", "exclusiveMaximum", -1),
    ):
        given, strict = schema.get(name), schema.get(exclusive)
        if isinstance(strict, int) and not isinstance(strict, bool):  # 3.1: the bound itself
            given = strict + step
        elif strict is True and isinstance(given, int):  # 3.0: a switch
            given += step
        if isinstance(given, int) and not isinstance(given, bool):
            bounds[ours] = max(-MAX_INTEGER, min(MAX_INTEGER, given))
    return bounds


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: object) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise DocumentRefused("the document has something else where an object belongs")
    return value or {}
