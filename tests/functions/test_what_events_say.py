"""What a row says for the questions that people really ask: by which login, under which assertion, decided by what."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.support.jose import claims_of
from tests.support.web import json_answer
from tests.support.world import CRM, DROP, World, intent, task

from cab.encoding.records import as_json
from cab.ports import HttpAnswer
from cab.use_cases.audit.waits import collected_in, told_by_another

BOUNDS = task("warehouse.*", task_id="t-81")


async def ask(world: World, declared: dict[str, Any] = DROP, **changes: Any) -> dict[str, Any]:
    """The event of an exchange inside a task."""
    subject_token = changes.pop("subject_token", None) or await world.assertion(user="alice", task=BOUNDS)
    await world.exchange(declared, subject_token=subject_token, **changes)
    return world.last_event()


async def mint(world: World, **claims: Any) -> dict[str, Any]:
    await world.mint(subject_token=world.id_token("alice", **claims))
    return world.last_event("mint_assertion")


async def test_all_that_is_minted_from_one_login_names_one_session_and_when_it_was(world: World) -> None:
    at = world.now - 3600
    first, again = (
        await mint(world, sid="session-at-idp", auth_time=at),
        await mint(world, sid="session-at-idp", auth_time=at),
    )
    other, unnamed = await mint(world, sid="s2", auth_time=at), await mint(world, auth_time=at)
    assert first["login"] == again["login"]
    assert first["login"]["auth_time"] == datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
    assert len({event["login"]["session"] for event in (first, other, unnamed)}) == 3
    assert "session-at-idp" not in str(first)
    later = await mint(world, auth_time=at + 60)
    assert later["login"]["session"] not in (unnamed["login"]["session"], None)


async def test_an_exchange_names_the_assertion_it_was_asked_under_as_the_mint_did(world: World) -> None:
    token = await world.assertion(user="alice", task=BOUNDS)
    event = await ask(world, subject_token=token)
    assert event["assertion_jti"] == claims_of(token)["jti"]
    minted = world.last_event("mint_assertion")
    assert (event["assertion_jti"], event["txn"]) == (minted["token"]["jti"], minted["txn"])


async def test_a_question_is_decided_by_policy_and_what_is_issued_after_a_yes_by_the_user(world: World) -> None:
    asked = await world.exchange(DROP, subject_token=await world.assertion(user="alice", task=BOUNDS))
    question = world.last_event()
    assert question["decided_by"] == "policy"
    await world.decide(asked.json["interaction_uri"], approved=True)
    issued = await ask(world)
    assert (issued["outcome"], issued["decided_by"]) == ("issued", "user")
    assert issued["confirmation_id"] == question["confirmation_id"]


async def test_a_users_no_names_the_question_it_answers(world: World) -> None:
    asked = await world.exchange(DROP, subject_token=await world.assertion(user="alice", task=BOUNDS))
    question = world.last_event()
    await world.decide(asked.json["interaction_uri"], approved=False)
    refused = await ask(world)
    assert (refused["reason_code"], refused["decided_by"]) == ("confirmation_refused", "user")
    assert refused["confirmation_id"] == question["confirmation_id"]


async def test_a_refusal_says_what_was_known_by_then(world: World) -> None:
    unknown = await ask(world, intent("warehouse.table.melt", "table/t1"))
    assert (unknown["tool"]["connection"], unknown["tool"]["action"]) == ("warehouse", "warehouse.table.melt")
    assert unknown["intent"]["identifier"] == "table/t1"
    malformed = await ask(world, {"type": "cab_action"})
    assert malformed["tool"]["connection"] == "warehouse"
    assert malformed["decided_by"] == "request"


async def test_a_delegation_that_is_refused_says_to_whom_it_should_have_gone(world: World) -> None:
    await world.delegate(await world.assertion(task=BOUNDS), "assistant", "stranger")
    event = world.last_event()
    assert (event["reason_code"], event["actor"]["delegates_to"]) == ("may_act_violated", "stranger")


async def test_a_grant_that_ended_says_so_in_the_providers_own_word(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")

    async def refuse(_: Any) -> HttpAnswer:
        return json_answer({"error": "invalid_grant", "error_description": "for alice@example.org"}, 400)

    world.web.hosts[CRM] = refuse
    await world.exchange(intent("crm.deal.list", "deal/*"), subject_token=await world.assertion(user="alice"))
    ended = [event for event in world.events("refresh_grants") if event.event_type == "grant.needs_reauth"]
    (event,) = ended
    assert event.grant is not None
    assert event.grant.provider_error == "http 400 invalid_grant"
    assert event.latency_ms is not None
    assert event.latency_ms.provider is not None
    # refresh_grants says no to exchange_token, which says no to the agent: two rows, of which each names its route.
    (served,) = [event for event in world.events("refresh_grants") if event.event_type == "grant.served"]
    assert served.tool is not None
    assert (served.tool.connection, served.reason_code) == ("crm", "grant_needs_reauth")
    assert world.last_event()["reason_code"] == "grant_needs_reauth"


async def test_an_exchange_says_what_it_waited_for_and_the_next_one_that_it_waited_for_nobody(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    answering = world.web.hosts[CRM]

    async def slowly(request: Any) -> HttpAnswer:
        await asyncio.sleep(0.05)
        answer: HttpAnswer = await answering(request)
        return answer

    world.web.hosts[CRM] = slowly
    await world.exchange(intent("crm.deal.list", "deal/*"), subject_token=await world.assertion(user="alice"))
    waited = latency(world)
    assert 50 <= waited["provider"] <= waited["refresh"] <= waited["grant"] <= waited["total"]
    assert "publish" not in waited  # grant.refreshed goes out beside the exchange's own event
    await world.exchange(intent("crm.deal.list", "deal/*"), subject_token=await world.assertion(user="alice"))
    assert {"provider", "refresh", "publish"}.isdisjoint(latency(world))


def latency(world: World) -> dict[str, float]:
    said = world.events()[-1].latency_ms
    assert said is not None
    return as_json(said)


@pytest.mark.parametrize(
    "waited", [None, [], "x", {"provider": -1}, {"publish": "1"}, {"total": 5.0}, {"provider": 1e999}]
)
def test_what_another_revision_says_of_its_waits_is_taken_only_where_it_is_a_time(waited: Any) -> None:
    own: dict[str, float] = {}
    with collected_in(own):
        told_by_another(waited)
    assert own == {}


async def test_a_refresh_says_how_long_the_provider_took(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    await world.exchange(intent("crm.deal.list", "deal/*"), subject_token=await world.assertion(user="alice"))
    (refreshed,) = [event for event in world.events("refresh_grants") if event.event_type == "grant.refreshed"]
    assert refreshed.latency_ms is not None
    assert refreshed.latency_ms.provider is not None
