"""The contract of `Documents`: one suite, every adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any

import pytest

from cab.adapters.document_indexes import CompositeIndex
from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments
from cab.ports import AlreadyExists, Condition, Conflict, Create, Delete, Document, Documents, Replace, Tally
from cab_dev.fakes.documents import InMemoryDocuments

INDEXES = {CompositeIndex("people", frozenset({"team"}), "age", descending=False)}
NOON = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture(params=["memory", "embedded", pytest.param("official", marks=pytest.mark.emulators)])
async def documents(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, project: str
) -> AsyncIterator[Documents]:
    if request.param == "memory":
        yield InMemoryDocuments(indexes=INDEXES)
        return
    emulators = request.getfixturevalue(request.param)
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", emulators.address("firestore"))
    adapter = FirestoreDocuments(project, "guards", indexes=INDEXES)
    yield adapter
    await adapter.close()


async def read(documents: Documents, path: str) -> Document:
    document = await documents.read(path)
    assert document is not None
    return document


async def test_a_document_that_was_never_written_is_none(documents: Documents) -> None:
    assert await documents.read("things/none") is None


async def test_reads_at_once_each_find_their_own_document(documents: Documents) -> None:
    for number in range(5):
        await documents.write(Create(f"things/{number}", {"n": number}))
    asked = [3, "none", 0, 3, 4, "nothing", 1]
    found = await asyncio.gather(*(documents.read(f"things/{name}") for name in asked))
    assert [document and document.fields["n"] for document in found] == [3, None, 0, 3, 4, None, 1]


async def test_every_kind_of_value_comes_back_as_it_went(documents: Documents) -> None:
    fields: dict[str, Any] = {
        "none": None,
        "true": True,
        "false": False,
        "int": 7,
        "large": 2**63 - 1,
        "small": -(2**63),
        "float": 0.25,
        "text": "snow ☃ \u0000 end",
        "empty": "",
        "bytes": b"\x00\xff",
        "instant": NOON,
        "whole_second": NOON.replace(microsecond=0),
        "list": [1, "two", None, {"three": 3}],
        "dict": {"a": {"b": [True]}, "with.dot": 1},
        "empty_list": [],
        "empty_dict": {},
        "odd `name`.\\": 1,
    }
    await documents.write(Create("things/a", fields))
    document = await read(documents, "things/a")
    assert document.path == "things/a"
    assert document.fields == fields
    assert [type(document.fields[name]) for name in fields] == [type(value) for value in fields.values()]


async def test_instants_come_back_in_utc(documents: Documents) -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5)))
    await documents.write(Create("things/a", {"at": elsewhere}))
    fields = (await read(documents, "things/a")).fields
    assert fields["at"] == NOON
    assert fields["at"].utcoffset() == timedelta(0)


async def test_an_enum_member_is_stored_as_its_text(documents: Documents) -> None:
    class Colour(StrEnum):
        RED = "red"

    await documents.write(Create("things/a", {"colour": Colour.RED}))
    fields = (await read(documents, "things/a")).fields
    assert type(fields["colour"]) is str
    assert fields["colour"] == "red"


@pytest.mark.parametrize(
    "value",
    [{1}, (1,), object(), NOON.replace(tzinfo=None), [[1]], 2**63, {"deep": {2}}],
    ids=lambda value: type(value).__name__,
)
async def test_a_value_that_no_store_holds_is_refused_before_anything_is_written(
    documents: Documents, value: Any
) -> None:
    with pytest.raises((TypeError, ValueError)):
        await documents.write(Create("things/a", {"value": value}))
    assert await documents.read("things/a") is None


@pytest.mark.parametrize(
    "path", ["", "things", "things/", "/a", "things/a/b", "things/..", "things/__a__", "things/" + "x" * 1501]
)
async def test_a_path_is_one_collection_and_one_id(documents: Documents, path: str) -> None:
    with pytest.raises(ValueError, match="COLLECTION/ID"):
        await documents.read(path)
    with pytest.raises(ValueError, match="COLLECTION/ID"):
        await documents.write(Create(path, {}))


@pytest.mark.parametrize("document_id", ["__a", "a__", "_", "--"])
async def test_an_id_may_hold_what_a_digest_can(documents: Documents, document_id: str) -> None:
    """One digest in 4096 begins with two underscores; Firestore reserves only ids that also end so."""
    await documents.write(Create(f"things/{document_id}", {"n": 1}))
    assert (await read(documents, f"things/{document_id}")).fields == {"n": 1}


async def test_what_a_caller_does_to_its_fields_later_does_not_change_the_document(documents: Documents) -> None:
    fields = {"list": [1]}
    await documents.write(Create("things/a", fields))
    fields["list"].append(2)
    (await read(documents, "things/a")).fields["list"].append(3)
    assert (await read(documents, "things/a")).fields == {"list": [1]}


# --- create, replace, delete ---


async def test_create_refuses_when_a_document_is_there(documents: Documents) -> None:
    await documents.write(Create("things/a", {"n": 1}))
    with pytest.raises(AlreadyExists):
        await documents.write(Create("things/a", {"n": 2}))
    assert (await read(documents, "things/a")).fields == {"n": 1}


async def test_of_fifty_racing_creates_exactly_one_wins(documents: Documents) -> None:
    async def create(number: int) -> int | None:
        try:
            await documents.write(Create("marks/jti", {"winner": number}))
        except AlreadyExists:
            return None
        return number

    winners = [number for number in await asyncio.gather(*map(create, range(50))) if number is not None]
    assert len(winners) == 1
    assert (await read(documents, "marks/jti")).fields == {"winner": winners[0]}


async def test_expiry_is_stored_as_a_field(documents: Documents) -> None:
    await documents.write(Create("things/a", {"n": 1}, expires_at=NOON))
    document = await read(documents, "things/a")
    assert document.fields == {"n": 1, "expire_at": NOON}
    await documents.write(Replace("things/a", {"n": 2}, document.version, expires_at=NOON + timedelta(days=1)))
    assert (await read(documents, "things/a")).fields == {"n": 2, "expire_at": NOON + timedelta(days=1)}


async def test_replace_writes_all_fields_of_the_version_that_was_read(documents: Documents) -> None:
    await documents.write(Create("things/a", {"n": 1, "old": True}))
    document = await read(documents, "things/a")
    (version,) = await documents.write(Replace("things/a", {"n": 2}, document.version))
    replaced = await read(documents, "things/a")
    assert replaced.fields == {"n": 2}
    assert replaced.version == version != document.version


async def test_the_version_that_a_write_returns_serves_the_next_replace(documents: Documents) -> None:
    (version,) = await documents.write(Create("things/a", {"n": 1}))
    for number in range(2, 5):
        (version,) = await documents.write(Replace("things/a", {"n": number}, version))
    assert (await read(documents, "things/a")).fields == {"n": 4}


async def test_replace_of_an_older_version_conflicts(documents: Documents) -> None:
    (old,) = await documents.write(Create("things/a", {"n": 1}))
    await documents.write(Replace("things/a", {"n": 2}, old))
    with pytest.raises(Conflict):
        await documents.write(Replace("things/a", {"n": 3}, old))
    assert (await read(documents, "things/a")).fields == {"n": 2}


async def test_replace_of_a_document_that_is_gone_conflicts(documents: Documents) -> None:
    (version,) = await documents.write(Create("things/a", {"n": 1}))
    await documents.write(Delete("things/a"))
    with pytest.raises(Conflict):
        await documents.write(Replace("things/a", {"n": 2}, version))
    assert await documents.read("things/a") is None


async def test_replace_without_a_version_writes_all_fields_whatever_is_there(documents: Documents) -> None:
    for fields in ({"a": 1}, {"b": 2}):
        await documents.write(Replace("things/1", fields, version=None))
        read = await documents.read("things/1")
        assert read is not None
        assert read.fields == fields


async def test_a_document_comes_without_its_fields_while_it_is_the_version_that_the_caller_knows(
    documents: Documents,
) -> None:
    (version,) = await documents.write(Create("things/a", {"n": 1}))
    assert await documents.read("things/a", known=version) == Document("things/a", {}, version)
    (changed,) = await documents.write(Replace("things/a", {"n": 2}, version))
    assert await documents.read("things/a", known=version) == Document("things/a", {"n": 2}, changed)
    await documents.write(Delete("things/a"))
    assert await documents.read("things/a", known=changed) is None


async def test_of_reads_at_once_each_knows_what_its_own_caller_knows(documents: Documents) -> None:
    (version,) = await documents.write(Create("things/a", {"n": 1}))
    asked = [version, None, version]
    found = await asyncio.gather(*(documents.read("things/a", known=known) for known in asked))
    assert [document and document.fields for document in found] == [{}, {"n": 1}, {}]


async def test_a_document_made_anew_is_another_version(documents: Documents) -> None:
    (version,) = await documents.write(Create("things/a", {"n": 1}))
    await documents.write(Delete("things/a"))
    await documents.write(Create("things/a", {"n": 1}))
    with pytest.raises(Conflict):
        await documents.write(Replace("things/a", {"n": 2}, version))


async def test_of_twenty_racing_replaces_of_one_version_exactly_one_wins(documents: Documents) -> None:
    (version,) = await documents.write(Create("leases/a", {"holder": None}))

    async def acquire(number: int) -> bool:
        try:
            await documents.write(Replace("leases/a", {"holder": number}, version))
        except Conflict:
            return False
        return True

    assert sum(await asyncio.gather(*map(acquire, range(20)))) == 1


async def test_delete_of_the_version_that_was_read(documents: Documents) -> None:
    (old,) = await documents.write(Create("things/a", {"n": 1}))
    (new,) = await documents.write(Replace("things/a", {"n": 2}, old))
    with pytest.raises(Conflict):
        await documents.write(Delete("things/a", old))
    await documents.write(Delete("things/a", new))
    assert await documents.read("things/a") is None
    with pytest.raises(Conflict):
        await documents.write(Delete("things/a", new))


async def test_delete_without_a_version_is_idempotent(documents: Documents) -> None:
    await documents.write(Create("things/a", {}))
    await documents.write(Delete("things/a"))
    await documents.write(Delete("things/a"))
    assert await documents.read("things/a") is None


async def test_several_writes_are_all_done(documents: Documents) -> None:
    (version,) = await documents.write(Create("grants/a", {"n": 1}))
    versions = await documents.write(
        Replace("grants/a", {"n": 2}, version), Create("outbox/1", {"event": "x"}), Delete("outbox/0")
    )
    assert len(versions) == 3
    assert (await read(documents, "grants/a")).version == versions[0]
    assert (await read(documents, "outbox/1")).version == versions[1]


async def test_when_one_write_fails_nothing_is_written(documents: Documents) -> None:
    (stale,) = await documents.write(Create("grants/a", {"n": 1}))
    await documents.write(Replace("grants/a", {"n": 2}, stale))
    with pytest.raises(Conflict):
        await documents.write(Create("outbox/1", {}), Replace("grants/a", {"n": 3}, stale))
    with pytest.raises(AlreadyExists):
        await documents.write(Create("outbox/1", {}), Create("grants/a", {"n": 4}))
    assert await documents.read("outbox/1") is None
    assert (await read(documents, "grants/a")).fields == {"n": 2}


async def test_one_call_writes_a_document_at_most_once(documents: Documents) -> None:
    with pytest.raises(ValueError, match="at most once"):
        await documents.write(Create("things/a", {}), Delete("things/a"))


async def test_a_replace_that_changes_nothing_may_keep_the_version_and_never_fails(documents: Documents) -> None:
    (version,) = await documents.write(Create("things/a", {"n": 1}))
    (same_or_new,) = await documents.write(Replace("things/a", {"n": 1}, version))
    assert (await read(documents, "things/a")).version == same_or_new


# --- tally ---


async def test_tally_starts_from_nothing(documents: Documents) -> None:
    values = await documents.tally(Tally("counts/a", add={"n": 3, "m": 1}, at_most={"first": 50}, expires_at=NOON))
    assert values == {"n": 3, "m": 1, "first": 50}
    assert (await read(documents, "counts/a")).fields == {"n": 3, "m": 1, "first": 50, "expire_at": NOON}


async def test_tally_adds_and_lowers_and_keeps_the_other_fields(documents: Documents) -> None:
    await documents.write(Create("counts/a", {"n": 3, "first": 50, "other": "stays", "text": "no number"}))
    assert await documents.tally(Tally("counts/a", add={"n": -1, "text": 2}, at_most={"first": 60})) == {
        "n": 2,
        "text": 2,
        "first": 50,
    }
    assert await documents.tally(Tally("counts/a", at_most={"first": 40})) == {"first": 40}
    assert (await read(documents, "counts/a")).fields == {"n": 2, "first": 40, "other": "stays", "text": 2}


async def test_tally_takes_field_names_of_any_characters(documents: Documents) -> None:
    names = ["crm.opportunity.update", "with `tick`", "back\\slash", "0", "a b"]
    assert await documents.tally(Tally("counts/a", add=dict.fromkeys(names, 1))) == dict.fromkeys(names, 1)
    assert (await read(documents, "counts/a")).fields == dict.fromkeys(names, 1)


async def test_two_hundred_concurrent_tallies_see_distinct_sums(documents: Documents) -> None:
    async def count() -> int:
        return (await documents.tally(Tally("counts/a", add={"n": 1})))["n"]

    sums = await asyncio.gather(*(count() for _ in range(200)))
    assert sorted(sums) == list(range(1, 201))


async def test_tally_changes_the_version(documents: Documents) -> None:
    (version,) = await documents.write(Create("counts/a", {"n": 1}))
    await documents.tally(Tally("counts/a", add={"n": 1}))
    with pytest.raises(Conflict):
        await documents.write(Replace("counts/a", {"n": 9}, version))


# --- find ---


async def people(documents: Documents) -> None:
    await documents.write(
        Create("people/a", {"team": "x", "age": 30, "tags": ["red"]}),
        Create("people/b", {"team": "x", "age": 20, "tags": ["red", "blue"]}),
        Create("people/c", {"team": "y", "age": 20, "tags": []}),
        Create("people/d", {"team": "x", "age": 20.0}),
        Create("people/e", {"team": "x", "age": "20"}),
        Create("people/f", {"team": None, "age": True}),
        Create("other/a", {"team": "x", "age": 20}),
    )


async def ids(documents: Documents, *conditions: Condition, **options: Any) -> str:
    found = await documents.find("people", *conditions, **options)
    return "".join(document.path.removeprefix("people/") for document in found)


async def test_find_without_conditions_gives_the_collection_by_id(documents: Documents) -> None:
    await people(documents)
    assert await ids(documents) == "abcdef"
    assert await documents.find("nothing") == []


async def test_found_documents_are_as_read(documents: Documents) -> None:
    await people(documents)
    (found,) = await documents.find("people", Condition("team", "==", "y"))
    assert found == await documents.read("people/c")


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([Condition("team", "==", "x")], "abde"),
        ([Condition("team", "==", None)], "f"),
        ([Condition("age", "==", 20)], "bcd"),
        ([Condition("age", "==", True)], "f"),
        ([Condition("tags", "array_contains", "red")], "ab"),
        ([Condition("tags", "array_contains", "green")], ""),
        ([Condition("team", "==", "x"), Condition("age", "==", 20)], "bd"),
        ([Condition("team", "==", "x"), Condition("age", ">", 20)], "a"),
        ([Condition("age", ">=", 20)], "bcda"),
        ([Condition("age", "<", 30), Condition("age", ">=", 20)], "bcd"),
        ([Condition("age", "<=", "20")], "e"),
        ([Condition("missing", "==", 1)], ""),
    ],
)
async def test_find_meets_all_conditions(documents: Documents, conditions: list[Condition], expected: str) -> None:
    await people(documents)
    assert await ids(documents, *conditions) == expected


async def test_find_orders_by_a_field_and_equal_values_by_id_in_the_same_direction(documents: Documents) -> None:
    await people(documents)
    assert await ids(documents, order_by="age") == "fbcdae"
    assert await ids(documents, order_by="age", descending=True) == "eadcbf"
    assert await ids(documents, order_by="tags") == "cab"


async def test_find_goes_on_after_a_document(documents: Documents) -> None:
    await people(documents)
    for options in ({}, {"order_by": "age"}, {"order_by": "age", "descending": True}):
        pages, after = "", None
        while page := await documents.find("people", limit=2, after=after, **options):
            pages += "".join(document.path.removeprefix("people/") for document in page)
            after = page[-1]
        assert pages == await ids(documents, **options)


async def test_find_goes_on_after_a_document_that_is_gone(documents: Documents) -> None:
    await people(documents)
    first, *_ = await documents.find("people", limit=1)
    await documents.write(Delete(first.path))
    assert await ids(documents, after=first) == "bcdef"


async def test_find_orders_and_ranges_by_one_field_only(documents: Documents) -> None:
    with pytest.raises(ValueError, match="one and the same field"):
        await documents.find("people", Condition("age", ">", 1), order_by="team")
    with pytest.raises(ValueError, match="names the field"):
        await documents.find("people", descending=True)
    with pytest.raises(ValueError, match="1 to 1000"):
        await documents.find("people", limit=0)


async def test_a_query_without_its_composite_index_is_refused_everywhere(documents: Documents) -> None:
    with pytest.raises(ValueError, match=r"firestore_indexes\.json"):
        await documents.find("people", Condition("team", "==", "x"), Condition("age", ">", 1), descending=True)
    with pytest.raises(ValueError, match=r"firestore_indexes\.json"):
        await documents.find("people", Condition("tags", "array_contains", "x"), order_by="age")


async def test_the_store_tells_its_own_time_which_moves_on(documents: Documents) -> None:
    before = datetime.now(UTC)
    first = await documents.server_time()
    second = await documents.server_time()
    after = datetime.now(UTC)
    slack = timedelta(seconds=1)
    assert before - slack <= first <= second <= after + slack
