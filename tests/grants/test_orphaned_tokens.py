"""A holder that stands still longer than its lease, and what becomes of the token set it comes back with."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.grants.grant_world import FAMILY, LEEWAY, READ, STATIC, STRICT, GrantWorld, Worker
from tests.grants.virtual_time import in_virtual_time

from cab.domain.errors import BrokerError, Reason
from cab.domain.grants import GrantStatus, RefreshOutcome
from cab.ports import SendFailed, Unavailable
from cab.use_cases.grants.refresh.attempt import Step
from cab_dev.doubles.oauth_provider import PROFILES
from cab_dev.doubles.oauth_provider.profiles import RevocationRadius
from cab_dev.fakes.documents import Outage
from cab_ops.forget_person import ForgetPerson


def paused_step(where: str, seconds: float) -> Step:
    """Stands still for a while, the first time that a worker comes there."""
    seen: list[str] = []

    async def step(name: str) -> None:
        seen.append(name)
        if name == where and seen.count(name) == 1:
            await asyncio.sleep(seconds)

    return step


def paused_at(world: GrantWorld, where: str, seconds: float) -> Worker:
    return world.worker(step=paused_step(where, seconds))


async def assert_alive(world: GrantWorld, name: str) -> None:
    assert (await world.grant(name)).status is GrantStatus.ACTIVE
    assert await world.stored_refresh_token(name) in world.usable()
    assert world.book.accept((await world.worker().token(name)).access_token) is not None


class BusyHttp:
    """The provider, while whose answer to the first trial of a token somebody else writes the grant's document."""

    def __init__(self, world: GrantWorld, name: str) -> None:
        self._world, self._name, self.made = world, name, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._world.http, name)

    async def get(self, *args: object, **kwargs: object) -> object:
        if not self.made:
            self.made += 1
            await self._world.change(self._name, last_used_at=self._world.clock.now())
        return await self._world.http.get(*args, **kwargs)  # type: ignore[arg-type]


async def run_beside_a_sweeper(world: GrantWorld, slow: Worker, name: str, *, for_s: float = 300) -> Worker:
    sweeper = world.worker()
    asking = asyncio.create_task(slow.token(name))
    await asyncio.sleep(1)
    await world.drain(sweeper, for_s=for_s, every_s=3)
    await asyncio.gather(asking, return_exceptions=True)
    return sweeper


@pytest.mark.parametrize("profile", [STATIC, LEEWAY, STRICT, FAMILY])
@pytest.mark.parametrize("where", ["acquired", "marked", "before send"])
@pytest.mark.parametrize("pause_s", [25, 35, 45, 100])
@in_virtual_time
async def test_a_holder_that_stood_still_before_the_send_does_not_send(
    pause_s: float, where: str, profile: str
) -> None:
    world = await GrantWorld(profile).open()
    name = await world.connect()
    sweeper = await run_beside_a_sweeper(world, paused_at(world, where, pause_s), name)
    assert [entry for entry in world.book.ledger() if entry["event"] == "refused"] == []
    grant = await world.grant(name)
    assert grant.status is GrantStatus.ACTIVE
    assert await world.stored_refresh_token(name) in world.usable()
    assert world.book.accept((await sweeper.token(name)).access_token) is not None


@pytest.mark.parametrize(("pause_s", "sends"), [(15, True), (25, False), (35, False)])
@in_virtual_time
async def test_a_holder_sends_only_while_its_lease_covers_a_whole_call(pause_s: float, sends: bool) -> None:
    """Else another may take over while the provider has not answered yet."""
    world = await GrantWorld(STRICT).open()
    name = await world.connect()
    before = len(world.book.ledger())
    await asyncio.gather(paused_at(world, "before send", pause_s).token(name), return_exceptions=True)
    await asyncio.sleep(pause_s + 1)
    assert bool(world.book.ledger()[before:]) is sends


@pytest.mark.parametrize("profile", [STATIC, LEEWAY, STRICT])
@pytest.mark.parametrize("pause_s", [5, 33, 60, 200])
@in_virtual_time
async def test_a_token_set_that_comes_late_is_found_or_restored(pause_s: float, profile: str) -> None:
    """Strict, beyond the hold-down: the sweeper has given up by then, and the grant comes back to life."""
    world = await GrantWorld(profile).open()
    name = await world.connect()
    sweeper = await run_beside_a_sweeper(world, paused_at(world, "after send", pause_s), name, for_s=350)
    gave_up = len(world.events("grant.needs_reauth"))
    assert gave_up == (profile == STRICT and pause_s > 40)
    grant = await world.grant(name)
    assert grant.status is GrantStatus.ACTIVE
    assert await world.stored_refresh_token(name) in world.usable()
    assert world.book.accept((await sweeper.token(name)).access_token) is not None


@in_virtual_time
async def test_a_late_token_set_of_a_family_that_was_revoked_is_not_believed() -> None:
    world = await GrantWorld(FAMILY).open()
    name = await world.connect()
    await run_beside_a_sweeper(world, paused_at(world, "after send", 60), name)
    grant = await world.grant(name)
    assert (grant.status, grant.fail_cause) == (GrantStatus.NEEDS_REAUTH, RefreshOutcome.LOST_IN_WINDOW.value)
    assert grant.due_at is None


@in_virtual_time
async def test_a_holder_that_dies_with_a_stored_token_set_after_the_grant_was_given_up_is_heard_once_more() -> None:
    world = await GrantWorld(STRICT).open()
    name = await world.connect()
    seen: list[str] = []

    async def step(where: str) -> None:
        seen.append(where)
        if where == "after send":
            await asyncio.sleep(50)
        if where == "persisted":
            await asyncio.Event().wait()

    dying = asyncio.create_task(world.worker(step=step).token(name))
    sweeper = world.worker()
    await asyncio.sleep(1)
    await world.drain(sweeper, for_s=48, every_s=3)
    assert (await world.grant(name)).status is GrantStatus.NEEDS_REAUTH
    await world.drain(sweeper, for_s=120, every_s=3)
    assert seen[-1] == "persisted"
    assert (await world.grant(name)).status is GrantStatus.ACTIVE
    assert await world.stored_refresh_token(name) in world.usable()
    dying.cancel()


@in_virtual_time
async def test_a_late_token_set_is_restored_though_its_grant_changes_while_it_is_tried() -> None:
    """By then the second look is over: nobody but this process knows of it."""
    world = await GrantWorld(STRICT).open()
    name = await world.connect()
    changes = BusyHttp(world, name)
    slow = world.worker(step=paused_step("after send", 200), http=changes)
    await run_beside_a_sweeper(world, slow, name, for_s=350)
    assert changes.made == 1
    await assert_alive(world, name)


@pytest.mark.parametrize("away_s", [1, 5])
@in_virtual_time
async def test_a_late_token_set_is_restored_though_the_store_is_away_when_it_comes(away_s: float) -> None:
    world = await GrantWorld(STRICT).open()
    name = await world.connect()
    slow = world.worker(step=paused_step("after send", 200))
    asking = asyncio.create_task(slow.token(name))
    await asyncio.sleep(1)
    await world.drain(world.worker(), for_s=190, every_s=3)
    world.documents.outage = Outage(frozenset({"read", "write"}))
    await asyncio.sleep(10 + away_s)
    world.documents.outage = None
    await world.drain(world.worker(), for_s=120, every_s=3)
    await asyncio.gather(asking, return_exceptions=True)
    await assert_alive(world, name)


@pytest.mark.parametrize("profile", [STRICT, FAMILY])
@pytest.mark.parametrize("can_be_asked", [True, False])
@pytest.mark.parametrize("away_s", [0, 290, 86_400])
@pytest.mark.parametrize("pause_s", [60, 200])
@in_virtual_time
async def test_a_late_token_set_that_no_call_can_prove_is_proved_by_a_refresh_before_it_serves(
    pause_s: float, away_s: float, can_be_asked: bool, profile: str
) -> None:
    world = await (GrantWorld(profile) if can_be_asked else GrantWorld(profile, userinfo_endpoint=None)).open()
    name = await world.connect()
    world.fault(endpoint="userinfo", kind="status", status=503)
    await run_beside_a_sweeper(world, paused_at(world, "after send", pause_s), name, for_s=pause_s + 10)
    await world.drain(world.worker(), for_s=away_s, every_s=60)
    if profile == FAMILY:  # told of a token spent twice, it has revoked them all
        await world.drain(world.worker(), for_s=120, every_s=3)
        grant = await world.grant(name)
        assert (grant.status, grant.fail_cause) == (GrantStatus.NEEDS_REAUTH, RefreshOutcome.LOST_IN_WINDOW.value)
        assert grant.due_at is None
    else:
        assert (await world.grant(name)).suspect_since is None
        await assert_alive(world, name)


@pytest.mark.parametrize("status", [403, 429, 500])
@in_virtual_time
async def test_a_late_token_set_that_may_not_ask_who_it_is_for_is_not_taken_for_dead(status: int) -> None:
    """A narrowed token lacks the scope for that, or the platform counts calls: only a 401 says that it is over."""
    world = await GrantWorld(STRICT).open()
    name = await world.connect()
    world.fault(endpoint="userinfo", kind="status", status=status)
    await run_beside_a_sweeper(world, paused_at(world, "after send", 60), name)
    await assert_alive(world, name)


class RefusingVault:
    """The vault as one instance sees it: no add gets through."""

    def __init__(self, world: GrantWorld) -> None:
        self._vault = world.vault

    def __getattr__(self, name: str) -> object:
        return getattr(self._vault, name)

    async def add(self, secret: str, payload: bytes) -> int:
        raise Unavailable("secrets")


@pytest.mark.parametrize("profile", [LEEWAY, STRICT])
@pytest.mark.parametrize("pause_s", [33, 60, 200])
@in_virtual_time
async def test_a_holder_without_a_vault_hands_its_token_set_to_whoever_has_the_grant_by_then(
    pause_s: float, profile: str
) -> None:
    world = await GrantWorld(profile).open()
    name = await world.connect()
    slow = paused_at(world, "after send", pause_s)
    slow.refresher._parts.payloads._vaults["secret_per_grant"] = RefusingVault(world)  # type: ignore[assignment]
    sweeper = await run_beside_a_sweeper(world, slow, name, for_s=350)
    grant = await world.grant(name)
    assert (grant.status, grant.escrow) == (GrantStatus.ACTIVE, None)
    assert await world.stored_refresh_token(name) in world.usable()
    assert world.book.accept((await sweeper.token(name)).access_token) is not None


@pytest.mark.parametrize("stored", [True, False])
@in_virtual_time
async def test_a_token_set_that_comes_after_a_revocation_dies_at_the_provider(stored: bool) -> None:
    profile = replace(PROFILES[STRICT], revocation=RevocationRadius.TOKEN)
    world = await GrantWorld(profile).open()
    name = await world.connect()
    slow = paused_at(world, "after send", 5)
    if not stored:
        slow.refresher._parts.payloads._vaults["secret_per_grant"] = RefusingVault(world)  # type: ignore[assignment]
    asking = asyncio.create_task(slow.token(name))
    await asyncio.sleep(1)
    assert world.refreshes() == 1
    other = world.worker()
    await other.revoke(name)
    with pytest.raises(BrokerError) as refused:
        await asking
    assert refused.value.reason is Reason.GRANT_REVOKED
    assert world.usable() == set()
    await world.drain(other)
    assert (await world.grant(name)).due_at is None
    assert all(version is None for version in world.vault._secrets[f"cab-grant-{name}"])


@in_virtual_time
async def test_a_token_set_that_comes_after_its_person_was_forgotten_dies_at_the_provider_and_is_kept_nowhere() -> None:
    """Nobody would ever have found it: neither a document nor a visit of the sweeper leads to it any more."""
    profile = replace(PROFILES[STRICT], revocation=RevocationRadius.TOKEN)
    world = await GrantWorld(profile).open()
    name = await world.connect()
    asking = asyncio.create_task(paused_at(world, "after send", 200).token(name))
    await asyncio.sleep(1)
    other = world.worker()
    await other.revoke(name)
    await world.drain(other, for_s=150)
    nobody = world.documents
    forgotten = await ForgetPerson(guards=nobody, approvals=nobody, grants=nobody)("acme", "alice")
    assert forgotten.deleted["grants"] == 1
    await asyncio.gather(asking, return_exceptions=True)
    await world.sleep(100)
    assert world.usable() == set()
    assert all(version is None for version in world.vault._secrets[f"cab-grant-{name}"])


@in_virtual_time
async def test_a_late_token_set_that_the_provider_cannot_be_told_of_is_revoked_by_the_sweeper() -> None:
    profile = replace(PROFILES[STRICT], revocation=RevocationRadius.TOKEN)
    world = await GrantWorld(profile).open()
    name = await world.connect()
    asking = asyncio.create_task(paused_at(world, "after send", 5).token(name))
    await asyncio.sleep(1)
    other = world.worker()
    await other.revoke(name)
    world.fault(endpoint="revoke", kind="status", status=503)
    await asyncio.gather(asking, return_exceptions=True)
    assert world.usable() != set()
    world.double.faults.clear()
    await world.drain(other, for_s=200)
    assert world.usable() == set()
    assert (await world.grant(name)).due_at is None


@in_virtual_time
async def test_a_holder_of_the_old_consent_cannot_touch_the_new_one() -> None:
    world = await GrantWorld(STRICT).open()
    name = await world.connect()
    asking = asyncio.create_task(paused_at(world, "after send", 5).token(name))
    await asyncio.sleep(1)
    await world.reconnect(name)
    new = await world.stored_refresh_token(name)
    token = await asking
    assert await world.stored_refresh_token(name) in world.usable()
    assert world.book.accept(token.access_token) is not None
    assert new is not None
    await asyncio.sleep(301)
    after = await world.worker().token(name, READ)
    assert world.book.accept(after.access_token) is not None


@in_virtual_time
async def test_a_token_set_handed_over_while_the_present_holder_hears_that_all_is_lost_is_not_given_up() -> None:
    world = await GrantWorld(STRICT).open()
    name = await world.connect()
    may_go_on, has_heard = asyncio.Event(), asyncio.Event()

    async def waits_for_the_other(where: str) -> None:
        if where == "after send":
            await may_go_on.wait()

    async def hears_invalid_grant(where: str) -> None:
        if where == "after send":
            has_heard.set()
            may_go_on.set()
            await asyncio.sleep(2)

    former = world.worker(step=waits_for_the_other)
    former.refresher._parts.payloads._vaults["secret_per_grant"] = RefusingVault(world)  # type: ignore[assignment]
    present = world.worker(step=hears_invalid_grant)
    asking = asyncio.create_task(former.token(name))
    await asyncio.sleep(1)
    await world.drain(present, for_s=50, every_s=3)
    assert has_heard.is_set()
    await world.drain(world.worker(), for_s=60, every_s=3)
    await asyncio.gather(asking, return_exceptions=True)
    assert world.events("grant.needs_reauth") == []
    grant = await world.grant(name)
    assert (grant.status, grant.escrow) == (GrantStatus.ACTIVE, None)
    assert await world.stored_refresh_token(name) in world.usable()


async def has_ended(worker: Worker, name: str) -> None:
    """Returns when no attempt of this process is under way, whoever began it."""
    while name in worker.refresher._attempts:
        await asyncio.sleep(0.1)


class SleepingHttp:
    """The provider as a process sees it that falls asleep on its way to the first token request."""

    def __init__(self, world: GrantWorld, seconds: float) -> None:
        self._http = world.http
        self._seconds = seconds

    def __getattr__(self, name: str) -> object:
        return getattr(self._http, name)

    async def post_form(self, *args: object, **kwargs: object) -> object:
        seconds, self._seconds = self._seconds, 0.0
        await asyncio.sleep(seconds)
        return await self._http.post_form(*args, **kwargs)  # type: ignore[arg-type]


@in_virtual_time
async def test_after_a_token_was_spent_twice_nothing_is_served_until_a_refresh_has_proved_what_lives() -> None:
    world = await GrantWorld(FAMILY).open()
    name = await world.connect()
    sleeper = world.worker(http=SleepingHttp(world, 60))
    asleep = asyncio.create_task(sleeper.token(name))
    awake = world.worker()
    await asyncio.sleep(1)
    await world.drain(awake, for_s=55, every_s=3)
    assert world.book.accept((await awake.token(name)).access_token) is not None

    with pytest.raises(BrokerError):
        await asleep
    await has_ended(sleeper, name)
    with pytest.raises(BrokerError) as refused:
        await awake.token(name)
    assert refused.value.reason is Reason.GRANT_NEEDS_REAUTH
    assert (await world.grant(name)).fail_cause == RefreshOutcome.LOST_IN_WINDOW.value


class DeafHttp(SleepingHttp):
    """As above, and its request, sent on waking, arrives after a while: its time was over long before, it hears no answer."""

    def __init__(self, world: GrantWorld, seconds: float, *, on_the_way_s: float) -> None:
        super().__init__(world, seconds)
        self._on_the_way_s = on_the_way_s
        self.arriving: list[asyncio.Task[object]] = []

    async def post_form(self, *args: object, **kwargs: object) -> object:
        if not self._seconds:
            return await super().post_form(*args, **kwargs)
        seconds, self._seconds = self._seconds, 0.0
        await asyncio.sleep(seconds)
        self.arriving.append(asyncio.create_task(self._arrive(*args, **kwargs)))
        await asyncio.sleep(0)
        raise SendFailed("provider", may_have_arrived=True)

    async def _arrive(self, *args: object, **kwargs: object) -> object:
        await asyncio.sleep(self._on_the_way_s)
        return await super().post_form(*args, **kwargs)


@pytest.mark.parametrize("store_is_away_s", [0.0, 3.0])
@pytest.mark.parametrize("on_the_way_s", [0.0, 0.05, 1.0, 4.0])
@in_virtual_time
async def test_who_wakes_and_sends_too_late_warns_also_without_an_answer(
    on_the_way_s: float, store_is_away_s: float
) -> None:
    world = await GrantWorld(FAMILY).open()
    name = await world.connect()
    http = DeafHttp(world, 60, on_the_way_s=on_the_way_s)
    asleep = asyncio.create_task(world.worker(http=http).token(name))
    awake = world.worker()
    await asyncio.sleep(1)
    await world.drain(awake, for_s=55, every_s=3)
    while not http.arriving:
        await asyncio.sleep(0.01)
    if store_is_away_s:
        world.documents.outage = Outage(frozenset({"read", "write"}))
        await asyncio.sleep(store_is_away_s)
        world.documents.outage = None
    await world.drain(awake, for_s=30, every_s=3)
    await asyncio.gather(asleep, *http.arriving, return_exceptions=True)
    await world.drain(awake, for_s=60, every_s=3)
    assert [entry["event"] for entry in world.book.ledger()].count("refused") > 0  # the family is revoked
    grant = await world.grant(name)
    assert (grant.status, grant.fail_cause) == (GrantStatus.NEEDS_REAUTH, RefreshOutcome.LOST_IN_WINDOW.value)


@in_virtual_time
async def test_a_suspicion_that_proves_wrong_costs_one_refresh() -> None:
    world = await GrantWorld(STRICT).open()  # here, reuse harms nobody, but the profile does not say so
    name = await world.connect()
    sleeper = world.worker(http=SleepingHttp(world, 60))
    asleep = asyncio.create_task(sleeper.token(name))
    awake = world.worker()
    await asyncio.sleep(1)
    await world.drain(awake, for_s=50, every_s=3)
    suspicious = world.provider.rotation.model_copy(update={"reuse_revokes_family": True})
    world.provider.__dict__["rotation"] = suspicious
    await asyncio.gather(asleep, return_exceptions=True)
    await has_ended(sleeper, name)
    assert (await world.grant(name)).suspect_since is not None
    before = world.refreshes()
    token = await awake.token(name)
    assert world.book.accept(token.access_token) is not None
    assert world.refreshes() == before + 1
    grant = await world.grant(name)
    assert (grant.status, grant.suspect_since) == (GrantStatus.ACTIVE, None)
