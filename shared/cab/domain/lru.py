"""Bounded memory: what a process remembers never grows beyond a number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


def remember(known: OrderedDict[_Key, _Value], key: _Key, value: _Value, *, most: int) -> None:
    """Put `value` at the end of `known`. Beyond `most`, what is first is forgotten: a reader that moves what it finds to the
    end keeps what was used last, one that does not keeps what was put last.
    """
    known[key] = value
    known.move_to_end(key)
    if len(known) > most:
        known.popitem(last=False)
