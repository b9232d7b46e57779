"""How many calls to others follow one another in each path, over the real adapters, by the emulators' call log; and what each path is billed as."""

from __future__ import annotations

import asyncio
import json
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path as Folder
from typing import Any

import pytest
from benchmarks.operations import DEFLATED, NARROWER, ONCE, REFRESH, ROW_BYTES, WAITS, Operations
from tests.grants.virtual_time import run
from tests.support.asgi import Answer
from tests.support.calling import call, call_token, platform_at
from tests.support.emulated import chain, emulated
from tests.support.web import json_answer
from tests.support.world import (
    ACCOUNTS,
    CRM,
    EDGE,
    FORM,
    IDP,
    INGEST_AUDIT,
    STS,
    World,
    as_form,
    intent,
    task,
    unique,
)

from cab.adapters.google_cloud.bigquery.audit_schema import columns
from cab.adapters.google_cloud.pubsub.audit_chain import AuditChain
from cab.adapters.system import SystemRandomness
from cab.domain.audit import AuditEvent, EventType, Outcome, SealedEvent, Service
from cab.domain.identifiers import subject_key
from cab.stores.sessions import BrowserStates, Session
from cab.use_cases.audit.packing import pack
from gcp_emulators import Emulators
from gcp_emulators.testing import running_for_tests

LIST, READ = intent("crm.deal.list", "deal/*"), intent("crm.deal.read", "deal/1")
CHANGE = intent("crm.deal.update", "deal/1", parameters={"stage": "won"})
DROP = intent("warehouse.table.drop", "table/t1")
BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
COOKIE = "c" * 43
DELAYS_S = (0.05, 0.1, 0.25, 0.6)
WAITING = WAITS | {
    "mint with a google identity": 1,
    "relaxed": 1,
    "take in a message": 1,
    "introspect": 2,
    "revoke": 2,
}

Path = Callable[[World], Awaitable[Awaitable[Answer]]]


@pytest.fixture(scope="module")
def emulators() -> Iterator[Emulators]:
    with running_for_tests("embedded") as running:
        yield running


async def mint_with_a_google_identity(world: World) -> Awaitable[Answer]:
    google = world.google_token(EDGE, sub="100000000000000000001")
    login = world.id_token("alice", aud="kiosk-at-idp")
    form = world.mint_form(subject_token=login, client_assertion=google, client_assertion_type=BEARER)
    await world.post("/edge/token", form)
    return world.post("/edge/token", form)


async def mint_with_a_key(world: World) -> Awaitable[Answer]:
    return world.post("/edge/token", world.mint_form(subject_token=world.id_token("alice")))


async def hot(world: World) -> Awaitable[Answer]:
    return world.exchange(LIST, subject_token=await world.assertion(user="alice"))


async def with_a_google_identity_and_no_limit(world: World) -> Awaitable[Answer]:
    google = world.google_token(STS, sub="100000000000000000002")
    who: dict[str, Any] = {"agent": "workload", "client_assertion": google, "client_assertion_type": BEARER}
    assertion = await world.assertion("workload", user="alice")
    await world.exchange(subject_token=assertion, **who)
    return world.exchange(subject_token=assertion, **who)


async def relaxed(world: World) -> Awaitable[Answer]:
    """By an agent with a Google identity, where a grant's status may be remembered."""
    folder = world.write_policies(None)
    for name, before, after in (
        ("broker.yaml", "rate_limits:", "grant_status_cache_s: 60\nrate_limits:"),
        ("agents.yaml", 'subject: "100000000000000000002"}\n    actions: [', '\\g<0>"crm.*", '),
    ):
        path = folder / name
        text, changed = re.subn(before.replace("[", "\\["), after, path.read_text("utf-8"))
        assert changed == 1
        path.write_text(text, "utf-8")
    world.deploy(folder)
    google = world.google_token(STS, sub="100000000000000000002")
    who: dict[str, Any] = {"agent": "workload", "client_assertion": google, "client_assertion_type": BEARER}
    assertion = await world.assertion("workload", user="alice")
    await world.exchange(LIST, subject_token=assertion, **who)
    return world.exchange(LIST, subject_token=assertion, **who)


async def bounded(world: World) -> str:
    return await world.assertion(user="alice", task=task("crm.*", "warehouse.*"))


async def change_within_a_task(world: World) -> Awaitable[Answer]:
    return world.exchange(CHANGE, subject_token=await bounded(world))


async def change_within_a_task_with_a_limit(world: World) -> Awaitable[Answer]:
    bounds = task("crm.*", limits={"max_uses": 5})
    return world.exchange(CHANGE, subject_token=await world.assertion(user="alice", task=bounds))


def nobody_introspects(world: World) -> None:
    """Tokens of the CRM, so what was recorded once need not be again; nor changes in a task."""

    def recording_less(text: str) -> str:
        resource = "    resource: ${CRM_ORIGIN}\n"
        return text.replace(resource, "    records_each_write: false\n" + resource, 1)

    folder = world.write_policies(None, connections=recording_less)
    agents = folder / "agents.yaml"
    agents.write_text(agents.read_text("utf-8").replace(', "${CRM_ORIGIN}"]', "]"), "utf-8")
    world.deploy(folder)


async def change_within_a_task_with_a_limit_recorded_before(world: World) -> Awaitable[Answer]:
    nobody_introspects(world)
    assertion = await world.assertion(user="alice", task=task("crm.*", limits={"max_uses": 5}))
    await world.exchange(CHANGE, subject_token=assertion)
    return world.exchange(CHANGE, subject_token=assertion)


async def ask_the_user(world: World) -> Awaitable[Answer]:
    return world.exchange(DROP, subject_token=await bounded(world))


async def ask_again_while_it_waits(world: World) -> Awaitable[Answer]:
    assertion = await bounded(world)
    await world.exchange(DROP, subject_token=assertion)
    return world.exchange(DROP, subject_token=assertion)


async def repeat_when_the_user_agreed(world: World) -> Awaitable[Answer]:
    assertion = await bounded(world)
    asked = await world.exchange(DROP, subject_token=assertion)
    await world.decide(asked.json["interaction_uri"], approved=True)
    return world.exchange(DROP, subject_token=assertion)


async def redeem_what_was_deferred(world: World) -> Awaitable[Answer]:
    limited = task("crm.*", "warehouse.*", limits={"max_uses": 5})
    assertion = await world.assertion(user="alice", task=limited)
    asked = await world.exchange(DROP, subject_token=assertion, completion_mode="deferred")
    await world.decide(asked.json["interaction_uri"], approved=True)
    return world.poll(asked.json["deferral_code"])


async def decide(world: World) -> Awaitable[Answer]:
    """The click on "Allow"."""
    now = world.clock.now()
    session = Session(
        tenant="acme",
        subject=subject_key("acme", IDP, "alice"),
        idp_issuer=IDP,
        groups=["staff"],
        auth_time=now,
        acr=None,
        amr=[],
        display_name=None,
        csrf="c",
        expires_at=now + timedelta(hours=1),
    )
    await BrowserStates(world.cloud.documents["approvals"]).put(COOKIE, session)
    asked = await world.exchange(DROP, subject_token=await bounded(world))
    path = "/approvals/" + asked.json["interaction_uri"].rpartition("/")[2]
    headers = [FORM, ("Cookie", f"cab_session={COOKIE}")]
    form = as_form({"decision": "approve", "csrf": "c"})
    return world.request("POST", path, function="connect_account", headers=headers, body=form)


async def first_use_of_a_narrower_scope(world: World) -> Awaitable[Answer]:
    return world.exchange(READ, subject_token=await world.assertion(user="alice"))


async def first_use_after_the_token_ended(world: World) -> Awaitable[Answer]:
    world.advance(3600)
    await world.connect("bob", "crm", "deal.read", "deal.write", "contact.read", "offline")
    await world.exchange(READ, subject_token=await world.assertion(user="bob"))  # keys are in memory again, everywhere
    return await hot(world)


async def call_of_the_broker(world: World) -> Awaitable[Answer]:
    """Under a call token that was used before."""
    platform_at(world, CRM, json_answer([{"id": "d1"}]))
    token = await call_token(world, task=None)
    await call(world, token, "crm_deal_list", {})
    return call(world, token, "crm_deal_list", {})


async def call_of_the_broker_recorded_before(world: World) -> Awaitable[Answer]:
    nobody_introspects(world)
    return await call_of_the_broker(world)


async def take_in_a_message(world: World) -> Awaitable[Answer]:
    identity = world.google_token(INGEST_AUDIT, email=f"pubsub-push@{ACCOUNTS}")
    headers = [("Authorization", f"Bearer {identity}")]

    def push() -> Awaitable[Answer]:
        chain = AuditChain(unique("chain"), Service(function="exchange_token", revision="r"))
        event = AuditEvent(
            event_id=SystemRandomness().event_id(),
            event_type=EventType.EXCHANGE_DECIDED,
            occurred_at=world.clock.now(),
            tenant="acme",
            outcome=Outcome.REFUSED,
        )
        message = {
            "data": b64encode(chain.seal(event).data).decode(),
            "messageId": "1",
            "publishTime": "2026-11-28T00:00:00Z",
        }
        body = {"message": message, "subscription": world.environment["CAB_AUDIT_SUBSCRIPTION"]}
        return world.request("POST", "/", function="ingest_audit", headers=headers, body=json.dumps(body).encode())

    assert (await push()).status == 204
    return push()


async def issued(world: World) -> str:
    """A JWT of ours, which introspection and revocation know."""
    return str((await world.exchange(subject_token=await world.assertion(user="alice"))).json["access_token"])


async def introspect(world: World) -> Awaitable[Answer]:
    await world.introspect(await issued(world))
    return world.introspect(await issued(world))


async def revoke(world: World) -> Awaitable[Answer]:
    await world.revoke(await issued(world))
    return world.revoke(await issued(world))


STATUS: dict[Path, int] = {
    mint_with_a_google_identity: 200,
    relaxed: 200,
    call_of_the_broker: 200,
    call_of_the_broker_recorded_before: 200,
    take_in_a_message: 204,
    introspect: 200,
    revoke: 200,
    mint_with_a_key: 200,
    hot: 200,
    with_a_google_identity_and_no_limit: 200,
    change_within_a_task: 200,
    change_within_a_task_with_a_limit: 200,
    change_within_a_task_with_a_limit_recorded_before: 200,
    ask_the_user: 400,
    ask_again_while_it_waits: 400,
    repeat_when_the_user_agreed: 200,
    redeem_what_was_deferred: 200,
    decide: 200,
    first_use_of_a_narrower_scope: 200,
    first_use_after_the_token_ended: 200,
}


def name_of(path: Path) -> str:
    return path.__name__.replace("_", " ")


async def served_for_a_while(world: World) -> World:
    """Tokens and keys are in memory."""
    await world.connect("alice", "crm", "deal.read", "deal.write", "contact.read", "offline")
    for warm in (LIST, CHANGE, intent(), DROP):
        await world.exchange(warm, subject_token=await bounded(world))
    await world.request("GET", "/health", function="connect_account")
    return world


async def chain_of(path: Path, emulators: Emulators, scratch: Folder, delay_s: float) -> tuple[list[str], int]:
    """The calls that followed one another, and the status of the answer, when each call takes so long."""
    async with emulated(emulators, scratch) as world:
        request = await path(await served_for_a_while(world))
        await world.be_quiet()
        world.slow_down(delay_s)
        answer, calls = await world.calls_of(request)
    return chain(calls), answer.status


@pytest.mark.parametrize("path", STATUS, ids=name_of)
def test_no_path_waits_more_often_than_it_must(path: Path, emulators: Emulators, tmp_path: Folder) -> None:
    """A change that adds a wait fails here, and so does one that takes one away: then the number is to be changed, gladly.

    A busy machine may send late what was to go side by side, never early what had to wait: so the shortest of a few tries
    counts, each slower than the one before.
    """
    for delay_s in DELAYS_S:
        following, status = asyncio.run(chain_of(path, emulators, tmp_path, delay_s))
        if len(following) <= WAITING[name_of(path)]:
            break
    assert (len(following), status) == (WAITING[name_of(path)], STATUS[path]), following


@dataclass(frozen=True)
class Seen:
    operations: Operations
    events: list[bytes]  # as they were published


class CountedWorld(World):
    """Counts requests at functions, those that they make among themselves included."""

    requests = 0

    async def request(self, *request: Any, **members: Any) -> Answer:
        self.requests += 1
        return await super().request(*request, **members)


async def seen_of(path: Path) -> Seen:
    world = CountedWorld()
    await served_for_a_while(world)
    request = await path(world)
    before = counted(world)
    published = {log: len(log.messages) for log in world.cloud.audit_logs.values()}
    await request
    await asyncio.sleep(2)  # what is on its way still
    after = counted(world)
    counts = (now - then for then, now in zip(before, after, strict=True))
    events = [
        sealed.data for log in world.cloud.audit_logs.values() for sealed in log.messages[published.get(log, 0) :]
    ]
    return Seen(Operations(*counts), events)


def counted(world: CountedWorld) -> tuple[int, int, int, int, int, int]:
    """Reads, a query for one document among them; documents written and made; secrets accessed; requests; events."""
    stores, logs = world.cloud.documents.values(), world.cloud.audit_logs.values()
    return (
        sum(store.calls["read"] + store.calls["find"] for store in stores),
        sum(store.written for store in stores),
        sum(store.made for store in stores),
        world.cloud.vault.calls["access"],
        world.requests,
        sum(len(log.events) for log in logs),
    )


@pytest.mark.parametrize("name", ONCE)
def test_the_prices_are_of_what_each_path_really_does(name: str) -> None:
    path = next(path for path in STATUS if name_of(path) == name)
    seen, said = run(seen_of(path)), ONCE[name]
    assert replace(seen.operations, event_bytes=said.event_bytes) == said
    published = sum(map(len, seen.events))
    assert said.events * said.event_bytes == pytest.approx(published, rel=0.1)
    assert sum(map(row_bytes, seen.events)) / published == pytest.approx(ROW_BYTES, rel=0.1)


@pytest.mark.parametrize(
    ("path", "added"), [(first_use_of_a_narrower_scope, NARROWER), (first_use_after_the_token_ended, REFRESH)]
)
def test_the_price_of_a_refresh_is_of_what_it_adds_to_a_hot_exchange(path: Path, added: Operations) -> None:
    """Taking the event off the grant is in it, which nobody waits for."""
    seen, plain = run(seen_of(path)), run(seen_of(hot)).operations
    assert seen.operations == Operations(
        plain.reads + added.reads,
        plain.writes + added.writes,
        plain.made + added.made,
        plain.secret_accesses + added.secret_accesses,
        plain.requests + added.requests,
        plain.events + added.events,
    )
    assert added.event_bytes == pytest.approx(min(map(len, seen.events)), rel=0.1)


async def exchanges_of(users: int) -> list[SealedEvent]:
    world = World()
    for number in range(users):
        await world.connect(f"user{number}", "crm", "deal.read", "deal.write", "contact.read", "offline")
        await world.exchange(READ, subject_token=await world.assertion(user=f"user{number}"))
    return world.cloud.audit_logs["exchange_token"].messages


def test_events_of_several_users_are_deflated_as_far_as_the_prices_say() -> None:
    events = run(exchanges_of(8))
    packed = len(pack(events[:4])) + len(pack(events[4:]))
    assert packed / sum(len(event.data) for event in events) == pytest.approx(DEFLATED, rel=0.1)


def row_bytes(event: bytes) -> int:
    """Of the row that becomes of an event, as BigQuery sizes its types."""
    row = json.loads(event)
    row |= {name: row.get("tool", {}).get(name) for name in ("connection", "action")}
    row |= {"subject_key": row["subject"]["key"], "received_at": "", "message_id": "1" * 17}
    row["event_json"] = event.decode()
    return sum(_size(row.get(column["name"]), column) for column in columns())


def _size(value: Any, column: dict[str, Any]) -> int:
    if value is None:
        return 0
    if column["mode"] == "REPEATED":
        return sum(_size(item, column | {"mode": "NULLABLE"}) for item in value)
    if column["type"] == "RECORD":
        return sum(_size(value.get(member["name"]), member) for member in column["fields"])
    return 2 + len(str(value).encode()) if column["type"] == "STRING" else 8
