"""Types of an event's members: whoever only checks them says the same as whoever makes the event."""

from __future__ import annotations

import copy
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import pytest
from pydantic import ValidationError

from cab.adapters.google_cloud.bigquery.audit_schema import unwrapped
from cab.domain import audit
from cab.domain.audit import AuditEvent
from cab.encoding.records import members

SCALARS: dict[Any, Any] = {str: "x", int: 1, float: 1.5, bool: True, datetime: "2026-11-28T04:00:00.000001Z"}
OTHERS: list[Any] = [
    None, 0, 1.0, 1.5, -1, True, "x", "1", "true", "2026-11-28", "2026-11-28T04:00:00Z", [], [None], [1], ["x"], {}, {"x": 1}, [{}]
]  # fmt: skip
Path = tuple[str, ...]


def whole(kind: Any) -> Any:
    """JSON of a record of which every member is there."""
    document = {}
    for member in members(kind):
        inner, is_list = unwrapped(member.annotation)
        if typing.get_origin(inner) is typing.Literal:
            value = typing.get_args(inner)[0]
        elif isinstance(inner, type) and issubclass(inner, StrEnum):
            value = next(iter(inner)).value
        else:
            value = whole(inner) if is_dataclass(inner) else SCALARS[inner]
        document[member.name] = [value] if is_list else value
    return document


def paths(document: Any, path: Path = ()) -> Iterator[Path]:
    for name, value in document.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from paths(value, (*path, name))


EVENT = whole(AuditEvent)


def is_refused(judge: Any, document: Any) -> bool:
    try:
        judge(document)
    except ValidationError:
        return True
    return False


def changed(path: Path) -> Iterator[Any]:
    """The event with something else there, with nothing, and with a member more beside it."""
    for other in (*OTHERS, ...):
        document = copy.deepcopy(EVENT)
        around = document
        for name in path[:-1]:
            around = around[name]
        if other is ...:
            del around[path[-1]]
        else:
            around[path[-1]] = other
        yield document
        around["unknown"] = 1
        yield document


def test_the_whole_event_is_one() -> None:
    assert not is_refused(audit.read, EVENT)
    assert not is_refused(audit.check, EVENT)


@pytest.mark.parametrize("document", [None, [], "x", 1, {}], ids=repr)
def test_what_is_no_event_at_all_is_refused(document: Any) -> None:
    assert is_refused(audit.read, document)
    assert is_refused(audit.check, document)


def test_checking_an_event_refuses_what_reading_it_refuses_and_nothing_else() -> None:
    refused = taken = 0
    for path in paths(EVENT):
        for document in changed(path):
            expected = is_refused(audit.read, document)
            assert is_refused(audit.check, document) == expected, (path, document)
            refused, taken = refused + expected, taken + (not expected)
    assert min(refused, taken) > 100
