"""A document gives back what was written, whichever revision wrote it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pytest

from cab.stores.fields import AS_TEXT, from_fields, to_fields

NOON = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


class State(StrEnum):
    NEW = "new"


@dataclass(frozen=True, slots=True)
class Inner:
    name: str
    state: State


@dataclass(frozen=True, slots=True)
class Outer:
    at: datetime
    inner: Inner
    many: tuple[Inner, ...]
    words: tuple[str, ...]
    details: dict[str, Any] = field(metadata=AS_TEXT)
    since: str | None = None


WRITTEN = Outer(NOON, Inner("a", State.NEW), (Inner("b", State.NEW),), ("x", "y"), {"z": [1, {"a": None}]})


def test_a_value_comes_back_as_it_was() -> None:
    assert from_fields(Outer, to_fields(WRITTEN)) == WRITTEN


def test_fields_are_what_a_document_can_hold() -> None:
    assert to_fields(WRITTEN) == {
        "at": NOON,
        "inner": {"name": "a", "state": "new"},
        "many": [{"name": "b", "state": "new"}],
        "words": ["x", "y"],
        "details": '{"z":[1,{"a":null}]}',
        "since": None,
    }
    assert type(to_fields(WRITTEN)["inner"]["state"]) is str


def test_a_document_of_an_older_or_a_newer_revision_is_read() -> None:
    older = to_fields(WRITTEN)
    del older["since"]
    assert from_fields(Outer, older) == WRITTEN
    assert from_fields(Outer, to_fields(WRITTEN) | {"more": 1}) == WRITTEN


def test_a_member_that_was_always_written_must_be_there() -> None:
    stored = to_fields(WRITTEN)
    del stored["words"]
    with pytest.raises(KeyError, match="words"):
        from_fields(Outer, stored)
