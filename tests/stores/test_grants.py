"""The grant's document: its fields keep the names that they had when they were first written."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import pytest

from cab.domain.configured.connections import RotationClass
from cab.domain.grants import Grant, GrantStatus
from cab.ports import Condition, Create, Delete, Document
from cab.stores import grants as store
from cab.stores.grants import SHARD_FIELD, SHARDS, Grants, Spread, StoredGrant
from cab_dev.fakes.documents import InMemoryDocuments

NOON = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


def a_grant(name: str = "g") -> Grant:
    return Grant(
        grant_id=name,
        tenant="acme",
        subject="s",
        connection="crm",
        provider="p",
        provider_class=RotationClass.STRICT,
        secret_version=7,
        refresh_version=5,
        base_version=6,
        connected_at=NOON,
    )


async def test_a_document_has_the_field_names_of_the_first_release_and_no_others_for_versions() -> None:
    documents = InMemoryDocuments()
    await Grants(documents).create(a_grant())
    stored = await documents.read("grants/g")
    assert stored is not None
    versions = {name: value for name, value in stored.fields.items() if "ver" in name}
    assert versions == {"secret_ver": 7, "refresh_ver": 5, "base_ver": 6}


async def test_a_grant_that_has_not_changed_is_read_once_and_a_changed_one_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    documents = InMemoryDocuments()
    here, elsewhere = Grants(documents), Grants(documents)
    await elsewhere.create(a_grant())
    made: list[str] = []
    restored = store._restore

    def restore(document: Document) -> StoredGrant:
        made.append(document.path)
        return restored(document)

    monkeypatch.setattr(store, "_restore", restore)
    first, again = await here.read("g"), await here.read("g")
    assert first is not None
    assert again == first
    assert made == ["grants/g"]
    revoked = first.grant.model_copy(update={"status": GrantStatus.REVOKED})
    assert await elsewhere.replace(first, revoked) is not None
    changed = await here.read("g")
    assert changed is not None
    assert changed.grant.status is GrantStatus.REVOKED
    await documents.write(Delete("grants/g"))
    assert await here.read("g") is None


async def test_a_document_of_the_first_release_is_read_whole() -> None:
    documents = InMemoryDocuments()
    first = {
        "grant_id": "g",
        "tenant": "acme",
        "subject": "s",
        "connection": "crm",
        "provider": "p",
        "provider_class": "strict",
        "connected_at": NOON,
        "secret_ver": 7,
        "refresh_ver": 5,
        "base_ver": 6,
    }
    await documents.write(Create("grants/g", first))
    stored = await Grants(documents).read("g")
    assert stored is not None
    assert stored.grant == a_grant()


# --- due grants in shards ---

SECOND = timedelta(seconds=1)


class Asked(InMemoryDocuments):
    """Remembers by which fields grants were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.by: set[tuple[str, ...]] = set()

    async def find(self, collection: str, *conditions: Condition, **how: Any) -> list[Document]:
        self.by.add(tuple(condition.field for condition in conditions))
        return await super().find(collection, *conditions, **how)


async def as_before(documents: InMemoryDocuments, *grants: Grant) -> None:
    """As the last release writes them."""
    for grant in grants:
        await Grants(documents).create(grant)
        path = f"grants/{grant.grant_id}"
        stored = documents._documents[path]
        fields = {name: value for name, value in stored.fields.items() if name != SHARD_FIELD}
        documents._documents[path] = replace(stored, fields=fields)


def due_grants(number: int, *, of: str = SHARDS) -> list[Grant]:
    """The longest waiting last; of shard after shard."""
    names = [f"{of[index % len(of)]}-{index:04}" for index in range(number)]
    return [a_grant(name).model_copy(update={"due_at": NOON - index * SECOND}) for index, name in enumerate(names)]


def names(found: Iterable[StoredGrant]) -> list[str]:
    return [stored.grant.grant_id for stored in found]


async def test_once_grants_are_spread_they_are_asked_for_by_shard_and_all_are_found_once_the_longest_waiting_first() -> (
    None
):
    documents = Asked()
    grants = due_grants(700, of="Ax_")  # pages of each of the three
    await as_before(documents, *grants[:350])
    for grant in [*grants[350:], a_grant("later").model_copy(update={"due_at": NOON + SECOND}), a_grant("never")]:
        await Grants(documents).create(grant)
    assert await Grants(documents).spread() == Spread(written=350, left=0)
    documents.by.clear()
    pages = [names(page) async for page in Grants(documents).due_pages(NOON, size=500, limit=10_000)]
    assert sorted(chain.from_iterable(pages)) == sorted(grant.grant_id for grant in grants)
    assert pages[0] == [grant.grant_id for grant in reversed(grants[400:])]
    assert documents.by == {(SHARD_FIELD, "due_at")}, "else due_at would need an index of its own"
    assert names(await Grants(documents).due(NOON, limit=5)) == pages[0][:5]


async def test_before_and_after_grants_are_asked_for_together_by_one_query_and_one_read() -> None:
    documents = Asked()
    await as_before(documents, *due_grants(3))
    store = Grants(documents)
    before = dict(documents.calls)
    assert len(await store.due(NOON, limit=10)) == 3
    assert (documents.calls["find"] - before["find"], documents.calls["read"] - before["read"]) == (1, 1)
    await store.spread()
    await store.gather()
    documents.by.clear()
    assert len(await Grants(documents).due(NOON, limit=10)) == 3
    assert documents.by == {("due_at",)}


@pytest.mark.parametrize("status", [GrantStatus.REFRESHING, GrantStatus.RECOVERING, GrantStatus.REVOKING])
async def test_a_grant_that_somebody_works_on_is_left_and_until_then_all_are_asked_for_together(
    status: GrantStatus,
) -> None:
    documents = Asked()
    idle, busy = due_grants(2)
    await as_before(documents, idle, busy.model_copy(update={"status": status}))
    assert await Grants(documents).spread() == Spread(written=1, left=1)
    assert len(await Grants(documents).due(NOON, limit=10)) == 2
    stored = await Grants(documents).read(busy.grant_id)
    assert stored is not None
    await Grants(documents).replace(stored, busy)  # whoever worked on it is done
    assert await Grants(documents).spread() == Spread(written=0, left=0)
    assert len(await Grants(documents).due(NOON, limit=10)) == 2


async def test_spreading_loses_no_write_of_others() -> None:
    documents = InMemoryDocuments(delay_s=0.001)
    grants = due_grants(20)
    await as_before(documents, *grants)

    async def use(grant: Grant) -> None:
        store = Grants(documents)
        for _ in range(20):
            stored = await store.read(grant.grant_id)
            assert stored is not None
            if await store.replace(stored, grant.model_copy(update={"fail_count": 7})):
                return

    await asyncio.gather(Grants(documents).spread(), Grants(documents).spread(), *(use(grant) for grant in grants))
    found = await Grants(documents).due(NOON, limit=100)
    assert [stored.grant.fail_count for stored in found] == [7] * 20
