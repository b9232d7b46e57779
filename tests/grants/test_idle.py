"""Grants that nobody uses end by themselves, where the configuration says so: never early, never unseen, never twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.grants.grant_world import (
    EVERY_CLASS,
    READ,
    STATIC,
    STRICT,
    WRITE,
    GrantWorld,
    Worker,
    deployment_of,
    provider_of,
)
from tests.grants.virtual_time import in_virtual_time

from cab.domain.configured.deployment import Deployment, Tenant
from cab.domain.errors import BrokerError, Reason
from cab.domain.grant_transitions import IDLE_NOTICE, USE_NOTED_EVERY
from cab.domain.grants import GrantStatus
from cab.ports import Unavailable
from cab.use_cases.grants.uses import Uses
from cab_dev.doubles.oauth_provider import PROFILES

DAY_S = 86_400
IDLE_DAYS = 30


async def a_world(
    profile: str = STATIC, *, idle_days: int | None = IDLE_DAYS, keepalive_s: int | None = None
) -> GrantWorld:
    changes = {"grant_idle_days": idle_days}
    return await GrantWorld(profile, connection_changes=changes, keepalive_s=keepalive_s).open()


def written_of(world: GrantWorld, name: str) -> int:
    return len(world.history.states[f"grants/{name}"])


async def scheduled(worker: Worker) -> int:
    """One call of the scheduler, and the visits that it asks for."""
    visited = 0

    async def fan_out(names: Sequence[str]) -> None:
        nonlocal visited
        for name in names:
            await worker.sweeper.visit(name)
            visited += 1

    await worker.sweeper.hand_over(fan_out)
    return visited


async def days(world: GrantWorld, worker: Worker, number: int) -> None:
    """Days of a scheduler that comes round twice a day, and once more right after."""
    for _ in range(number * 2):
        await world.sleep(DAY_S / 2)
        await scheduled(worker)
        await world.sleep(1)
        await scheduled(worker)


@pytest.mark.parametrize("profile", EVERY_CLASS)
@in_virtual_time
async def test_a_grant_that_nobody_uses_ends_after_its_days_at_the_provider_too_and_the_audit_says_why(
    profile: str,
) -> None:
    world = await a_world(profile)
    worker, name = world.worker(), await world.connect()
    await scheduled(worker)
    await days(world, worker, IDLE_DAYS)
    assert (await world.grant(name)).status is GrantStatus.ACTIVE
    await days(world, worker, 2)
    ended = await world.grant(name)
    assert (ended.status, ended.fail_cause) == (GrantStatus.REVOKED, "idle")
    told = world.provider.revocation.blast_radius in ("token", "grant")
    assert told == (not world.usable()), "as far as one revocation ends no more than this grant"
    (event,) = [it for it in world.log.events if it.event_type.value == "grant.revoked"]
    assert event.grant is not None
    assert (event.grant.cause, event.grant.upstream_revoked) == ("idle", told)
    assert ended.due_at is None, "nothing is left to do"


@in_virtual_time
async def test_without_the_setting_no_grant_ends_and_no_use_is_written() -> None:
    world = await a_world(idle_days=None)
    worker, name = world.worker(), await world.connect(expired=False)
    await scheduled(worker)
    await worker.token(name)
    written = written_of(world, name)
    await worker.token(name)
    assert written_of(world, name) == written
    await days(world, worker, 100)
    grant = await world.grant(name)
    assert (grant.status, grant.last_used_at, grant.ends_unused_at) == (GrantStatus.ACTIVE, None, None)


@in_virtual_time
async def test_a_grant_in_use_lives_on_and_costs_one_write_a_day() -> None:
    world = await a_world()
    worker, name = world.worker(), await world.connect(expired=False)
    await scheduled(worker)
    for _ in range(100):
        await world.sleep(DAY_S + 60)
        await worker.token(name)
        await world.sleep(1)  # what a refresh leaves for after the answer
        written = written_of(world, name)
        for _ in range(20):
            await worker.token(name)
        assert written_of(world, name) == written
        await scheduled(worker)
    assert (await world.grant(name)).status is GrantStatus.ACTIVE


@in_virtual_time
async def test_a_use_on_the_last_day_is_in_time_and_counts_from_then() -> None:
    world = await a_world()
    worker, name = world.worker(), await world.connect()
    await scheduled(worker)
    await days(world, worker, IDLE_DAYS)
    await worker.token(name)
    used_at = world.clock.now()
    await days(world, worker, IDLE_DAYS)
    grant = await world.grant(name)
    assert grant.status is GrantStatus.ACTIVE
    assert grant.ends_unused_at is not None
    assert grant.ends_unused_at - used_at >= timedelta(days=IDLE_DAYS)
    await days(world, worker, 2)
    assert (await world.grant(name)).status is GrantStatus.REVOKED


@in_virtual_time
async def test_a_refresh_for_other_scopes_that_needs_no_read_is_a_use_too() -> None:
    profile = replace(PROFILES[STATIC], access_token_life_s=10 * DAY_S)
    world = await GrantWorld(profile, connection_changes={"grant_idle_days": IDLE_DAYS}).open()
    worker, name = world.worker(), await world.connect(expired=False)
    await scheduled(worker)
    await worker.token(name, READ)
    await world.sleep(2 * DAY_S)
    await worker.token(name, WRITE)
    last_used_at = (await world.grant(name)).last_used_at
    assert last_used_at is not None
    assert world.clock.now() - last_used_at < timedelta(minutes=1)


@in_virtual_time
async def test_what_the_sweep_does_to_keep_a_grant_alive_is_no_use() -> None:
    world = await a_world(STRICT, keepalive_s=5 * DAY_S)
    worker, name = world.worker(), await world.connect()
    await scheduled(worker)
    await days(world, worker, IDLE_DAYS - 1)
    assert world.refreshes() >= 4
    await days(world, worker, 3)
    assert (await world.grant(name)).status is GrantStatus.REVOKED


@in_virtual_time
async def test_a_use_in_the_moment_of_the_end_wins_or_is_refused_and_never_both() -> None:
    outcomes = set()
    for number in range(12):
        world = await a_world()
        name = await world.connect(f"user-{number}", expired=False)
        ender, user = world.worker(), world.worker()
        await scheduled(ender)
        await world.expire(name)
        await user.token(name)  # the payload of both is warm
        grant = await world.grant(name)
        long_ago = world.clock.now() - timedelta(days=IDLE_DAYS + 2)
        await world.change(name, last_used_at=long_ago, ends_unused_at=world.clock.now(), due_at=world.clock.now())

        async def use(after_s: float, name: str = name, user: Worker = user, world: GrantWorld = world) -> bool:
            await world.sleep(after_s)
            refused: list[Reason] = []
            try:
                await user.token(name)
            except BrokerError as error:
                refused.append(error.reason)
            assert refused in ([], [Reason.GRANT_REVOKED])
            return not refused

        served, _ = await asyncio.gather(use(number * 0.004), ender.sweeper.visit(name))
        after = await world.grant(name)
        assert (after.status is GrantStatus.ACTIVE) == served
        assert grant.revoke_epoch + (not served) == after.revoke_epoch
        outcomes.add(served)
    assert outcomes == {True, False}, "both orders were tried"


@in_virtual_time
async def test_two_sweepers_end_a_grant_once() -> None:
    world = await a_world()
    one, other, name = world.worker(), world.worker(), await world.connect()
    await scheduled(one)
    await world.change(name, ends_unused_at=world.clock.now(), last_used_at=world.clock.now() - timedelta(days=40))
    await world.change(name, due_at=world.clock.now())
    await asyncio.gather(one.sweeper.visit(name), other.sweeper.visit(name))
    await world.drain(one, for_s=200)
    assert [it.event_type.value for it in world.log.events].count("grant.revoked") == 1


@pytest.mark.parametrize("dies_at", ["before it is told", "provider away"])
@in_virtual_time
async def test_an_end_that_is_interrupted_is_carried_on_by_the_next_visit(dies_at: str) -> None:
    world = await a_world(STRICT)
    worker, name = world.worker(), await world.connect()
    await scheduled(worker)
    long_ago = world.clock.now() - timedelta(days=IDLE_DAYS + 2)
    await world.change(name, last_used_at=long_ago, ends_unused_at=world.clock.now(), due_at=world.clock.now())
    if dies_at == "provider away":
        world.http.refuses = True
        await worker.sweeper.visit(name)
    else:

        async def never(*_: object) -> bool:
            raise Unavailable("killed")

        worker.revoker.finish = never  # type: ignore[method-assign, assignment]
        await worker.sweeper.visit(name)
        worker = world.worker()
    assert (await world.grant(name)).status is GrantStatus.REVOKING
    world.http.refuses = False
    await world.drain(worker, for_s=600)
    assert (await world.grant(name)).status is GrantStatus.REVOKED
    assert not world.usable()
    assert "idle" in {it.grant.cause for it in world.log.events if it.grant is not None}


# --- the setting changes ---


def with_days(world: GrantWorld, number: int | None) -> Deployment:
    connection = world.connection.model_copy(update={"grant_idle_days": number})
    return replace(world.deployment, connections=(connection,))


@in_virtual_time
async def test_switched_on_over_old_grants_all_of_them_have_their_whole_time() -> None:
    world = await a_world(idle_days=None)
    worker, name = world.worker(), await world.connect()
    await days(world, worker, 90)
    assert (await world.grant(name)).due_at is None, "nothing would bring the sweep here"
    world.deployment = with_days(world, IDLE_DAYS)
    worker = world.worker()
    await days(world, worker, IDLE_DAYS)
    assert (await world.grant(name)).status is GrantStatus.ACTIVE
    await days(world, worker, 2)
    assert (await world.grant(name)).status is GrantStatus.REVOKED


@in_virtual_time
async def test_a_shorter_time_leaves_everybody_the_notice_and_a_longer_one_is_granted() -> None:
    world = await a_world(idle_days=300)
    worker = world.worker()
    short, long = await world.connect("short"), await world.connect("long")
    await scheduled(worker)
    await days(world, worker, 100)
    now = world.clock.now()
    for days_now, name in ((10, short), (600, long)):
        world.deployment = with_days(world, days_now)
        await world.change(name, due_at=now)
        await world.worker().sweeper.visit(name)
    notice = (await world.grant(short)).ends_unused_at
    assert notice is not None
    assert abs(notice - now - IDLE_NOTICE) < timedelta(seconds=1)
    ends_at = (await world.grant(long)).ends_unused_at
    assert ends_at is not None
    assert ends_at > now + timedelta(days=499)


@in_virtual_time
async def test_switched_off_in_time_nobody_loses_a_grant() -> None:
    world = await a_world()
    worker, name = world.worker(), await world.connect()
    await scheduled(worker)
    await days(world, worker, IDLE_DAYS)
    world.deployment = with_days(world, None)
    worker = world.worker()
    await days(world, worker, 10)
    grant = await world.grant(name)
    assert (grant.status, grant.last_used_at, grant.ends_unused_at) == (GrantStatus.ACTIVE, None, None)


@in_virtual_time
async def test_a_use_that_cannot_be_written_is_served_and_written_at_the_next() -> None:
    world = await a_world()
    worker, name = world.worker(), await world.connect(expired=False)
    await scheduled(worker)
    stored = await world.store.read(name)
    assert stored is not None
    await world.sleep(2 * DAY_S)

    class _Full:
        async def replace(self, *_: object) -> None:
            raise Unavailable("documents")

    uses = Uses(world.deployment, world.store, world.clock)
    uses._store = _Full()  # type: ignore[assignment]
    assert await uses.noted(stored) == stored
    uses._store = world.store
    noted = await uses.noted(stored)
    assert noted is not None
    assert noted.grant.last_used_at is not None
    assert world.clock.now() - noted.grant.last_used_at < timedelta(seconds=1)


def test_the_shorter_time_of_tenant_and_connection_holds_and_no_grant_of_trust_ends_so() -> None:
    deployment = deployment_of(provider_of(PROFILES[STRICT]), grant_idle_days=90)
    tenants = (Tenant(id="acme", title="A", grant_idle_days=30), Tenant(id="globex", title="G", grant_idle_days=365))
    deployment = replace(deployment, broker=deployment.broker.model_copy(update={"tenants": tenants}))
    assert deployment.grants_last_unused("double", "acme") == timedelta(days=30)
    assert deployment.grants_last_unused("double", "globex") == timedelta(days=90)
    assert deployment.grants_that_end_unused == (("double", "acme"), ("double", "globex"))
    trusted = deployment.connections[0].model_copy(update={"grant_kind": "jwt_bearer", "grant_idle_days": None})
    assert replace(deployment, connections=(trusted,)).grants_that_end_unused == ()
    assert timedelta(hours=1) < USE_NOTED_EVERY
