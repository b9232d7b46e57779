"""What the store layer relies on in Firestore, on the embedded and on the official emulator alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.api_core.exceptions import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    GoogleAPICallError,
    InvalidArgument,
    NotFound,
)
from google.cloud import firestore
from google.cloud.firestore import And, AsyncClient, Client, FieldFilter, Or

from gcp_emulators import Emulators

ClientFactory = Callable[[str], Client]


@pytest.fixture
def client_for(emulators: Emulators, project: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClientFactory]:
    """Clients for named databases of the test's own project."""
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", emulators.address("firestore"))
    clients = []

    def make(database: str) -> Client:
        clients.append(Client(project=project, database=database))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def db(client_for: ClientFactory) -> Client:
    return client_for("grants")


def ids(results: Any) -> list[str]:
    return [snapshot.id for snapshot in results]


def where(collection: Any, field: str, op: str, value: Any) -> Any:
    return collection.where(filter=FieldFilter(field, op, value))


# Single documents


def test_a_document_of_every_type_reads_back_as_written(db: Client) -> None:
    written = {
        "nothing": None,
        "yes": True,
        "count": 2**62,
        "share": 0.5,
        "at": datetime(2026, 11, 21, 8, 0, 0, 123456, UTC),
        "text": "grüezi",
        "raw": b"\x00\xff",
        "where": firestore.GeoPoint(47.0, 8.0),
        "other": db.document("grants/g2"),
        "items": [1, "two", {"three": 3}],
        "nested": {"a": {"b": 1}, "empty": {}},
    }
    db.document("grants/g1").set(written)
    assert db.document("grants/g1").get().to_dict() == written


def test_a_missing_document_does_not_exist(db: Client) -> None:
    assert not db.document("grants/none").get().exists


def test_the_snapshot_carries_the_time_of_the_write_as_its_version(db: Client) -> None:
    result = db.document("grants/g1").set({"n": 1})
    snapshot = db.document("grants/g1").get()
    assert snapshot.update_time == result.update_time
    assert snapshot.create_time == result.update_time


def test_a_later_write_keeps_the_create_time_and_moves_the_update_time(db: Client) -> None:
    created = db.document("grants/g1").set({"n": 1})
    updated = db.document("grants/g1").set({"n": 2})
    snapshot = db.document("grants/g1").get()
    assert snapshot.create_time == created.update_time
    assert snapshot.update_time == updated.update_time > created.update_time


def test_a_write_that_changes_nothing_keeps_the_version(db: Client) -> None:
    first = db.document("grants/g1").set({"n": 1})
    second = db.document("grants/g1").set({"n": 1})
    assert second.update_time == first.update_time
    assert db.document("grants/g1").get().update_time == first.update_time


def test_documents_are_found_and_missing_in_one_batch_read(db: Client) -> None:
    db.document("grants/g1").set({"n": 1})
    found = db.get_all([db.document("grants/g1"), db.document("grants/g2")])
    assert {snapshot.id: snapshot.exists for snapshot in found} == {"g1": True, "g2": False}


def test_a_read_with_a_mask_returns_only_those_fields(db: Client) -> None:
    db.document("grants/g1").set({"a": 1, "b": {"c": 2, "d": 3}})
    assert db.document("grants/g1").get(["b.c"]).to_dict() == {"b": {"c": 2}}


def test_a_document_over_one_mebibyte_is_refused(db: Client) -> None:
    with pytest.raises(InvalidArgument):
        db.document("grants/g1").set({"text": "x" * 1_048_577})


# Preconditions


def test_creating_an_existing_document_fails_with_already_exists(db: Client) -> None:
    db.document("grants/g1").create({"n": 1})
    with pytest.raises(AlreadyExists):
        db.document("grants/g1").create({"n": 2})
    assert db.document("grants/g1").get().to_dict() == {"n": 1}


def test_of_many_creators_exactly_one_wins(db: Client) -> None:
    def create(number: int) -> bool:
        try:
            db.document("leases/l1").create({"owner": number})
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(16))) == 1


def test_updating_a_missing_document_fails_with_not_found(db: Client) -> None:
    with pytest.raises(NotFound):
        db.document("grants/none").update({"n": 1})


def test_an_update_with_the_current_version_succeeds(db: Client) -> None:
    version = db.document("grants/g1").set({"n": 1}).update_time
    db.document("grants/g1").update({"n": 2}, option=db.write_option(last_update_time=version))
    assert db.document("grants/g1").get().to_dict() == {"n": 2}


def test_an_update_with_a_stale_version_fails_with_failed_precondition(db: Client) -> None:
    version = db.document("grants/g1").set({"n": 1}).update_time
    db.document("grants/g1").set({"n": 2})
    with pytest.raises(FailedPrecondition):
        db.document("grants/g1").update({"n": 3}, option=db.write_option(last_update_time=version))
    assert db.document("grants/g1").get().to_dict() == {"n": 2}


def test_an_update_of_a_deleted_document_with_its_old_version_fails(db: Client) -> None:
    version = db.document("grants/g1").set({"n": 1}).update_time
    db.document("grants/g1").delete()
    with pytest.raises(FailedPrecondition):
        db.document("grants/g1").update({"n": 3}, option=db.write_option(last_update_time=version))
    assert not db.document("grants/g1").get().exists


def test_a_delete_with_a_stale_version_fails_with_failed_precondition(db: Client) -> None:
    version = db.document("grants/g1").set({"n": 1}).update_time
    db.document("grants/g1").set({"n": 2})
    with pytest.raises(FailedPrecondition):
        db.document("grants/g1").delete(option=db.write_option(last_update_time=version))
    assert db.document("grants/g1").get().exists


def test_deleting_a_missing_document_succeeds_unless_it_must_exist(db: Client) -> None:
    db.document("grants/none").delete()
    with pytest.raises(NotFound):
        db.document("grants/none").delete(option=db.write_option(exists=True))


def test_a_compare_and_set_race_loses_no_update(db: Client) -> None:
    counter = db.document("counters/c1")
    counter.set({"n": 0})

    def add_one(_: int) -> None:
        while True:
            snapshot = counter.get()
            option = db.write_option(last_update_time=snapshot.update_time)
            try:
                counter.update({"n": snapshot.get("n") + 1}, option=option)
            except FailedPrecondition:
                continue
            return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add_one, range(20)))
    assert counter.get().to_dict() == {"n": 20}


# Field masks and transforms


def test_a_merge_keeps_the_other_fields(db: Client) -> None:
    db.document("grants/g1").set({"a": {"x": 1, "y": 2}, "b": 1})
    db.document("grants/g1").set({"a": {"x": 9}}, merge=True)
    assert db.document("grants/g1").get().to_dict() == {"a": {"x": 9, "y": 2}, "b": 1}


def test_a_set_without_merge_replaces_everything(db: Client) -> None:
    db.document("grants/g1").set({"a": 1, "b": 1})
    db.document("grants/g1").set({"a": 2})
    assert db.document("grants/g1").get().to_dict() == {"a": 2}


def test_an_update_by_path_changes_nested_fields_and_deletes(db: Client) -> None:
    db.document("grants/g1").set({"a": {"x": 1, "y": 2}, "b": 1, "odd": {"key.with.dots": 1}})
    odd = firestore.Client.field_path("odd", "key.with.dots")
    db.document("grants/g1").update({"a.x": 7, "b": firestore.DELETE_FIELD, "new.deep": True, odd: 2})
    assert db.document("grants/g1").get().to_dict() == {
        "a": {"x": 7, "y": 2},
        "odd": {"key.with.dots": 2},
        "new": {"deep": True},
    }


def test_an_increment_returns_the_new_value(db: Client) -> None:
    counter = db.document("limits/l1")
    first = counter.set({"n": firestore.Increment(1)}, merge=True)
    second = counter.set({"n": firestore.Increment(5)}, merge=True)
    assert [first.transform_results[0].integer_value, second.transform_results[0].integer_value] == [1, 6]
    assert counter.get().to_dict() == {"n": 6}


def test_concurrent_increments_return_every_value_once(db: Client) -> None:
    def count(_: int) -> int:
        result = db.document("limits/l1").set({"n": firestore.Increment(1)}, merge=True)
        return int(result.transform_results[0].integer_value)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(count, range(40))) == list(range(1, 41))


def test_an_increment_replaces_what_is_not_a_number(db: Client) -> None:
    db.document("limits/l1").set({"n": "text", "f": 1})
    db.document("limits/l1").update({"n": firestore.Increment(2), "f": firestore.Increment(0.5)})
    assert db.document("limits/l1").get().to_dict() == {"n": 2, "f": 1.5}


def test_maximum_and_minimum_keep_the_bound(db: Client) -> None:
    document = db.document("limits/l1")
    document.set({"high": 5, "low": 5})
    result = document.update({"high": firestore.Maximum(3), "low": firestore.Minimum(3)})
    assert document.get().to_dict() == {"high": 5, "low": 3}
    assert sorted(value.integer_value for value in result.transform_results) == [3, 5]
    document.update({"high": firestore.Maximum(8.5), "low": firestore.Minimum(4), "new": firestore.Maximum(1)})
    assert document.get().to_dict() == {"high": 8.5, "low": 3, "new": 1}


def test_the_maximum_and_minimum_with_nan_are_nan(db: Client) -> None:
    document = db.document("limits/l1")
    document.set({"high": math.nan, "low": 1})
    document.update({"high": firestore.Maximum(3), "low": firestore.Minimum(math.nan)})
    found = document.get().to_dict()
    assert found is not None
    assert all(math.isnan(value) for value in found.values())


def test_array_union_and_remove_work_on_elements(db: Client) -> None:
    document = db.document("grants/g1")
    document.set({"scopes": ["a", "b"]})
    document.update({"scopes": firestore.ArrayUnion(["b", "c"])})
    assert document.get().to_dict() == {"scopes": ["a", "b", "c"]}
    document.update({"scopes": firestore.ArrayRemove(["a", "z"]), "more": firestore.ArrayUnion([1])})
    assert document.get().to_dict() == {"scopes": ["b", "c"], "more": [1]}


def test_an_array_transform_has_null_for_a_result(db: Client) -> None:
    result = db.document("grants/g1").set({"scopes": firestore.ArrayUnion(["a"])}, merge=True)
    assert [value._pb.WhichOneof("value_type") for value in result.transform_results] == ["null_value"]


def test_the_server_timestamp_is_the_time_of_the_commit_in_milliseconds(db: Client) -> None:
    result = db.document("grants/g1").set({"at": firestore.SERVER_TIMESTAMP})
    at = db.document("grants/g1").get().get("at")
    assert abs(at - result.update_time) < timedelta(seconds=1)
    assert at.microsecond % 1000 == 0
    assert result.transform_results[0].timestamp_value == at


def test_the_server_timestamp_is_the_same_in_all_writes_of_a_batch(db: Client) -> None:
    batch = db.batch()
    batch.set(db.document("grants/g1"), {"at": firestore.SERVER_TIMESTAMP})
    batch.set(db.document("grants/g2"), {"at": firestore.SERVER_TIMESTAMP})
    batch.commit()
    assert db.document("grants/g1").get().get("at") == db.document("grants/g2").get().get("at")


# Batches


def test_a_batch_writes_everything_at_one_instant(db: Client) -> None:
    db.document("grants/old").set({"n": 1})
    batch = db.batch()
    batch.create(db.document("grants/g1"), {"n": 1})
    batch.set(db.document("grants/g2"), {"n": 2})
    batch.delete(db.document("grants/old"))
    results = batch.commit()
    assert len(results) == 3
    assert db.document("grants/g1").get().update_time == db.document("grants/g2").get().update_time
    assert not db.document("grants/old").get().exists


def test_a_failed_batch_writes_nothing(db: Client) -> None:
    db.document("grants/taken").set({"n": 1})
    batch = db.batch()
    batch.set(db.document("grants/g1"), {"n": 1})
    batch.create(db.document("grants/taken"), {"n": 2})
    with pytest.raises(AlreadyExists):
        batch.commit()
    assert not db.document("grants/g1").get().exists


def test_a_batch_with_a_stale_version_writes_nothing(db: Client) -> None:
    version = db.document("grants/g1").set({"n": 1}).update_time
    db.document("grants/g1").set({"n": 2})
    batch = db.batch()
    batch.create(db.document("outbox/o1"), {"n": 1})
    batch.update(db.document("grants/g1"), {"n": 3}, option=db.write_option(last_update_time=version))
    with pytest.raises(FailedPrecondition):
        batch.commit()
    assert not db.document("outbox/o1").get().exists


def test_the_bulk_writer_reports_each_failure_by_itself(db: Client) -> None:
    db.document("grants/taken").set({"n": 1})
    failures: list[tuple[str, int]] = []

    def note(failure: Any, _: Any) -> bool:
        failures.append((failure.operation.reference.id, failure.code))
        return False

    writer = db.bulk_writer()
    writer.on_write_error(note)
    writer.create(db.document("grants/taken"), {"n": 2})
    writer.create(db.document("grants/g1"), {"n": 1})
    writer.close()
    already_exists = 6
    assert failures == [("taken", already_exists)]
    assert db.document("grants/g1").get().to_dict() == {"n": 1}


# Queries


@pytest.fixture
def grants(db: Client) -> Any:
    collection = db.collection("grants")
    for name, status, age, tags in (
        ("a", "active", 10, ["x"]),
        ("b", "active", 30, ["x", "y"]),
        ("c", "revoked", 20, []),
        ("d", "active", 20, ["z"]),
    ):
        collection.document(name).set({"status": status, "age": age, "tags": tags, "at": {"seq": age}})
    collection.document("e").set({"status": None, "share": math.nan})
    return collection


def test_equality_filters_combine(grants: Any) -> None:
    both = where(where(grants, "status", "==", "active"), "age", "==", 20)
    assert ids(both.stream()) == ["d"]


def test_ranges_are_ordered_by_their_field_and_then_by_name(grants: Any) -> None:
    assert ids(where(grants, "age", ">=", 20).stream()) == ["c", "d", "b"]
    assert ids(where(where(grants, "age", ">", 10), "age", "<", 30).stream()) == ["c", "d"]
    assert ids(where(grants, "age", "<=", 10).stream()) == ["a"]


def test_a_range_on_a_nested_field_works(grants: Any) -> None:
    assert ids(where(grants, "at.seq", ">", 20).stream()) == ["b"]


def test_a_range_matches_values_of_its_own_type_only(grants: Any) -> None:
    assert ids(where(grants, "age", ">", "").stream()) == []
    assert ids(where(grants, "share", "<", 1).stream()) == []


def test_membership_filters(grants: Any) -> None:
    assert ids(where(grants, "age", "in", [10, 30]).stream()) == ["a", "b"]
    assert ids(where(grants, "age", "not-in", [10, 30]).stream()) == ["c", "d"]
    assert ids(where(grants, "age", "not-in", [10, None]).stream()) == []
    assert ids(where(grants, "tags", "array_contains", "x").stream()) == ["a", "b"]
    assert ids(where(grants, "tags", "array_contains_any", ["y", "z"]).stream()) == ["b", "d"]


def test_not_equal_skips_null_and_missing_fields(grants: Any) -> None:
    assert ids(where(grants, "status", "!=", "active").stream()) == ["c"]


def test_null_and_nan_are_found_by_equality(grants: Any) -> None:
    assert ids(where(grants, "status", "==", None).stream()) == ["e"]
    assert ids(where(grants, "share", "==", math.nan).stream()) == ["e"]
    assert ids(where(grants, "status", "!=", None).stream()) == ["a", "b", "d", "c"]


def test_or_and_and_filters_nest(grants: Any) -> None:
    either = Or([FieldFilter("status", "==", "revoked"), And([FieldFilter("age", ">", 20)])])
    assert sorted(ids(grants.where(filter=either).stream())) == ["b", "c"]


def test_an_order_leaves_out_documents_without_the_field(grants: Any) -> None:
    assert ids(grants.order_by("age").stream()) == ["a", "c", "d", "b"]
    assert ids(grants.order_by("age", direction=firestore.Query.DESCENDING).stream()) == ["b", "d", "c", "a"]


def test_limits_and_offset_cut_the_ordered_result(grants: Any) -> None:
    assert ids(grants.order_by("age").limit(2).stream()) == ["a", "c"]
    assert ids(grants.order_by("age").offset(1).limit(2).stream()) == ["c", "d"]
    assert ids(grants.order_by("age").limit_to_last(2).get()) == ["d", "b"]


def test_cursors_by_value_include_or_exclude_their_position(grants: Any) -> None:
    ordered = grants.order_by("age")
    assert ids(ordered.start_at({"age": 20}).stream()) == ["c", "d", "b"]
    assert ids(ordered.start_after({"age": 20}).stream()) == ["b"]
    assert ids(ordered.end_at({"age": 20}).stream()) == ["a", "c", "d"]
    assert ids(ordered.end_before({"age": 20}).stream()) == ["a"]


def test_a_cursor_at_a_snapshot_continues_between_equal_values(grants: Any) -> None:
    page = list(where(grants, "age", ">=", 10).order_by("age").limit(2).stream())
    rest = where(grants, "age", ">=", 10).order_by("age").start_after(page[-1]).stream()
    assert [ids(page), ids(rest)] == [["a", "c"], ["d", "b"]]


def test_documents_are_ordered_and_filtered_by_name(grants: Any, db: Client) -> None:
    assert ids(grants.order_by("__name__").start_after({"__name__": "c"}).stream()) == ["d", "e"]
    assert ids(where(grants, "__name__", ">", db.document("grants/d")).stream()) == ["e"]


def test_a_projection_returns_only_the_selected_fields(grants: Any) -> None:
    selected = where(grants, "age", "==", 10).select(["status", "at.seq"]).get()
    assert [snapshot.to_dict() for snapshot in selected] == [{"status": "active", "at": {"seq": 10}}]


def test_values_of_different_types_have_one_order(db: Client) -> None:
    values: list[Any] = [
        None, False, True, math.nan, -1, 0.5, 1, datetime(2026, 1, 1, tzinfo=UTC), "", "a", b"", b"a",
        db.document("grants/g1"), firestore.GeoPoint(1, 1), [], [1], {}, {"a": 1},
    ]  # fmt: skip
    for number, value in enumerate(values):
        db.document(f"mixed/{len(values) - number:02}").set({"v": value})
    names = ids(db.collection("mixed").order_by("v").stream())
    assert names == sorted(names, reverse=True)


def test_a_collection_group_spans_all_parents_but_not_other_collections(db: Client) -> None:
    for path in ("users/u1/tokens/t1", "users/u2/tokens/t2", "tokens/t3", "users/u1/tokens_old/t4"):
        db.document(path).set({"n": 1})
    assert sorted(ids(db.collection_group("tokens").stream())) == ["t1", "t2", "t3"]
    assert ids(db.collection("users/u1/tokens").stream()) == ["t1"]


def test_aggregations_count_sum_and_average(grants: Any) -> None:
    query = where(grants, "status", "==", "active")
    results = query.count("n").sum("age", "total").avg("age", "mean").get()
    assert {result.alias: result.value for result in results[0]} == {"n": 3, "total": 60, "mean": 20.0}


def test_an_aggregation_counts_only_documents_with_every_field_it_names(grants: Any) -> None:
    results = grants.count("n").sum("age", "total").get()
    assert {result.alias: result.value for result in results[0]} == {"n": 4, "total": 80}


@pytest.mark.parametrize(
    "filters",
    [
        [("status", "!=", "x"), ("age", "!=", 1)],
        [("status", "!=", "x"), ("age", "not-in", [1])],
        [("age", "not-in", [1]), ("status", "in", ["x", "y"])],
        [("tags", "array_contains", "x"), ("tags", "array_contains_any", ["y"])],
        [("age", "in", list(range(10))), ("status", "in", ["a", "b", "c", "d"])],
    ],
)
def test_filters_that_cannot_be_combined_are_refused(grants: Any, filters: list[tuple[str, str, Any]]) -> None:
    query = grants
    for field, op, value in filters:
        query = where(query, field, op, value)
    with pytest.raises(InvalidArgument):
        query.get()


def test_not_in_and_or_cannot_be_combined(grants: Any) -> None:
    either = Or([FieldFilter("status", "==", "x"), FieldFilter("age", "==", 1)])
    with pytest.raises(InvalidArgument):
        where(grants, "tags", "not-in", ["x"]).where(filter=either).get()


def test_collections_and_missing_parents_are_listed(db: Client) -> None:
    db.document("users/u1/tokens/t1").set({"n": 1})
    db.document("users/u2").set({"n": 1})
    assert [collection.id for collection in db.collections()] == ["users"]
    assert [collection.id for collection in db.document("users/u1").collections()] == ["tokens"]
    assert sorted(reference.id for reference in db.collection("users").list_documents()) == ["u1", "u2"]


# Databases


def test_named_databases_are_apart(client_for: ClientFactory) -> None:
    client_for("grants").document("c/d").set({"in": "grants"})
    assert not client_for("guards").document("c/d").get().exists
    client_for("guards").document("c/d").create({"in": "guards"})
    assert client_for("grants").document("c/d").get().to_dict() == {"in": "grants"}
    assert ids(client_for("guards").collection("c").stream()) == ["d"]
    assert ids(client_for("approvals").collection_group("c").stream()) == []


# Transactions


def test_transactions_on_different_documents_all_commit(db: Client) -> None:
    @firestore.transactional
    def move(transaction: Any, number: int) -> None:
        reference = db.document(f"counters/{number}")
        snapshot = reference.get(transaction=transaction)
        transaction.set(reference, {"n": (snapshot.get("n") if snapshot.exists else 0) + 1})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: move(db.transaction(), number), range(12)))
    assert [snapshot.get("n") for snapshot in db.collection("counters").stream()] == [1] * 12


def test_the_count_equals_the_transactions_that_succeeded(db: Client) -> None:
    counter = db.document("counters/c1")
    counter.set({"n": 0})

    @firestore.transactional
    def add_one(transaction: Any) -> None:
        transaction.update(counter, {"n": counter.get(transaction=transaction).get("n") + 1})

    def succeeds(_: int) -> bool:
        try:
            add_one(db.transaction(max_attempts=2))
        except (Aborted, ValueError):  # the client raises ValueError when its attempts are used up
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        succeeded = sum(pool.map(succeeds, range(4)))
    assert counter.get().to_dict() == {"n": succeeded}


def test_a_transaction_that_raises_writes_nothing(db: Client) -> None:
    @firestore.transactional
    def fail(transaction: Any) -> None:
        transaction.set(db.document("grants/g1"), {"n": 1})
        raise LookupError

    with pytest.raises(LookupError):
        fail(db.transaction())
    assert not db.document("grants/g1").get().exists


def test_a_transaction_applies_preconditions(db: Client) -> None:
    db.document("grants/g1").set({"n": 1})

    @firestore.transactional
    def create(transaction: Any) -> None:
        transaction.create(db.document("grants/g2"), {"n": 1})
        transaction.create(db.document("grants/g1"), {"n": 2})

    with pytest.raises(AlreadyExists):
        create(db.transaction())
    assert not db.document("grants/g2").get().exists


def test_a_query_runs_inside_a_transaction(db: Client) -> None:
    db.document("grants/g1").set({"status": "active"})

    @firestore.transactional
    def revoke_all(transaction: Any) -> int:
        found = list(where(db.collection("grants"), "status", "==", "active").stream(transaction=transaction))
        for snapshot in found:
            transaction.update(snapshot.reference, {"status": "revoked"})
        return len(found)

    assert [revoke_all(db.transaction()), revoke_all(db.transaction())] == [1, 0]


# The asynchronous client, which production uses


async def test_the_asynchronous_client_works_alike(
    emulators: Emulators, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", emulators.address("firestore"))
    db = AsyncClient(project=project, database="guards")
    document = db.document("guards/g1")
    result = await document.create({"n": firestore.Increment(3)})
    assert result.transform_results[0].integer_value == 3
    with pytest.raises(AlreadyExists):
        await document.create({"n": 1})
    snapshot = await document.get()
    batch = db.batch()
    batch.update(document, {"n": 4}, option=db.write_option(last_update_time=snapshot.update_time))
    batch.create(db.document("guards/g2"), {"n": 1})
    await batch.commit()
    with pytest.raises(FailedPrecondition):
        await document.update({"n": 5}, option=db.write_option(last_update_time=snapshot.update_time))
    found = db.collection("guards").where(filter=FieldFilter("n", ">=", 1)).order_by("n").limit(5)
    assert [s.id async for s in found.stream()] == ["g2", "g1"]
    assert (await db.collection("guards").count().get())[0][0].value == 2
    assert [s.exists async for s in db.get_all([document])] == [True]
    db.close()


@pytest.mark.parametrize("path", ["projects/p/databases/d/documents/odd", "nonsense"])
def test_a_name_that_is_no_document_is_refused(db: Client, path: str) -> None:
    with pytest.raises(GoogleAPICallError) as caught:
        db._firestore_api.commit(
            request={"database": db._database_string, "writes": [{"delete": path}]}, metadata=db._rpc_metadata
        )
    assert isinstance(caught.value, InvalidArgument)
