"""JSON Schemas of an OpenAPI document as parameters of the catalog. What a parameter cannot say is refused, with the reason."""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import ValidationError

from cab.domain.configured.actions import MAX_INTEGER, MAX_TEXT, Parameter
from cab.domain.configured.calls import placeholder
from cab.domain.text.invisible import without_invisible
from cab_ops.catalog.documents import Document, as_list, as_object, shown

MAX_DEPTH: Final = 12
_MAX_STRING: Final = 2000  # of parameters of type string
_MAX_ITEM: Final = 1024
_CHOICES: Final = ("oneOf", "anyOf")


class Unmapped(Exception):
    """Why this schema is no parameter: the end of a sentence."""


def merged(document: Document, schema: Any, depth: int = 0) -> dict[str, Any]:
    """The schema with references followed, `allOf` put together and the alternative `null` dropped.

    Raises: Unmapped; DocumentRefused.
    """
    if depth > MAX_DEPTH:
        raise Unmapped("is nested too deeply")
    if isinstance(schema, bool):  # JSON Schema 2020-12 section 4.3.2
        raise Unmapped("says no type" if schema else "may not be given")
    found = document.resolved(schema)
    parts = as_list(found.get("allOf"))
    if "$ref" in schema and document.reads_beside_references and len(schema) > 1:
        parts = [{name: value for name, value in schema.items() if name != "$ref"}, *parts]
    for word in _CHOICES:
        if word in found:
            given = [one for one in as_list(found[word]) if not _is_null(document, one)]
            if len(given) != 1:
                raise Unmapped(f"may be one of several kinds ({word})")
            parts = [*parts, given[0]]
    whole = {name: value for name, value in found.items() if name not in ("allOf", *_CHOICES)}
    for part in parts:
        whole = _both(whole, merged(document, part, depth + 1))
    return whole


def _is_null(document: Document, schema: Any) -> bool:
    return isinstance(schema, dict) and document.resolved(schema).get("type") == "null"


def _both(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """One schema for what fits both, as far as parameters can say it. Where words differ, the first one speaks."""
    whole = {**second, **first}
    ours, theirs = as_object(first.get("properties")), as_object(second.get("properties"))
    if ours or theirs:
        twice = {name: {"allOf": [ours[name], theirs[name]]} for name in ours if name in theirs}
        whole["properties"] = {**theirs, **ours, **twice}
    if required := [*as_list(first.get("required")), *as_list(second.get("required"))]:
        whole["required"] = required
    if isinstance(first.get("enum"), list) and isinstance(second.get("enum"), list):
        whole["enum"] = [one for one in first["enum"] if one in second["enum"]]
    for name in ("maxLength", "maxItems", "maximum", "minimum"):
        if (one := _integer(first.get(name))) is not None and (other := _integer(second.get(name))) is not None:
            whole[name] = max(one, other) if name == "minimum" else min(one, other)
    if second.get("readOnly") is True:
        whole["readOnly"] = True
    return whole


def kind_of(schema: dict[str, Any]) -> str | None:
    """The one type besides null that the schema names; an object where only its members say so. Raises: Unmapped."""
    given = schema.get("type")
    types = [one for one in (given if isinstance(given, list) else [given]) if one not in (None, "null")]
    if len(types) > 1:
        raise Unmapped("may be of several types")
    if types:
        return str(types[0])
    if schema.get("properties"):
        return "object"
    values = [one for one in as_list(schema.get("enum")) or [schema.get("const")] if one is not None]
    return "string" if values and all(isinstance(one, str) for one in values) else None


def fixed_value(schema: dict[str, Any]) -> str | bool | int | None:
    """The only value that fits, None when there are others. Raises: Unmapped."""
    values = [schema["const"]] if "const" in schema else as_list(schema.get("enum"))
    if len(values) != 1 or not isinstance(values[0], str | bool | int):
        return None
    if placeholder(values[0]) is not None:
        raise Unmapped("has a value that the catalog would take for a parameter")
    return values[0]


def parameter_of(document: Document, schema: dict[str, Any]) -> dict[str, Any]:
    """The catalog's parameter for a merged schema, without `required`. Raises: Unmapped."""
    found = _parameter_of(document, schema)
    try:
        parameter = Parameter.model_validate_json(json.dumps(found))
    except ValidationError as exc:
        raise Unmapped(f"does not fit the catalog: {exc.errors()[0]['msg']}") from None
    if parameter.minimum > parameter.maximum:
        raise Unmapped("has bounds that no integer is within")
    if any(parameter.problem([value] if parameter.type == "strings" else value) for value in parameter.values):
        raise Unmapped("has allowed values that a parameter cannot hold")
    return found


def _parameter_of(document: Document, schema: dict[str, Any]) -> dict[str, Any]:
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
            return {"type": "strings", "max_items": most, **bounds}
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
        most = max(map(len, values))
        return {"type": "string", "values": values, **({"max_length": most} if most > 500 else {})}
    longest = _whole(schema.get("maxLength"))
    if longest is None:
        return {"type": "string"}
    if longest <= _MAX_STRING:
        return {"type": "string", "max_length": longest}
    return {"type": "text", "max_length": min(longest, MAX_TEXT)}


def _values(schema: dict[str, Any]) -> list[str]:
    values = [one for one in as_list(schema.get("enum")) if one is not None]
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
        given, strict = _integer(schema.get(name)), _integer(schema.get(exclusive))
        if strict is not None:  # 3.1: the bound itself
            given = strict + step if given is None else (max if step > 0 else min)(given, strict + step)
        elif schema.get(exclusive) is True and given is not None:  # 3.0: a switch
            given += step
        if given is not None:
            bounds[ours] = max(-MAX_INTEGER, min(MAX_INTEGER, given))
    return bounds


def _integer(value: object) -> int | None:
    """A bound as a whole number: 1.0 is one (JSON Schema 2020-12 section 4.2.3)."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
