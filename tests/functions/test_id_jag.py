"""The jwt-bearer grant: an ID-JAG of the enterprise IdP instead of an edge assertion, held to the same rules and to its own bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.jose import ABSENT, claims_of
from tests.support.world import DROP, WAREHOUSE, WRITE, World, gather, intent, task, unique

INVALID = (400, "invalid_grant", "assertion_invalid")
OUTSIDE = (400, "invalid_authorization_details", "intent_outside_task")
READ = intent(identifier="query/q1")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(World(scratch=tmp_path).write_id_jag_deployment(), scratch=tmp_path)


async def test_an_id_jag_stands_for_its_user_as_the_edge_would(world: World) -> None:
    answer = await world.redeem(world.id_jag(sub="alice"), authorization_details=[READ])
    assert answer.status == 200
    edge = claims_of(await world.assertion(user="alice"))
    token = claims_of(answer.json["access_token"])
    assert (token["sub"], token["tenant"], token["client_id"]) == (edge["sub"], "acme", "assistant")


async def test_of_many_parallel_uses_one_is_answered(world: World) -> None:
    jag = world.id_jag()
    answers = await gather(*(world.redeem(jag, authorization_details=[READ]) for _ in range(20)))
    assert sorted(answer.status for answer in answers) == [200] + [400] * 19
    assert {answer.refusal for answer in answers if answer.status == 400} == {INVALID}


async def test_whatever_is_not_an_id_jag_for_this_client_is_one_refusal(world: World) -> None:
    for jag in (
        world.id_jag(agent="legacy"),
        world.id_jag(typ="JWT"),
        world.id_jag(typ="cab-assertion+jwt"),
        world.id_jag(aud="web-at-idp"),
        world.id_jag(exp=world.now - 1, iat=world.now - 300),
        world.id_jag(iss="https://evil.test"),
        world.id_jag(authorization_details=[task(), task()]),
        world.id_token(),
        await world.assertion(),
    ):
        assert (await world.redeem(jag, authorization_details=[READ])).refusal == INVALID
    assert (await world.redeem(world.id_jag(agent="stranger"), agent="stranger")).refusal == INVALID


async def test_rules_of_every_exchange_hold(world: World) -> None:
    """Task bounds, allow-list, confirmation and mode, as for an assertion of the edge."""
    assert (await world.redeem(world.id_jag(), authorization_details=[WRITE])).refusal == OUTSIDE
    bounds = task("warehouse.*", limits={"max_uses": 1})
    user = unique("user")
    spent = [
        await world.redeem(world.id_jag(sub=user, authorization_details=[bounds]), authorization_details=[WRITE])
        for _ in range(2)
    ]
    assert [answer.status for answer in spent] == [200, 400]
    assert spent[1].json["reason_code"] == "task_exhausted"
    risky = await world.redeem(world.id_jag(authorization_details=[task("warehouse.*")]), authorization_details=[DROP])
    assert risky.json["reason_code"] == "confirmation_required"
    mode = await world.redeem(world.id_jag(agent="caller"), agent="caller", authorization_details=[READ])
    assert mode.json["reason_code"] == "grant_type_not_allowed"
    refused = await world.redeem(world.id_jag(agent="reader"), agent="reader", authorization_details=[READ])
    assert refused.json["reason_code"] == "grant_type_not_allowed"


async def test_a_bound_id_jag_wants_its_key(world: World) -> None:
    answer = await world.redeem(world.id_jag(cnf={"jkt": "A" * 43}), authorization_details=[READ])
    assert answer.json["reason_code"] == "dpop_proof_invalid"


async def test_intents_that_an_id_jag_carries_bound_what_is_given(world: World) -> None:
    one, two = intent(identifier="query/one"), intent(identifier="query/two")
    assert (await world.redeem(world.id_jag(authorization_details=[one]))).json["authorization_details"] == [
        one | {"parameters": {}}
    ]
    chosen = await world.redeem(world.id_jag(authorization_details=[one, two]), authorization_details=[two])
    assert chosen.status == 200
    other = await world.redeem(world.id_jag(authorization_details=[one, two]), authorization_details=[READ])
    assert other.refusal == OUTSIDE


async def test_a_registered_default_never_goes_beyond_what_an_id_jag_carries(world: World) -> None:
    one, two = intent(identifier="query/one"), intent(identifier="query/two")
    daily = intent(identifier="query/daily")
    for carried in ([one, two], [one, two, task()]):
        answer = await world.redeem(world.id_jag(agent="legacy", authorization_details=carried), agent="legacy")
        assert answer.refusal == OUTSIDE
    within = await world.redeem(world.id_jag(agent="legacy", authorization_details=[one, daily]), agent="legacy")
    assert within.json["authorization_details"][0]["identifier"] == "query/daily"
    unbound = await world.redeem(world.id_jag(agent="legacy"), agent="legacy")
    assert unbound.json["authorization_details"][0]["identifier"] == "query/daily"


async def test_scopes_and_resources_that_an_id_jag_carries_bound_what_is_given(world: World) -> None:
    narrow = await world.redeem(world.id_jag(scope="query.explain"), authorization_details=[READ])
    assert narrow.json["scope"] == "query.explain"
    for jag, changes in (
        (world.id_jag(scope="query.explain"), {"scope": "query.run"}),
        (world.id_jag(scope="elsewhere"), {}),
    ):
        answer = await world.redeem(jag, authorization_details=[READ], **changes)
        assert answer.json["reason_code"] == "scope_not_grantable"
    away = await world.redeem(
        world.id_jag(resource="http://127.0.0.1:1"), resource=WAREHOUSE, authorization_details=[READ]
    )
    assert away.json["reason_code"] == "target_not_allowed"


async def test_an_id_jag_may_have_times_with_fractions_and_no_kid(world: World) -> None:
    jag = world.id_jag(iat=world.now - 0.5, exp=world.now + 60.5, kid=ABSENT)
    assert (await world.redeem(jag, authorization_details=[READ])).status == 200
    assert (await world.redeem(jag, authorization_details=[READ])).refusal == INVALID  # once only, all the same
