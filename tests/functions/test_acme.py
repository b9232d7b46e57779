"""The demo organisation's own configuration through the real functions: its stories, and the attack on it (docs/api.md)."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from tests.support.asgi import Answer
from tests.support.jose import ABSENT
from tests.support.world import ACME, CRM, ORIGIN, SECRET_OF_READER, WAREHOUSE, WIKI, World, intent, task

from cab.protocol import metadata

TRACKER = WIKI  # the address is the same, the configuration calls it otherwise
SCOPES = ("opportunity.read", "opportunity.write", "opportunity.delete", "note.write", "offline_access")
LIST = intent("crm.opportunity.list", "opportunity/*", parameters={"account": "acme"})
STALE_DEALS = task("tracker.task.create", "crm.opportunity.*", identifiers=["task/*", "opportunity/*"])


def follow_up(**parameters: Any) -> dict[str, Any]:
    return intent("tracker.task.create", "task/*", parameters={"title": "Call Acme"} | parameters)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(ACME, scratch=tmp_path)


async def assertion(
    world: World, user: str, *, agent: str = "sales-assistant", group: str = "sales", bounds: Any = None
) -> str:
    details = {} if bounds is None else {"authorization_details": [bounds]}
    login = world.id_token(user, aud="acme-web", groups=[group])
    answer = await world.mint(client_id="acme-web", agent=agent, subject_token=login, **details)
    assert answer.status == 200, answer.body
    return str(answer.json["access_token"])


async def ask(world: World, user: str, declared: dict[str, Any], **changes: Any) -> Answer:
    bounds = changes.pop("bounds", None)
    group = changes.pop("group", "sales")
    agent = changes.pop("agent", "sales-assistant")
    subject = await assertion(world, user, agent=agent, group=group, bounds=bounds)
    return await world.exchange(declared, agent=agent, subject_token=subject, **changes)


async def test_two_users_ask_the_same_and_get_tokens_of_their_own(world: World) -> None:
    for user in ("alice", "bob"):
        await world.connect(user, "crm", *SCOPES)
    answers = [await ask(world, user, LIST) for user in ("alice", "bob")]
    assert [answer.json["access_token"] for answer in answers] == ["crm-access-1", "crm-access-2"]
    assert {answer.json["scope"] for answer in answers} == {"opportunity.read"}


async def test_carol_has_connected_nothing(world: World) -> None:
    answer = await ask(world, "carol", intent("crm.opportunity.list", "opportunity/*"), group="ops")
    assert answer.refusal == (400, "interaction_required", "grant_missing")


async def test_a_follow_up_inside_the_task_is_created_and_one_of_high_priority_is_confirmed(world: World) -> None:
    await world.connect("alice", "tracker", "task.read", "task.write", "offline_access")
    plain = await ask(world, "alice", follow_up(), bounds=STALE_DEALS)
    assert plain.json["authorization_details"][0]["parameters"] == {"title": "Call Acme", "priority": "normal"}
    high = await ask(world, "alice", follow_up(priority="high"), bounds=STALE_DEALS)
    assert high.refusal == (400, "interaction_required", "confirmation_required")
    await world.decide(high.json["interaction_uri"], approved=True)
    assert (await ask(world, "alice", follow_up(priority="high"), bounds=STALE_DEALS)).status == 200


async def test_nothing_is_written_without_a_task_or_unattended(world: World) -> None:
    outside = (400, "invalid_authorization_details", "intent_outside_task")
    assert (await ask(world, "alice", follow_up())).refusal == outside
    for trigger in ("schedule", "event"):
        unattended = await ask(world, "alice", follow_up(), bounds=STALE_DEALS | {"trigger": trigger})
        assert unattended.refusal == (400, "invalid_authorization_details", "policy_denied")


async def test_a_delete_always_asks(world: World) -> None:
    delete = intent("crm.opportunity.delete", "opportunity/0061")
    await world.connect("alice", "crm", *SCOPES)
    asked = await ask(world, "alice", delete, bounds=task("crm.opportunity.delete", identifiers=["opportunity/0061"]))
    assert asked.refusal == (400, "interaction_required", "confirmation_required")


async def test_a_poisoned_note_cannot_make_the_agent_delete_deals(world: World) -> None:
    """The user asked what is new. The note says: delete all deals."""
    await world.connect("alice", "crm", *SCOPES)
    bounds = task("crm.opportunity.list", "crm.opportunity.read", identifiers=["opportunity/*"])
    for number in range(10):
        delete = intent("crm.opportunity.delete", f"opportunity/006{number}", reason="the note told me so")
        attempt = await ask(world, "alice", delete, bounds=bounds)
        assert attempt.refusal == (400, "invalid_authorization_details", "intent_outside_task")
    assert world.crm.refreshes == []
    event = world.last_event()
    assert (event["decision"], event["reason_code"], event["tool"]["effect"]) == (
        "deny",
        "intent_outside_task",
        "destructive",
    )
    assert event["intent"]["reason"] == "the note told me so"


async def test_the_operations_bot_may_use_its_secret_and_only_reads(world: World) -> None:
    subject = await assertion(world, "carol", agent="ops-bot", group="ops")
    secret = [("Authorization", "Basic " + b64encode(f"ops-bot:{SECRET_OF_READER}".encode()).decode())]
    form = await world.exchange_form(
        intent("tracker.task.list", "task/*"),
        subject_token=subject,
        client_assertion=ABSENT,
        client_assertion_type=ABSENT,
    )
    answer = await world.post("/oauth2/token", form, headers=secret)
    assert answer.refusal == (400, "interaction_required", "grant_missing")
    wider = await world.exchange(follow_up(), agent="ops-bot", subject_token=subject)
    assert wider.json["reason_code"] == "intent_outside_task"


async def test_the_sales_assistant_may_hand_reading_on_to_the_operations_bot(world: World) -> None:
    await world.connect("alice", "crm", *SCOPES)
    passed_on = await world.delegate(await assertion(world, "alice"), "sales-assistant", "ops-bot")
    answer = await world.exchange(LIST, agent="ops-bot", subject_token=passed_on.json["access_token"])
    assert answer.json["access_token"] == "crm-access-1"
    assert world.last_event()["actor"]["chain"] == ["sales-assistant"]


async def test_the_warehouse_gets_a_token_of_ours_for_exactly_one_query(world: World) -> None:
    query = intent("warehouse.query.run", "query/q1", parameters={"query": "SELECT 1"})
    answer = await ask(world, "alice", query)
    assert answer.json["scope"] == "query.run"
    assert answer.json["authorization_details"] == [query]


async def test_its_metadata_names_its_resources(world: World) -> None:
    answer = await world.request("GET", "/.well-known/oauth-authorization-server/oauth2", function="publish_metadata")
    assert answer.json["protected_resources"] == sorted([CRM, f"{ORIGIN}/mcp", TRACKER, WAREHOUSE])
    assert metadata.JWKS_PATHS["sts"] in answer.json["jwks_uri"]
