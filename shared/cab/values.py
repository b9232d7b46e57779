"""Values: classes whose objects nobody changes once they are made. And their like whose objects do change.

Both are dataclasses, but what `dataclass` compiles for each class as it is imported was a tenth of a cold start. Here each of
those methods is compiled when it is called for the first time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast, dataclass_transform

_Class = TypeVar("_Class", bound=type)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def immutable(cls: _Class) -> _Class:
    """As `dataclass(frozen=True, slots=True)`: compared and hashed by what it holds. Changing it is refused by the type checker.

    Nothing refuses it at run time, because there freezing makes each member by a call of its own: an exchange makes thirty values
    with 160 members, and a twentieth of its instructions was that (docs/performance.md).
    """
    return _made(cls, is_hashed=True)


@dataclass_transform(field_specifiers=(field,))
def mutable(cls: _Class) -> _Class:
    """As `dataclass(slots=True)`: compared by what it holds, and not hashed."""
    return _made(cls, is_hashed=False)


def _made(cls: _Class, *, is_hashed: bool) -> _Class:
    cls.__doc__ = cls.__doc__ or cls.__name__  # or `dataclass` has `inspect` make one of a signature
    made = cast("_Class", dataclass(init=False, repr=False, eq=False, slots=True)(cls))
    for name in ("__init__", "__repr__", "__eq__", "__hash__"):
        if cls.__dict__.get(name) is None:  # `__hash__` is None in a class that has an `__eq__` of its own
            is_there = is_hashed or name != "__hash__"
            setattr(made, name, _compiled_at_first(made, name) if is_there else None)
    return made


def _compiled_at_first(cls: type, name: str) -> Callable[..., Any]:
    """A method that compiles the one which `dataclass` gives to the class, and leaves its place to it."""

    def first(self: Any, *args: Any, **named: Any) -> Any:
        class Whole(cls):  # type: ignore[misc]
            __slots__ = ()
            __doc__ = cls.__doc__  # for the reason that `_made` has

        dataclass(
            init=name == "__init__",
            repr=name == "__repr__",
            eq=name == "__eq__",
            unsafe_hash=name == "__hash__",
            match_args=False,
        )(Whole)
        method = Whole.__dict__[name]
        method.__qualname__ = f"{cls.__qualname__}.{name}"
        setattr(cls, name, method)
        return method(self, *args, **named)

    return first
