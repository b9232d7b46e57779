"""The same random documents, writes and queries on both Firestore emulators must give the same answers."""

from __future__ import annotations

import itertools
import math
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import pytest
from google.api_core.exceptions import GoogleAPICallError
from google.cloud import firestore
from google.cloud.firestore import And, Client, FieldFilter, Or
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gcp_emulators import Emulators

pytestmark = pytest.mark.emulators

FIELDS = ["a", "b", "m", "m.x", "m.y", "tags"]
collections = (f"c{number}" for number in itertools.count())

scalars = st.sampled_from(
    [
        None, True, False, 0, 1, -1, 2, 1.0, 0.5, -0.0, 2.5, 2**53 + 1, math.nan, math.inf, -math.inf,
        "", "a", "b", "ab", "é", "\uffee", "\U0001f600", b"", b"a", b"\xff",
        datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 0, 5, UTC),
        firestore.GeoPoint(1, 2), firestore.GeoPoint(1, -2),
    ]
)  # fmt: skip
maps = st.dictionaries(st.sampled_from(["x", "y"]), scalars, max_size=2)
values = scalars | maps | st.lists(scalars, max_size=2)
documents = st.fixed_dictionaries(
    {}, optional={"a": values, "b": values, "m": values, "tags": st.lists(scalars, max_size=3)}
)


def is_searchable(value: Any) -> bool:
    """The client itself refuses to compare with null and NaN except for (in)equality."""
    return not (value is None or (isinstance(value, float) and math.isnan(value)))


comparisons = st.builds(
    FieldFilter,
    st.sampled_from(FIELDS),
    st.sampled_from(["==", "<", "<=", ">", ">=", "!=", "array_contains"]),
    values.filter(is_searchable),
)
null_checks = st.builds(
    FieldFilter, st.sampled_from(FIELDS), st.sampled_from(["==", "!="]), st.sampled_from([None, math.nan])
)
memberships = st.builds(
    FieldFilter,
    st.sampled_from(FIELDS),
    st.sampled_from(["in", "not-in", "array_contains_any"]),
    st.lists(scalars, min_size=1, max_size=3),
)
filters = st.recursive(
    comparisons | null_checks | memberships,
    lambda inner: st.builds(
        lambda kind, parts: kind(parts), st.sampled_from([And, Or]), st.lists(inner, min_size=1, max_size=2)
    ),
    max_leaves=4,
)


@dataclass
class Query:
    """A query as data, so that it can be built for each client and shown when the answers differ."""

    filters: list[Any] = field(default_factory=list)
    orders: list[tuple[str, str]] = field(default_factory=list)
    cursor: str | None = None
    bounds: list[Any] = field(default_factory=list)
    limit: int | None = None
    offset: int = 0

    def run(self, collection: Any) -> list[str]:
        query = collection
        for condition in self.filters:
            query = query.where(filter=condition)
        for path, direction in self.orders:
            query = query.order_by(path, direction=direction)
        if self.cursor is not None and self.orders:
            query = getattr(query, self.cursor)(self.bounds[: len(self.orders)])
        if self.limit is not None:
            query = query.limit(self.limit)
        return [snapshot.id for snapshot in query.offset(self.offset).get()]


queries = st.builds(
    Query,
    filters=st.lists(filters, max_size=2),
    orders=st.lists(
        st.tuples(st.sampled_from(FIELDS), st.sampled_from(["ASCENDING", "DESCENDING"])),
        max_size=2,
        unique_by=lambda order: order[0],
    ),
    cursor=st.none() | st.sampled_from(["start_at", "start_after", "end_at", "end_before"]),
    bounds=st.lists(values, min_size=2, max_size=2),
    limit=st.none() | st.integers(1, 4),
    offset=st.integers(0, 2),
)

operands = st.sampled_from([0, 1, -1, 2.5, -0.0, 2**62, -(2**62), math.inf])
transforms = st.one_of(
    st.builds(firestore.Increment, operands),
    st.builds(firestore.Maximum, operands),
    st.builds(firestore.Minimum, operands),
    st.builds(firestore.ArrayUnion, st.lists(scalars, min_size=1, max_size=2)),
    st.builds(firestore.ArrayRemove, st.lists(scalars, min_size=1, max_size=2)),
)
changes = st.dictionaries(
    st.sampled_from(["a", "b", "m.x", "tags", "new.deep"]),
    transforms | values | st.just(firestore.DELETE_FIELD),
    min_size=1,
    max_size=2,
)


@pytest.fixture(scope="module")
def pair(embedded: Emulators, official: Emulators) -> Iterator[tuple[Client, Client]]:
    """A client of each kind, with a project of its own."""
    clients = []
    for emulators in (embedded, official):
        with patch.dict(os.environ, {"FIRESTORE_EMULATOR_HOST": emulators.address("firestore")}):
            clients.append(Client(project=f"test-{uuid.uuid4().hex[:12]}", database="grants"))
    yield clients[0], clients[1]
    for client in clients:
        client.close()


def outcome(work: Any) -> Any:
    """What came of it: an answer in a form that compares NaN equal, or the kind of error."""
    try:
        return plain(work())
    except GoogleAPICallError as error:
        return type(error).__name__


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return repr(value)


def stored(client: Client, collection: str, contents: list[dict[str, Any]]) -> Any:
    for number, content in enumerate(contents):
        client.collection(collection).document(f"d{number}").set(content)
    return client.collection(collection)


unhurried = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@unhurried
@given(contents=st.lists(documents, max_size=6), asked=st.lists(queries, min_size=1, max_size=5))
def test_queries_find_the_same_documents_in_the_same_order(
    pair: tuple[Client, Client], contents: list[dict[str, Any]], asked: list[Query]
) -> None:
    name = next(collections)
    ours, theirs = (stored(client, name, contents) for client in pair)
    for query in asked:
        assert outcome(lambda query=query: query.run(ours)) == outcome(lambda query=query: query.run(theirs))


@unhurried
@given(content=documents, sequence=st.lists(changes, min_size=1, max_size=5))
def test_updates_leave_the_same_document_and_give_the_same_results(
    pair: tuple[Client, Client], content: dict[str, Any], sequence: list[dict[str, Any]]
) -> None:
    name = next(collections)
    ours, theirs = (stored(client, name, [content]).document("d0") for client in pair)

    def apply(document: Any, change: dict[str, Any]) -> Any:
        result = document.update(change)
        snapshot = document.get()
        is_current = result.update_time == snapshot.update_time
        return snapshot.to_dict(), [repr(value) for value in result.transform_results], is_current

    for change in sequence:
        assert outcome(lambda change=change: apply(ours, change)) == outcome(
            lambda change=change: apply(theirs, change)
        )
