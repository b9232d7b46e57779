"""Records: dataclasses whose members become JSON here, and columns of a table elsewhere. Making one checks nothing: what others
wrote is read with the types checked, by whoever reads it.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic_core import SchemaValidator, core_schema

from cab.values import immutable

_DESCRIPTION: Final = "description"


def described(text: str) -> Mapping[str, str]:
    """The metadata of a member that needs a word about it."""
    return {_DESCRIPTION: text}


@immutable
class RecordMember:
    """What is known of one member of a kind of record. `annotation` is its type, with `| None` and `list[...]`."""

    name: str
    annotation: Any
    is_required: bool
    description: str | None


@cache
def members(kind: type) -> tuple[RecordMember, ...]:
    """All members of a kind of record, in order."""
    types = typing.get_type_hints(kind)
    return tuple(
        RecordMember(
            it.name,
            types[it.name],
            it.default is MISSING and it.default_factory is MISSING,
            it.metadata.get(_DESCRIPTION),
        )
        for it in fields(kind)
    )


def as_json(record: Any) -> dict[str, Any]:
    """A record as JSON values, members that are None left out, instants as RFC 3339."""
    kind: Any = type(record)
    written: dict[str, Any] = adapter(kind).dump_python(record, mode="json", exclude_none=True)
    return written


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """What writes records of a kind, and reads what others wrote. Made once it is needed."""
    return TypeAdapter(kind)


@cache
def checker(kind: Any) -> SchemaValidator:
    """What checks the JSON of a record as `adapter` does, without making the record: for who goes on with the JSON."""
    return SchemaValidator(_as_dictionary(adapter(kind).core_schema))


def _as_dictionary(schema: Any) -> Any:
    """pydantic's schema of a dataclass, and of those within it, as that of a dictionary with the same members."""
    if isinstance(schema, list):
        return [_as_dictionary(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") != "dataclass":
        return {name: _as_dictionary(inner) for name, inner in schema.items()}
    members = {}
    for member in schema["schema"]["fields"]:
        inner = member["schema"]
        is_required = inner["type"] != "default"
        members[member["name"]] = core_schema.typed_dict_field(
            _as_dictionary(inner if is_required else inner["schema"]), required=is_required
        )
    return core_schema.typed_dict_schema(members, config=schema["config"], ref=schema.get("ref"))
