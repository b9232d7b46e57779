"""A dataclass as the fields of a document, and back. Written once for every repository but grants, which are pydantic models.

What a document does not have takes the member's default: an older revision wrote it. What the class does not know is left
out: a newer one did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Final, Protocol, TypeVar, get_args, get_origin, get_type_hints

import orjson


class DataclassInstance(Protocol):
    """Anything that `dataclass` has made."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


_Value = TypeVar("_Value", bound=DataclassInstance)

# For members that travel as JSON text: what was hashed must come back byte for byte, and names of others are not ours to index.
AS_TEXT: Final = {"as_text": True}


def to_fields(value: DataclassInstance) -> dict[str, Any]:
    found = {}
    for item in fields(value):
        member = getattr(value, item.name)
        found[item.name] = orjson.dumps(member).decode() if item.metadata.get("as_text") else _plain(member)
    return found


def from_fields(kind: type[_Value], stored: Mapping[str, Any]) -> _Value:
    """Raises: KeyError for a member that is missing and has no default."""
    given = {}
    for item in fields(kind):
        if item.name not in stored:
            if item.default is MISSING and item.default_factory is MISSING:
                raise KeyError(item.name)
            continue
        member = stored[item.name]
        as_text = item.metadata.get("as_text")
        given[item.name] = orjson.loads(member) if as_text else _typed(_hints(kind)[item.name], member)
    return kind(**given)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _plain(member: Any) -> Any:
    if is_dataclass(member) and not isinstance(member, type):
        return to_fields(member)
    if isinstance(member, tuple):
        return [_plain(item) for item in member]
    return member.value if isinstance(member, Enum) else member


def _typed(hint: Any, member: Any) -> Any:
    if isinstance(hint, UnionType):
        hint = None if member is None else next(kind for kind in get_args(hint) if kind is not NoneType)
    if get_origin(hint) is tuple:
        return tuple(_typed(get_args(hint)[0], item) for item in member)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(member)
    return from_fields(hint, member) if isinstance(hint, type) and is_dataclass(hint) else member
