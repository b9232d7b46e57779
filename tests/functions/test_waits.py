"""How many waits follow one another in each path: in a loop whose time passes only while everybody waits, every call to a store,
to the audit, to the vault and to a provider takes one second. What goes side by side takes one together.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from benchmarks.operations import DEFLATED, NARROWER, ONCE, REFRESH, ROW_BYTES, WAITS, Operations
from tests.grants.virtual_time import run
from tests.support.asgi import Answer
from tests.support.web import Host, Sent
from tests.support.world import CRM, FORM, IDP, STS, World, as_form, intent, task

from cab.adapters.google_cloud.bigquery.audit_schema import columns
from cab.domain.audit import SealedEvent
from cab.domain.identifiers import subject_key
from cab.ports import HttpAnswer
from cab.stores.sessions import BrowserStates, Session
from cab.use_cases.audit.packing import pack

LIST, READ = intent("crm.deal.list", "deal/*"), intent("crm.deal.read", "deal/1")
CHANGE = intent("crm.deal.update", "deal/1", parameters={"stage": "won"})
DROP = intent("warehouse.table.drop", "table/t1")
BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
COOKIE = "c" * 43

Path = Callable[[World], Awaitable[Awaitable[Answer]]]


async def mint_with_a_key(world: World) -> Awaitable[Answer]:
    return world.post("/edge/token", world.mint_form(subject_token=world.id_token("alice")))


async def hot(world: World) -> Awaitable[Answer]:
    return world.exchange(LIST, subject_token=await world.assertion(user="alice"))


async def with_a_google_identity_and_no_limit(world: World) -> Awaitable[Answer]:
    google = world.google_token(STS, sub="100000000000000000002")
    who: dict[str, Any] = {"agent": "workload", "client_assertion": google, "client_assertion_type": BEARER}
    return world.exchange(subject_token=await world.assertion("workload", user="alice"), **who)


async def bounded(world: World) -> str:
    return await world.assertion(user="alice", task=task("crm.*", "warehouse.*"))


async def change_within_a_task(world: World) -> Awaitable[Answer]:
    return world.exchange(CHANGE, subject_token=await bounded(world))


async def change_within_a_task_with_a_limit(world: World) -> Awaitable[Answer]:
    bounds = task("crm.*", limits={"max_uses": 5})
    return world.exchange(CHANGE, subject_token=await world.assertion(user="alice", task=bounds))


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


STATUS: dict[Path, int] = {
    mint_with_a_key: 200,
    hot: 200,
    with_a_google_identity_and_no_limit: 200,
    change_within_a_task: 200,
    change_within_a_task_with_a_limit: 200,
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


def slowly(host: Host) -> Host:
    async def answer(sent: Sent) -> HttpAnswer:
        await asyncio.sleep(1)
        return await host(sent)

    return answer


@dataclass(frozen=True)
class Seen:
    waits: float
    status: int
    operations: Operations
    events: list[bytes]  # as they were published


async def seen_of(path: Path) -> Seen:
    world = World()
    await world.connect("alice", "crm", "deal.read", "deal.write", "contact.read", "offline")
    for warm in (LIST, CHANGE, intent(), DROP):  # tokens and keys in memory, as when a process has served for a while
        await world.exchange(warm, subject_token=await bounded(world))
    await world.request("GET", "/health", function="connect_account")
    request = await path(world)
    cloud = world.cloud
    for store in cloud.documents.values():
        store.delay_s = 1.0
    for log in cloud.audit_logs.values():
        log.delay_s = 1.0
    cloud.vault.delay_s = 1.0
    cloud.web.hosts[CRM] = slowly(cloud.web.hosts[CRM])
    loop = asyncio.get_running_loop()
    before, begun = counted(world), loop.time()
    published = {log: len(log.messages) for log in cloud.audit_logs.values()}
    answer = await request
    waited = loop.time() - begun
    await asyncio.sleep(2)  # what is on its way still counts as work, not as waiting
    after = counted(world)
    reads, writes, secret_accesses, number = (now - then for then, now in zip(before, after, strict=True))
    events = [sealed.data for log in cloud.audit_logs.values() for sealed in log.messages[published.get(log, 0) :]]
    return Seen(waited, answer.status, Operations(reads, writes, secret_accesses, events=number), events)


def counted(world: World) -> tuple[int, int, int, int]:
    """Reads, a query for one document among them; documents written; secrets accessed; events."""
    stores, logs = world.cloud.documents.values(), world.cloud.audit_logs.values()
    return (
        sum(store.calls["read"] + store.calls["find"] for store in stores),
        sum(store.written for store in stores),
        sum(world.cloud.vault.calls[method] for method in ("access", "add")),
        sum(len(log.events) for log in logs),
    )


@pytest.mark.parametrize("path", STATUS, ids=name_of)
def test_no_path_waits_more_often_than_it_must(path: Path) -> None:
    """A change that adds a wait fails here, and so does one that takes one away: then the number is to be changed, gladly."""
    seen = run(seen_of(path))
    assert (seen.waits, seen.status) == (WAITS[name_of(path)], STATUS[path])


@pytest.mark.parametrize("name", ONCE)
def test_the_prices_are_of_what_each_path_really_does(name: str) -> None:
    path = next(path for path in STATUS if name_of(path) == name)
    seen, said = run(seen_of(path)), ONCE[name]
    assert replace(seen.operations, event_bytes=said.event_bytes) == said
    (event,) = seen.events
    assert said.event_bytes == pytest.approx(len(event), rel=0.1)
    assert row_bytes(event) / len(event) == pytest.approx(ROW_BYTES, rel=0.1)


@pytest.mark.parametrize(
    ("path", "added"), [(first_use_of_a_narrower_scope, NARROWER), (first_use_after_the_token_ended, REFRESH)]
)
def test_the_price_of_a_refresh_is_of_what_it_adds_to_a_hot_exchange(path: Path, added: Operations) -> None:
    """Taking the event off the grant is in it, which nobody waits for."""
    seen, plain = run(seen_of(path)), run(seen_of(hot)).operations
    assert seen.operations == Operations(
        plain.reads + added.reads,
        plain.writes + added.writes,
        plain.secret_accesses + added.secret_accesses,
        events=plain.events + added.events,
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
