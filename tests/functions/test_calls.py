"""Calls that the broker makes itself, as far as exchange_token decides on them (docs/api.md)."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from tests.support.asgi import Answer
from tests.support.jose import ABSENT, claims_of, ec_key, header_of
from tests.support.world import (
    ACCOUNTS,
    DROP,
    EXCHANGE_TOKEN,
    IDP,
    ORIGIN,
    STS,
    WAREHOUSE,
    World,
    deployment,
    gather,
    intent,
    task,
    unique,
)

MCP = f"{ORIGIN}/mcp"
READ = intent()
WRITE = intent("warehouse.table.write", "table/t1")
CHANGE = intent("crm.deal.update", "deal/d1", parameters={"stage": "won"})


async def call_token(world: World, *, user: str = "alice", agent: str = "caller", **changes: Any) -> Answer:
    """A call token for a user whose task allows everything."""
    details = changes.pop("task", task(task_id="t-1"))
    headers = changes.pop("headers", ())
    assertion = await world.assertion(agent, user=user, task=details)
    form = {"subject_token": assertion, "resource": MCP, "authorization_details": None} | changes
    sent = await world.exchange_form(agent=agent, **form)
    return await world.post("/oauth2/token", {k: v for k, v in sent.items() if v is not None}, headers=headers)


async def token_of(world: World, **changes: Any) -> str:
    answer = await call_token(world, **changes)
    assert answer.status == 200, answer.body
    return str(answer.json["access_token"])


def google_identity(world: World, account: str = "call-tool") -> str:
    return world.google_token(EXCHANGE_TOKEN, email=f"{account}@{ACCOUNTS}")


async def ask(world: World, token: str, declared: dict[str, Any] | None = None, **changes: Any) -> Answer:
    """What call_tool sends to have a call decided."""
    new = {} if declared is None else {"connection": declared["actions"][0].split(".")[0], "detail": declared}
    policy_version = deployment(world.folder).policy_version
    body = {"call_token": token, "policy_version": policy_version} | new | changes
    return await world.call_service("/internal/calls", body, google_identity(world))


# --- call tokens ---


async def test_a_call_token_says_who_the_user_is_and_permits_nothing_by_itself(world: World) -> None:
    answer = await call_token(world)
    assert (answer.json["token_type"], answer.json["expires_in"]) == ("Bearer", 300)
    assert answer.json["scope"] == "tools.read tools.write tools.destructive"
    token = answer.json["access_token"]
    claims = claims_of(token)
    assert header_of(token)["typ"] == "at+jwt"
    assert (claims["iss"], claims["aud"], claims["client_id"]) == (STS, MCP, "caller")
    assert claims["act"]["sub"] == "caller"
    assert [item["type"] for item in claims["authorization_details"]] == ["cab_task"]
    assert "intent_hash" not in claims
    assert world.last_event()["token"]["kind"] == "call"


async def test_a_call_token_never_outlives_the_assertion(world: World) -> None:
    assertion = await world.assertion("caller", user="alice")
    world.advance(250)
    form = await world.exchange_form(agent="caller", subject_token=assertion, resource=MCP)
    del form["authorization_details"]
    answer = await world.post("/oauth2/token", form)
    assert answer.json["expires_in"] == 50


async def test_a_call_token_can_be_narrower_and_never_wider(world: World) -> None:
    assert claims_of(await token_of(world, scope="tools.read"))["scope"] == "tools.read"
    for scope in ("tools.read tools.admin", " ", "tools.read tools.read"):
        assert (await call_token(world, scope=scope)).reason == "scope_not_grantable"


async def test_agents_that_get_tokens_get_no_call_token_and_the_reverse(world: World) -> None:
    assert (await call_token(world, agent="assistant")).reason == "grant_type_not_allowed"
    assert (await world.exchange(agent="caller")).reason == "grant_type_not_allowed"


async def test_a_call_token_carries_no_intent(world: World) -> None:
    assert (await call_token(world, authorization_details=[READ])).refusal == (
        400,
        "invalid_request",
        "parameter_invalid",
    )
    assert (await call_token(world, completion_mode="deferred")).reason == "parameter_invalid"
    assert (await call_token(world, audience="warehouse")).reason == "target_repeated"


async def test_a_call_token_is_no_assertion_and_no_token_of_a_platform(world: World) -> None:
    token = await token_of(world)
    assert (await world.exchange(agent="assistant", subject_token=token)).reason == "subject_token_invalid"
    assertion = await world.assertion("caller", user="alice")
    platform = (await world.exchange()).json["access_token"]
    for wrong in (assertion, platform, token[:-4] + "AAAA", "x"):
        answer = await ask(world, wrong, READ)
        assert (answer.status, answer.reason) == (401, "call_token_invalid")


# --- deciding ---


async def test_a_call_gets_one_token_for_what_was_decided(world: World) -> None:
    answer = await ask(world, await token_of(world), READ)
    assert answer.status == 200, answer.body
    body = answer.json
    assert body["connection"] == "warehouse"
    assert body["authorization_details"][0]["actions"] == ["warehouse.query.run"]
    assert claims_of(body["access_token"])["aud"] == WAREHOUSE
    event = world.last_event()
    assert (event["event_type"], event["outcome"], event["tool"]["mode"]) == ("exchange.decided", "issued", "call")
    assert event["call"] == {
        "id": body["call_id"],
        "method": "POST",
        "host": "127.0.0.1:8084",
        "path_template": "/queries/{id}",
        "request_digest": body["request_digest"],
        "request_bytes": event["call"]["request_bytes"],
    }
    assert event["intent"]["intent_hash"] == body["intent_hash"]


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (intent("warehouse.table.list", "table/*"), "call_not_configured"),
        (intent("warehouse.query.run", "table/t1"), "intent_malformed"),
        (intent("wiki.page.read", "page/p1"), "call_not_configured"),
        (intent("warehouse.table.write", "table/locked"), "policy_denied"),
    ],
)
async def test_what_an_exchange_would_refuse_is_refused(world: World, declared: dict[str, Any], reason: str) -> None:
    assert (await ask(world, await token_of(world), declared)).reason == reason


async def test_a_call_outside_the_task_is_refused(world: World) -> None:
    token = await token_of(world, task=task("warehouse.query.*"))
    assert (await ask(world, token, WRITE)).reason == "intent_outside_task"


async def test_a_token_for_reads_writes_nothing(world: World) -> None:
    token = await token_of(world, scope="tools.read")
    assert (await ask(world, token, READ)).status == 200
    assert (await ask(world, token, WRITE)).reason == "scope_not_grantable"


async def test_only_call_tool_may_ask(world: World) -> None:
    body = {"call_token": await token_of(world), "policy_version": "x", "connection": "warehouse", "detail": READ}
    for token in (None, google_identity(world, "exchange-token"), world.google_token(ORIGIN, email="call-tool@x")):
        answer = await world.call_service("/internal/calls", body, token)
        assert (answer.status, answer.reason) == (401, "client_authentication_failed")


async def test_the_identity_of_call_tool_is_good_until_it_ends_and_another_never_is(
    world: World,
) -> None:
    policy_version = deployment(world.folder).policy_version
    token = await token_of(world)
    call = {"call_token": token, "policy_version": policy_version, "connection": "warehouse", "detail": READ}
    ours, other = google_identity(world), google_identity(world, "connect-account")
    for _ in range(2):
        assert (await world.call_service("/internal/calls", call, ours)).status == 200
        assert (await world.call_service("/internal/calls", call, other)).status == 401
    world.advance(3700)
    assert (await world.call_service("/internal/calls", call, ours)).reason == "client_authentication_failed"


async def test_another_version_of_the_policies_is_another_catalog(world: World) -> None:
    answer = await ask(world, await token_of(world), READ, policy_version="another")
    assert (answer.status, answer.reason) == (503, "policy_version_skew")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"connection": "warehouse"},
        {"connection": "warehouse", "detail": READ, "deferral_code": "x"},
        {"attempt": "x"},
        {"connection": "warehouse", "detail": READ, "more": 1},
        {"connection": "warehouse", "detail": READ, "call_id": "with space"},
    ],
)
async def test_a_malformed_request_is_refused(world: World, body: dict[str, Any]) -> None:
    answer = await ask(world, await token_of(world), **body)
    assert (answer.status, answer.reason) == (400, "parameter_invalid")


# --- call ids ---


async def test_a_write_is_let_through_once_for_each_call_id(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "deal.write", "contact.read")
    token = await token_of(world)
    answers = await gather(*(ask(world, token, CHANGE, call_id="c-1") for _ in range(10)))
    assert sorted(answer.status for answer in answers) == [200] + [409] * 9
    assert {answer.reason for answer in answers if answer.status == 409} == {"call_already_attempted"}
    assert (await ask(world, token, CHANGE, call_id="c-2")).status == 200


async def test_reads_and_keyed_calls_may_be_repeated_with_the_same_key(world: World) -> None:
    token = await token_of(world)
    for declared in (READ, WRITE):
        call_id = unique("c")
        first, second = [(await ask(world, token, declared, call_id=call_id)).json for _ in range(2)]
        assert first["idempotency_key"] == second["idempotency_key"]
        assert first["request_digest"] == second["request_digest"]
    other = await token_of(world, user="bob")
    assert (await ask(world, other, WRITE, call_id=call_id)).json["idempotency_key"] != first["idempotency_key"]


async def test_a_call_id_stands_for_one_call(world: World) -> None:
    token = await token_of(world)
    await ask(world, token, READ, call_id="c-1")
    other = intent(identifier="query/q2")
    answer = await ask(world, token, other, call_id="c-1")
    assert (answer.status, answer.reason) == (409, "call_id_reused")


async def test_a_call_that_was_not_let_through_leaves_its_id_free(world: World) -> None:
    token = await token_of(world)
    assert (await ask(world, token, CHANGE, call_id="c-1")).reason == "grant_missing"
    world.break_documents("guards", "write")
    await world.connect("alice", "crm", "deal.read", "deal.write", "contact.read")
    assert (await ask(world, token, CHANGE, call_id="c-1")).status == 503
    world.mend_documents("guards")
    log = world.cloud.audit_logs["exchange_token"]
    log.is_down = True
    assert (await ask(world, token, CHANGE, call_id="c-1")).reason == "audit_unavailable"
    log.is_down = False
    assert (await ask(world, token, CHANGE, call_id="c-1")).status == 200


async def test_a_keyed_call_keeps_its_id_when_the_first_of_two_that_meet_comes_to_nothing(world: World) -> None:
    """Another call under that id would go with the key of the one that was made, and be taken for it."""
    token = await token_of(world)
    late = int(world.clock.now().timestamp() * 1000) - 1
    first, second = await gather(
        ask(world, token, WRITE, call_id="c-1", awaited_until=late), ask(world, token, WRITE, call_id="c-1")
    )
    assert (first.status, second.status) == (503, 200)
    other = intent("warehouse.table.write", "table/t2")
    assert (await ask(world, token, other, call_id="c-1")).reason == "call_id_reused"
    assert (await ask(world, token, WRITE, call_id="c-1")).status == 200


async def test_a_decision_that_nobody_waits_for_any_more_is_taken_back_and_leaves_its_id_free(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "deal.write", "contact.read")
    token = await token_of(world)
    now = int(world.clock.now().timestamp() * 1000)
    late = await ask(world, token, CHANGE, call_id="c-1", awaited_until=now - 1)
    assert (late.status, late.reason) == (503, "audit_unavailable")
    issued, withheld, *_ = [event for event in world.events() if event.call and event.call.id == "c-1"]
    assert (withheld.event_type, withheld.corrects) == ("token.withheld", issued.event_id)
    assert (await ask(world, token, CHANGE, call_id="c-1", awaited_until=now)).status == 200


# --- confirmation ---


async def test_a_risky_call_waits_for_the_user_and_is_then_decided_once(world: World) -> None:
    token = await token_of(world)
    first = await ask(world, token, DROP, call_id="c-1")
    assert first.reason == "confirmation_required"
    await world.decide(first.json["interaction_uri"], approved=True)
    answers = await gather(*(ask(world, token, DROP, call_id=f"c-{n}") for n in range(20)))
    assert sum(answer.status == 200 for answer in answers) == 1


async def test_a_deferred_call_is_continued_by_its_code_alone(world: World) -> None:
    token = await token_of(world)
    first = await ask(world, token, DROP, deferred=True, call_id="c-1")
    assert first.reason == "authorization_pending"
    code = first.json["deferral_code"]
    await world.decide(first.json["interaction_uri"], approved=True)
    stranger = await token_of(world, user="bob")
    assert (await ask(world, stranger, deferral_code=code)).reason == "deferral_code_invalid"
    answer = await ask(world, token, deferral_code=code)
    assert (answer.status, answer.json["call_id"]) == (200, "c-1")
    assert answer.json["authorization_details"][0]["actions"] == ["warehouse.table.drop"]


async def test_a_deferred_call_never_becomes_a_token_of_an_agent(world: World) -> None:
    token = await token_of(world)
    first = await ask(world, token, DROP, deferred=True)
    await world.decide(first.json["interaction_uri"], approved=True)
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:deferred", "deferral_code": first.json["deferral_code"]}
    answer = await world.post("/oauth2/token", form | world.credentials("caller"))
    assert answer.reason == "deferral_code_invalid"


# --- a token that the platform refuses ---


async def test_a_refused_token_is_replaced_once(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "deal.write", "contact.read")
    token = await token_of(world)
    first = (await ask(world, token, CHANGE, call_id="c-1")).json
    world.advance(61)
    token = await token_of(world)
    rejected = hashlib.sha256(first["access_token"].encode()).hexdigest()
    again = await ask(world, token, attempt=first["attempt"], rejected_token_sha256=rejected)
    assert again.status == 200, again.body
    assert again.json["access_token"] != first["access_token"]
    assert again.json["call_id"] == "c-1"
    assert world.last_event()["call"]["id"] == "c-1"
    replayed = await ask(world, token, attempt=first["attempt"], rejected_token_sha256=rejected)
    assert replayed.reason == "call_token_invalid"


async def test_a_platform_that_refuses_every_token_does_not_cost_a_refresh_each_time(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "deal.write", "contact.read")
    token = await token_of(world)
    seen = set()
    for _ in range(3):
        first = (await ask(world, token, CHANGE)).json
        rejected = hashlib.sha256(first["access_token"].encode()).hexdigest()
        again = (await ask(world, token, attempt=first["attempt"], rejected_token_sha256=rejected)).json
        seen.add(again["access_token"])
    assert len(seen) == 1
    assert len(world.crm.refreshes) <= 1


@pytest.mark.parametrize("now", ["another-at-crm", None])
async def test_a_call_that_began_as_one_account_does_not_go_on_as_another(world: World, now: str | None) -> None:
    """Replacing the account is what may end the token; what was decided, and maybe agreed to, was for the one before."""
    grant = await world.connect("alice", "crm", "deal.read", "deal.write", "contact.read")
    await world.set_grant(grant, upstream_account="alice-at-crm")
    token = await token_of(world)
    first = (await ask(world, token, CHANGE)).json
    await world.set_grant(grant, upstream_account=now, revoke_epoch=1)

    rejected = hashlib.sha256(first["access_token"].encode()).hexdigest()
    again = await ask(world, token, attempt=first["attempt"], rejected_token_sha256=rejected)

    assert (again.status, again.reason) == (503, "provider_unavailable")
    assert "access_token" not in again.json


async def test_an_attempt_is_its_users_own(world: World) -> None:
    first = (await ask(world, await token_of(world), READ)).json
    other = await token_of(world, user="bob")
    rejected = hashlib.sha256(first["access_token"].encode()).hexdigest()
    answer = await ask(world, other, attempt=first["attempt"], rejected_token_sha256=rejected)
    assert answer.reason == "call_token_invalid"


# --- proof of possession ---


def proof(world: World, token: str | None, *, url: str, key: Any, **claims: Any) -> str:
    content = {"jti": unique("proof"), "htm": "POST", "htu": url, "iat": world.now}
    if token is not None:
        content["ath"] = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()
    return str(key.sign(content | claims, {"typ": "dpop+jwt", "jwk": key.jwk, "kid": ABSENT}))


async def test_a_bound_call_token_needs_a_proof_for_itself_each_time(world: World) -> None:
    key = ec_key("holder")
    headers = [("DPoP", proof(world, None, url=f"{STS}/token", key=key))]
    answer = await call_token(world, headers=headers)
    assert answer.json["token_type"] == "DPoP"
    token, url = answer.json["access_token"], f"{ORIGIN}/tools/call"
    good = {"proof": proof(world, token, url=url, key=key), "method": "POST", "url": url}
    assert (await ask(world, token, READ)).reason == "dpop_proof_invalid"
    assert (await ask(world, token, READ, dpop=good)).status == 200
    assert (await ask(world, token, READ, dpop=good)).reason == "dpop_proof_invalid"  # spent
    for wrong in (proof(world, "x", url=url, key=key), proof(world, token, url=url, key=ec_key("thief"))):
        bad = {"proof": wrong, "method": "POST", "url": url}
        assert (await ask(world, token, READ, dpop=bad)).reason == "dpop_proof_invalid"


# --- what came of a call ---


async def test_a_call_that_the_broker_makes_is_on_the_users_page_and_no_agent_reports_on_it(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "deal.write", "contact.read")
    token = await token_of(world, user="alice")
    assert (await ask(world, token, CHANGE)).status == 200
    (made,) = await world.given("alice")
    assert (made.by_broker, made.outcome) == (True, None)
    sha256 = world.last_event()["token"]["sha256"]
    assert (await world.report({"token_sha256": sha256, "outcome": "done"})).reason == "parameter_invalid"


async def test_what_came_of_a_call_is_heard_from_call_tool_alone_and_of_calls_let_through(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "deal.write", "contact.read")
    told = {"attempt": (await ask(world, await token_of(world), CHANGE)).json["attempt"], "outcome": "done"}
    events = len(world.events())
    for stranger in (None, google_identity(world, "connect-account")):
        assert (await world.call_service("/internal/outcomes", told, stranger)).status == 401
    us = google_identity(world)
    assert (
        await world.call_service("/internal/outcomes", told | {"outcome": "fine"}, us)
    ).reason == "parameter_invalid"
    forged = told | {"attempt": await token_of(world)}
    assert (await world.call_service("/internal/outcomes", forged, us)).reason == "call_token_invalid"
    assert [token.outcome for token in await world.given("alice")] == [None]
    refused = len(world.events())
    assert (await world.call_service("/internal/outcomes", told, us)).status == 204
    assert [token.outcome for token in await world.given("alice")] == ["done"]
    assert events < refused == len(world.events())  # the outcome is on record by call_tool's own event
    world.advance(200)
    assert (await world.call_service("/internal/outcomes", told, us)).reason == "call_token_invalid"


async def test_an_id_jag_for_the_tools_becomes_a_call_token_bounded_by_it(tmp_path: Any) -> None:
    world = World(scratch=tmp_path)
    folder = world.write_id_jag_deployment()
    world = World(folder, scratch=tmp_path)
    jag = world.id_jag(agent="caller", resource=MCP, scope="tools.read other", authorization_details=[READ])
    answer = await world.redeem(jag, agent="caller")
    assert (answer.status, answer.json["scope"]) == (200, "tools.read")
    token = answer.json["access_token"]
    assert (await ask(world, token, READ)).status == 200
    assert (await ask(world, token, intent(identifier="query/q2"))).reason == "intent_outside_task"
    elsewhere = await world.redeem(world.id_jag(agent="caller", resource=WAREHOUSE), agent="caller", resource=MCP)
    assert elsewhere.reason == "target_not_allowed"
    assert claims_of(token)["idp"]["iss"] == IDP
