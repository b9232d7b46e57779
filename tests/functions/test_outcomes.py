"""What came of a token: said by the agent that had it, and by the resource that it was used at (docs/api.md)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.support.asgi import Answer
from tests.support.jose import claims_of, ec_key
from tests.support.world import IDP, World, gather, intent, task

from cab.domain.identifiers import subject_key, token_sha256

CHANGE = intent("crm.deal.update", "deal/d1", parameters={"stage": "won"})
DONE = {"outcome": "done", "upstream_status": 200}

# --- an agent ---


async def test_an_agent_reports_what_came_of_a_token_once(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "deal.write", "contact.read")
    assertion = await world.assertion(user="alice", task=task("crm.*"))
    issued = (await world.exchange(CHANGE, subject_token=assertion)).json
    sha256 = hashlib.sha256(issued["access_token"].encode()).hexdigest()
    said = {"token_sha256": sha256, "outcome": "done", "upstream_status": 200}
    assert (await world.report(said)).status == 204
    event = world.last_event()
    assert (event["event_type"], event["observed_by"], event["txn"]) == ("tool.executed", "agent", issued["txn"])
    assert event["call"] == {"outcome": "done", "upstream_status": 200}
    assert event["token"]["sha256"] == sha256
    assert event["tool"]["action"] == "crm.deal.update"
    assert [token.outcome for token in await world.given("alice")] == ["done"]  # what their own page shows
    assert (await world.report(said)).status == 204  # the very same
    other = await world.report(said | {"outcome": "failed"})
    assert (other.status, other.reason) == (409, "outcome_already_reported")


async def test_a_jwt_of_ours_is_reported_by_itself(world: World) -> None:
    issued = (await world.exchange()).json
    assert (await world.report({"token": issued["access_token"], "outcome": "not_used"})).status == 204
    world.advance(300 + 3599)
    assert (await world.report({"token": issued["access_token"], "outcome": "not_used"})).status == 204
    world.advance(60)
    assert (await world.report({"token": issued["access_token"], "outcome": "not_used"})).reason == "parameter_invalid"


async def test_nobody_reports_on_anothers_token(world: World) -> None:
    issued = (await world.exchange()).json
    answer = await world.report({"token": issued["access_token"], "outcome": "done"}, agent="reader")
    assert (answer.status, answer.json["parameter"]) == (400, "token")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"outcome": "done"},
        {"outcome": "fine", "token": "x"},
        {"outcome": "done", "token_sha256": "x"},
        {"outcome": "done", "token": "x", "token_sha256": "0" * 64},
        {"outcome": "done", "token_sha256": "0" * 64, "upstream_status": 7},
    ],
)
async def test_a_malformed_report_is_refused(world: World, body: dict[str, Any]) -> None:
    answer = await world.report(body)
    assert (answer.status, answer.reason) == (400, "parameter_invalid")


async def test_of_two_contradictory_words_of_an_agent_that_meet_one_is_on_record(world: World) -> None:
    token = (await world.exchange()).json["access_token"]
    said = [{"token": token, "outcome": outcome} for outcome in ("done", "failed", "done", "unknown")]
    answers = await gather(*(world.report(one) for one in said))
    taken = {one["outcome"] for one, answer in zip(said, answers, strict=True) if answer.status == 204}
    assert len(taken) == 1
    assert {answer.status for answer in answers} == {204, 409}


async def test_a_replayed_proof_does_not_take_the_first_word_of_an_agent(world: World) -> None:
    token, other = [(await world.exchange()).json["access_token"] for _ in range(2)]
    proof = world.credentials("assistant")
    said = [orjson.dumps({"token": one, "outcome": "failed"} | proof) for one in (other, token)]
    assert (await world.request("POST", "/oauth2/outcomes", body=said[0])).status == 204
    replayed = await world.request("POST", "/oauth2/outcomes", body=said[1])
    assert replayed.reason == "client_assertion_replayed"
    assert (await world.report({"token": token, "outcome": "done"})).status == 204


# --- a resource ---


async def as_resource(world: World, token: str, **said: Any) -> Answer:
    return await world.report({"token": token} | DONE | said, agent="warehouse-api")


async def test_a_resource_reports_on_a_token_that_was_made_for_it(world: World) -> None:
    issued = (await world.exchange()).json
    token = issued["access_token"]
    assert (await as_resource(world, token, upstream_request_id="r-1")).status == 204
    event = world.last_event()
    assert (event["event_type"], event["observed_by"], event["outcome"]) == ("tool.executed", "resource", "executed")
    assert event["actor"] == {
        "agent_id": "assistant",
        "chain": [],
        "client_id": "warehouse-api",
        "trust_zone": "internal",
    }
    assert event["subject"]["key"] == claims_of(token)["sub"]
    assert event["call"] == {"outcome": "done", "upstream_status": 200, "upstream_request_id": "r-1"}
    assert event["token"] == {"kind": "broker_jwt", "jti": claims_of(token)["jti"], "sha256": token_sha256(token)}
    assert (event["txn"], event["intent"]["intent_hash"]) == (issued["txn"], claims_of(token)["intent_hash"])
    assert event["tool"]["action"] == "warehouse.query.run"


async def test_what_a_resource_says_and_what_the_agent_says_stand_beside_each_other(world: World) -> None:
    token = (await world.exchange()).json["access_token"]
    assert (await world.report({"token": token, "outcome": "not_used"})).status == 204
    assert (await as_resource(world, token)).status == 204
    reports = [event for event in world.events() if event.event_type == "tool.executed"]
    assert [(event.observed_by, event.call and event.call.outcome) for event in reports] == [
        ("agent", "not_used"),
        ("resource", "done"),
    ]
    assert (await world.report({"token": token, "outcome": "done"})).reason == "outcome_already_reported"


async def test_each_word_of_a_resource_counts_since_a_token_may_be_used_more_than_once(world: World) -> None:
    token = (await world.exchange()).json["access_token"]
    for said in ({"outcome": "failed", "upstream_status": 503}, DONE, DONE):
        assert (await as_resource(world, token, **said)).status == 204
    reports = [event.call.outcome for event in world.events() if event.call is not None]
    assert reports == ["failed", "done", "done"]


async def test_a_resource_server_says_nothing_of_tokens_that_are_not_made_for_its_resource(world: World) -> None:
    """Another resource's token, a forged one, one that no longer counts, and a platform's, known by its hash."""
    await world.connect("alice", "crm", "deal.read", "deal.write", "contact.read")
    assertion = await world.assertion(user="alice", task=task("crm.*"))
    downstream = (await world.exchange(CHANGE, subject_token=assertion)).json["access_token"]
    sha256 = hashlib.sha256(downstream.encode()).hexdigest()
    assert (await world.report({"token_sha256": sha256} | DONE, agent="warehouse-api")).json[
        "parameter"
    ] == "token_sha256"
    own = (await world.exchange()).json["access_token"]
    assert (await world.report({"token_sha256": token_sha256(own)} | DONE, agent="warehouse-api")).status == 400
    foreign = await world.exchange(agent="stranger", subject_token=await world.globex_assertion())
    key, claims = await world.signing_key("sts"), claims_of(own)
    forged = ec_key("forger").sign(claims, {"typ": "at+jwt"})
    elsewhere = key.sign(claims | {"aud": "https://elsewhere.test"}, {"typ": "at+jwt"})
    another = key.sign(claims, {"typ": "cab-assertion+jwt"})
    counted = len(world.events())
    for token in (foreign.json["access_token"], forged, elsewhere, another, assertion, downstream, own[:-4] + "AAAA"):
        answer = await as_resource(world, token)
        assert (answer.status, answer.reason, answer.json["parameter"]) == (400, "parameter_invalid", "token")
    refused = world.events()[counted:]
    assert {(event.outcome, event.observed_by) for event in refused} == {("refused", None)}
    assert (await as_resource(world, own)).status == 204
    world.advance(300 + 3599)
    assert (await as_resource(world, own)).status == 204
    world.advance(60)
    assert (await as_resource(world, own)).status == 400


@pytest.mark.parametrize("exp", [-(10**18), -(10**11), 10**18, True, 1.5, None, "1"])
async def test_a_token_with_an_end_that_no_calendar_knows_is_refused_like_any_other(world: World, exp: object) -> None:
    claims = claims_of((await world.exchange()).json["access_token"]) | {"exp": exp}
    token = ec_key("forger").sign(claims, {"typ": "at+jwt"})
    assert (await as_resource(world, token)).reason == "parameter_invalid"


async def test_who_is_not_registered_as_the_resource_or_proves_it_badly_says_nothing(world: World) -> None:
    token = (await world.exchange()).json["access_token"]
    for agent in ("reader", "researcher"):
        assert (await world.report({"token": token} | DONE, agent=agent)).status == 400
    proof = world.credentials("warehouse-api")
    body = {"token": token} | DONE
    assert (await world.report(body | {"client_id": "reader"}, agent="warehouse-api")).status == 401
    unproven = await world.request("POST", "/oauth2/outcomes", body=orjson.dumps(body | {"client_id": "warehouse-api"}))
    assert unproven.status == 401
    once = orjson.dumps(body | proof)
    assert (await world.request("POST", "/oauth2/outcomes", body=once)).status == 204
    replayed = await world.request("POST", "/oauth2/outcomes", body=orjson.dumps(body | proof | {"outcome": "failed"}))
    assert replayed.reason == "client_assertion_replayed"
    assert len([event for event in world.events() if event.observed_by == "resource"]) == 1


async def test_a_resource_server_of_another_tenant_says_nothing_even_of_a_shared_resource(tmp_path: Path) -> None:
    world = World(scratch=tmp_path)
    folder = world.write_policies(None)
    agents = folder / "agents.yaml"
    actions = 'actions: ["warehouse.*", "ledger.*"]'
    assert agents.read_text().count(actions) == 1
    agents.write_text(agents.read_text().replace(actions, 'reports_as: ["${WAREHOUSE_ORIGIN}"]'))
    world = World(folder, scratch=tmp_path)
    token = (await world.exchange()).json["access_token"]
    assert (await world.report({"token": token} | DONE, agent="stranger")).status == 400
    assert (await as_resource(world, token)).status == 204


async def test_a_resource_cannot_say_that_a_token_was_not_used(world: World) -> None:
    answer = await as_resource(world, (await world.exchange()).json["access_token"], outcome="not_used")
    assert (answer.status, answer.json["parameter"]) == (400, "outcome")


async def test_a_report_as_large_as_none_is_refused_unread(world: World) -> None:
    token = (await world.exchange()).json["access_token"]
    assert (await as_resource(world, token, upstream_request_id="r" * 201)).status == 400
    assert (await as_resource(world, "x" * 16_385)).status == 400
    assert (await as_resource(world, "x" * 70_000)).status == 413


@pytest.mark.parametrize(("known", "expected"), [(("alice",), "alice"), (("alice", "bob"), None)])
async def test_a_report_and_a_revocation_name_the_user_by_our_key_whatever_name_the_token_has(
    tmp_path: Path, known: tuple[str, ...], expected: str | None
) -> None:
    """A system may know several of our users by one name: then nobody is named, rather than the wrong one."""
    world = World(scratch=tmp_path)
    keys = ", ".join(f"{subject_key('acme', IDP, user)}: shared" for user in known)
    where = "    resource: ${WAREHOUSE_ORIGIN}\n"
    folder = world.write_policies(
        None, connections=lambda text: text.replace(where, f"{where}    user_map: {{{keys}}}\n")
    )
    world = World(folder, scratch=tmp_path)
    token = (await world.exchange(subject_token=await world.assertion(user="alice"))).json["access_token"]
    assert claims_of(token)["sub"] == "shared"
    for answer in (await as_resource(world, token), await world.revoke(token)):
        assert answer.status in (204, 200)
    named = [event.subject and event.subject.key for event in world.events()[-2:]]
    assert named == [expected and subject_key("acme", IDP, expected)] * 2
