"""Records: dataclasses whose members become JSON here, and columns of a table elsewhere. Making one checks nothing: what others
wrote is read with the types checked, by whoever reads it.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from operator import itemgetter
from typing import Any, Final

import orjson
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
    written: dict[str, Any] = _without_none(orjson.loads(orjson.dumps(record, option=orjson.OPT_UTC_Z)))
    return written


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_none(member) if isinstance(member, dict | list) else member
            for name, member in value.items()
            if member is not None
        }
    return [_without_none(item) for item in value] if isinstance(value, list) else value


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """What reads records of a kind that others wrote. Made once it is needed."""
    return TypeAdapter(kind)


@cache
def loose_reader(kind: Any) -> SchemaValidator:
    """What reads JSON of a record as a dictionary, its members in the order of their names. A member that is not known is left out, and
    a value of another type converted: for who writes it again and compares. No text of one is kept for the next, only names.
    """
    return SchemaValidator(_loose(adapter(kind).core_schema), core_schema.CoreConfig(cache_strings="keys"))


def _loose(schema: Any) -> Any:
    """pydantic's schema of a dataclass, and of those within it, as that of a dictionary. Instants are the only values of types that
    JSON does not have.
    """
    if isinstance(schema, list):
        return [_loose(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "float":  # 5 stays 5, as RFC 8785 writes it
        return core_schema.union_schema([core_schema.int_schema(strict=True), schema], mode="left_to_right")
    if schema.get("type") == "enum":
        return core_schema.literal_schema([member.value for member in schema["members"]])
    if schema.get("type") != "dataclass":
        return {name: _loose(inner) for name, inner in schema.items()}
    members = {}
    for member in sorted(schema["schema"]["fields"], key=itemgetter("name")):
        inner = member["schema"]
        is_required = inner["type"] != "default"
        members[member["name"]] = core_schema.typed_dict_field(
            _loose(inner if is_required else inner["schema"]), required=is_required
        )
    return core_schema.typed_dict_schema(members, extra_behavior="ignore", ref=schema.get("ref"))
