"""The protocol against every moment at which a process can die or stand still: explored on the real code, not on a drawing.

Two instances want a token of one grant, a sweeper comes round, a user may revoke. Each instance has a `Fate`: at one of the
points between its effects on the stores and the provider it is killed, or stopped for less than the lease, longer than the
lease, longer than the hold-down. The provider's ledger says what is true. `CAB_MODEL_RUNS` explores more pairs of fates.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from tests.grants.fates import Fate, fated_worker
from tests.grants.grant_world import FAMILY, LEEWAY, STATIC, STRICT, GrantWorld, Worker
from tests.grants.virtual_time import AT_THE_END, run

from cab.domain.errors import BrokerError, Reason
from cab.domain.grants import GrantStatus, RefreshOutcome
from cab.ports import Unavailable
from cab.stores.grant_payloads import GrantPayloads, Successors
from cab.use_cases.grants.refresh.attempt import _Attempt
from cab.use_cases.grants.refresh.orphaned_tokens import OrphanedTokens
from cab_dev.doubles.oauth_provider import PROFILES
from cab_dev.doubles.oauth_provider.profiles import RevocationRadius

LONG_LEEWAY = "jira-like"  # 600 s: two deaths one after the other fit into it
PAUSES = (20.0, 35.0, 50.0, 120.0)  # within the lease; beyond it; beyond the hold-down; beyond everything
POINTS = 28  # more than a refresh has from first read to answer; what lies beyond strikes nobody
RUNS = int(os.environ.get("CAB_MODEL_RUNS", "400"))


@dataclass(frozen=True)
class Plan:
    profile: str
    first: Fate
    second: Fate | None = None
    revoke_after_s: float | None = None

    def __str__(self) -> str:
        fates = " then ".join(
            f"{'killed' if fate.pause_s is None else f'stopped {fate.pause_s:.0f} s'} at {fate.strikes_at}"
            for fate in (self.first, self.second)
            if fate is not None
        )
        return f"{self.profile}: {fates}, revoked {self.revoke_after_s}"


@dataclass
class End:
    status: GrantStatus
    outcomes: Counter[RefreshOutcome]
    struck: list[str | None]


async def keep_asking(worker: Worker, name: str, *, every_s: float, for_s: float) -> None:
    """What an agent does: it asks, and comes back when it is told to."""
    loop = asyncio.get_running_loop()
    until = loop.time() + for_s
    while loop.time() < until:
        try:
            await worker.token(name)
        except BrokerError as error:
            if error.reason is not Reason.PROVIDER_UNAVAILABLE:
                return
        except Unavailable:
            pass
        await asyncio.sleep(every_s)


async def play(plan: Plan) -> End:
    profile = PROFILES[plan.profile]
    if plan.revoke_after_s is not None:
        profile = replace(
            profile, revocation=RevocationRadius.TOKEN
        )  # nothing dies by itself: we must find every token
    world = await GrantWorld(profile).open()
    name = await world.connect()
    sweeper = world.worker()
    fates = [fate for fate in (plan.first, plan.second) if fate is not None]
    workers = [fated_worker(world, fate) for fate in fates]
    asking = [asyncio.create_task(keep_asking(workers[0], name, every_s=1, for_s=1))]
    if len(workers) > 1:
        asking.append(asyncio.create_task(_later(0.5, keep_asking(workers[1], name, every_s=7, for_s=120))))
    if plan.revoke_after_s is not None:
        asking.append(asyncio.create_task(_later(plan.revoke_after_s, _revoke(sweeper, name))))
    await asyncio.sleep(3)
    await world.drain(sweeper, for_s=400, every_s=8)
    await verify(world, plan, fates, name)
    grant = await world.grant(name)
    outcomes = sum((worker.outcomes for worker in workers), Counter())
    return End(grant.status, outcomes, [fate.struck for fate in fates])


async def _later(seconds: float, then: object) -> None:
    await asyncio.sleep(seconds)
    await then  # type: ignore[misc]


async def _revoke(worker: Worker, name: str) -> None:
    await worker.revoke(name)


async def verify(world: GrantWorld, plan: Plan, fates: list[Fate], name: str) -> None:
    grant = await world.grant(name)
    truth = world.usable()
    stored = {await world.refresh_token_of_version(name, n) for n in range(1, world.versions(name) + 1)} - {None}

    assert grant.status in (GrantStatus.ACTIVE, GrantStatus.NEEDS_REAUTH, GrantStatus.REVOKED), "no end state"
    assert grant.outbox == []
    assert (grant.escrow, grant.attempt_id, grant.lease_until) == (None, None, None)
    assert grant.due_at is None or grant.due_at > world.clock.now()
    if grant.status is GrantStatus.ACTIVE:
        assert await world.stored_refresh_token(name) in truth, "ACTIVE with a dead token"
    if grant.status is GrantStatus.REVOKED:
        assert stored == set(), "a payload of a revoked grant is left"
        assert plan.revoke_after_s is not None
    if grant.status is GrantStatus.NEEDS_REAUTH:
        assert PROFILES[plan.profile].refresh_class.value.startswith("strict"), "lost where loss is avoidable"
        assert truth & stored == set(), "given up although a live token is stored"
        assert grant.fail_cause == RefreshOutcome.LOST_IN_WINDOW.value
        assert any(_in_the_window(fate, plan.profile) for fate in fates), "lost outside the window"
        assert len(world.events("grant.needs_reauth")) >= 1
    assert plan.revoke_after_s is None or grant.status is GrantStatus.REVOKED
    refreshed = len(world.events("grant.refreshed"))
    assert refreshed == grant.seq - 1, "a commit without its audit event, or the reverse"


def _in_the_window(fate: Fate, profile: str) -> bool:
    """Killed between the provider's commit and the first durable write. With families, also stopped around the send so long
    that two sends of one token, with the hold-down between them, were taken for a theft."""
    if fate.pause_s is None:
        return fate.struck in ("after provider.post_form", "before vault.add")
    around = ("before provider.post_form", "after provider.post_form", "before vault.add")
    return profile == FAMILY and fate.pause_s > 40 and fate.struck in around


def check(plan: Plan) -> End:
    AT_THE_END.clear()
    try:
        end = run(play(plan))
        for history in AT_THE_END:
            history()
    except AssertionError as error:
        raise AssertionError(f"{error} [{plan}]") from error
    return end


def single_fates() -> Iterator[tuple[int, float | None]]:
    for point in range(POINTS):
        for pause_s in (None, *PAUSES):
            yield point, pause_s


@pytest.mark.parametrize("profile", [STATIC, LEEWAY, STRICT, FAMILY])
def test_one_instance_that_dies_or_stands_still_at_any_moment_costs_nothing_but_the_window(profile: str) -> None:
    ends = [check(Plan(profile, Fate(point, pause_s))) for point, pause_s in single_fates()]

    struck = sum(point is not None for end in ends for point in end.struck)
    assert struck >= 18 * (1 + len(PAUSES)), "the fates hardly struck: the test would prove nothing"
    statuses = Counter(end.status for end in ends)
    lost = statuses[GrantStatus.NEEDS_REAUTH]
    assert statuses[GrantStatus.ACTIVE] + lost == len(ends)
    # Killed after the answer, and killed before the write: two points. With families, also by two long pauses at three.
    assert lost == {STATIC: 0, LEEWAY: 0, STRICT: 2, FAMILY: 2 + 2 * 3}[profile]
    assert sum((end.outcomes for end in ends), Counter())[RefreshOutcome.BUG] == 0


@pytest.mark.parametrize("profile", [STATIC, LONG_LEEWAY, STRICT, FAMILY])
def test_two_instances_that_die_or_stand_still_at_any_two_moments_leave_no_silent_dead_token(profile: str) -> None:
    dice = random.Random(f"fates of {profile}")  # noqa: S311 - repeatable
    for _ in range(RUNS // 4):
        first = Fate(dice.randrange(POINTS), dice.choice((None, None, *PAUSES)))
        second = Fate(dice.randrange(2 * POINTS), dice.choice((None, None, *PAUSES)))
        check(Plan(profile, first, second))


@pytest.mark.parametrize("profile", [STATIC, LONG_LEEWAY, STRICT])
def test_a_revocation_at_any_moment_leaves_no_live_token_behind(profile: str) -> None:
    dice = random.Random(f"revocations of {profile}")  # noqa: S311 - repeatable
    for _ in range(RUNS // 4):
        first = Fate(dice.randrange(POINTS), dice.choice((None, *PAUSES)))
        second = Fate(dice.randrange(2 * POINTS), dice.choice((None, *PAUSES)))
        check(
            Plan(profile, first, second, revoke_after_s=dice.choice((0.01, 0.1, 0.15, 0.2, 0.25, 0.3, 2, 31, 45, 80)))
        )


@pytest.mark.parametrize("left_out", ["hold-down and second look", "fence check before the send", "suspicion"])
def test_the_exploration_finds_what_each_safeguard_is_there_for(left_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that cannot fail proves nothing: without the safeguard it must come upon a dead token, or a needless loss."""
    if left_out == "suspicion":
        monkeypatch.setattr(OrphanedTokens, "suspect", _do_nothing)
    elif left_out == "fence check before the send":
        monkeypatch.setattr(_Attempt, "_stood_still", lambda _: False)
    else:
        monkeypatch.setattr("cab.domain.grant_transitions.no_resend_before", lambda *_: None)
        monkeypatch.setattr(GrantPayloads, "successors", _find_nothing)
    found: set[str] = set()
    for point, pause_s in single_fates():
        try:
            check(Plan(FAMILY, Fate(point, pause_s)))
        except AssertionError as error:
            found.add(str(error).partition("\n")[0])
    assert found & {"ACTIVE with a dead token", "given up although a live token is stored", "lost outside the window"}


async def _do_nothing(*_: object) -> None:
    return None


async def _find_nothing(*_: object) -> Successors:
    return Successors(newest=None, unread_since=None)
