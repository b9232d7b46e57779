"""Values: classes whose objects nobody changes once they are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def immutable(cls: type[_Class]) -> type[_Class]:
    """As `dataclass(frozen=True, slots=True)`: compared and hashed by what it holds. Changing it is refused by the type checker.

    Nothing refuses it at run time, because there freezing makes each member by a call of its own: an exchange makes thirty values
    with 160 members, and a twentieth of its instructions was that (docs/performance.md).
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
