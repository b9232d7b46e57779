"""Introspection (RFC 7662) and revocation (RFC 7009): what a token is, told to those it concerns, and its early end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.support.asgi import Answer
from tests.support.jose import ABSENT, claims_of, ec_key
from tests.support.world import CRM, START, STS, WAREHOUSE, World, intent, task

from cab.ports import Create
from cab.stores.issued_tokens import IssuedTokens

LISTING = intent("crm.deal.list", "deal/*")
INACTIVE = b'{"active":false}'


async def broker_token(world: World, agent: str = "assistant") -> str:
    return str((await world.exchange(agent=agent)).json["access_token"])


async def crm_token(world: World, agent: str = "assistant") -> str:
    bounds = task("crm.*") if agent == "careful" else None
    assertion = await world.assertion(agent, user="alice", task=bounds)
    return str((await world.exchange(LISTING, agent=agent, subject_token=assertion)).json["access_token"])


# --- introspection ---


@pytest.mark.requirement("RFC7662-2.2-1")
@pytest.mark.requirement("RFC9396-9.2-1")
async def test_a_live_broker_token_is_told_with_all_its_claims(world: World) -> None:
    token = await broker_token(world)
    answer = await world.introspect(token)
    assert answer.status == 200
    assert answer.header("content-type") == "application/json"
    assert answer.json == {"active": True, "token_type": "Bearer"} | claims_of(token)


async def test_a_pass_through_token_carries_its_intent_by_introspection(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    assertion = await world.assertion(user="alice")
    token = (await world.exchange(LISTING, subject_token=assertion)).json["access_token"]
    world.advance(10)
    assert (await world.introspect(token)).json == {
        "active": True,
        "token_type": "Bearer",
        "iss": STS,
        "sub": claims_of(assertion)["sub"],
        "client_id": "assistant",
        "aud": CRM,
        "scope": "deal.read",
        "authorization_details": [LISTING | {"parameters": {}}],
        "act": {"sub": "assistant", "iss": STS, "sub_profile": "ai_agent"},
        "txn": claims_of(assertion)["txn"],
        "tenant": "acme",
        "iat": START,
        "exp": START + 3600,
    }


@pytest.mark.requirement("RFC7662-4-1")
async def test_the_resource_server_of_a_token_sees_it_and_other_clients_do_not(world: World) -> None:
    token = await broker_token(world)
    assert (await world.introspect(token, agent="warehouse-api")).json["active"] is True
    for agent in ("reader", "careful", "researcher", "stranger"):
        assert (await world.introspect(token, agent=agent)).body == INACTIVE


async def test_a_resource_server_sees_tokens_of_its_own_resource_only(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    assert (await world.introspect(await crm_token(world), agent="warehouse-api")).body == INACTIVE


async def test_a_tenant_never_sees_tokens_of_another_even_for_a_shared_resource(world: World) -> None:
    """Agent `stranger` of globex introspects for the warehouse and the CRM too."""
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    assert (await world.introspect(await crm_token(world), agent="stranger")).body == INACTIVE
    token = await broker_token(world)
    assert (await world.introspect(token, agent="stranger")).body == INACTIVE
    foreign = await world.exchange(agent="stranger", subject_token=await world.globex_assertion())
    assert (await world.introspect(foreign.json["access_token"], agent="stranger")).json["active"] is True
    assert (await world.introspect(foreign.json["access_token"], agent="warehouse-api")).body == INACTIVE


@pytest.mark.requirement("RFC7662-2.2-2")
async def test_whatever_is_not_a_live_token_of_the_asker_is_exactly_inactive(world: World) -> None:
    live = await broker_token(world)
    ended = await broker_token(world)
    world.advance(300)
    real = claims_of(await broker_token(world))
    key = await world.signing_key("sts")

    def signed(header: dict[str, Any] | None = None, **changes: Any) -> str:
        return key.sign(
            {k: v for k, v in (real | changes).items() if v is not ABSENT}, {"typ": "at+jwt"} | (header or {})
        )

    assert (await world.introspect(signed())).json["active"] is True  # the control
    for token in (
        live,
        ended,
        "unknown",
        "a.b.c",
        "",
        await world.assertion(),
        world.id_token(),
        world.client_assertion("assistant", STS),
        world.google_token(STS),
        signed({"typ": "cab-assertion+jwt"}),
        signed({"typ": "JWT"}),
        signed({"kid": "unknown"}),
        signed(iss="https://evil.test"),
        signed(aud="https://elsewhere.test"),
        signed(aud=[WAREHOUSE]),
        signed(exp=real["iat"] + 301),
        signed(exp=ABSENT),
        signed(client_id="reader"),
        signed(tenant="globex"),
        ec_key("evil").sign(real, {"typ": "at+jwt", "kid": key.kid}),
    ):
        if token:
            answer = await world.introspect(token)
            assert (answer.status, answer.body) == (200, INACTIVE)


async def test_a_broker_token_is_inactive_from_the_second_it_ends(world: World) -> None:
    token = await broker_token(world)
    world.advance(299)
    assert (await world.introspect(token)).json["active"] is True
    world.advance(1)
    assert (await world.introspect(token)).body == INACTIVE


async def test_a_pass_through_token_is_inactive_when_what_was_promised_is_over(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    token = await crm_token(world)
    world.advance(3599)
    assert (await world.introspect(token)).json["active"] is True
    world.advance(2)
    assert (await world.introspect(token)).body == INACTIVE


async def test_each_agent_sees_its_own_hand_out_of_a_token_that_several_were_given(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    first = await crm_token(world, "assistant")
    world.advance(1)
    second = await crm_token(world, "careful")
    assert first == second
    for agent in ("assistant", "careful"):
        assert (await world.introspect(first, agent=agent)).json["client_id"] == agent
    assert (await world.introspect(first, agent="reader")).body == INACTIVE


async def test_a_token_given_again_under_the_same_assertion_shows_the_newest_intent_and_keeps_the_earlier(
    world: World,
) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    assertion = await world.assertion(user="alice")
    first = LISTING | {"parameters": {}}
    second = LISTING | {"parameters": {"account": "acme"}}
    tokens = []
    for declared in (first, second):
        tokens.append((await world.exchange(declared, subject_token=assertion)).json["access_token"])
        assert (await world.introspect(tokens[-1])).json["authorization_details"] == [declared]
        world.advance(1)
    assert tokens[0] == tokens[1]
    kept = await IssuedTokens(world.cloud.documents["guards"]).of_user("acme", claims_of(assertion)["sub"], limit=10)
    assert [token.details for token in kept] == [[second], [first]]


@pytest.mark.requirement("RFC7009-2.1-1")
@pytest.mark.requirement("RFC7662-2.1-1")
@pytest.mark.parametrize("path", ["/oauth2/introspect", "/oauth2/revoke"])
async def test_the_token_is_required(world: World, path: str) -> None:
    for token in (ABSENT, ""):
        answer = await world.post(path, {"token": token} | world.credentials("assistant"))
        assert answer.refusal == (400, "invalid_request", "parameter_missing")
        assert answer.json["parameter"] == "token"


@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "anything"])
async def test_a_hint_changes_nothing(world: World, hint: str) -> None:
    token = await broker_token(world)
    assert (await world.introspect(token, token_type_hint=hint)).json["active"] is True
    assert (await world.revoke(token, token_type_hint=hint)).status == 200
    assert (await world.introspect(token)).body == INACTIVE


# --- revocation ---


def is_empty_success(answer: Answer) -> bool:
    return (answer.status, answer.body, answer.header("content-type")) == (200, b"", None)


@pytest.mark.requirement("RFC7009-2.2-1")
async def test_a_revoked_token_is_inactive_at_once_for_everybody(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    for token in (await broker_token(world), await crm_token(world)):
        assert is_empty_success(await world.revoke(token))
        assert (await world.introspect(token)).body == INACTIVE
        assert (await world.introspect(token, agent="warehouse-api")).body == INACTIVE
        assert is_empty_success(await world.revoke(token))


async def test_the_platforms_token_is_active_again_once_it_was_handed_out_again(world: World) -> None:
    """An agent that tidies up after one job must not be left with dead tokens in the next."""
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    assertion = await world.assertion(user="alice")
    token = (await world.exchange(LISTING, subject_token=assertion)).json["access_token"]
    for _ in range(2):
        await world.revoke(token)
        assert (await world.introspect(token)).body == INACTIVE
        world.advance(1)
        assert (await world.exchange(LISTING, subject_token=assertion)).json["access_token"] == token
        assert (await world.introspect(token)).json["active"] is True
        world.advance(1)


async def test_an_intent_declared_again_is_the_newest_again(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    assertion = await world.assertion(user="alice")
    one, other = LISTING | {"parameters": {}}, LISTING | {"parameters": {"account": "acme"}}
    for declared in (one, other, one):
        token = (await world.exchange(declared, subject_token=assertion)).json["access_token"]
        assert (await world.introspect(token)).json["authorization_details"] == [declared]
        world.advance(1)


@pytest.mark.requirement("RFC7009-2.2-2")
async def test_revoking_what_is_not_a_token_succeeds_and_does_nothing(world: World) -> None:
    for token in ("unknown", "a.b.c", await world.assertion(), world.id_token()):
        assert is_empty_success(await world.revoke(token))
    assert await world.cloud.documents["guards"].find("revoked_tokens") == []


@pytest.mark.requirement("RFC7009-2.1-2")
async def test_nobody_revokes_the_token_of_another_and_nobody_learns_that_it_exists(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    for token in (await broker_token(world), await crm_token(world)):
        for agent in ("reader", "warehouse-api", "stranger"):
            foreign = await world.revoke(token, agent=agent)
            unknown = await world.revoke("unknown", agent=agent)
            assert (foreign.status, foreign.body) == (unknown.status, unknown.body) == (200, b"")
        assert (await world.introspect(token)).json["active"] is True


async def test_each_agent_may_revoke_a_token_that_several_were_given(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    token = await crm_token(world, "assistant")
    world.advance(1)
    assert await crm_token(world, "careful") == token
    await world.revoke(token, agent="assistant")
    assert (await world.introspect(token, agent="careful")).body == INACTIVE


async def test_a_revocation_means_every_hand_out_there_is_whatever_the_clocks_of_other_instances_say(
    world: World,
) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    token = await crm_token(world)
    guards = world.cloud.documents["guards"]
    (hand_out,) = await guards.find("issued_tokens")
    ahead, last = (hand_out.fields[name] + timedelta(seconds=20) for name in ("issued_at", "expires_at"))
    later = hand_out.fields | {"issued_at": ahead, "expires_at": last, "client_id": "careful"}
    await guards.write(Create("issued_tokens/later", later))
    await world.revoke(token)
    assert (await world.introspect(token, agent="careful")).body == INACTIVE
    (mark,) = await guards.find("revoked_tokens")
    assert mark.fields["expire_at"] >= last


async def test_revoking_a_token_leaves_the_users_grant_alone(world: World) -> None:
    grant = await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    await world.revoke(await crm_token(world))
    stored = await world.cloud.documents["grants"].read(f"grants/{grant}")
    assert stored is not None
    assert stored.fields["status"] == "active"
    assert [sent.path for sent in world.web.requests_to(CRM)] == ["/token"]


async def test_a_revocation_is_kept_until_the_token_would_have_ended(world: World) -> None:
    await world.revoke(await broker_token(world))
    (mark,) = await world.cloud.documents["guards"].find("revoked_tokens")
    assert int(mark.fields["expire_at"].timestamp()) >= world.now + 300


# --- audit, outages ---


async def test_both_leave_an_event_that_says_who_asked_and_about_whom(world: World) -> None:
    token = await broker_token(world)
    await world.introspect(token, agent="warehouse-api")
    asked = world.last_event()
    assert (asked["event_type"], asked["outcome"], asked["actor"]["client_id"]) == (
        "token.introspected",
        "executed",
        "warehouse-api",
    )
    answer = await world.revoke(token)
    assert world.last_event() == {
        "event_type": "token.revoked",
        "occurred_at": "2026-11-21T12:00:00Z",
        "schema_version": 4,
        "tenant": "acme",
        "subject": {"key": claims_of(token)["sub"], "groups": []},
        "actor": {"client_id": "assistant", "chain": []},
        "outcome": "executed",
        "txn": claims_of(token)["txn"],
        "caller_ip_prefix": "192.0.2.0/24",
        "service": {"function": "exchange_token", "revision": "test-00001"},
    }
    assert answer.txn == claims_of(token)["txn"]


@pytest.mark.requirement("RFC7009-2.2.1-1")
@pytest.mark.parametrize("path", ["/oauth2/introspect", "/oauth2/revoke"])
async def test_without_the_store_neither_answers_as_if_it_knew(world: World, path: str) -> None:
    token = await broker_token(world)
    world.break_documents("guards")
    answer = await world.post(path, {"token": token} | world.credentials("assistant"))
    assert answer.refusal == (503, "temporarily_unavailable", "store_unavailable")
