"""Many callers, several instances, one grant: one refresh, one answer; and a revocation that always wins."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import datetime

import pytest
from tests.grants.grant_world import EVERY_CLASS, LEEWAY, READ, STATIC, STRICT, WRITE, GrantWorld, Worker
from tests.grants.virtual_time import in_virtual_time

from cab.domain.errors import BrokerError, Reason
from cab.domain.grants import GrantStatus, RefreshOutcome
from cab.ports import AccessToken, Unavailable
from cab_dev.doubles.oauth_provider import PROFILES
from cab_dev.doubles.oauth_provider.profiles import RevocationRadius


def outcomes(workers: list[Worker]) -> Counter[RefreshOutcome]:
    return sum((worker.outcomes for worker in workers), Counter())


@pytest.mark.parametrize("profile", EVERY_CLASS)
@in_virtual_time
async def test_200_callers_over_4_instances_cause_one_refresh_and_get_one_token(profile: str) -> None:
    world = await GrantWorld(profile).open()
    workers = [world.worker() for _ in range(4)]
    name = await world.connect()

    tokens = await asyncio.gather(*(workers[number % 4].token(name) for number in range(200)))

    assert world.refreshes() == 1
    assert len({token.access_token for token in tokens}) == 1
    assert outcomes(workers) == {RefreshOutcome.SUCCESS: 1, RefreshOutcome.JOINED: 199}


@in_virtual_time
async def test_two_scope_sets_cause_one_refresh_each_and_nobody_gets_the_other_scope() -> None:
    world = await GrantWorld(STRICT).open()
    workers = [world.worker() for _ in range(4)]
    name = await world.connect()

    calls = [(workers[number % 4], READ if number % 2 else WRITE) for number in range(200)]
    tokens = await asyncio.gather(*(worker.token(name, scopes) for worker, scopes in calls))

    assert world.refreshes() == 2
    for (_, scopes), token in zip(calls, tokens, strict=True):
        assert token.scopes == scopes
        assert token.narrowed
        accepted = world.book.accept(token.access_token)
        assert accepted is not None
        assert accepted.scopes >= set(scopes)
    again = await asyncio.gather(*(worker.token(name, scopes) for worker, scopes in calls))
    assert world.refreshes() == 2, "the carried token serves the other scope"
    assert {token.access_token for token in again} == {token.access_token for token in tokens}


@in_virtual_time
async def test_150_grants_with_20_callers_each_are_refreshed_once_each_and_nobody_waits_long() -> None:
    world = await GrantWorld(STRICT).open()
    workers = [world.worker() for _ in range(4)]
    names = [await world.connect(f"user-{number}") for number in range(150)]
    loop = asyncio.get_running_loop()

    async def timed(worker: Worker, name: str) -> float:
        started = loop.time()
        await worker.token(name)
        return loop.time() - started

    lone = await timed(workers[0], await world.connect("lone"))
    already = world.refreshes()
    times = await asyncio.gather(
        *(timed(workers[number % 4], name) for name in names for number in range(20)),
    )

    assert world.refreshes() - already == 150
    assert sorted(times)[int(len(times) * 0.99)] < 3 * lone


@in_virtual_time
async def test_tokens_that_live_shorter_than_the_margin_are_not_refreshed_for_every_caller() -> None:
    world = await GrantWorld(replace(PROFILES[STRICT], access_token_life_s=40)).open()
    workers = [world.worker() for _ in range(4)]
    name = await world.connect()

    await asyncio.gather(*(workers[number % 4].token(name) for number in range(200)))

    assert world.provider.refresh_margin_s > 40
    assert world.refreshes() == 1


@in_virtual_time
async def test_a_caller_who_leaves_does_not_take_the_refresh_with_him() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    caller = asyncio.create_task(worker.token(name))
    while world.refreshes() == 0:  # somewhere between the send and the commit
        await asyncio.sleep(0.005)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)

    token = await worker.token(name)

    assert world.refreshes() == 1
    assert token.seq == 2
    assert (await world.grant(name)).status is GrantStatus.ACTIVE
    assert worker.outcomes == {RefreshOutcome.JOINED: 1}


@pytest.mark.parametrize("profile", [STATIC, STRICT])
@in_virtual_time
async def test_an_instance_that_loses_the_acquisition_does_not_send(profile: str) -> None:
    world = await GrantWorld(profile, delay_s=0.0).open()
    workers = [world.worker() for _ in range(20)]
    name = await world.connect()
    tokens = await asyncio.gather(*(worker.token(name) for worker in workers))
    assert world.http.calls.count("/oauth/token") == 1
    assert len({token.access_token for token in tokens}) == 1


# --- revocation ---


async def answer_times(
    world: GrantWorld, workers: list[Worker], name: str, *, revoke_after_s: float
) -> tuple[list[tuple[datetime, AccessToken]], datetime]:
    """Callers that start every 5 ms for a quarter of a second, and a revocation among them."""
    answered: list[tuple[datetime, AccessToken]] = []
    refusals: set[Reason] = set()

    async def ask(number: int) -> None:
        await asyncio.sleep(number * 0.005)
        try:
            token = await workers[number % len(workers)].token(name)
        except BrokerError as error:
            refusals.add(error.reason)
        except Unavailable:
            return
        else:
            answered.append((world.clock.now(), token))

    async def revoke() -> datetime:
        await asyncio.sleep(revoke_after_s)
        await workers[0].revoke(name)
        return world.clock.now()

    *_, revoked_at = await asyncio.gather(*(ask(number) for number in range(50)), revoke())
    assert isinstance(revoked_at, datetime)
    assert refusals <= {Reason.GRANT_REVOKED}
    return answered, revoked_at


@pytest.mark.parametrize("radius", [RevocationRadius.TOKEN, RevocationRadius.GRANT])
@pytest.mark.parametrize("delay_s", [0.001, 0.01, 0.023])
@in_virtual_time
async def test_whenever_the_revocation_comes_no_token_is_served_after_it(
    delay_s: float, radius: RevocationRadius
) -> None:
    """Every 3 ms over a refresh of some 200 ms: revoke wins, and what the refresh brings late dies upstream too."""
    profile = replace(PROFILES[STRICT], revocation=radius)
    served = late = 0
    for step in range(90):
        world = await GrantWorld(profile, delay_s=delay_s).open()
        workers = [world.worker() for _ in range(3)]
        name = await world.connect()

        answered, revoked_at = await answer_times(world, workers, name, revoke_after_s=step * 0.003)

        assert [at for at, _ in answered if at > revoked_at] == []
        await world.drain(workers[1], for_s=200)
        grant = await world.grant(name)
        assert grant.status is GrantStatus.REVOKED
        assert world.usable() == set(), "a live refresh token is left at the provider"
        assert all(version is None for version in world.vault._secrets[f"cab-grant-{name}"]), "a version is left"
        assert grant.due_at is None
        (event,) = world.events("grant.revoked")
        assert event.grant.upstream_revoked is True
        served += len(answered)
        late += world.refreshes()
    assert served > 0, "the revocation never came after a token: the test would prove nothing"
    assert late > 0, "the revocation never met a refresh: the test would prove nothing"


@in_virtual_time
async def test_a_grant_is_revoked_here_although_the_provider_cannot_be_reached() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    world.http.refuses = True

    assert await worker.revoke(name) is False
    with pytest.raises(BrokerError) as refused:
        await worker.token(name)
    assert refused.value.reason is Reason.GRANT_REVOKED
    (event,) = world.events("grant.revoked")
    assert event.grant.upstream_revoked is False

    world.http.refuses = False
    await world.drain(worker)
    assert world.usable() == set()
    assert [e.grant.upstream_revoked for e in world.events("grant.revoked")] == [False, True]
    assert (await world.grant(name)).status is GrantStatus.REVOKED


@in_virtual_time
async def test_a_provider_that_never_answers_does_not_keep_a_revocation_open_for_ever() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    world.fault(endpoint="revoke", kind="status", status=503)
    await worker.revoke(name)
    await world.drain(worker, for_s=900)
    grant = await world.grant(name)
    assert (grant.status, grant.due_at) == (GrantStatus.REVOKED, None)
    assert [e.grant.upstream_revoked for e in world.events("grant.revoked")] == [False]


@pytest.mark.parametrize("profile", [LEEWAY, STATIC, "microsoft-like"])
@in_virtual_time
async def test_revoking_says_whether_the_provider_knows(profile: str) -> None:
    """Google's revocation would end every grant of the user, Microsoft has none: there it ends with us."""
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()
    assert await worker.revoke(name) is (profile == LEEWAY)
    assert await worker.revoke(name) is None
    await world.drain(worker)
    assert (await world.grant(name)).status is GrantStatus.REVOKED


@in_virtual_time
async def test_all_grants_of_a_user_are_revoked_together() -> None:
    world = await GrantWorld(STRICT).open()
    worker = world.worker()
    names = [await world.connect("alice", tenant=tenant) for tenant in ("acme", "globex")]
    done = await worker.revoker.matching(equal={"tenant": "acme", "subject": "alice"}, cause="left", txn="t")
    assert [item.grant_id for item in done] == names[:1]
    assert (await world.grant(names[1])).status is GrantStatus.ACTIVE
    with pytest.raises(BrokerError) as missing:
        await worker.revoke("no-such-grant")
    assert missing.value.reason is Reason.GRANT_MISSING


@in_virtual_time
async def test_all_grants_of_a_tenant_are_revoked_also_where_they_are_many() -> None:
    world = await GrantWorld(STRICT).open()
    grant = await world.grant(await world.connect())
    for number in range(600):
        await world.store.create(grant.model_copy(update={"grant_id": f"g{number}", "subject": f"s{number}"}))
    done = await world.worker().revoker.matching(equal={"tenant": "acme"}, cause="left", txn="t")
    assert len(done) == 601
    assert await world.store.matching(equal={"tenant": "acme", "status": "active"}) == []


@in_virtual_time
async def test_callers_who_wait_for_another_instance_have_one_of_them_look_out() -> None:
    world = await GrantWorld(STRICT).open()
    holder, waiting = world.worker(), world.worker()
    name = await world.connect()
    world.fault(endpoint="token", kind="slow", seconds=5, count=1)
    refreshing = asyncio.create_task(holder.token(name))
    await asyncio.sleep(1)
    before = world.documents.calls["read"]

    tokens = await asyncio.gather(*(waiting.token(name) for _ in range(100)))

    assert {token.access_token for token in tokens} == {(await refreshing).access_token}
    assert world.documents.calls["read"] - before < 2 * 100 + 20
