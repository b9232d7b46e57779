"""Records: dataclasses whose members become JSON here, and columns of a table elsewhere. Making one checks nothing: what others
wrote is read with the types checked, by whoever reads it.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from functools import cache
from operator import itemgetter
from types import NoneType, UnionType
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic_core import SchemaSerializer, SchemaValidator, core_schema

from cab.values import immutable

_DESCRIPTION: Final = "description"
_WRITTEN_AS: Final[Mapping[Any, core_schema.CoreSchema]] = {
    str: core_schema.str_schema(),
    int: core_schema.int_schema(),
    float: core_schema.float_schema(),
    bool: core_schema.bool_schema(),
    datetime: core_schema.datetime_schema(),
}
_ANYTHING: Final = core_schema.any_schema()  # an enumeration's member, a literal


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
    written: dict[str, Any] = _writer(kind).to_python(record, mode="json", exclude_none=True)
    return written


@cache
def _writer(kind: Any) -> SchemaSerializer:
    """What `adapter` has for it comes with a reader, and took a tenth of the cold start of functions that read no records."""
    return SchemaSerializer(_written_as(kind))


def _written_as(annotation: Any) -> core_schema.CoreSchema:
    kind, is_list = unwrapped(annotation)
    if is_list:
        return core_schema.list_schema(_written_as(kind))
    if not is_dataclass(kind):
        return _WRITTEN_AS.get(kind, _ANYTHING)
    of_record: Any = kind
    written = [core_schema.dataclass_field(it.name, _written_as(it.annotation)) for it in members(of_record)]
    arguments = core_schema.dataclass_args_schema(of_record.__name__, written)
    return core_schema.dataclass_schema(of_record, arguments, [it["name"] for it in written], slots=True)


def unwrapped(annotation: Any) -> tuple[Any, bool]:
    """The type below `| None` and `list[...]`, and whether there was a list."""
    if isinstance(annotation, UnionType) or typing.get_origin(annotation) is typing.Union:
        (annotation,) = [choice for choice in typing.get_args(annotation) if choice is not NoneType]
        return unwrapped(annotation)
    if typing.get_origin(annotation) is list:
        (item,) = typing.get_args(annotation)
        return item, True
    return annotation, False


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
