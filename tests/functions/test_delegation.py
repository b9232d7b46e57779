"""Handing a task on to another agent: a narrower assertion, never a wider one (docs/api.md)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from tests.support.jose import ABSENT, claims_of, header_of
from tests.support.world import EDGE, ORIGIN, STS, TOKEN_TYPE, WRITE, World, intent, task

REQUEST = "invalid_request"
VIOLATED = (400, REQUEST, "may_act_violated")
OUTSIDE = (400, "invalid_authorization_details", "intent_outside_task")


async def handed_on(world: World, *agents: str, bounds: dict[str, Any] | None = None) -> str:
    """The assertion after it went from the front end through `agents`, for the last of them."""
    assertion = await world.assertion(agents[0], task=bounds)
    for agent, next_agent in pairwise(agents):
        answer = await world.delegate(assertion, agent, next_agent)
        assert answer.status == 200, answer.body
        assertion = answer.json["access_token"]
    return assertion


@pytest.mark.requirement("RFC8693-2.2.1-1")
@pytest.mark.requirement("RFC8693-2.2.1-2")
async def test_a_delegation_answers_with_an_assertion_and_nothing_else(world: World) -> None:
    received = await world.assertion()
    answer = await world.delegate(received, "assistant", "researcher")
    assert answer.json == {
        "access_token": answer.json["access_token"],
        "issued_token_type": TOKEN_TYPE + "jwt",
        "token_type": "N_A",
        "expires_in": 300,
        "txn": claims_of(received)["txn"],
    }


@pytest.mark.requirement("RFC8693-4.1-1")
@pytest.mark.requirement("RFC8693-4.4-1")
async def test_what_is_handed_on_differs_from_what_was_received_in_five_claims(world: World) -> None:
    bounds = task("warehouse.*", limits={"max_uses": 5})
    received = await world.assertion(task=bounds, acr="gold", amr=["pwd"])
    world.advance(100)
    passed_on = (await world.delegate(received, "assistant", "researcher")).json["access_token"]
    before, after = claims_of(received), claims_of(passed_on)
    sts_key = (await world.request("GET", "/oauth2/jwks.json")).json["keys"][0]["kid"]
    assert header_of(passed_on) == {"typ": "cab-assertion+jwt", "alg": "ES256", "kid": sts_key}
    assert after == before | {
        "iss": STS,
        "may_act": {"sub": "researcher"},
        "act": {"sub": "assistant", "iss": STS},
        "iat": world.now,
        "jti": after["jti"],
    }
    assert (before["iss"], after["exp"]) == (EDGE, before["exp"])
    assert after["jti"] != before["jti"]


async def test_only_the_next_agent_may_use_what_was_handed_on(world: World) -> None:
    assertion = await handed_on(world, "assistant", "researcher")
    assert (await world.exchange(agent="researcher", subject_token=assertion)).status == 200
    for agent in ("assistant", "scribe", "reader"):
        assert (await world.exchange(agent=agent, subject_token=assertion)).refusal == VIOLATED


@pytest.mark.requirement("RFC8693-4.1-1")
async def test_a_token_shows_the_whole_chain_the_current_actor_outside(world: World) -> None:
    assertion = await handed_on(world, "assistant", "researcher", "scribe")
    token = (await world.exchange(agent="scribe", subject_token=assertion)).json["access_token"]
    assert claims_of(token)["act"] == {
        "sub": "scribe",
        "iss": STS,
        "sub_profile": "ai_agent",
        "act": {"sub": "researcher", "iss": STS, "act": {"sub": "assistant", "iss": STS}},
    }
    assert claims_of(token)["client_id"] == "scribe"
    assert world.last_event()["actor"] == {
        "agent_id": "scribe",
        "chain": ["researcher", "assistant"],
        "client_id": "web",
        "trust_zone": "internal",
    }


async def test_a_chain_has_at_most_three_agents(world: World) -> None:
    assertion = await handed_on(world, "assistant", "researcher", "scribe")
    assert (await world.delegate(assertion, "scribe", "archivist")).refusal == VIOLATED


async def test_nobody_stands_in_a_chain_twice(world: World) -> None:
    """`researcher` may delegate to `assistant`, but not when the task came from there."""
    assert (await world.delegate(await handed_on(world, "researcher"), "researcher", "assistant")).status == 200
    assertion = await handed_on(world, "assistant", "researcher")
    assert (await world.delegate(assertion, "researcher", "assistant")).refusal == VIOLATED
    assert (await world.delegate(assertion, "researcher", "researcher")).refusal == VIOLATED


@pytest.mark.parametrize("next_agent", ["scribe", "reader", "stranger", "web", "nobody", "assistant", "researcher "])
async def test_an_agent_hands_on_only_to_those_its_entry_names(world: World, next_agent: str) -> None:
    assert (await world.delegate(await world.assertion(), "assistant", next_agent)).refusal == VIOLATED


async def test_nobody_hands_on_what_names_another(world: World) -> None:
    assert (await world.delegate(await world.assertion("reader"), "assistant", "researcher")).refusal == VIOLATED


@pytest.mark.parametrize("passed_s", [0, 100, 299])
async def test_what_is_handed_on_never_ends_later(world: World, passed_s: int) -> None:
    received = await world.assertion()
    world.advance(passed_s)
    answer = await world.delegate(received, "assistant", "researcher")
    assert answer.json["expires_in"] == 300 - passed_s
    assert claims_of(answer.json["access_token"])["exp"] == claims_of(received)["exp"]


@pytest.mark.parametrize("passed_s", [300, 329, 330])
async def test_what_has_ended_is_not_handed_on_not_even_within_the_leeway(world: World, passed_s: int) -> None:
    received = await world.assertion()
    world.advance(passed_s)
    answer = await world.delegate(received, "assistant", "researcher")
    assert answer.refusal == (400, REQUEST, "subject_token_expired")


# --- the task ---

BOUNDS = task("warehouse.*", identifiers=["table/*", "query/*"], task_id="t-81", limits={"max_uses": 5})


@pytest.mark.parametrize(
    "narrower",
    [
        {},
        {"actions": ["warehouse.query.run"]},
        {"actions": ["warehouse.table.*"], "identifiers": ["table/t1"]},
        {"limits": {"max_uses": 1}},
    ],
    ids=repr,
)
async def test_a_task_may_be_narrowed(world: World, narrower: dict[str, Any]) -> None:
    answer = await world.delegate(
        await world.assertion(task=BOUNDS), "assistant", "researcher", authorization_details=[BOUNDS | narrower]
    )
    assert claims_of(answer.json["access_token"])["authorization_details"] == [BOUNDS | narrower]


@pytest.mark.parametrize(
    "wider",
    [
        {"actions": ["*"]},
        {"actions": ["warehouse.*", "crm.deal.list"]},
        {"identifiers": ["*"]},
        {"identifiers": ["table*"]},
        {"limits": {"max_uses": 6}},
        {"limits": ABSENT},
        {"task_id": "t-82"},
        {"trigger": "schedule"},
    ],
    ids=repr,
)
async def test_a_task_is_never_widened(world: World, wider: dict[str, Any]) -> None:
    details = {name: value for name, value in (BOUNDS | wider).items() if value is not ABSENT}
    answer = await world.delegate(
        await world.assertion(task=BOUNDS), "assistant", "researcher", authorization_details=[details]
    )
    assert answer.refusal == OUTSIDE


async def test_a_task_cannot_be_added_where_there_was_none(world: World) -> None:
    """Without a task the user's words allow reads only; a task of the agent's own making would allow more."""
    answer = await world.delegate(
        await world.assertion(), "assistant", "researcher", authorization_details=[task("warehouse.table.write")]
    )
    assert answer.refusal == OUTSIDE


async def test_a_narrowed_task_binds_the_next_agent(world: World) -> None:
    received = await world.assertion(task=BOUNDS)
    narrowed = BOUNDS | {"actions": ["warehouse.query.run"]}
    passed_on = (await world.delegate(received, "assistant", "researcher", authorization_details=[narrowed])).json[
        "access_token"
    ]
    assert (await world.exchange(WRITE, agent="researcher", subject_token=passed_on)).refusal == OUTSIDE
    assert (await world.exchange(agent="researcher", subject_token=passed_on)).status == 200


async def test_uses_are_counted_along_the_whole_chain(world: World) -> None:
    bounds = task("*", limits={"max_uses": 2})
    received = await world.assertion(task=bounds)
    passed_on = (await world.delegate(received, "assistant", "researcher")).json["access_token"]
    assert (await world.exchange(subject_token=received)).status == 200
    assert (await world.exchange(agent="researcher", subject_token=passed_on)).status == 200
    for agent, token in (("assistant", received), ("researcher", passed_on)):
        answer = await world.exchange(agent=agent, subject_token=token)
        assert answer.json["reason_code"] == "task_exhausted"


# --- parameters ---


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"audience": ABSENT}, (400, "invalid_target", "target_not_allowed")),
        ({"audience": "warehouse"}, (400, "invalid_target", "target_not_allowed")),
        ({"audience": EDGE}, (400, "invalid_target", "target_not_allowed")),
        ({"audience": STS + "/"}, (400, "invalid_target", "target_not_allowed")),
        ({"resource": STS}, (400, "invalid_target", "target_not_allowed")),
        ({"audience": ABSENT, "resource": ORIGIN}, (400, "invalid_target", "target_not_allowed")),
        ({"may_act": ABSENT}, (400, REQUEST, "parameter_missing")),
        ({"may_act": ""}, (400, REQUEST, "parameter_missing")),
        ({"scope": "query.run"}, (400, REQUEST, "parameter_invalid")),
        ({"completion_mode": "deferred"}, (400, REQUEST, "parameter_invalid")),
        ({"authorization_details": [intent()]}, (400, "invalid_authorization_details", "intent_malformed")),
        ({"authorization_details": "x"}, (400, "invalid_authorization_details", "intent_malformed")),
        ({"subject_token": "x"}, (400, REQUEST, "subject_token_invalid")),
        ({"actor_token": "x"}, (400, REQUEST, "parameter_missing")),
    ],
    ids=lambda part: repr(part)[:60],
)
async def test_a_wrong_parameter_is_refused(
    shared_world: World, changes: dict[str, Any], refusal: tuple[int, str, str]
) -> None:
    world = shared_world
    assert (await world.delegate(await world.assertion(), "assistant", "researcher", **changes)).refusal == refusal


async def test_an_agent_in_call_mode_may_not_even_delegate_to_strangers(world: World) -> None:
    assert (await world.delegate(await world.assertion("caller"), "caller", "assistant")).refusal == VIOLATED


async def test_a_delegation_leaves_an_event_with_chain_and_assertion(world: World) -> None:
    received = await world.assertion(task=BOUNDS)
    answer = await world.delegate(received, "assistant", "researcher")
    event = world.last_event()
    assert (event["event_type"], event["decision"], event["outcome"]) == ("exchange.decided", "permit", "issued")
    assert event["token"]["kind"] == "assertion"
    assert event["token"]["jti"] == claims_of(answer.json["access_token"])["jti"]
    assert (event["actor"]["chain"], event["actor"]["depth"]) == ([], 1)
    assert (event["actor"]["delegates_to"], event["decided_by"]) == ("researcher", "allow_list")
    assert event["task"]["bounds_digest"] == world.last_event("mint_assertion")["task"]["bounds_digest"]


async def test_an_assertion_of_the_sts_is_verified_by_the_functions_that_take_assertions(world: World) -> None:
    """refresh_grants verifies the handed-on assertion itself, by the STS's published key."""
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    assertion = await world.assertion("researcher", user="alice")
    passed_on = (await world.delegate(assertion, "researcher", "assistant")).json["access_token"]
    answer = await world.exchange(intent("crm.deal.list", "deal/*"), subject_token=passed_on)
    assert answer.json["access_token"] == "crm-access-1"
