"""What each place where grants are kept takes to keep one going: the counts that `benchmarks.capacity` computes with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from benchmarks.storage import STORAGES, Kept
from tests.support.world import ACCOUNTS, REFRESH_GRANTS, World, intent

from cab.adapters.sealed_documents import DATA_KEY_SECRET

LIST = intent("crm.deal.list", "deal/*")
MOVING = "\ngrant_storage: sealed_documents\ngrant_storage_before: secret_per_grant\n"


def identity(world: World, account: str) -> str:
    return world.google_token(REFRESH_GRANTS, email=f"{account}@{ACCOUNTS}")


async def a_world(storage: str, scratch: Path) -> World:
    folder = World(scratch=scratch).write_policies(None)
    broker = folder / "broker.yaml"
    broker.write_text(broker.read_text("utf-8") + (MOVING if storage == "sealed_documents" else ""), "utf-8")
    world = World(folder, scratch=scratch)
    await world.cloud.vault.create(DATA_KEY_SECRET)
    await world.cloud.vault.add(DATA_KEY_SECRET, b"d" * 32)
    return world


async def connected(world: World, user: str, storage: str) -> None:
    name = await world.connect(user, "crm", "deal.read", "deal.write", "contact.read", "offline")
    if storage == "sealed_documents":
        moved = await world.call_service(
            "/grants/move", {"grant_ids": [name], "txn": "t"}, identity(world, "connect-account")
        )
        assert moved.json["came"] == {name: "moved"}


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
        "reads": sum(store.calls["read"] for store in stores),
        "writes": sum(store.written for store in stores),
        "accesses": vault.get("access", 0),
        "additions": vault.get("add", 0),
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
