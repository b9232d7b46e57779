"""The jwt-bearer grant: an ID-JAG of the enterprise IdP instead of an edge assertion, held to the same rules and to its own bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.jose import Key, claims_of, present
from tests.support.world import DROP, IDP, IDP_KEY, STS, WAREHOUSE, WRITE, Answer, World, gather, intent, task, unique

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
INVALID = (400, "invalid_grant", "assertion_invalid")
OUTSIDE = (400, "invalid_authorization_details", "intent_outside_task")
READ = intent(identifier="query/q1")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """The deployment, whose IdP may vouch for users to the agents `assistant` (acme) and `legacy` (with default intents)."""
    plain = World(scratch=tmp_path)
    folder = plain.write_policies(None)
    providers = folder / "identity_providers.yaml"
    providers.write_text(
        providers.read_text("utf-8").replace("tenant: acme\n", "tenant: acme\n    id_jag: true\n", 1), "utf-8"
    )
    agents = folder / "agents.yaml"
    text = agents.read_text("utf-8")
    for title in ("Assistant", "Legacy", "Caller", "Stranger"):
        text = text.replace(f"title: {title}\n", f"title: {title}\n    accepts_id_jag: true\n", 1)
    agents.write_text(text, "utf-8")
    return World(folder, scratch=tmp_path)


def id_jag(
    world: World, *, agent: str = "assistant", key: Key = IDP_KEY, typ: str = "oauth-id-jag+jwt", **claims: Any
) -> str:
    standard = {
        "iss": IDP,
        "aud": STS,
        "sub": unique("user"),
        "client_id": agent,
        "jti": unique("jag"),
        "iat": world.now,
        "exp": world.now + 300,
        "auth_time": world.now,
        "groups": ["G-STAFF"],
        "resource": WAREHOUSE,
    }
    return key.sign(present(standard | claims), {"typ": typ})


async def redeem(world: World, jag: str, *, agent: str = "assistant", **changes: Any) -> Answer:
    form = {"grant_type": JWT_BEARER, "assertion": jag} | world.credentials(agent) | changes
    return await world.post("/oauth2/token", form)


async def test_an_id_jag_stands_for_its_user_as_the_edge_would(world: World) -> None:
    answer = await redeem(world, id_jag(world, sub="alice"), authorization_details=[READ])
    assert answer.status == 200
    edge = claims_of(await world.assertion(user="alice"))
    token = claims_of(answer.json["access_token"])
    assert (token["sub"], token["tenant"], token["client_id"]) == (edge["sub"], "acme", "assistant")


async def test_of_many_parallel_uses_one_is_answered(world: World) -> None:
    jag = id_jag(world)
    answers = await gather(*(redeem(world, jag, authorization_details=[READ]) for _ in range(20)))
    assert sorted(answer.status for answer in answers) == [200] + [400] * 19
    assert {answer.refusal for answer in answers if answer.status == 400} == {INVALID}


async def test_whatever_is_not_an_id_jag_for_this_client_is_one_refusal(world: World) -> None:
    for jag in (
        id_jag(world, agent="legacy"),
        id_jag(world, typ="JWT"),
        id_jag(world, typ="cab-assertion+jwt"),
        id_jag(world, aud="web-at-idp"),
        id_jag(world, exp=world.now - 1, iat=world.now - 300),
        id_jag(world, iss="https://evil.test"),
        id_jag(world, authorization_details=[task(), task()]),
        world.id_token(),
        await world.assertion(),
    ):
        assert (await redeem(world, jag, authorization_details=[READ])).refusal == INVALID
    assert (await redeem(world, id_jag(world, agent="stranger"), agent="stranger")).refusal == INVALID


async def test_rules_of_every_exchange_hold(world: World) -> None:
    """Task bounds, allow-list, confirmation and mode, as for an assertion of the edge."""
    assert (await redeem(world, id_jag(world), authorization_details=[WRITE])).refusal == OUTSIDE
    bounds = task("warehouse.*", limits={"max_uses": 1})
    user = unique("user")
    spent = [
        await redeem(world, id_jag(world, sub=user, authorization_details=[bounds]), authorization_details=[WRITE])
        for _ in range(2)
    ]
    assert [answer.status for answer in spent] == [200, 400]
    assert spent[1].json["reason_code"] == "task_exhausted"
    risky = await redeem(
        world, id_jag(world, authorization_details=[task("warehouse.*")]), authorization_details=[DROP]
    )
    assert risky.json["reason_code"] == "confirmation_required"
    mode = await redeem(world, id_jag(world, agent="caller"), agent="caller", authorization_details=[READ])
    assert mode.json["reason_code"] == "grant_type_not_allowed"
    refused = await redeem(world, id_jag(world, agent="reader"), agent="reader", authorization_details=[READ])
    assert refused.json["reason_code"] == "grant_type_not_allowed"


async def test_a_bound_id_jag_wants_its_key(world: World) -> None:
    answer = await redeem(world, id_jag(world, cnf={"jkt": "A" * 43}), authorization_details=[READ])
    assert answer.json["reason_code"] == "dpop_proof_invalid"


async def test_intents_that_an_id_jag_carries_bound_what_is_given(world: World) -> None:
    one, two = intent(identifier="query/one"), intent(identifier="query/two")
    assert (await redeem(world, id_jag(world, authorization_details=[one]))).json["authorization_details"] == [
        one | {"parameters": {}}
    ]
    chosen = await redeem(world, id_jag(world, authorization_details=[one, two]), authorization_details=[two])
    assert chosen.status == 200
    other = await redeem(world, id_jag(world, authorization_details=[one, two]), authorization_details=[READ])
    assert other.refusal == OUTSIDE


async def test_a_registered_default_never_goes_beyond_what_an_id_jag_carries(world: World) -> None:
    one, two = intent(identifier="query/one"), intent(identifier="query/two")
    daily = intent(identifier="query/daily")
    for carried in ([one, two], [one, two, task()]):
        answer = await redeem(world, id_jag(world, agent="legacy", authorization_details=carried), agent="legacy")
        assert answer.refusal == OUTSIDE
    within = await redeem(world, id_jag(world, agent="legacy", authorization_details=[one, daily]), agent="legacy")
    assert within.json["authorization_details"][0]["identifier"] == "query/daily"
    unbound = await redeem(world, id_jag(world, agent="legacy"), agent="legacy")
    assert unbound.json["authorization_details"][0]["identifier"] == "query/daily"


async def test_scopes_and_resources_that_an_id_jag_carries_bound_what_is_given(world: World) -> None:
    narrow = await redeem(world, id_jag(world, scope="query.explain"), authorization_details=[READ])
    assert narrow.json["scope"] == "query.explain"
    for jag, changes in (
        (id_jag(world, scope="query.explain"), {"scope": "query.run"}),
        (id_jag(world, scope="elsewhere"), {}),
    ):
        answer = await redeem(world, jag, authorization_details=[READ], **changes)
        assert answer.json["reason_code"] == "scope_not_grantable"
    away = await redeem(
        world, id_jag(world, resource="http://127.0.0.1:1"), resource=WAREHOUSE, authorization_details=[READ]
    )
    assert away.json["reason_code"] == "target_not_allowed"
