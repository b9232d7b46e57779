"""Events in the form in which ours are published: the short way reads what the long ways read and judge, and nothing else."""

from __future__ import annotations

import copy
import json
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.support.fuzz import fuzz

from cab.adapters.google_cloud.pubsub.audit_chain import AuditChain
from cab.domain import audit
from cab.domain.audit import AuditEvent, EventType, Latency, LoginFacts, Service, Subject, canonical_event
from cab.encoding import records, strict_json
from cab.encoding.canonical_json import canonical
from cab.encoding.records import members, unwrapped

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
TEXT = canonical(EVENT)


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


def judged_the_long_way(text: bytes) -> Any:
    """The event, where the text is strict JSON, what would be hashed is the text, and every type is right."""
    try:
        document = strict_json.load_object(text)
        audit.read(document)
        return document if canonical_event(document) == text else None
    except ValueError:
        return None


def as_json(event: dict[str, Any] | None) -> Any:
    return event if event is None else orjson.loads(orjson.dumps(event, option=orjson.OPT_UTC_Z))


def test_the_whole_event_is_one() -> None:
    assert not is_refused(audit.read, EVENT)
    assert as_json(audit.read_published(canonical(EVENT))) == EVENT


@pytest.mark.parametrize("document", [None, [], "x", 1, {}], ids=repr)
def test_what_is_no_event_at_all_is_refused(document: Any) -> None:
    assert is_refused(audit.read, document)
    assert audit.read_published(canonical(document)) is None


def test_the_short_way_takes_what_reading_takes_as_it_stands_and_nothing_else() -> None:
    refused = taken = 0
    for path in paths(EVENT):
        for document in changed(path):
            text = canonical(document)
            event = audit.read_published(text)
            if not is_refused(audit.read, document) and is_kept(document, records.as_json(audit.read(document))):
                assert as_json(event) == document, path
                taken += 1
            else:
                assert event is None, path
                refused += 1
    assert min(refused, taken) > 100


def is_kept(document: Any, read: Any) -> bool:
    """Whether no value was converted when the document was read."""
    if isinstance(document, dict):
        return all(value is None or is_kept(value, read[name]) for name, value in document.items())
    return canonical(document) == canonical(read)


def test_no_text_of_an_event_is_kept_for_the_next() -> None:
    """A reader that remembers short texts, to be faster, would hold what must not stay in memory."""
    text = canonical(EVENT | {"txn": "of one event"})
    first, second = audit.read_published(text), audit.read_published(text)
    assert first is not None
    assert second is not None
    assert first["txn"] is not second["txn"]


PLACE = st.integers(0, 4_000)
BITS = st.sampled_from(
    [b'"', b",", b":", b"{", b"}", b"[", b"]", b" ", b"0", b".", b"-", b"e5", b"null", b"true", b"\\", b"\\u0061", b'"a":1,', b"\xff", b"\xc3\xa9", b"Z", b"+00:00"]
) | st.binary(max_size=3)  # fmt: skip


@fuzz(2_000)
@given(start=PLACE, length=st.integers(0, 60), bits=st.lists(BITS, max_size=2))
def test_an_edited_text_is_read_the_short_way_only_if_the_long_ways_take_it(
    start: int, length: int, bits: list[bytes]
) -> None:
    text = TEXT[: start % len(TEXT)] + b"".join(bits) + TEXT[start % len(TEXT) + length :]
    event = audit.read_published(text)
    assert event is None or as_json(event) == judged_the_long_way(text)


@fuzz(500)
@given(start=PLACE, length=st.integers(0, 60), to=PLACE)
def test_a_text_with_a_piece_put_elsewhere_is_no_other(start: int, length: int, to: int) -> None:
    """Members repeated, or in another order."""
    text = TEXT[: to % len(TEXT)] + TEXT[start % len(TEXT) :][:length] + TEXT[to % len(TEXT) :]
    event = audit.read_published(text)
    assert event is None or as_json(event) == judged_the_long_way(text)


ANYTHING = st.text(st.characters(exclude_categories=["Cs"]))


@given(text=ANYTHING, groups=st.lists(ANYTHING), total=st.floats(0.001, 1e9), policy=st.integers(0, 10**6))
def test_what_is_sealed_is_read_the_short_way(text: str, groups: list[str], total: float, policy: int) -> None:
    event = AuditEvent(
        event_id="e",
        event_type=EventType.EXCHANGE_DECIDED,
        occurred_at=datetime(2026, 2, 28, 23, 59, 59, 10, UTC),
        subject=Subject(key=text, groups=groups),
        login=LoginFacts(auth_time=datetime(2024, 2, 29, tzinfo=UTC)),
        txn=text,
        latency_ms=Latency(total=total, policy=policy),
    )
    sealed = AuditChain("chain", Service(function="f", revision="r")).seal(event).data
    assert as_json(audit.read_published(sealed)) == json.loads(sealed) == judged_the_long_way(sealed)
