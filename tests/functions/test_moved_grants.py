"""A deployment changes its `grant_storage` while agents work: what the functions do, and who may ask for the move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.world import ACCOUNTS, REFRESH_GRANTS, World

from cab.adapters.sealed_documents import DATA_KEY_SECRET
from cab.domain.grants import grant_id

MOVING = "\ngrant_storage: sealed_documents\ngrant_storage_before: secret_per_grant\n"


@pytest.fixture
async def world(tmp_path: Path) -> World:
    folder = World(scratch=tmp_path).write_policies(None)
    broker = folder / "broker.yaml"
    broker.write_text(broker.read_text("utf-8") + MOVING, "utf-8")
    world = World(folder, scratch=tmp_path)
    await world.cloud.vault.create(DATA_KEY_SECRET)
    await world.cloud.vault.add(DATA_KEY_SECRET, b"d" * 32)
    return world


async def ask(world: World, names: list[str], account: str = "connect-account") -> Any:
    token = world.google_token(REFRESH_GRANTS, email=f"{account}@{ACCOUNTS}")
    return await world.call_service("/grants/move", {"grant_ids": names, "txn": "t"}, token)


async def test_operators_move_grants_that_serve_before_and_after_and_nobody_else_does(world: World) -> None:
    name = await world.connect("alice", "wiki", "page.read")
    nobody = grant_id("acme", "nobody", "wiki")
    assert (await ask(world, [name], account="exchange-token")).status == 401
    moved = await ask(world, [name, nobody])
    assert moved.json == {"to": "sealed_documents", "came": {name: "moved", nobody: "missing"}}
    assert (await ask(world, [name])).json["came"] == {name: "there"}
    assert await world.cloud.documents["grants"].read(f"payloads/cab-grant-{name}.1") is not None
    (event,) = [it for it in world.events("refresh_grants") if it.event_type.value == "grant.moved" and it.grant]
    assert event.grant is not None
    assert event.grant.cause == "from secret_per_grant to sealed_documents"


@pytest.mark.parametrize("names", [[], ["../x"], ["a"] * 51])
async def test_a_request_that_names_nothing_that_can_be_is_refused(world: World, names: list[str]) -> None:
    assert (await ask(world, names)).status == 400
