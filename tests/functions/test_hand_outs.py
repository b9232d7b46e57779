"""What is written for each token of a platform that is handed out, and what an agent in a loop costs."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.asgi import Answer
from tests.support.jose import claims_of
from tests.support.world import STS, World, intent, task

from cab.stores.issued_tokens import RECORDED_AGAIN_AFTER, IssuedToken, IssuedTokens
from cab_dev.fakes.documents import InMemoryDocuments

READS = "  - {effects: [read], limit: 600, window_s: 60}\n"


def reading(number: int) -> dict[str, Any]:
    return intent("crm.deal.read", f"deal/{number}", parameters={})


def changing(number: int) -> dict[str, Any]:
    return intent("crm.deal.update", f"deal/{number}", parameters={"stage": "won"})


CHANGE = changing(1)


def a_world(tmp_path: Path, records: str = "", *, update: str = "write", confirmed: bool = False) -> World:
    """Nobody introspects tokens of its CRM, whose connection has this setting; its workload may read and change there, too.

    `update` is the effect of `crm.deal.update`, `confirmed` whether users are asked about it.
    """

    def connections(text: str) -> str:
        text = text.replace("    resource: ${CRM_ORIGIN}\n", f"    resource: ${{CRM_ORIGIN}}\n    {records}\n", 1)
        return text.replace("        effect: write\n", f"        effect: {update}\n", 1)

    folder = World(scratch=tmp_path).write_policies(None, connections=connections, rate_limits=READS)
    agents = folder / "agents.yaml"
    text = agents.read_text("utf-8").replace(', "${CRM_ORIGIN}"]', "]")
    subject = 'subject: "100000000000000000002"}\n    actions: ["warehouse.*"'
    assert subject in text
    agents.write_text(text.replace(subject, subject + ', "crm.*"'), "utf-8")
    if confirmed:
        rules = folder / "policies" / "rules.cedar"
        text = rules.read_text("utf-8").replace('    CAB::Action::"crm.deal.update",\n', "")
        asks = '@id("asks") @confirm("Changes a deal.") permit (principal, action == CAB::Action::"crm.deal.update", resource);'
        rules.write_text(f"{text}\n{asks}\n", "utf-8")
    return World(folder, scratch=tmp_path)


async def connected(tmp_path: Path, records: str = "", **changes: Any) -> World:
    """Such a world, with an account of alice's."""
    world = a_world(tmp_path, records, **changes)
    await world.connect("alice", "crm", "deal.read", "deal.write", "contact.read", "offline")
    return world


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return await connected(tmp_path)


async def recorded(world: World, assertion: str) -> list[dict[str, Any]]:
    """What was recorded for this person, the oldest first."""
    tokens = IssuedTokens(world.cloud.documents["guards"])
    return [token.details[0] for token in reversed(await tokens.of_user("acme", claims_of(assertion)["sub"], limit=99))]


def writes(world: World) -> int:
    return sum(database.calls["write"] + database.calls["tally"] for database in world.cloud.documents.values())


def workload(world: World) -> dict[str, Any]:
    """The agent that proves itself by a Google identity, for `World.exchange`."""
    return {
        "agent": "workload",
        "client_assertion": world.google_token(STS, sub="100000000000000000002"),
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    }


async def ask_in_a_loop(world: World, agent: str, **who: Any) -> int:
    """Twenty different reads in a minute by one agent, for one user and task, with the token in memory; the writes they cost."""
    who |= {"agent": agent}
    await world.exchange(reading(99), subject_token=await fresh(world, agent), **who)
    world.advance(120)
    assertion = await fresh(world, agent)
    before = writes(world)
    for number in range(20):
        assert (await world.exchange(reading(number), subject_token=assertion, **who)).status == 200
        world.advance(2.9)
    return writes(world) - before


async def test_a_busy_agent_with_a_key_costs_six_writes_for_five_reads(world: World) -> None:
    written = await ask_in_a_loop(world, "assistant")
    assert written <= 24, "one for each client assertion, three for the rate limit, one record"


async def test_a_busy_agent_with_a_google_identity_costs_one_write_for_five_reads(world: World) -> None:
    written = await ask_in_a_loop(world, **workload(world))
    assert written <= 4, "three for the rate limit, one record"


async def fresh(world: World, agent: str) -> str:
    return await world.assertion(agent, user="alice", task=task("crm.*"))


async def test_of_reads_the_first_for_an_action_is_recorded_and_every_write_is(world: World) -> None:
    assertion = await fresh(world, "assistant")
    listing = intent("crm.deal.list", "deal/*", parameters={})
    asked = [reading(1), reading(2), listing, reading(3), CHANGE, CHANGE, reading(4)]
    for declared in asked:
        assert (await world.exchange(declared, subject_token=assertion)).status == 200
        world.advance(1)
    kept = [(detail["actions"][0], detail["identifier"]) for detail in await recorded(world, assertion)]
    # The second change is the first one again: one record, as of its newest hand-out.
    assert kept == [("crm.deal.read", "deal/1"), ("crm.deal.list", "deal/*"), ("crm.deal.update", "deal/1")]


async def test_reads_that_meet_share_the_record(world: World) -> None:
    assertion = await fresh(world, "assistant")
    await world.exchange(reading(99), subject_token=await fresh(world, "assistant"))  # the token is in memory
    before = len(await recorded(world, assertion))
    answers = await asyncio.gather(*(world.exchange(reading(n), subject_token=assertion) for n in range(10)))
    assert [answer.status for answer in answers] == [200] * 10
    assert len(await recorded(world, assertion)) == before + 1


async def test_in_another_transaction_a_read_shares_the_record_and_in_another_task_it_has_its_own(world: World) -> None:
    for number in range(2):
        for bounds in (None, task("crm.*", task_id="task-one"), task("crm.*", task_id="task-two")):
            assertion = await world.assertion(user="alice", task=bounds)
            await world.exchange(reading(number), subject_token=assertion)
        world.advance(1)
    assert [detail["identifier"] for detail in await recorded(world, assertion)] == ["deal/0"] * 3


HANDED_OUT = IssuedToken(
    tenant="acme",
    subject="alice",
    client_id="assistant",
    connection="crm",
    grant_id="g",
    scope="deal.read",
    details=[reading(1)],
    act={},
    txn="t",
    issued_at=datetime(2026, 11, 21, 12, 0, tzinfo=UTC),
    expires_at=datetime(2026, 11, 21, 13, 0, tzinfo=UTC),
)


@pytest.mark.parametrize(
    ("after", "longer", "known"),
    [
        (RECORDED_AGAIN_AFTER - timedelta(seconds=1), timedelta(0), True),
        (RECORDED_AGAIN_AFTER, timedelta(0), False),
        (timedelta(seconds=20), timedelta(seconds=20), True),
        (timedelta(seconds=31), timedelta(seconds=31), False),
    ],
    ids=["soon", "after five minutes", "a little longer", "much longer than the record says"],
)
async def test_how_long_one_record_does(after: timedelta, longer: timedelta, known: bool) -> None:
    tokens = IssuedTokens(InMemoryDocuments())
    await tokens.remember("hash", HANDED_OUT)
    issued_at, expires_at = HANDED_OUT.issued_at + after, HANDED_OUT.expires_at + longer
    again = replace(HANDED_OUT, details=[reading(2)], issued_at=issued_at, expires_at=expires_at)
    assert tokens.is_recorded("hash", again) is known


@pytest.mark.parametrize(
    "other",
    [{"client_id": "careful"}, {"subject": "bob"}, {"by_broker": True, "call_id": "c-1"}, {"details": [CHANGE]}],
    ids=["another agent", "another person", "a call, whose token no agent has", "another action"],
)
async def test_a_record_does_for_its_own_kind_alone(other: dict[str, Any]) -> None:
    """Platforms may give two people the same token, and an agent may make calls beside."""
    for first, second in ((HANDED_OUT, replace(HANDED_OUT, **other)), (replace(HANDED_OUT, **other), HANDED_OUT)):
        tokens = IssuedTokens(InMemoryDocuments())
        await tokens.remember("hash", first)
        assert tokens.is_recorded("hash", first)
        assert not tokens.is_recorded("other", first)
        assert not tokens.is_recorded("hash", second)


async def test_a_connection_can_ask_for_every_record(tmp_path: Path) -> None:
    world = await connected(tmp_path, "records_each_read: true")
    assertion = await world.assertion(user="alice")
    for number in range(3):
        await world.exchange(reading(number), subject_token=assertion)
        world.advance(1)
    assert [detail["identifier"] for detail in await recorded(world, assertion)] == ["deal/0", "deal/1", "deal/2"]


async def changed(world: World, assertion: str, *, deals: int, **who: Any) -> None:
    """So many changes in the task of this assertion, each of another deal."""
    for number in range(deals):
        assert (await world.exchange(changing(number), subject_token=assertion, **who)).status == 200
        world.advance(1)


async def test_a_connection_can_do_with_the_first_change_of_a_task(tmp_path: Path) -> None:
    world = await connected(tmp_path, "records_each_write: false")
    for _ in range(2):
        assertion = await fresh(world, "assistant")
        await changed(world, assertion, deals=3)
    assert [detail["identifier"] for detail in await recorded(world, assertion)] == ["deal/0"] * 2


async def test_what_deletes_data_is_recorded_each_time(tmp_path: Path) -> None:
    world = await connected(tmp_path, "records_each_write: false", update="destructive")
    assertion = await fresh(world, "assistant")
    await changed(world, assertion, deals=3)
    assert [detail["identifier"] for detail in await recorded(world, assertion)] == ["deal/0", "deal/1", "deal/2"]


async def test_what_the_user_confirmed_is_recorded_each_time(tmp_path: Path) -> None:
    world = await connected(tmp_path, "records_each_write: false", confirmed=True)
    assertion = await fresh(world, "assistant")
    for number in range(2):
        declared = changing(number)
        asked = await world.exchange(declared, subject_token=assertion)
        await world.decide(asked.json["interaction_uri"], approved=True)
        assert (await world.exchange(declared, subject_token=assertion)).status == 200
        world.advance(1)
    assert [detail["identifier"] for detail in await recorded(world, assertion)] == ["deal/0", "deal/1"]


@pytest.mark.parametrize(("setting", "written"), [("records_each_write: false", 10 + 1), ("", 10 + 10)])
async def test_a_task_with_a_limit_costs_a_write_for_each_use_and_one_where_the_first_record_does(
    tmp_path: Path, setting: str, written: int
) -> None:
    """By Google identity. The rate limits here count no changes."""
    world = await connected(tmp_path, setting)
    who = workload(world)
    await changed(world, await fresh(world, "workload"), deals=1, **who)  # the token is in memory
    assertion = await world.assertion("workload", user="alice", task=task("crm.*", limits={"max_uses": 10}))
    before = writes(world)
    await changed(world, assertion, deals=10, **who)
    assert writes(world) - before == written
    assert (await world.exchange(changing(10), subject_token=assertion, **who)).reason == "task_exhausted"


async def test_an_agent_reports_also_on_a_change_that_has_no_record_of_its_own(tmp_path: Path) -> None:
    world = await connected(tmp_path, "records_each_write: false")
    assertion = await fresh(world, "assistant")
    await changed(world, assertion, deals=2)
    told = {name: world.last_event()[part][name] for part, name in (("token", "sha256"), ("intent", "intent_hash"))}
    said = {"token_sha256": told["sha256"], "intent_hash": told["intent_hash"], "outcome": "done"}
    assert (await report(world, said)).status == 204
    assert (await report(world, said | {"outcome": "failed"})).reason == "outcome_already_reported"


@pytest.mark.parametrize("reported", [False, True])
async def test_a_revoked_token_that_is_handed_out_again_is_recorded_anew(world: World, *, reported: bool) -> None:
    assertion = await world.assertion(user="alice")
    token = (await world.exchange(reading(1), subject_token=assertion)).json["access_token"]
    world.advance(1)
    await world.revoke(token)
    if reported:  # of what was handed out before
        said = {"token_sha256": hashlib.sha256(token.encode()).hexdigest(), "outcome": "done"}
        assert (await report(world, said)).status == 204
    world.advance(1)
    assert (await world.exchange(reading(2), subject_token=assertion)).json["access_token"] == token
    assert (await world.introspect(token)).json["active"] is True


async def test_a_record_on_its_way_while_its_token_is_revoked_does_for_nothing_later() -> None:
    tokens = IssuedTokens(InMemoryDocuments())
    revoking = tokens.revoke("hash", now=HANDED_OUT.issued_at, until=HANDED_OUT.expires_at)
    await asyncio.gather(tokens.remember("hash", HANDED_OUT), revoking)
    assert not tokens.is_recorded("hash", HANDED_OUT)


async def test_an_agent_reports_also_on_a_read_that_has_no_record_of_its_own(world: World) -> None:
    assertion = await world.assertion(user="alice")
    hashes = []
    for number in range(2):
        token = (await world.exchange(reading(number), subject_token=assertion)).json["access_token"]
        hashes.append(world.last_event()["intent"]["intent_hash"])
    said = {"token_sha256": hashlib.sha256(token.encode()).hexdigest(), "outcome": "done"}
    for intent_hash in hashes:
        assert (await report(world, said | {"intent_hash": intent_hash})).status == 204
        assert world.last_event()["intent"]["intent_hash"] == intent_hash
    again = await report(world, said | {"intent_hash": hashes[1], "outcome": "failed"})
    assert again.reason == "outcome_already_reported"


async def test_an_agent_reports_on_reads_of_several_transactions_by_their_names(world: World) -> None:
    said: dict[str, Any] = {"outcome": "done"}
    for number in range(2):
        given = (await world.exchange(reading(number), subject_token=await world.assertion(user="alice"))).json
        said |= {"token_sha256": hashlib.sha256(given["access_token"].encode()).hexdigest(), "txn": given["txn"]}
        assert (await report(world, said)).status == 204
        assert world.last_event()["txn"] == given["txn"]
    assert (await report(world, said | {"outcome": "failed"})).reason == "outcome_already_reported"
    changed = (await world.exchange(CHANGE, subject_token=await fresh(world, "assistant"))).json
    said |= {"token_sha256": hashlib.sha256(changed["access_token"].encode()).hexdigest(), "txn": "another"}
    assert (await report(world, said)).reason == "parameter_invalid", (
        "each change is recorded: there is none of that name"
    )


async def test_nobody_reports_on_a_change_that_was_not_theirs(world: World) -> None:
    assertion = await fresh(world, "assistant")
    token = (await world.exchange(CHANGE, subject_token=assertion)).json["access_token"]
    said = {"token_sha256": hashlib.sha256(token.encode()).hexdigest(), "outcome": "done"}
    other = "sha-256:" + "A" * 43
    assert (await report(world, said | {"intent_hash": other})).reason == "parameter_invalid"
    read = (await world.exchange(reading(1), subject_token=assertion)).json["access_token"]
    said = {"token_sha256": hashlib.sha256(read.encode()).hexdigest(), "outcome": "done"}
    assert (await report(world, said | {"intent_hash": other}, agent="reader")).reason == "parameter_invalid"


async def report(world: World, body: dict[str, Any], *, agent: str = "assistant") -> Answer:
    content = body | world.credentials(agent)
    return await world.request("POST", "/oauth2/outcomes", body=json.dumps(content).encode())
