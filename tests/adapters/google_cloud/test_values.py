"""Firestore's JSON: what it may hold, exactly, and what is refused."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from cab.adapters.google_cloud.firestore.values import (
    read_instant,
    read_value,
    to_value,
)

PLAIN = (
    some.none()
    | some.booleans()
    | some.integers(-(2**63), 2**63 - 1)
    | some.floats(allow_nan=False)
    | some.text(some.characters(exclude_categories=["Cs"]))
    | some.binary()
    | some.datetimes(timezones=some.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])).filter(
        lambda value: 1 < value.year < 9999
    )
)
VALUES = some.recursive(
    PLAIN,
    lambda inner: (
        some.dictionaries(some.text(some.characters(exclude_categories=["Cs"]), max_size=3), inner, max_size=3)
        | some.lists(inner.filter(lambda item: not isinstance(item, list)), max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_a_value_comes_back_from_json_as_it_went(value: Any) -> None:
    back = read_value(orjson.loads(orjson.dumps(to_value(value), option=orjson.OPT_UTC_Z)))  # as `rest` writes it
    assert back == value
    assert type(back) is type(value)


def test_a_number_that_is_none_comes_back_too() -> None:
    assert math.isnan(read_value(orjson.loads(orjson.dumps(to_value(math.nan)))))


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("2026-11-21T12:00:00.123456789Z", 1_795_262_400_123_456_789),
        ("1969-12-31T23:59:59.999999999Z", -1),
    ],
)
def test_a_time_is_read_whatever_digits_it_leaves_out(text: str, nanoseconds: int) -> None:
    assert read_instant(text) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Z",
        "2026-11-21",
        "2026-11-21T12:00:00",
        "2026-11-21T12:00:00+00:00",
        "2026-11-21T12:00:00.1234567890Z",
        "2026-11-21T12:00:00.-1Z",
        "2026-11-21T12:00:00.1e3Z",
        "2026-13-21T12:00:00Z",
    ],
)
def test_what_is_no_time_in_utc_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read_instant(text)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, [[]], datetime(2026, 11, 21), object(), {"a": {1}}])  # noqa: DTZ001
def test_what_documents_do_not_hold_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        to_value(value)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"integerValue": "x"},
        {"bytesValue": "%"},
        {"vectorValue": []},
        {"stringValue": "a", "nullValue": None},
        None,
    ],
)
def test_what_is_no_value_is_refused(value: Any) -> None:
    with pytest.raises((LookupError, TypeError, ValueError, AttributeError)):
        read_value(value)
