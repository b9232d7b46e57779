"""What each place where grants are kept takes to keep one going: the counts that `benchmarks.capacity` computes with."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from benchmarks.storage import DUE_AT_CHANGES, STORAGES, Kept
from tests.support.world import ACCOUNTS, REFRESH_GRANTS, World, intent

from cab.adapters.sealed_documents import DATA_KEY_SECRET
from cab.domain.grants import Grant
from cab.stores.grants import Grants, StoredGrant

LIST = intent("crm.deal.list", "deal/*")
MOVING = "\ngrant_storage: sealed_documents\ngrant_storage_before: secret_per_grant\n"


def identity(world: World, account: str) -> str:
    return world.google_token(REFRESH_GRANTS, email=f"{account}@{ACCOUNTS}")


NOTHING_DUE = Kept(
    reads=1, writes=0
)  # what a sweep takes that finds nothing: whether grants are spread, beside its query
UNUSED_S = 30 * 86_400


async def a_world(storage: str, scratch: Path, *, keepalive_s: int | None = None) -> World:
    def connections(text: str) -> str:
        kept = "" if keepalive_s is None else f"    keepalive_s: {keepalive_s}\n"
        title = "    title: Narrows tokens\n"
        return text.replace(title, title + kept)

    folder = World(scratch=scratch).write_policies(None, connections=connections)
    broker = folder / "broker.yaml"
    broker.write_text(broker.read_text("utf-8") + (MOVING if storage == "sealed_documents" else ""), "utf-8")
    world = World(folder, scratch=scratch)
    await world.cloud.vault.create(DATA_KEY_SECRET)
    await world.cloud.vault.add(DATA_KEY_SECRET, b"d" * 32)
    return world


async def connected(world: World, user: str, storage: str) -> str:
    name = await world.connect(user, "crm", "deal.read", "deal.write", "contact.read", "offline")
    if storage == "sealed_documents":
        moved = await world.call_service(
            "/grants/move", {"grant_ids": [name], "txn": "t"}, identity(world, "connect-account")
        )
        assert moved.json["came"] == {name: "moved"}
    return name


async def exchange(world: World, user: str) -> None:
    assert (await world.exchange(LIST, subject_token=await world.assertion(user=user))).status == 200


async def fresh(world: World) -> None:
    """Instances that have served somebody, and do not know the user's grant."""
    for name in ("exchange_token", "refresh_grants"):
        world.restart(name)
    await exchange(world, "bob")


def counted(world: World) -> dict[str, int]:
    stores, vault = world.cloud.documents.values(), world.cloud.vault.calls
    return {
        "reads": sum(store.calls["read"] + store.found for store in stores),
        "writes": sum(store.written for store in stores),
        "made": sum(store.made for store in stores),
        "accesses": vault.get("access", 0),
        "changes": vault.get("add", 0) + vault.get("destroy", 0),
    }


async def taken(world: World, work: Awaitable[Any]) -> Kept:
    before = counted(world)
    await work
    await asyncio.sleep(0.05)  # the event is taken off the grant after the answer
    return Kept(**{name: number - before[name] for name, number in counted(world).items()})


@pytest.mark.parametrize("storage", STORAGES)
async def test_the_model_counts_what_it_takes_to_keep_a_grant(storage: str, tmp_path: Path) -> None:
    world, said = await a_world(storage, tmp_path), STORAGES[storage]
    await connected(world, "bob", storage)
    await connected(world, "alice", storage)
    await exchange(world, "alice")
    plain = await taken(world, exchange(world, "alice"))

    await fresh(world)
    asked = await taken(world, exchange(world, "alice"))
    world.advance(3700)
    await fresh(world)
    renewed = await taken(world, exchange(world, "alice"))
    assert (asked - plain, renewed - plain) == (said.asked, said.renewed)


async def visit(world: World, name: str) -> None:
    push = {"message": {"data": b64encode(name.encode()).decode()}}
    assert (await world.call_service("/grants/due", push, identity(world, "pubsub-push"))).json["visited"]


async def swept_for(world: World, minutes: int) -> None:
    """The scheduler's call each minute, and the pushes that come of it."""
    for _ in range(minutes):
        before = len(world.cloud.publisher.published)
        assert (await world.call_service("/grants/sweep", {}, identity(world, "scheduler"))).status == 200
        for _, messages in world.cloud.publisher.published[before:]:
            for message in messages:
                await visit(world, message.data.decode())
        world.advance(60)


def changes_of_due_at(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Fills with what each write makes of a grant's `due_at`, where it was something else."""
    changes: list[Any] = []
    replace = Grants.replace

    async def noted(grants: Grants, stored: StoredGrant, grant: Grant) -> StoredGrant | None:
        if grant.due_at != stored.grant.due_at:
            changes.append(grant.due_at)
        return await replace(grants, stored, grant)

    monkeypatch.setattr(Grants, "replace", noted)
    return changes


@pytest.mark.parametrize("storage", STORAGES)
async def test_the_model_counts_the_visit_that_follows_each_renewal(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, said = await a_world(storage, tmp_path), STORAGES[storage]
    name = await connected(world, "alice", storage)
    await exchange(world, "alice")
    await swept_for(world, minutes=4)

    due_at = changes_of_due_at(monkeypatch)
    world.advance(3700)
    await exchange(world, "alice")
    await asyncio.sleep(0.05)
    world.restart("refresh_grants")
    nothing = await taken(world, swept_for(world, minutes=1))  # a late reader may want the version before
    assert nothing == NOTHING_DUE
    assert await taken(world, swept_for(world, minutes=1)) - nothing == said.visited
    assert len(due_at) == DUE_AT_CHANGES
    assert await taken(world, swept_for(world, minutes=60)) == Kept(60 * nothing.reads, 0), "one visit for each renewal"
    assert await taken(world, visit(world, name)) == Kept(reads=1, writes=0), "as when Pub/Sub delivers twice"


@pytest.mark.parametrize("storage", STORAGES)
async def test_the_model_counts_what_it_takes_to_keep_an_unused_grant_alive(storage: str, tmp_path: Path) -> None:
    """The visit that renews it, and the visit after that."""
    world, said = await a_world(storage, tmp_path, keepalive_s=UNUSED_S), STORAGES[storage]
    await connected(world, "bob", storage)
    await connected(world, "alice", storage)
    await exchange(world, "alice")
    await swept_for(world, minutes=4)
    world.advance(UNUSED_S * 0.8)
    await fresh(world)
    await swept_for(world, minutes=4)
    world.advance(UNUSED_S * 0.2)
    assert await taken(world, swept_for(world, minutes=60)) - Kept(60 * NOTHING_DUE.reads, 0) == said.kept_alive
    assert len(world.crm.refreshes) == 3
