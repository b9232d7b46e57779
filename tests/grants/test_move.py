"""Grants move from one storage to the other while agents use them: none is lost, whatever ends or happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from tests.grants.grant_world import FAMILY, LEEWAY, STATIC, STRICT, GrantWorld
from tests.grants.virtual_time import in_virtual_time

from cab.adapters.sealed_documents import DATA_KEY_SECRET, SealedDocumentsVault
from cab.domain.grants import GrantStatus, Storage
from cab.ports import SecretVault, Unavailable
from cab_dev.doubles.oauth_provider import PROFILES

SECRETS: Storage = "secret_per_grant"
SEALED: Storage = "sealed_documents"
BOTH_WAYS = [(SECRETS, SEALED), (SEALED, SECRETS)]
STEPS = ["marked", "created", "copied", "pointed"]


class Killed(BaseException):
    """The process is gone: nothing that it would have done afterwards is done."""


def killed_at(step: str) -> Callable[[str], Awaitable[None]]:
    async def dies(at: str) -> None:
        if at == step:
            raise Killed

    return dies


class Moving:
    """A deployment whose grants were made in one storage and whose configuration now names the other."""

    def __init__(self, world: GrantWorld, was_in: Storage, to: Storage) -> None:
        sealed = SealedDocumentsVault(world.documents, world.vault)
        self.world = world
        self.was_in, self.to = was_in, to
        self.vaults: dict[Storage, SecretVault] = {SECRETS: world.vault, SEALED: sealed}
        world.storage, world.grant_vault = was_in, self.vaults[was_in]

    def switch(self) -> None:
        self.world.storage, self.world.grant_vault = self.to, self.vaults[self.to]
        self.world.before = (self.was_in, self.vaults[self.was_in])

    def finish(self) -> None:
        """The configuration names the former storage no more."""
        self.world.before = None

    async def kept(self, name: str, storage: Storage) -> list[int]:
        """Versions of the grant that can be read there."""
        found = []
        for version in range(1, 40):
            try:
                await self.vaults[storage].access(f"cab-grant-{name}", version)
            except Exception:  # noqa: BLE001, S112  # not there, in the way of either
                continue
            found.append(version)
        return found


async def moving(profile: str = STRICT, was_in: Storage = SECRETS, to: Storage = SEALED) -> Moving:
    world = await GrantWorld(replace(PROFILES[profile], access_token_life_s=7_200)).open()
    await world.vault.create(DATA_KEY_SECRET)
    await world.vault.add(DATA_KEY_SECRET, b"d" * 32)
    return Moving(world, was_in, to)


@pytest.mark.parametrize(("was_in", "to"), BOTH_WAYS)
@pytest.mark.parametrize("profile", [STATIC, LEEWAY, STRICT, FAMILY])
@in_virtual_time
async def test_a_grant_is_moved_with_its_tokens_is_refreshed_there_and_nothing_stays_behind(
    profile: str, was_in: Storage, to: Storage
) -> None:
    there = await moving(profile, was_in, to)
    world, name = there.world, await there.world.connect()
    await world.worker().token(name)
    await world.drain(world.worker(), for_s=800)
    there.switch()
    worker = world.worker()
    before = await worker.token(name)
    await world.drain(worker, for_s=800)
    assert await worker.mover.one(name, txn="t", by="ops") == "moved"
    assert (await worker.token(name)).access_token == before.access_token
    await world.drain(worker, for_s=200)
    assert await there.kept(name, was_in) == []
    there.finish()
    worker = world.worker()
    await world.expire(name)
    await worker.token(name)
    grant = await world.grant(name)
    assert (grant.storage, grant.status) == (to, GrantStatus.ACTIVE)
    assert (grant.moving_to, grant.left_behind, grant.moved_at) == (None, None, None)
    assert await worker.mover.one(name, txn="t") == "there"
    (event,) = [it for it in world.log.events if it.event_type.value == "grant.moved"]
    assert event.grant is not None
    assert event.actor is not None
    assert (event.grant.cause, event.actor.client_id) == (f"from {was_in} to {to}", "ops")


@pytest.mark.parametrize(("was_in", "to"), BOTH_WAYS)
@pytest.mark.parametrize("step", STEPS)
@in_virtual_time
async def test_killed_between_any_two_steps_the_grant_serves_on_and_a_later_move_ends_the_work(
    step: str, was_in: Storage, to: Storage
) -> None:
    there = await moving(STRICT, was_in, to)
    world, name = there.world, await there.world.connect()
    await world.worker().token(name)
    await world.drain(world.worker(), for_s=70)
    there.switch()
    with pytest.raises(Killed):
        await world.worker(step=killed_at(step)).mover.one(name, txn="t")
    worker = world.worker()
    await worker.token(name)
    if step != "pointed":
        assert await worker.mover.one(name, txn="t") == "moved", "at once, without waiting for the sweep"
    await world.expire(name)
    await worker.token(name)
    await world.drain(worker, for_s=300)
    assert await there.kept(name, was_in) == []
    assert len(await there.kept(name, to)) == 1
    assert len({it.event_id for it in world.log.events if it.event_type.value == "grant.moved"}) == 1
    there.finish()
    await world.expire(name)
    await world.worker().token(name)


@pytest.mark.parametrize("step", STEPS[:3])
@in_virtual_time
async def test_of_a_move_that_nobody_goes_on_with_the_sweep_destroys_every_copy(step: str) -> None:
    there = await moving()
    world, name = there.world, await there.world.connect(expired=False)
    there.switch()
    with pytest.raises(Killed):
        await world.worker(step=killed_at(step)).mover.one(name, txn="t")
    await world.drain(world.worker(), for_s=200)
    assert await there.kept(name, SEALED) == []
    grant = await world.grant(name)
    assert (grant.moving_to, grant.moved_at, grant.storage) == (None, None, None)
    await world.worker().token(name)


@pytest.mark.parametrize("step", STEPS[:3])
@in_virtual_time
async def test_a_copy_outlives_no_revocation(step: str) -> None:
    there = await moving()
    world, name = there.world, await there.world.connect(expired=False)
    there.switch()

    async def dies(at: str) -> None:
        if at == step:
            await world.worker().revoke(name)
            raise Killed

    with pytest.raises(Killed):
        await world.worker(step=dies).mover.one(name, txn="t")
    worker = world.worker()
    await world.drain(worker, for_s=400)
    assert (await there.kept(name, SECRETS), await there.kept(name, SEALED)) == ([], [])
    assert (await world.grant(name)).due_at is None
    assert await worker.mover.one(name, txn="t") == "moved", "so that the former storage can be taken away"


@pytest.mark.parametrize("step", STEPS[:3])
@pytest.mark.parametrize("meanwhile", ["refresh", "revoke", "reconnect"])
@in_virtual_time
async def test_what_happens_during_a_move_is_the_truth_and_the_move_waits(meanwhile: str, step: str) -> None:
    there = await moving()
    world, name = there.world, await there.world.connect()
    there.switch()
    other = world.worker()

    async def happens(at: str) -> None:
        if at == step:
            match meanwhile:
                case "refresh":
                    await other.token(name)
                case "revoke":
                    await other.revoke(name)
                case _:
                    world.storage, world.grant_vault, world.before = SECRETS, there.vaults[SECRETS], None
                    await world.reconnect(name)
                    there.switch()

    assert await world.worker(step=happens).mover.one(name, txn="t") == "waits"
    await world.drain(other, for_s=400)
    assert await there.kept(name, SEALED) == []
    if meanwhile != "revoke":
        assert await other.mover.one(name, txn="t") == "moved"
        await other.token(name)
        await world.expire(name)
        await other.token(name)


@in_virtual_time
async def test_a_grant_that_is_being_refreshed_is_left_to_who_refreshes_it() -> None:
    there = await moving()
    world, name = there.world, await there.world.connect()
    there.switch()
    worker = world.worker()
    began = asyncio.Event()
    go_on = asyncio.Event()

    async def stands(at: str) -> None:
        if at == "after send":
            began.set()
            await go_on.wait()

    refreshing = asyncio.create_task(world.worker(step=stands).token(name))
    await began.wait()
    assert await worker.mover.one(name, txn="t") == "waits"
    go_on.set()
    await refreshing
    await world.drain(worker, for_s=200)
    assert await worker.mover.one(name, txn="t") == "moved"


@in_virtual_time
async def test_two_movers_move_a_grant_once_and_leave_one_copy() -> None:
    for later_by_s in (0, 0.005, 0.01, 0.02, 0.03, 0.05):
        there = await moving()
        world, name = there.world, await there.world.connect(expired=False)
        there.switch()

        async def after(wait_s: float, world: GrantWorld = world, name: str = name) -> str:
            await world.sleep(wait_s)
            return await world.worker().mover.one(name, txn="t")

        came = await asyncio.gather(after(0), after(later_by_s))
        worker = world.worker()
        if "moved" not in came:  # each took it from the other
            assert await worker.mover.one(name, txn="t") == "moved"
        await worker.token(name)
        await world.drain(worker, for_s=200)
        assert len(await there.kept(name, SEALED)) == 1
        assert await there.kept(name, SECRETS) == []
        assert [it.event_type.value for it in world.log.events].count("grant.moved") == 1


@in_virtual_time
async def test_a_mover_that_stood_still_cannot_point_to_copies_that_were_destroyed() -> None:
    there = await moving()
    world, name = there.world, await there.world.connect(expired=False)
    there.switch()
    stand, wake = asyncio.Event(), asyncio.Event()

    async def stands(at: str) -> None:
        if at == "copied":
            stand.set()
            await wake.wait()

    paused = asyncio.create_task(world.worker(step=stands).mover.one(name, txn="t"))
    await stand.wait()
    await world.drain(world.worker(), for_s=200)
    wake.set()
    assert await paused == "waits"
    await world.worker().token(name)


@in_virtual_time
async def test_readers_that_read_the_document_before_the_move_still_find_the_former_version() -> None:
    there = await moving()
    world, name = there.world, await there.world.connect(expired=False)
    there.switch()
    reader, before = world.worker(), await world.grant(name)
    await world.worker().mover.one(name, txn="t")
    await world.drain(world.worker(), for_s=30)
    payload = await reader.refresher._payloads.load(before, before.secret_version, world.provider)
    assert payload.refresh_token is not None


@in_virtual_time
async def test_a_second_consent_without_a_refresh_token_takes_the_one_before_along() -> None:
    there = await moving(STATIC)
    world, name = there.world, await there.world.connect(expired=False)
    first = await world.grant(name)
    await world.reconnect(name)
    await world.change(name, refresh_version=first.secret_version, clean_below=None, replaced_below=None)
    there.switch()
    worker = world.worker()
    assert await worker.mover.one(name, txn="t") == "moved"
    grant = await world.grant(name)
    assert grant.refresh_version not in (None, grant.secret_version)
    await world.drain(worker, for_s=200)
    await world.expire(name)
    await worker.token(name)


@in_virtual_time
async def test_a_deployment_that_takes_the_former_storage_away_too_early_blames_no_grant() -> None:
    there = await moving()
    world, name = there.world, await there.world.connect()
    await world.change(name, storage=SECRETS)
    there.switch()
    there.finish()
    with pytest.raises(Unavailable):
        await world.worker().token(name)
    assert (await world.grant(name)).status is GrantStatus.ACTIVE
    there.switch()
    await world.worker().token(name)


@in_virtual_time
async def test_a_former_storage_that_cannot_be_tidied_holds_up_no_revocation() -> None:
    """The configuration names it no more, or it is out: only what was left there waits."""
    there = await moving()
    world, name = there.world, await there.world.connect()
    await world.worker().token(name)
    await world.drain(world.worker(), for_s=70)
    there.switch()
    assert await world.worker().mover.one(name, txn="t") == "moved"
    there.finish()
    await world.sleep(90)  # what was left behind is to be destroyed now
    await world.change(name, status=GrantStatus.REVOKING, due_at=world.clock.now())  # by a process that then ended
    for _ in range(20):
        await world.sleep(30)
        with suppress(Unavailable):
            await world.worker().sweeper.visit(name)
    assert (await world.grant(name)).status is GrantStatus.REVOKED
    assert await there.kept(name, SECRETS) != []
    there.switch()
    await world.drain(world.worker(), for_s=600)
    assert await there.kept(name, SECRETS) == await there.kept(name, SEALED) == []


@in_virtual_time
async def test_a_thousand_grants_in_use_are_moved_and_none_is_lost() -> None:
    """In a small form here: `MANY` of them."""
    there = await moving(STRICT)
    world = there.world
    names = [await world.connect(f"user-{number}") for number in range(MANY)]
    there.switch()
    workers = [world.worker() for _ in range(3)]
    left = list(names)

    async def agents() -> None:
        for round_ in range(4):
            for number, name in enumerate(names):
                await workers[(number + round_) % 3].token(name)
            await world.sleep(30)

    using = asyncio.create_task(agents())
    while left:
        left = [name for name in left if await workers[0].mover.one(name, txn="t") in ("waits",)]
        await world.drain(workers[1], for_s=20)
    await using
    await world.drain(workers[1], for_s=200)
    there.finish()
    last = world.worker()
    for name in names:
        await last.token(name)
        assert (await world.grant(name)).storage == SEALED
    assert all([await there.kept(name, SECRETS) == [] for name in names])


MANY = 25


async def broken_off() -> tuple[GrantWorld, str]:
    """A move whose holder is killed once its copies are there, and the grant."""
    there = await moving()
    name = await there.world.connect(expired=False)
    there.switch()
    with pytest.raises(Killed):
        await there.world.worker(step=killed_at("copied")).mover.one(name, txn="t")
    return there.world, name


def another_move(world: GrantWorld, name: str, *, at: str) -> tuple[list[str], Callable[[str], Awaitable[None]]]:
    """A step for a worker at which another one moves the grant, once; and what that came to."""
    came: list[str] = []

    async def moves(step: str) -> None:
        if step == at and not came:
            came.append(await world.worker().mover.one(name, txn="t"))

    return came, moves


@in_virtual_time
async def test_a_move_during_the_clean_up_of_one_that_was_broken_off_keeps_its_copies() -> None:
    world, name = await broken_off()
    came, moves = another_move(world, name, at="taken over")
    await world.drain(world.worker(step=moves), for_s=400)
    assert came
    worker = world.worker()
    await worker.mover.one(name, txn="t")
    await worker.token(name)
    await world.expire(name)
    await worker.token(name)
    assert (await world.grant(name)).status is GrantStatus.ACTIVE


@in_virtual_time
async def test_of_two_moves_after_one_that_was_broken_off_the_slower_leaves_the_copies_of_the_other() -> None:
    world, name = await broken_off()
    came, moves = another_move(world, name, at="marked")
    slower = await world.worker(step=moves).mover.one(name, txn="t")
    assert (came, slower) == (["moved"], "waits")
    worker = world.worker()
    await worker.token(name)
    await world.expire(name)
    await worker.token(name)
    assert (await world.grant(name)).status is GrantStatus.ACTIVE


@pytest.mark.parametrize("step", STEPS[:3])
@in_virtual_time
async def test_what_is_stored_after_two_moves_met_is_found_when_its_holder_was_lost(step: str) -> None:
    there = await moving()
    world, name = there.world, await there.world.connect(expired=False)
    there.switch()
    came, moves = another_move(world, name, at=step)
    assert await world.worker(step=moves).mover.one(name, txn="t") == "waits"
    assert came == ["moved"]
    await world.expire(name)
    with pytest.raises(Killed):
        await world.worker(step=killed_at("persisted")).token(name)
    worker = world.worker()
    await world.drain(worker, for_s=400)
    await worker.token(name)
    assert (await world.grant(name)).status is GrantStatus.ACTIVE
    await world.expire(name)
    await worker.token(name)
    await world.drain(worker, for_s=400)
    assert len(await there.kept(name, SEALED)) == 1
    await worker.revoke(name)
    await world.drain(worker, for_s=400)
    assert (await there.kept(name, SECRETS), await there.kept(name, SEALED)) == ([], [])
