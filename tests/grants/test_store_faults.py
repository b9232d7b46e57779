"""Our own stores fail: before the send nothing is spent, after it nothing is lost, whatever a write's unknown outcome was."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.grants.grant_world import EVERY_CLASS, FAMILY, LEEWAY, READ, STATIC, STRICT, GrantWorld, Worker
from tests.grants.virtual_time import in_virtual_time

from cab.domain.errors import BrokerError, Reason
from cab.domain.grants import GrantStatus, RefreshOutcome
from cab.ports import AccessToken, Unavailable
from cab.use_cases.grants.refresh.escrow import ESCROW_SECRET
from cab_dev.fakes.documents import Outage

REFRESH = "/oauth/token"


async def outcome(worker: Worker, name: str) -> str:
    try:
        ended: str = (await worker.token(name)).outcome
    except Unavailable as error:
        return f"{error.what} unavailable"
    except BrokerError as error:
        return error.reason.value
    return ended


async def is_sound(world: GrantWorld, worker: Worker, name: str) -> None:
    """After everything is well again and the sweeper has been round: alive, and true to the provider."""
    await world.drain(worker, for_s=150)
    grant = await world.grant(name)
    assert grant.status is GrantStatus.ACTIVE
    assert grant.escrow is None
    assert grant.outbox == []
    assert await world.stored_refresh_token(name) in world.usable()
    token = await worker.token(name)
    assert world.book.accept(token.access_token) is not None
    await world.sleep(1)  # the event of that refresh is on its way
    assert world.events("grant.needs_reauth") == []


# --- R7: the vault fails before the send ---


@pytest.mark.parametrize("profile", EVERY_CLASS)
@pytest.mark.parametrize("how", ["forbidden", "no escrow key", "no client secret"])
@in_virtual_time
async def test_a_token_whose_successor_could_not_be_saved_is_not_spent(how: str, profile: str) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()
    if how == "forbidden":
        world.vault.forbidden.add(f"cab-grant-{name}")
    elif how == "no escrow key":
        await world.vault.destroy(ESCROW_SECRET, 1)
    else:
        secret = {"secret": "cab-provider-double", "version": 1}
        worker.connection = type(worker.connection).model_validate(
            worker.connection.model_dump() | {"client_secret": secret}
        )

    ended = await asyncio.gather(*(outcome(worker, name) for _ in range(20)))

    assert set(ended) == {"secrets unavailable"}
    assert world.http.calls.count(REFRESH) == 0
    grant = await world.grant(name)
    assert (grant.status, grant.sent_at) == (GrantStatus.ACTIVE, None)
    if how == "forbidden":
        world.vault.forbidden.clear()
        await asyncio.sleep(3)
        assert await outcome(worker, name) == RefreshOutcome.SUCCESS


@in_virtual_time
async def test_after_a_failed_write_nothing_is_spent_for_a_while_although_permission_is_there() -> None:
    world = await GrantWorld(STRICT).open()
    vault = FailingAdds(world, failures=1)
    worker = world.worker(vault=vault)
    first, second = await world.connect("alice"), await world.connect("bob")
    assert await outcome(worker, first) == RefreshOutcome.RACE_RECOVERED  # through escrow
    vault.failures = 1_000
    await asyncio.sleep(300)
    assert await outcome(worker, first) in ("secrets unavailable", "provider_unavailable")
    sent = world.http.calls.count(REFRESH)
    assert await outcome(worker, second) == "secrets unavailable"
    assert world.http.calls.count(REFRESH) == sent
    vault.failures = 0
    await is_sound(world, worker, first)
    await is_sound(world, worker, second)


class FailingAdds:
    """The vault, whose next `failures` adds of payloads fail; `after`: though the version is written."""

    def __init__(self, world: GrantWorld, *, failures: int, after: bool = False, hang_s: float = 0.0) -> None:
        self._vault = world.vault
        self.failures = failures
        self._after = after
        self._hang_s = hang_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vault, name)

    async def add(self, secret: str, payload: bytes) -> int:
        if self.failures <= 0:
            return await self._vault.add(secret, payload)
        self.failures -= 1
        if self._after:
            await self._vault.add(secret, payload)
        await asyncio.sleep(self._hang_s)
        raise Unavailable("secrets")


# --- R8: the vault fails after the send ---


@pytest.mark.parametrize("profile", EVERY_CLASS)
@pytest.mark.parametrize("failures", [1, 2, 5, 1_000])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("hang_s", [0.0, 3.0])
@in_virtual_time
async def test_what_the_vault_refuses_is_kept_in_escrow_until_it_can_be_put_there(
    hang_s: float, after: bool, failures: int, profile: str
) -> None:
    world = await GrantWorld(profile).open()
    vault = FailingAdds(world, failures=failures, after=after, hang_s=hang_s)
    worker, name = world.worker(vault=vault), await world.connect()

    started = asyncio.get_running_loop().time()
    ended = await asyncio.gather(*(outcome(worker, name) for _ in range(5)))
    assert asyncio.get_running_loop().time() - started <= 12
    assert world.refreshes() == 1

    if failures == 1_000 and not after:
        assert set(ended) == {"secrets unavailable"}
        grant = await world.grant(name)
        assert grant.status is GrantStatus.RECOVERING
        assert grant.escrow is not None
        await world.drain(worker, for_s=60)
        assert world.refreshes() == 1, "nothing more is spent while one token set waits"
        vault.failures = 0
        restarted = asyncio.get_running_loop().time()
        while (await world.grant(name)).escrow is not None:
            await world.drain(worker, for_s=10)
        assert asyncio.get_running_loop().time() - restarted <= 300
    await is_sound(world, worker, name)


@in_virtual_time
async def test_no_token_of_an_escrow_can_be_read_in_the_document() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(vault=FailingAdds(world, failures=1_000)), await world.connect()
    await outcome(worker, name)
    document = await world.documents.read(f"grants/{name}")
    assert document is not None
    sealed = base64.b64decode(document.fields["escrow"])
    assert b"access_token" not in sealed
    assert "access_token" not in json.dumps(document.fields, default=str)


@in_virtual_time
async def test_an_escrow_that_cannot_be_opened_does_not_stop_recovery() -> None:
    world = await GrantWorld(LEEWAY).open()
    vault = FailingAdds(world, failures=1_000)
    worker, name = world.worker(vault=vault), await world.connect()
    await outcome(worker, name)
    await world.change(name, escrow=base64.b64encode(b"\x01" + b"?" * 60).decode())
    vault.failures = 0
    await is_sound(world, worker, name)


# --- R9, R10 and unknown outcomes: every write of a refresh, failing before or after its work ---


def document_faults() -> Iterator[tuple[int, int, bool]]:
    for skip in range(6):  # acquire, commit, flush, and what recovery writes
        for times in (1, 2, 4):
            for after in (False, True):
                yield skip, times, after


@pytest.mark.parametrize("profile", EVERY_CLASS)
@pytest.mark.parametrize(("skip", "times", "after"), list(document_faults()))
@in_virtual_time
async def test_a_document_write_of_unknown_outcome_never_costs_a_token(
    skip: int, times: int, after: bool, profile: str
) -> None:
    world = await GrantWorld(profile).open()
    workers, name = [world.worker() for _ in range(2)], await world.connect()
    world.documents.outage = Outage(frozenset({"write"}), after=after, skip=skip, times=times)

    await asyncio.gather(*(outcome(workers[number % 2], name) for number in range(6)))
    await world.drain(workers[0], for_s=60)
    world.documents.outage = None
    await is_sound(world, workers[1], name)

    unrecorded = [e for e in world.book.ledger() if e["event"] == "refused"]
    assert unrecorded == [], "a dead token was sent"
    assert len(world.events("grant.refreshed")) == (await world.grant(name)).seq - 1


@pytest.mark.parametrize("skip", [0, 1, 2, 3])
@in_virtual_time
async def test_a_write_whose_answer_was_lost_is_looked_up_and_the_refresh_goes_on(skip: int) -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    world.documents.outage = Outage(frozenset({"write"}), after=True, skip=skip, times=1)
    assert await outcome(worker, name) == RefreshOutcome.SUCCESS
    assert world.documents.calls["write"] <= 1 + 5


@pytest.mark.parametrize("profile", EVERY_CLASS)
@pytest.mark.parametrize("skip", range(8))
@in_virtual_time
async def test_a_read_that_fails_never_costs_a_token(skip: int, profile: str) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()
    world.documents.outage = Outage(frozenset({"read"}), skip=skip, times=3)
    await asyncio.gather(*(outcome(worker, name) for _ in range(3)))
    world.documents.outage = None
    await is_sound(world, worker, name)


@pytest.mark.parametrize("profile", EVERY_CLASS)
@in_virtual_time
async def test_a_commit_that_fails_after_the_token_set_is_stored_needs_no_second_refresh(profile: str) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()
    world.documents.outage = Outage(frozenset({"write"}), skip=1)  # the lease is taken
    assert await outcome(worker, name) == "documents unavailable"
    assert world.versions(name) == 2
    await asyncio.sleep(40)
    world.documents.outage = None

    await world.drain(worker, for_s=30)

    assert world.refreshes() == 1
    assert (await world.grant(name)).secret_version == 2
    await is_sound(world, worker, name)


@pytest.mark.parametrize(
    ("profile", "down_s", "lost"),
    [(STATIC, 300, False), (LEEWAY, 25, False), (STRICT, 300, True), (FAMILY, 300, True), (STRICT, 10, False)],
)
@in_virtual_time
async def test_with_both_stores_down_after_the_send_a_loss_is_never_silent(
    profile: str, down_s: float, lost: bool
) -> None:
    """R10. While the lease lasts the holder keeps trying both."""
    world = await GrantWorld(profile).open()

    steps: list[str] = []

    async def stores_go_down(step: str) -> None:
        steps.append(step)
        if step == "after send" and steps.count(step) == 1:
            world.vault.is_down = True
            world.documents.outage = Outage(frozenset({"read", "write"}))

    worker, name = world.worker(step=stores_go_down), await world.connect()
    asking = asyncio.create_task(outcome(worker, name))
    await asyncio.sleep(down_s)
    world.vault.is_down, world.documents.outage = False, None
    await asking

    if not lost:
        await is_sound(world, worker, name)
        return
    await world.drain(worker, for_s=90)
    grant = await world.grant(name)
    assert (grant.status, grant.fail_cause) == (GrantStatus.NEEDS_REAUTH, RefreshOutcome.LOST_IN_WINDOW.value)
    assert len(world.events("grant.needs_reauth")) == 1


@pytest.mark.parametrize("profile", EVERY_CLASS)
@in_virtual_time
async def test_contention_on_the_document_sends_nothing_twice(profile: str) -> None:
    """R23: somebody changes the document between every read and write of the holder."""
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()

    async def disturb() -> None:
        for number in range(40):
            stored = await world.store.read(name)
            assert stored is not None
            await world.store.replace(
                stored, stored.grant.model_copy(update={"upstream_account_name": f"name-{number}"})
            )

    tokens, _ = await asyncio.gather(
        asyncio.gather(*(outcome(worker, name) for _ in range(10))), asyncio.gather(*(disturb() for _ in range(2)))
    )
    await is_sound(world, worker, name)
    assert [e for e in world.book.ledger() if e["event"] == "refused"] == []
    grant = await world.grant(name)
    assert grant.upstream_account_name is not None, "the other's change is kept"
    assert tokens


# --- the audit log ---


@in_virtual_time
async def test_events_of_state_changes_wait_in_the_outbox_while_the_audit_log_is_down() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    world.log.is_down = True
    token: AccessToken = await worker.token(name)
    assert world.book.accept(token.access_token) is not None
    assert len((await world.grant(name)).outbox) == 1
    await world.drain(worker, for_s=130)
    world.log.is_down = False
    await world.drain(worker, for_s=120)
    assert (await world.grant(name)).outbox == []
    assert len(world.events("grant.refreshed")) == 1


@in_virtual_time
async def test_an_event_of_a_newer_revision_waits_for_that_and_holds_nothing_up() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    newer = {"event_id": "e", "event_type": "grant.renamed", "occurred_at": world.clock.now(), "outcome": "executed"}
    await world.change(name, outbox=[newer])
    token: AccessToken = await worker.token(name)
    assert world.book.accept(token.access_token) is not None
    await world.drain(worker, for_s=120)
    assert (await world.grant(name)).outbox == [newer]
    assert len(world.events("grant.refreshed")) == 1
    assert await worker.revoke(name)
    assert (await world.grant(name)).outbox == [newer]
    assert len(world.events("grant.revoked")) == 1


# --- what is not this grant's, R26, and what is older, R28 ---


def corruptions() -> Iterator[tuple[str, Any]]:
    yield "empty", lambda raw: b""
    yield "not json", lambda raw: b"\x00\xff" + raw
    yield "truncated", lambda raw: raw[: len(raw) // 2]
    yield "other grant", lambda raw: changed(raw, grant_id="x" * 43)
    yield "other tenant", lambda raw: changed(raw, tenant="globex")
    yield "other user", lambda raw: changed(raw, user_key="bob")
    yield "other format", lambda raw: changed(raw, format=2)
    yield "response not base64", lambda raw: changed(raw, response="%%%")
    yield "response without token", lambda raw: changed(raw, response=base64.b64encode(b"{}").decode())
    for position in range(20):  # one flipped bit somewhere in the structure
        yield f"bit {position}", lambda raw, position=position: flipped(raw, position)


def changed(raw: bytes, **members: Any) -> bytes:
    return json.dumps(json.loads(raw) | members).encode()


def flipped(raw: bytes, position: int) -> bytes:
    structure = [index for index, byte in enumerate(raw) if byte in b'{}[]":,']
    index = structure[(position * 7919) % len(structure)]
    return raw[:index] + bytes([raw[index] ^ 0x80]) + raw[index + 1 :]


@pytest.mark.parametrize(("what", "corrupt"), list(corruptions()))
@in_virtual_time
async def test_a_payload_that_is_not_intact_puts_the_grant_in_quarantine(what: str, corrupt: Any) -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect(expired=what != "empty")
    versions = world.vault._secrets[f"cab-grant-{name}"]
    versions[0] = corrupt(versions[0])

    assert await outcome(worker, name) == "grant_revoked"
    assert await outcome(world.worker(), name) == "grant_revoked"

    assert (await world.grant(name)).status is GrantStatus.QUARANTINED
    assert world.http.calls == []
    (event,) = world.events("grant.quarantined")
    assert event.outcome.value == "failed"
    await world.drain(worker)
    assert (await world.grant(name)).due_at is None


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("tenant", ["acme", "globex"])
@in_virtual_time
async def test_swapped_documents_and_pointers_are_found_before_a_token_leaves(tenant: str, warm: bool) -> None:
    """X13: every field of one grant's document copied over another's, within and across tenants."""
    world = await GrantWorld(STRICT).open()
    worker = world.worker()
    mine, other = await world.connect("alice"), await world.connect("bob", tenant=tenant)
    if warm:  # both payloads in the cache, several versions
        for _ in range(2):
            await worker.token(mine)
            await worker.token(other)
            await asyncio.sleep(300)
        await worker.token(other)
    document = await world.documents.read(f"grants/{other}")
    assert document is not None
    victim = await world.store.read(mine)
    assert victim is not None
    await world.documents.write(_replace(f"grants/{mine}", document.fields, victim.version))
    world.history.tampered.add(mine)

    sent = world.http.calls.count(REFRESH)
    with pytest.raises(BrokerError) as refused:
        await worker.token(mine)
    assert refused.value.reason is Reason.GRANT_REVOKED
    assert (await world.grant(mine)).status is GrantStatus.QUARANTINED
    assert world.http.calls.count(REFRESH) == sent


def _replace(path: str, fields: Any, version: object) -> Any:
    from cab.ports import Replace

    return Replace(path, fields, version)


@pytest.mark.parametrize("profile", EVERY_CLASS)
@pytest.mark.parametrize("cleaned", [False, True])
@pytest.mark.parametrize("rotations", [1, 2, 5])
@in_virtual_time
async def test_a_document_from_an_older_backup_goes_on_from_the_newest_token_set(
    rotations: int, cleaned: bool, profile: str
) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()
    await worker.token(name)
    backup = await world.grant(name)
    for _ in range(rotations):
        await asyncio.sleep(world.profile.access_token_life_s)
        await worker.token(name)
    if cleaned:
        await world.drain(worker, for_s=200)
    await asyncio.sleep(world.profile.access_token_life_s)
    current = await world.store.read(name)
    assert current is not None
    assert await world.store.replace(current, backup) is not None
    world.history.tampered.add(name)

    fresh = world.worker()
    await fresh.token(name)

    await is_sound(world, fresh, name)
    assert [e for e in world.book.ledger() if e["event"] == "refused"] == [], "a dead token was sent"


@in_virtual_time
async def test_a_grant_whose_versions_are_all_gone_is_put_in_quarantine() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    await world.vault.destroy(f"cab-grant-{name}", 1)
    assert await outcome(worker, name) == "grant_revoked"
    assert (await world.grant(name)).fail_cause == "payload is gone"


@in_virtual_time
async def test_tokens_are_in_no_text_that_a_log_could_show() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    token = await worker.token(name, READ)
    payload = await worker.refresher._payloads.load(await world.grant(name), 2, world.provider)
    secrets = [token.access_token, payload.refresh_token or ""]
    texts = [repr(token), repr(payload), str(payload.stored), repr(payload.newest), repr(payload.all_usable())]
    assert not [text for text in texts for secret in secrets if secret[:12] in text]


# --- R25: more refreshes than the vault's quota allows ---


class Quota:
    """The vault with Secret Manager's limit: so many adds a minute, over all secrets."""

    def __init__(self, world: GrantWorld, *, adds_a_minute: int) -> None:
        self._vault = world.vault
        self._limit = adds_a_minute
        self._adds: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vault, name)

    async def add(self, secret: str, payload: bytes) -> int:
        now = asyncio.get_running_loop().time()
        self._adds = [at for at in self._adds if at > now - 60]
        if len(self._adds) >= self._limit:
            raise Unavailable("secrets")
        self._adds.append(now)
        return await self._vault.add(secret, payload)


@pytest.mark.parametrize("profile", [LEEWAY, STRICT])
@in_virtual_time
async def test_a_storm_beyond_the_write_quota_is_weathered_without_a_loss(profile: str) -> None:
    world = await GrantWorld(profile).open()
    quota = Quota(world, adds_a_minute=15)
    workers = [world.worker(vault=quota) for _ in range(4)]
    names = [await world.connect(f"user-{number}") for number in range(60)]
    served: set[str] = set()

    async def insist(number: int, name: str) -> None:
        while name not in served:
            if (await outcome(workers[number % 4], name)) in set(RefreshOutcome):
                served.add(name)
            await asyncio.sleep(5)

    sweeping = asyncio.create_task(world.drain(workers[0], for_s=400, every_s=10))
    await asyncio.gather(*(insist(number, name) for number, name in enumerate(names)))
    await sweeping

    assert asyncio.get_running_loop().time() < 600
    assert world.events("grant.needs_reauth") == []
    assert [e for e in world.book.ledger() if e["event"] == "refused"] == []
    assert world.refreshes() <= 60 + len(workers)
    for name in names:
        assert await world.stored_refresh_token(name) in world.usable()
