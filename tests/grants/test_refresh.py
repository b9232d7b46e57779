"""One refresh: what it does, what it writes, what it answers; with either driver of the vault."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.grants.grant_world import EVERY_CLASS, READ, STRICT, WRITE, GrantWorld
from tests.grants.virtual_time import in_virtual_time

from cab.adapters.sealed_documents import DATA_KEY_SECRET, SealedDocumentsVault
from cab.domain.errors import BrokerError, Reason
from cab.domain.grants import GrantStatus, RefreshOutcome
from cab.ports import ForetoldToken
from cab.use_cases.grants.refresh.attempt import Wanted
from cab_dev.doubles.oauth_provider import PROFILES
from cab_dev.doubles.oauth_provider.profiles import OldAccessToken


@pytest.mark.parametrize("profile", [*EVERY_CLASS, "jira-like", "github-like", "slack-like", "microsoft-like"])
@in_virtual_time
async def test_an_expired_token_is_refreshed_once_and_then_served_from_the_store(profile: str) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()

    first = await worker.token(name)
    second = await world.worker().token(name)

    assert first.outcome == RefreshOutcome.SUCCESS
    assert second.outcome == RefreshOutcome.CACHED
    assert first.access_token == second.access_token
    assert world.book.accept(first.access_token) is not None
    assert world.refreshes() == 1
    grant = await world.grant(name)
    assert (grant.status, grant.seq, grant.secret_version) == (GrantStatus.ACTIVE, 2, 2)
    assert await world.stored_refresh_token(name) in world.usable()
    assert len(world.events("grant.refreshed")) == 1
    assert grant.outbox == []


@in_virtual_time
async def test_other_scopes_are_asked_for_without_reading_a_grant_that_the_process_knows() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    await worker.token(name)
    await world.sleep(1)
    before = dict(world.documents.calls)
    token = await worker.token(name, WRITE)
    assert (token.outcome, world.book.accept(token.access_token) is not None) == (RefreshOutcome.SUCCESS, True)
    assert world.documents.calls["read"] == before["read"]
    await world.sleep(1)
    assert world.documents.calls["write"] == before["write"] + 3, "lease with mark, commit, the event taken off"


@pytest.mark.parametrize("profile", [*EVERY_CLASS, "jira-like", "github-like", "slack-like", "microsoft-like"])
@in_virtual_time
async def test_what_is_foretold_of_a_token_is_what_is_served_and_comes_a_write_earlier(profile: str) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()
    foretold: list[tuple[ForetoldToken, float]] = []
    loop = asyncio.get_running_loop()
    wanted = Wanted(READ, worker.connection, worker.provider)
    token = await worker.refresher.access_token(name, wanted, lambda word: foretold.append((word, loop.time())))
    ((word, at),) = foretold
    assert word == token.foretold()
    assert loop.time() - at == pytest.approx(0.01)
    again = await worker.refresher.access_token(name, wanted, lambda word: foretold.append((word, loop.time())))
    assert (again.outcome, len(foretold)) == (RefreshOutcome.CACHED, 1)


@in_virtual_time
async def test_nothing_is_foretold_to_a_request_that_is_answered_with_something_else() -> None:
    """A provider was slow: whoever waited has been told to come back, or has the last seconds of an older token."""
    world = await GrantWorld(STRICT).open()

    async def slow(where: str) -> None:
        await asyncio.sleep(11.3 if where == "after send" else 0)

    worker, name = world.worker(step=slow), await world.connect()
    foretold: list[ForetoldToken] = []
    with pytest.raises(BrokerError):
        await worker.refresher.access_token(name, Wanted(READ, worker.connection, worker.provider), foretold.append)
    await worker.refresher.until_settled(name)
    assert (await world.grant(name)).seq == 2
    assert foretold == []


@in_virtual_time
async def test_a_mistake_in_foretelling_keeps_no_token_from_its_grant(caplog: pytest.LogCaptureFixture) -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()

    def mistaken(_: ForetoldToken) -> None:
        raise RuntimeError

    token = await worker.refresher.access_token(name, Wanted(READ, worker.connection, worker.provider), mistaken)
    assert token.outcome == RefreshOutcome.SUCCESS
    assert (await world.grant(name)).status is GrantStatus.ACTIVE
    assert "RuntimeError" in caplog.text
    assert token.access_token not in caplog.text


@pytest.mark.parametrize("change", ["refreshed", "revoked", "suspect", "connected anew"])
@in_virtual_time
async def test_a_grant_that_another_process_has_changed_since_is_read(change: str) -> None:
    world = await GrantWorld(STRICT).open()
    worker, other, name = world.worker(), world.worker(), await world.connect()
    await worker.token(name)
    await world.sleep(1)
    if change == "refreshed":
        await other.token(name, WRITE)
        await world.sleep(1)
    elif change == "revoked":
        await other.revoke(name)
    elif change == "suspect":
        await world.change(name, suspect_since=world.clock.now())
    else:
        await world.reconnect(name)
    if change == "revoked":
        with pytest.raises(BrokerError) as refused:
            await worker.token(name, WRITE)
        assert refused.value.reason is Reason.GRANT_REVOKED
    else:
        token = await worker.token(name, WRITE)
        assert world.book.accept(token.access_token) is not None
        expected = RefreshOutcome.CACHED if change == "refreshed" else RefreshOutcome.SUCCESS
        assert token.outcome == expected
    assert [entry for entry in world.book.ledger() if entry["event"] == "refused"] == []


@in_virtual_time
async def test_a_grant_is_refreshed_swept_and_revoked_alike_when_payloads_are_sealed_documents() -> None:
    world = await GrantWorld(STRICT).open()
    await world.vault.create(DATA_KEY_SECRET)
    await world.vault.add(DATA_KEY_SECRET, b"d" * 32)
    world.grant_vault = SealedDocumentsVault(world.documents, world.vault)
    worker, name = world.worker(), await world.connect()

    for number in range(1, 4):
        token = await worker.token(name)
        assert world.book.accept(token.access_token) is not None
        assert world.refreshes() == number
        await world.drain(worker, for_s=300)
    assert kept_payloads(world) == [4], "the connected one and two more were replaced, and their documents are gone"
    assert await worker.revoke(name) is True
    await world.drain(worker)
    assert kept_payloads(world) == []
    assert [secret for secret in world.vault._secrets if secret.startswith("cab-grant-") and name in secret] == []


def kept_payloads(world: GrantWorld) -> list[int]:
    """The numbers of sealed versions that are there."""
    return sorted(
        int(path.rpartition(".")[2])
        for path in world.documents._documents
        if path.startswith("payloads/") and "." in path
    )


@in_virtual_time
async def test_who_has_no_grant_is_told_where_to_connect() -> None:
    world = await GrantWorld(STRICT).open()
    with pytest.raises(BrokerError) as missing:
        await world.worker().token("nobody")
    assert missing.value.reason is Reason.GRANT_MISSING
    assert missing.value.remedy.interaction_uri == "http://127.0.0.1:8080/connect?connection=double"


@in_virtual_time
async def test_a_grant_without_a_refresh_token_needs_the_user_when_its_token_has_expired() -> None:
    world = await GrantWorld("acme-crm", base_scopes=()).open()
    world.provider = world.provider.model_copy(update={"base_scopes": ()})
    worker, name = world.worker(), await world.connect()
    with pytest.raises(BrokerError) as refused:
        await worker.token(name, READ)
    assert refused.value.reason is Reason.GRANT_NEEDS_REAUTH
    assert (await world.grant(name)).fail_cause == "no refresh token"
    assert world.http.calls == []


@in_virtual_time
async def test_a_provider_that_cannot_narrow_is_used_only_where_wide_tokens_are_accepted() -> None:
    world = await GrantWorld("google-like", narrowing="none").open()
    worker, name = world.worker(), await world.connect()
    worker.connection = worker.connection.model_copy(update={"allow_unnarrowed": False})
    with pytest.raises(BrokerError) as refused:
        await worker.token(name)
    assert refused.value.reason is Reason.SCOPE_NOT_GRANTABLE
    assert world.http.calls == []


@in_virtual_time
async def test_a_token_serves_an_action_whose_scope_the_provider_calls_otherwise() -> None:
    """Case 15; it was scope_not_grantable before."""
    world = await GrantWorld(STRICT, narrowing="none", scope_names={"aliases": {"things.read": "read"}}).open()
    name = await world.connect()

    token = await world.worker().token(name, ("things.read",))

    assert token.scopes == ("things.read", "write")
    assert world.book.accept(token.access_token) is not None


@in_virtual_time
async def test_whoever_gets_a_token_of_five_minutes_has_240_seconds_of_it() -> None:
    """It was handed out with 61 seconds left before, which common clients take for expired."""
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    for _ in range(20):
        token = await worker.token(name)
        assert token.works_until is not None
        assert (token.works_until - world.clock.now()).total_seconds() >= 239
        assert world.book.accept(token.access_token) is not None
        await world.sleep(37)


@in_virtual_time
async def test_where_a_refresh_ends_older_tokens_it_is_never_asked_for_fewer_scopes() -> None:
    """Else the token for one action would end that for another, which was promised for longer."""
    profile = replace(PROFILES[STRICT], old_access_token=OldAccessToken.DIES_AT_ONCE, access_token_life_s=3600)
    world = await GrantWorld(profile, connection_changes={"allow_unnarrowed": True}).open()
    worker, name = world.worker(), await world.connect()

    read = await worker.token(name, READ)
    write = await worker.token(name, WRITE)

    assert read.access_token == write.access_token
    assert world.refreshes() == 1
    assert world.book.accept(read.access_token) is not None
