"""Providers that fail, stall, break off or answer nonsense: nobody is asked to log in again for it, and nothing odd is kept."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import re
import string
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.grants.fates import Fate, fated_worker
from tests.grants.grant_world import EVERY_CLASS, FAMILY, LEEWAY, STATIC, STRICT, GrantWorld, Worker
from tests.grants.test_store_faults import FailingAdds
from tests.grants.virtual_time import in_virtual_time

from cab.domain.errors import BrokerError, Reason
from cab.domain.grants import UNREAD, GrantStatus, RefreshOutcome
from cab.ports import HttpAnswer, SendFailed, Unavailable
from cab.protocol import token_responses
from cab.use_cases.grants.serve import ServeGrant

FAULTS: dict[str, dict[str, Any]] = {
    "500": {"kind": "status", "status": 500},
    "502": {"kind": "status", "status": 502},
    "503": {"kind": "status", "status": 503},
    "504": {"kind": "status", "status": 504},
    "429": {"kind": "status", "status": 429, "retry_after": 7},
    "slow": {"kind": "slow", "seconds": 30},
    "hang": {"kind": "hang"},
    "reset": {"kind": "reset"},
}
COMES_TOO_LATE = {"slow"}  # the double works on when its client has left
SAYS_NOTHING_WAS_DONE = {"429"}


async def ask(world: GrantWorld, worker: Worker, name: str) -> str:
    """One request: how it ended. Never slower than 12 s."""
    started = asyncio.get_running_loop().time()
    try:
        ended: str = (await worker.token(name)).outcome
    except BrokerError as error:
        ended = error.reason.value
        if error.reason is Reason.PROVIDER_UNAVAILABLE and not error.remedy.retry_after_s:
            ended += ", no Retry-After"
    except Unavailable:
        ended = "store_unavailable"
    assert asyncio.get_running_loop().time() - started <= 12
    return ended


async def ends_well(world: GrantWorld, worker: Worker, name: str) -> None:
    await world.drain(worker, for_s=200)
    grant = await world.grant(name)
    assert grant.status is GrantStatus.ACTIVE
    assert await world.stored_refresh_token(name) in world.usable()
    token = await worker.token(name)
    assert world.book.accept(token.access_token) is not None


@pytest.mark.parametrize(("status", "at_work"), [(500, False), (502, True), (503, False), (504, True)])
@in_virtual_time
async def test_behind_a_gateway_that_gave_up_a_strict_provider_may_still_be_at_work(
    status: int, *, at_work: bool
) -> None:
    """Its answer to the first request must not meet a token that a second one has spent."""
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    world.http.answer_instead = answered(b"", status)
    await ask(world, worker, name)
    sent_at = (await world.grant(name)).sent_at
    assert sent_at is not None
    next_try_at = (await world.grant(name)).next_try_at
    assert next_try_at is not None
    assert (next_try_at - sent_at >= timedelta(seconds=40)) is at_work


@pytest.mark.parametrize("profile", EVERY_CLASS)
@pytest.mark.parametrize("fault", sorted(set(FAULTS) - COMES_TOO_LATE))
@in_virtual_time
async def test_a_provider_in_trouble_is_waited_for(fault: str, profile: str) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()
    world.fault(endpoint="token", **FAULTS[fault])

    ended = await asyncio.gather(*(ask(world, worker, name) for _ in range(10)))
    assert set(ended) == {"provider_unavailable"}
    await world.drain(worker, for_s=60)
    assert set(await asyncio.gather(*(ask(world, worker, name) for _ in range(3)))) == {"provider_unavailable"}
    assert world.events("grant.needs_reauth") == []

    world.double.faults.clear()
    await ends_well(world, worker, name)
    assert world.events("grant.needs_reauth") == []


@pytest.mark.parametrize("profile", EVERY_CLASS)
@pytest.mark.parametrize("fault", sorted(set(FAULTS) - SAYS_NOTHING_WAS_DONE))
@in_virtual_time
async def test_an_answer_lost_after_the_rotation_costs_the_grant_only_where_nothing_forgives_it(
    fault: str, profile: str
) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()
    world.fault(endpoint="token", count=1, after_commit=True, **FAULTS[fault])

    assert await ask(world, worker, name) == "provider_unavailable"
    assert world.refreshes() == 1

    if profile in (STATIC, LEEWAY):
        await ends_well(world, worker, name)
        return
    await world.drain(worker, for_s=120)
    grant = await world.grant(name)
    assert (grant.status, grant.fail_cause) == (GrantStatus.NEEDS_REAUTH, RefreshOutcome.LOST_IN_WINDOW.value)
    (event,) = world.events("grant.needs_reauth")
    assert event.grant.cause == "lost_in_window"


@pytest.mark.parametrize("profile", EVERY_CLASS)
@in_virtual_time
async def test_a_slow_provider_that_had_not_begun_loses_nothing(profile: str) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()
    world.fault(endpoint="token", count=1, kind="slow", seconds=4)
    assert await ask(world, worker, name) == RefreshOutcome.SUCCESS
    await ends_well(world, worker, name)


@pytest.mark.parametrize("profile", EVERY_CLASS)
@pytest.mark.parametrize("seconds", [12, 20, 25])
@in_virtual_time
async def test_a_provider_that_rotates_at_once_and_answers_late_costs_nothing(seconds: float, profile: str) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()
    world.fault(endpoint="token", count=1, after_commit=True, kind="slow", seconds=seconds)

    assert await ask(world, worker, name) == "provider_unavailable"  # told to come back, within 12 s
    await asyncio.sleep(seconds)
    assert world.refreshes() == 1
    token = await worker.token(name)
    assert world.book.accept(token.access_token) is not None
    await ends_well(world, worker, name)
    assert world.events("grant.needs_reauth") == []


class Verifier:
    async def verify(self, user: str) -> Any:
        return SimpleNamespace(tenant="acme", subject=user)


async def serve(world: GrantWorld, worker: Worker, user: str = "alice") -> str:
    """As `POST /grants/token` does: the request ends when this returns."""
    nobody: Any = None
    verifier: Any = Verifier()
    request = ServeGrant(world.deployment, verifier, worker.refresher, nobody, nobody)
    try:
        token = await request(subject_assertion=user, connection_id="double", scopes=("read",))
    except BrokerError as error:
        return error.reason.value
    return token.outcome


@pytest.mark.parametrize("lives_on_s", [0, 40])
@in_virtual_time
async def test_the_request_that_began_an_attempt_ends_only_with_it_and_others_that_wait_are_answered(
    lives_on_s: int,
) -> None:
    """On Cloud Run an instance without a request stands still. With seconds left of an old token, and without."""
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    await worker.token(name)
    await asyncio.sleep(300 - lives_on_s)
    world.fault(endpoint="token", count=1, after_commit=True, kind="slow", seconds=20)
    loop = asyncio.get_running_loop()
    started = loop.time()
    ended: list[tuple[float, str]] = []

    async def request() -> None:
        how = await serve(world, worker)
        ended.append((loop.time() - started, how))

    await asyncio.gather(*(request() for _ in range(5)))
    *others, (last, _) = sorted(ended)
    assert 20 <= last < 22
    assert all(after < 12 for after, _ in others)
    assert {how for _, how in others} == {RefreshOutcome.CACHED.value if lives_on_s else "provider_unavailable"}
    assert (await world.grant(name)).status is GrantStatus.ACTIVE
    assert world.refreshes() == 2


@in_virtual_time
async def test_a_caller_that_leaves_does_not_end_the_request_that_listens() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    world.fault(endpoint="token", count=1, after_commit=True, kind="slow", seconds=20)
    request = asyncio.create_task(serve(world, worker))
    await asyncio.sleep(2)
    request.cancel()
    await asyncio.sleep(15)
    assert not request.done()
    await asyncio.sleep(5)
    assert request.done()
    assert (await world.grant(name)).status is GrantStatus.ACTIVE


@in_virtual_time
async def test_a_request_that_cannot_be_granted_spends_nothing_and_disturbs_nobody() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    held = await worker.token(name)
    calls = world.http.calls.count("/oauth/token")
    with pytest.raises(BrokerError) as refused:
        await worker.token(name, ("never.granted",))
    assert refused.value.reason is Reason.SCOPE_NOT_GRANTABLE
    assert world.http.calls.count("/oauth/token") == calls
    assert world.book.accept(held.access_token) is not None
    assert (await world.grant(name)).fail_cause is None


class Broken:
    """Connections that end before a byte of the request leaves: no name, no certificate, nobody there."""

    def __init__(self, world: GrantWorld) -> None:
        self._http = world.http
        self.is_broken = True

    async def post_form(self, *args: Any, **kwargs: Any) -> HttpAnswer:
        if self.is_broken:
            raise SendFailed("provider", may_have_arrived=False)
        return await self._http.post_form(*args, **kwargs)


@pytest.mark.parametrize("profile", EVERY_CLASS)
@in_virtual_time
async def test_where_nothing_was_sent_the_token_is_simply_unspent(profile: str) -> None:
    world = await GrantWorld(profile).open()
    http = Broken(world)
    worker, name = world.worker(http=http), await world.connect()
    assert await ask(world, worker, name) == "provider_unavailable"
    grant = await world.grant(name)
    assert (grant.status, grant.sent_at, grant.fail_cause) == (GrantStatus.ACTIVE, None, "cannot connect")
    http.is_broken = False
    await asyncio.sleep(3)
    assert await ask(world, worker, name) == RefreshOutcome.SUCCESS


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after": "Fri, 27 Nov 2026 10:00:45 GMT", "date": "Fri, 27 Nov 2026 10:00:00 GMT"}, 45),
        ({"retry-after": "Friday, 27-Nov-26 10:00:45 GMT", "date": "Fri, 27 Nov 2026 10:00:00 GMT"}, 45),
        ({"retry-after": "Fri, 27 Nov 2026 09:00:00 GMT", "date": "Fri, 27 Nov 2026 10:00:00 GMT"}, 0),
        ({"retry-after": "Fri, 27 Nov 2099 10:00:00 GMT", "date": "Fri, 27 Nov 2026 10:00:00 GMT"}, 99_999),
        ({"retry-after": "Fri, 27 Nov 2026 10:00:45 GMT"}, None),
        ({"retry-after": "soon", "date": "Fri, 27 Nov 2026 10:00:00 GMT"}, None),
        ({"retry-after": "123456"}, None),
        ({"retry-after": " 45 "}, 45),
        ({"retry-after": "2.0"}, 2),
        ({"retry-after": "0.35"}, 1),
        ({"retry-after": "123456.0"}, None),
        ({"retry-after": "2."}, None),
        ({"retry-after": ".5"}, None),
        ({"retry-after": "2.0.1"}, None),
        ({"retry-after": "²"}, None),
    ],
)
def test_retry_after_may_be_a_date_of_the_answers_own_clock(headers: dict[str, str], wait_s: int | None) -> None:
    assert HttpAnswer(503, headers, b"").retry_after_s == wait_s


@in_virtual_time
async def test_retry_after_is_honoured_and_told() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    world.fault(endpoint="token", kind="status", status=429, retry_after=45, count=1)
    with pytest.raises(BrokerError) as refused:
        await worker.token(name)
    assert refused.value.remedy.retry_after_s in (45, 46)
    await asyncio.sleep(43)
    assert await ask(world, worker, name) == "provider_unavailable"
    assert world.http.calls.count("/oauth/token") == 1
    await asyncio.sleep(3)
    assert await ask(world, worker, name) == RefreshOutcome.SUCCESS


@in_virtual_time
async def test_a_token_inside_the_margin_is_better_than_an_error() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    await worker.token(name)
    await asyncio.sleep(300 - 30)  # half a minute before its end, with a margin of one
    world.fault(endpoint="token", kind="status", status=500)
    assert await ask(world, worker, name) == RefreshOutcome.CACHED
    await asyncio.sleep(26)
    assert await ask(world, worker, name) == "provider_unavailable"


@pytest.mark.parametrize("profile", [STATIC, LEEWAY, STRICT, FAMILY, "jira-like", "github-like", "slack-like"])
@in_virtual_time
async def test_what_the_user_withdrew_at_the_provider_needs_a_new_consent(profile: str) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()
    world.book.end_account("double-1001")

    assert await ask(world, worker, name) == "grant_needs_reauth"
    assert await ask(world, worker, name) == "grant_needs_reauth"
    assert world.http.calls.count("/oauth/token") == 1
    (event,) = world.events("grant.needs_reauth")
    assert event.grant.cause == "needs_reauth_confirmed"
    assert worker.outcomes == {RefreshOutcome.NEEDS_REAUTH_CONFIRMED: 2}
    await world.drain(worker)
    grant = await world.grant(name)
    assert (grant.status, grant.due_at) == (GrantStatus.NEEDS_REAUTH, None)


# --- odd bodies, R12 ---


def answered(body: bytes, status: int = 200) -> Callable[[str], HttpAnswer]:
    return lambda _: HttpAnswer(status, {"content-type": "application/json"}, body)


NO_TOKEN = {
    "error in 200": b'{"error":"server_error"}',
    "not ok": b'{"ok":false,"error":"ratelimited"}',
    "html": b"<!doctype html><title>Sorry</title>",
    "empty": b"",
    "empty object": b"{}",
    "null token": b'{"access_token":null,"refresh_token":null}',
    "empty token": b'{"access_token":"","refresh_token":""}',
    "a lone sign that forms use": b"a=b",
    "form without token": b"error=temporarily_unavailable",
    "too large": b'{"access_token":"x","padding":"' + b"y" * 1024 * 1024 + b'"}',
}


@pytest.mark.parametrize("profile", [STATIC, STRICT])
@pytest.mark.parametrize("body", sorted(NO_TOKEN))
@in_virtual_time
async def test_an_answer_without_a_token_changes_nothing(body: str, profile: str) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()
    world.http.answer_instead = answered(NO_TOKEN[body])

    assert await ask(world, worker, name) == "provider_unavailable"
    grant = await world.grant(name)
    assert (grant.seq, grant.secret_version) == (1, 1)
    says_why = ("error in 200", "not ok", "form without token")
    cause = "error in 200" if body in says_why else "answer too large" if body == "too large" else "unusable answer"
    assert grant.fail_cause == cause

    world.http.answer_instead = lambda _: None
    await ends_well(world, worker, name)
    assert world.events("grant.needs_reauth") == []


@in_virtual_time
async def test_where_a_refresh_token_is_never_spent_nobody_waits_for_a_reader() -> None:
    world = await GrantWorld(STATIC).open()
    worker, name = world.worker(), await world.connect()
    world.http.answer_instead = answered(b'{"access_token":7,"refresh_token":"r"}')
    assert await ask(world, worker, name) == "provider_unavailable"
    assert (await world.grant(name)).fail_cause == "unusable answer"
    world.http.answer_instead = lambda _: None
    await ends_well(world, worker, name)


UNREADABLE = {
    "null beside a new refresh token": b'{"access_token":null,"refresh_token":"r"}',
    "number for token": b'{"access_token":7,"refresh_token":"r"}',
    "refresh token of another type": b'{"access_token":"x","refresh_token":{"value":"r"}}',
    "refresh token too long": b'{"access_token":"x","refresh_token":"' + b"r" * 20_000 + b'"}',
    "a comma too many, and a sign that forms use": b'{"access_token":"x=","refresh_token":"r=",}',
    "tokens beside an error": b'{"error":"partial","access_token":"x","refresh_token":"r"}',
    "list": b'[{"access_token":"x"}]',
    "line break in token": b'{"access_token":"a\\nb","refresh_token":"r"}',
    "token beyond ascii": '{"access_token":"tök","refresh_token":"r"}'.encode(),
    "two tokens": b'{"access_token":"x","access_token":"y"}',
    "deep": b'{"access_token":"x","more":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "truncated": b'{"access_token":"abc',
    "token too long": b'{"access_token":"' + b"x" * 20_000 + b'"}',
    "packed in an unknown way": b"\x0b\x02\x80\x00\x01abc\x03",
}


def jwt_like(length: int, seed: int) -> str:
    """Random signs as tokens have them: what packs better would prove nothing."""
    signs = string.ascii_letters + string.digits + "-_"
    return "".join(random.Random(seed).choices(signs, k=length))  # noqa: S311 - text, not a secret


LARGE_ANSWERS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "three tokens of 16 KB": lambda answer: json.dumps(answer | {"id_token": jwt_like(16_384, 3)}).encode(),
    "the same, packed": lambda answer: gzip.compress(json.dumps(answer | {"id_token": jwt_like(16_384, 3)}).encode()),
    "the same, in UTF-16": lambda answer: json.dumps(answer | {"id_token": jwt_like(16_384, 3)}).encode("utf-16"),
    "a profile of 150 KB beside them": lambda answer: json.dumps(
        answer | {"user": {"roles": jwt_like(150_000, 4)}}
    ).encode(),
}


@pytest.mark.parametrize("profile", EVERY_CLASS)
@pytest.mark.parametrize("kind", sorted(LARGE_ANSWERS))
@in_virtual_time
async def test_a_large_answer_is_kept_whatever_is_carried_beside_it(kind: str, profile: str) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()
    long_ones: dict[str, str] = {}  # what the double calls the tokens that the broker sees

    def enlarged(answer: HttpAnswer) -> HttpAnswer:
        if answer.status != 200:
            return answer
        members = json.loads(answer.body)
        for number, member in enumerate(("access_token", "refresh_token")):
            if member in members:
                short = members[member]
                members[member] = (short + jwt_like(16_384, number + len(long_ones)))[:16_384]
                long_ones[members[member]] = short
        return HttpAnswer(200, {}, LARGE_ANSWERS[kind](members))

    world.http.answer_after = enlarged
    world.http.token_names = long_ones
    for _ in range(3):  # from the second on, a refresh token of 16 KB is carried along
        token = await worker.token(name)
        assert len(token.access_token) == 16_384
        assert world.book.accept(long_ones[token.access_token]) is not None
        await asyncio.sleep(40_000)
    grant = await world.grant(name)
    assert (grant.status, grant.seq, grant.fail_cause) == (GrantStatus.ACTIVE, 4, None)
    assert world.events("grant.needs_reauth") == []


@pytest.mark.parametrize("size", [100_000, 300_000])
@in_virtual_time
async def test_an_answer_that_cannot_be_kept_is_told_to_the_operator(
    size: int, caplog: pytest.LogCaptureFixture
) -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    unread = b'{"access_token":"x","more":"' + jwt_like(size, 5).encode() + b'",'
    world.http.answer_instead = answered(unread)
    assert await ask(world, worker, name) == "provider_unavailable"
    assert f"too large to be kept, grant {name}" in caplog.text
    assert alerted("unread-answer", caplog.text)
    assert (await world.grant(name)).fail_cause == "answer too large"


def alerted(slug: str, text: str) -> bool:
    """Whether one of these log lines meets the alert of that name in terraform/alerts.tf."""
    alerts = (Path(__file__).parents[2] / "terraform" / "alerts.tf").read_text("utf-8")
    block = alerts.partition(f"    {slug} = {{")[2].partition("}")[0]
    (pattern,) = re.findall(r'jsonPayload\.message =~ \\"(.+?)\\"', block)
    return re.search(pattern, text) is not None


ODD_REFRESH_TOKEN = {"refresh token of another type", "refresh token too long"}  # beside an access token that is fine


@pytest.mark.parametrize(
    ("profile", "body"),
    [
        (profile, body)
        for profile in (STATIC, LEEWAY, STRICT, FAMILY)
        for body in sorted(UNREADABLE)
        if not (profile == STATIC and body in ODD_REFRESH_TOKEN)
    ],
)
@in_virtual_time
async def test_while_an_answer_is_unread_the_spent_token_is_not_sent_again_where_that_ends_the_grant(
    body: str, profile: str
) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()
    world.http.answer_instead = answered(UNREADABLE[body])
    assert await ask(world, worker, name) == "provider_unavailable"
    world.http.answer_instead = lambda _: None

    if profile in (STATIC, LEEWAY):  # they forgive it
        await ends_well(world, worker, name)
        return
    await world.drain(worker, for_s=3600)
    assert await ask(world, worker, name) == "provider_unavailable"
    grant = await world.grant(name)
    assert (grant.status, grant.fail_cause) == (GrantStatus.RECOVERING, "unread answer")
    assert world.http.calls.count("/oauth/token") == 1
    assert world.events("grant.needs_reauth") == []


@pytest.mark.parametrize("profile", [STRICT, FAMILY])
@in_virtual_time
async def test_killed_at_any_moment_around_an_unreadable_answer_the_spent_token_is_not_sent_again(profile: str) -> None:
    """Once the answer is stored. Every point before and after every effect, with another process that takes over."""
    points = 0
    while True:
        world = await GrantWorld(profile).open()
        name, fate = await world.connect(), Fate(strikes_at=points)
        world.http.answer_after = lambda answer: HttpAnswer(answer.status, {}, b"<access_token>" + answer.body)
        dying = asyncio.create_task(ask(world, fated_worker(world, fate), name))
        await asyncio.sleep(40)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        if fate.struck is None:
            break
        stored = world.versions(name) > 1
        sent = world.http.calls.count("/oauth/token")
        await world.drain(world.worker(), for_s=400)
        if stored:
            assert world.http.calls.count("/oauth/token") == sent == 1, fate.struck
            assert (await world.grant(name)).fail_cause == "unread answer", fate.struck
            assert world.events("grant.needs_reauth") == []
        points += 1
    assert points > 10


@in_virtual_time
async def test_a_provider_that_is_never_readable_is_sent_a_used_token_no_longer_than_its_leeway_runs() -> None:
    """Counted from the first time: the provider does not begin anew with every resend."""
    world = await GrantWorld(LEEWAY).open()
    worker, name = world.worker(), await world.connect()
    world.http.answer_after = lambda answer: HttpAnswer(answer.status, {}, b"<access_token>" + answer.body)
    await ask(world, worker, name)
    await world.drain(worker, for_s=(await world.grant(name)).leeway_s)
    sent = world.http.calls.count("/oauth/token")
    assert sent > 1
    await world.drain(worker, for_s=3600)
    assert world.http.calls.count("/oauth/token") == sent
    assert (await world.grant(name)).fail_cause == "unread answer"
    assert world.events("grant.needs_reauth") == []


@in_virtual_time
async def test_an_unreadable_answer_that_the_vault_refused_is_kept_all_the_same() -> None:
    world = await GrantWorld(STRICT).open()
    vault = FailingAdds(world, failures=3)
    worker, name = world.worker(vault=vault), await world.connect()
    world.http.answer_instead = answered(b'{"access_token":"x","more":')
    assert await ask(world, worker, name) in ("provider_unavailable", "store_unavailable")
    world.http.answer_instead = lambda _: None
    await world.drain(worker, for_s=600)
    grant = await world.grant(name)
    assert (grant.fail_cause, grant.escrow, world.versions(name)) == ("unread answer", None, 2)
    assert world.http.calls.count("/oauth/token") == 1


@in_virtual_time
async def test_a_restored_document_does_not_make_us_spend_what_an_unread_answer_was_got_for() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    backup = (await world.grant(name)).model_dump(exclude={"fence"})
    world.http.answer_instead = answered(b'{"access_token":"x","more":')
    await ask(world, worker, name)
    world.http.answer_instead = lambda _: None
    await world.change(name, **backup)

    assert await ask(world, worker, name) == "provider_unavailable"
    assert world.http.calls.count("/oauth/token") == 1
    assert (await world.grant(name)).fail_cause == "unread answer"


@in_virtual_time
async def test_a_lifetime_without_end_ends_no_attempt() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    world.http.answer_after = lambda answer: HttpAnswer(
        answer.status, {}, re.sub(rb'"expires_in":\s*[0-9]+', b'"expires_in":1e999', answer.body)
    )
    assert await ask(world, worker, name) == RefreshOutcome.SUCCESS
    await ends_well(world, worker, name)


@in_virtual_time
async def test_a_static_provider_with_an_odd_refresh_token_is_used_with_the_one_that_works() -> None:
    world = await GrantWorld(STATIC).open()
    worker, name = world.worker(), await world.connect()
    before = await world.stored_refresh_token(name)
    world.http.answer_after = lambda answer: HttpAnswer(
        answer.status, {}, json.dumps(json.loads(answer.body) | {"refresh_token": {"value": "r"}}).encode()
    )
    assert await ask(world, worker, name) == RefreshOutcome.SUCCESS
    await world.expire(name)
    assert await ask(world, worker, name) == RefreshOutcome.SUCCESS
    world.http.answer_after = lambda answer: answer
    assert before in world.usable()


@in_virtual_time
async def test_a_refresh_token_that_cannot_be_taken_is_told_to_the_operator_and_holds_the_grant_for_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    world.http.answer_after = lambda answer: HttpAnswer(
        answer.status, {}, json.dumps(json.loads(answer.body) | {"refresh_token": {"value": "r"}}).encode()
    )
    assert await ask(world, worker, name) == "provider_unavailable"
    assert alerted("unread-answer", caplog.text)
    grant = await world.grant(name)
    assert (grant.status, grant.attempt_id, grant.fail_cause) == (GrantStatus.RECOVERING, None, UNREAD)


@in_virtual_time
async def test_a_newer_reader_goes_on_from_the_answer_that_an_older_one_could_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()

    def wrapped(answer: HttpAnswer) -> HttpAnswer:
        return HttpAnswer(answer.status, {}, b"<access_token>" + answer.body)

    world.http.answer_after = wrapped
    assert await ask(world, worker, name) == "provider_unavailable"
    await world.drain(worker, for_s=600)
    assert world.refreshes() == 1

    older = token_responses.parse
    monkeypatch.setattr(
        token_responses, "parse", lambda body, **more: older(body.removeprefix(b"<access_token>"), **more)
    )
    newer = world.worker()
    await world.drain(newer, for_s=120)
    grant = await world.grant(name)
    assert (grant.status, grant.seq, world.refreshes()) == (GrantStatus.ACTIVE, 2, 1)
    assert world.book.accept((await newer.token(name)).access_token) is not None


# --- refusals in other people's words ---

DEAD = {
    "atlassian": (403, b'{"error":"invalid_grant","error_description":"Unknown or invalid refresh token."}'),
    "hubspot": (400, b'{"status":"BAD_REFRESH_TOKEN","message":"missing or invalid refresh token"}'),
    "microsoft": (400, b'{"error":"interaction_required","error_codes":[50079],"claims":"{}"}'),
    "unauthorized": (401, b'{"error":"invalid_grant"}'),
    "nested": (400, b'{"error":{"code":"invalid_grant","message":"no"}}'),
    "in a 200": (200, b'{"error":"invalid_grant"}'),
    "in a list": (400, b'{"success":false,"errors":[{"errorType":"invalid_grant","message":"Refresh token invalid"}]}'),
    "with another status": (422, b'{"error":"invalid_grant"}'),
    "by message alone": (400, b'{"message":"invalid_grant"}'),
}


@pytest.mark.parametrize("profile", [STATIC, LEEWAY, STRICT, FAMILY])
@pytest.mark.parametrize("said", sorted(DEAD))
@in_virtual_time
async def test_a_definite_no_is_believed_at_once(said: str, profile: str) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()
    status, body = DEAD[said]
    world.http.answer_instead = answered(body, status)
    assert await ask(world, worker, name) == "grant_needs_reauth"
    assert world.http.calls.count("/oauth/token") == 1
    assert len(world.events("grant.needs_reauth")) == 1


UNKNOWN_WORDS = {
    "a code that also blames clients": (403, b'{"error":"unauthorized_client"}'),
    "another code": (401, b'{"error":"invalid_token"}'),
    "no code": (400, b'{"message":"Your session is over, please start again"}'),
    "no words at all": (403, b""),
    "401 with other members": (401, b'{"error":true,"reason":"That refresh token has expired"}'),
    "401 as text": (401, b"Invalid refresh token"),
    "401 at length": (401, b'{"message":"' + b"The refresh token that was sent is no longer valid here. " * 4 + b'"}'),
    "ServiceNow's": (401, b'{"error_description":"access_denied","error":"server_error"}'),
    "a number": (400, b'{"errcode":40030,"errmsg":"invalid refresh_token"}'),
    "not found": (404, b'{"message":"Refresh token not found"}'),
    "a code in a 200": (200, b'{"error":"invalid_code"}'),
    "a number in a 200": (200, b'{"errcode":40030,"errmsg":"invalid refresh_token"}'),
    "success is false": (200, b'{"success":false}'),
}


@pytest.mark.parametrize("profile", [STATIC, LEEWAY, STRICT, FAMILY])
@pytest.mark.parametrize("said", sorted(UNKNOWN_WORDS))
@in_virtual_time
async def test_a_no_in_unknown_words_is_believed_when_it_lasts_for_days(said: str, profile: str) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()
    status, body = UNKNOWN_WORDS[said]
    world.http.answer_instead = answered(body, status)
    for _ in range(6 * 3):
        assert await ask(world, worker, name) == "provider_unavailable"
        await asyncio.sleep(4 * 3600 - 60)
        worker = world.worker()  # processes come and go
    await asyncio.sleep(3600)
    assert await ask(world, worker, name) == "grant_needs_reauth"
    (event,) = world.events("grant.needs_reauth")
    assert event.grant.cause == "needs_reauth_confirmed"


@in_virtual_time
async def test_a_no_whose_text_differs_each_time_is_the_same_no() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    asked = 0

    def answer(_: str) -> HttpAnswer:
        nonlocal asked
        asked += 1
        text = f'{{"error":"odd_code","message":"Request {asked}: no","code":"req-{asked}","id":"{asked}"}}'
        return HttpAnswer(400, {}, text.encode())

    world.http.answer_instead = answer
    for _ in range(13):
        assert await ask(world, worker, name) == "provider_unavailable"
        await asyncio.sleep(6 * 3600 - 60)
    assert (await world.grant(name)).refused_as == "http 400 odd_code"
    await asyncio.sleep(3600)
    assert await ask(world, worker, name) == "grant_needs_reauth"


BUSY = {
    "408": (408, b'{"error":"invalid_request"}'),
    "425": (425, b""),
    "429": (429, b'{"error":"invalid_grant"}'),
    "500 with a definite word": (500, b'{"error":"invalid_grant"}'),
    "503": (503, b'{"error":"odd"}'),
    "400 that is temporary": (400, b'{"error":"temporarily_unavailable"}'),
    "400 of a broken server": (400, b'{"error":"server_error"}'),
    "403 for a limit": (403, b'{"error":"rate_limit_exceeded"}'),
    "200 for a limit": (200, b'{"ok":false,"error":"ratelimited"}'),
    "200 of a broken server": (200, b'{"error":"internal_error"}'),
    "200 without a no": (200, b'{"status":"maintenance"}'),
}


@pytest.mark.parametrize("profile", [STATIC, STRICT])
@pytest.mark.parametrize("said", sorted(BUSY))
@in_virtual_time
async def test_an_outage_ends_no_grant_however_long_it_lasts(said: str, profile: str) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()
    status, body = BUSY[said]
    world.http.answer_instead = answered(body, status)
    for _ in range(40):
        assert await ask(world, worker, name) == "provider_unavailable"
        await asyncio.sleep(6 * 3600)
    world.http.answer_instead = lambda _: None
    await ends_well(world, worker, name)
    assert world.events("grant.needs_reauth") == []


@in_virtual_time
async def test_a_no_that_changes_or_stops_begins_anew() -> None:
    world = await GrantWorld(STATIC).open()
    worker, name = world.worker(), await world.connect()
    for day in range(8):
        world.http.answer_instead = answered(b'{"error":"odd_%c"}' % (97 + day // 2), 400)
        for _ in range(4):
            assert await ask(world, worker, name) == "provider_unavailable"
            await asyncio.sleep(6 * 3600)
    world.http.answer_instead = lambda _: None
    await ends_well(world, worker, name)
    assert (await world.grant(name)).refused_as is None


OUR_FAULTS = {
    "invalid_client": (401, b'{"error":"invalid_client"}', {}),
    "invalid_client with 400": (400, b'{"error":"invalid_client"}', {}),
    "github's word": (200, b'{"error":"incorrect_client_credentials"}', {}),
    "a challenge": (401, b'{"error":"access_denied"}', {"www-authenticate": 'Basic realm="x"'}),
    "401 without a word": (401, b"", {}),
    "401 with a page": (401, b"<html>Unauthorized client</html>", {}),
    "another word": (400, b'{"error":"client_authentication_failed"}', {}),
    "at length": (401, b'{"message":"Invalid client_id or client_secret"}', {}),
    "a grant type that is not ours": (
        400,
        b'{"error":"unauthorized_client","error_description":"The client may not use the grant type refresh_token."}',
        {},
    ),
    "an application that is unknown": (
        400,
        b'{"error":"unauthorized_client","error_description":"AADSTS700016: Application was not found in the directory."}',
        {},
    ),
    "the wrong address": (404, b"<html>Not found</html>", {}),
    "a method that is not served": (405, b"", {}),
    "an address that has moved": (308, b"", {"location": "https://new.test/token"}),
    "a redirect address": (400, b'{"error":"redirect_uri_mismatch"}', {}),
    "a firewall's page": (403, b"<!doctype html><title>Access denied</title>", {"content-type": "text/html"}),
    "our network's address": (400, b'{"error":"invalid_grant","error_description":"ip restricted"}', {}),
}


@pytest.mark.parametrize("profile", [STATIC, STRICT])
@pytest.mark.parametrize("fault", sorted(OUR_FAULTS))
@in_virtual_time
async def test_a_refusal_of_our_own_client_never_ends_a_grant_and_is_told_to_the_operator(
    fault: str, profile: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = await GrantWorld(profile).open()
    worker, name = world.worker(), await world.connect()
    status, body, headers = OUR_FAULTS[fault]
    world.http.answer_instead = lambda _: HttpAnswer(status, headers, body)
    for _ in range(40):
        assert await ask(world, worker, name) == "provider_unavailable"
        await asyncio.sleep(6 * 3600)
    assert (await world.grant(name)).fail_cause == "our client is refused"
    assert alerted("client-refused", caplog.text)
    world.http.answer_instead = lambda _: None
    await ends_well(world, worker, name)
    assert world.events("grant.needs_reauth") == []


@pytest.mark.parametrize(
    "value", ["3600", -1, 0, "absent", 1_000_000_000_000, 1e12, "soon", True, None, [3600], {"s": 3600}, 59.9]
)
@in_virtual_time
async def test_an_odd_lifetime_becomes_a_sane_one(value: Any) -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    world.fault(endpoint="token", kind="answer", answer="expires_in", value=value, count=1)

    token = await worker.token(name)

    assert token.expires_at is not None
    life = token.expires_at - world.clock.now()
    expected = {"3600": timedelta(hours=1), 59.9: timedelta(seconds=59)}.get(
        value if isinstance(value, str | float) else "", timedelta(minutes=10)
    )
    assert abs(life - expected) < timedelta(seconds=2)
    assert world.book.accept(token.access_token) is not None


@in_virtual_time
async def test_an_answer_without_a_refresh_token_keeps_the_old_one() -> None:
    world = await GrantWorld(STATIC).open()
    worker, name = world.worker(), await world.connect()
    before = await world.stored_refresh_token(name)
    for _ in range(3):
        token = await worker.token(name)
        assert await world.stored_refresh_token(name) == before
        assert world.book.accept(token.access_token) is not None
        await asyncio.sleep(3600)
    assert world.refreshes() == 3


@in_virtual_time
async def test_a_form_encoded_answer_is_read() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    world.fault(endpoint="token", kind="answer", answer="form_encoded", count=1)
    token = await worker.token(name)
    assert world.book.accept(token.access_token) is not None
    await asyncio.sleep(300)
    await worker.token(name)
    await ends_well(world, worker, name)


@in_virtual_time
async def test_a_token_wider_than_asked_for_is_kept_but_never_handed_out() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    world.fault(endpoint="token", kind="answer", answer="extra_scope", count=1)
    assert await ask(world, worker, name) == "scope_not_grantable"
    grant = await world.grant(name)
    assert (grant.status, grant.seq) == (GrantStatus.ACTIVE, 2)
    await ends_well(world, worker, name)


@in_virtual_time
async def test_a_refused_scope_does_not_hold_up_callers_with_other_scopes() -> None:
    world = await GrantWorld(STRICT).open()
    worker, name = world.worker(), await world.connect()
    world.http.answer_instead = answered(b'{"error":"invalid_scope"}', 400)
    assert await ask(world, worker, name) == "scope_not_grantable"
    world.http.answer_instead = lambda _: None
    assert await ask(world, worker, name) == RefreshOutcome.SUCCESS


@in_virtual_time
async def test_what_dozens_of_useless_answers_left_behind_hides_no_token_set_and_is_destroyed() -> None:
    world = await GrantWorld(LEEWAY).open()
    worker, name = world.worker(), await world.connect()
    world.http.answer_instead = answered(b"<html>maintenance</html>")
    await ask(world, worker, name)
    await world.drain(worker, for_s=600, every_s=5)
    useless = world.versions(name) - 1
    assert useless > 20
    world.http.answer_instead = lambda _: None
    await ends_well(world, worker, name)
    await world.drain(worker, for_s=400)
    kept = [version for version in world.vault._secrets[f"cab-grant-{name}"] if version is not None]
    assert len(kept) == 1
