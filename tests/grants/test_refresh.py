"""One refresh: what it does, what it writes, what it answers."""

from __future__ import annotations

import pytest
from tests.grants.grant_world import EVERY_CLASS, GrantWorld
from tests.grants.virtual_time import in_virtual_time

from cab.domain.grants import GrantStatus, Outcome


@in_virtual_time
@pytest.mark.parametrize("profile", [*EVERY_CLASS, "jira-like", "github-like", "slack-like", "microsoft-like"])
async def test_an_expired_token_is_refreshed_once_and_then_served_from_the_store(profile: str) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()

    first = await worker.token(name)
    second = await world.worker().token(name)

    assert first.outcome == Outcome.SUCCESS
    assert second.outcome == Outcome.CACHED
    assert first.access_token == second.access_token
    assert world.book.accept(first.access_token) is not None
    assert world.refreshes() == 1
    grant = await world.grant(name)
    assert (grant.status, grant.seq, grant.secret_ver) == (GrantStatus.ACTIVE, 2, 2)
    assert await world.stored_refresh_token(name) in world.usable()
    assert len(world.events("grant.refreshed")) == 1
    assert grant.outbox == []
