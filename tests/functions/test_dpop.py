"""Binding to a key, when a client asks for it: the proof, what it binds, and that what is bound needs it (RFC 9449)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.asgi import Answer
from tests.support.jose import ABSENT, Key, claims_of, ec_key, present
from tests.support.world import EDGE, STS, World, gather, intent, task, unique

from cab.protocol.jose.jwk import thumbprint

INVALID = (400, "invalid_dpop_proof", "dpop_proof_invalid")
KEY, OTHER = ec_key("dpop"), ec_key("another-dpop")
JKT = thumbprint(KEY.jwk)


def proof(world: World, *, key: Key = KEY, at: str = f"{STS}/token", **changes: Any) -> list[tuple[str, str]]:
    claims = present({"htm": "POST", "htu": at, "iat": world.now, "jti": unique("dpop")} | changes)
    return [("DPoP", key.sign(claims, {"typ": "dpop+jwt", "jwk": key.jwk, "kid": ABSENT}))]


async def bound_assertion(world: World, **login: Any) -> str:
    bounds = login.pop("bounds", None)
    details: dict[str, Any] = {} if bounds is None else {"authorization_details": [bounds]}
    form = world.mint_form(subject_token=world.id_token(**login), **details)
    answer = await world.post("/edge/token", form, headers=proof(world, at=f"{EDGE}/token"))
    assert answer.status == 200, answer.body
    return str(answer.json["access_token"])


async def exchange(world: World, assertion: str, headers: Any = (), declared: Any = None, **changes: Any) -> Answer:
    return await world.exchange(declared, subject_token=assertion, headers=headers, **changes)


@pytest.mark.requirement("RFC9449-5-1")
@pytest.mark.requirement("RFC9449-6.1-1")
async def test_a_proof_binds_the_token_and_the_answer_says_so(world: World) -> None:
    answer = await exchange(world, await world.assertion(), proof(world))
    assert answer.json["token_type"] == "DPoP"
    assert claims_of(answer.json["access_token"])["cnf"] == {"jkt": JKT}
    introspected = await world.introspect(answer.json["access_token"])
    assert (introspected.json["token_type"], introspected.json["cnf"]) == ("DPoP", {"jkt": JKT})


async def test_without_a_proof_nothing_is_bound(world: World) -> None:
    answer = await exchange(world, await world.assertion())
    assert answer.json["token_type"] == "Bearer"
    assert "cnf" not in claims_of(answer.json["access_token"])


async def test_a_proof_at_the_edge_binds_the_assertion(world: World) -> None:
    assert claims_of(await bound_assertion(world))["cnf"] == {"jkt": JKT}


@pytest.mark.requirement("RFC9449-7-1")
async def test_a_bound_assertion_needs_its_key_at_every_use(world: World) -> None:
    assertion = await bound_assertion(world)
    assert (await exchange(world, assertion)).refusal == INVALID
    assert (await exchange(world, assertion, proof(world, key=OTHER))).refusal == INVALID
    assert (await world.delegate(assertion, "assistant", "researcher")).refusal == INVALID
    assert (await exchange(world, assertion, proof(world))).json["token_type"] == "DPoP"


async def test_a_binding_cannot_be_shaken_off_by_handing_on(world: World) -> None:
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": await bound_assertion(world),
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "requested_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "audience": STS,
        "may_act": "researcher",
    }
    passed_on = await world.post("/oauth2/token", form | world.credentials("assistant"), headers=proof(world))
    assert claims_of(passed_on.json["access_token"])["cnf"] == {"jkt": JKT}
    assert (await exchange(world, passed_on.json["access_token"], agent="researcher")).refusal == INVALID


async def test_a_downstream_token_cannot_be_bound_and_says_so(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    assertion = await bound_assertion(world, user="alice")
    answer = await exchange(world, assertion, proof(world), intent("crm.deal.list", "deal/*"))
    assert answer.json["token_type"] == "Bearer"


async def test_a_deferred_exchange_is_polled_with_the_key_it_began_with(world: World) -> None:
    share = intent("warehouse.table.share", "table/t1")
    assertion = await world.assertion(task=task("*"))
    asked = await exchange(world, assertion, proof(world), share, completion_mode="deferred")
    await world.decide(asked.json["interaction_uri"], approved=True)

    async def poll(headers: Any) -> Answer:
        world.advance(2)
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:deferred", "deferral_code": asked.json["deferral_code"]}
        return await world.post("/oauth2/token", form | world.credentials("assistant"), headers=headers)

    assert (await poll([])).refusal == INVALID
    assert (await poll(proof(world, key=OTHER))).refusal == INVALID
    assert claims_of((await poll(proof(world))).json["access_token"])["cnf"] == {"jkt": JKT}


# --- the proof ---


@pytest.mark.requirement("RFC9449-4.3-1")
@pytest.mark.parametrize(
    "changes",
    [
        {"htm": "GET"},
        {"at": f"{EDGE}/token"},
        {"at": f"{STS}/introspect"},
        {"at": "https://evil.test/oauth2/token"},
        {"iat": 1_795_262_400 - 61},
        {"iat": 1_795_262_400 + 61},
        {"jti": ABSENT},
    ],
    ids=repr,
)
async def test_a_proof_for_something_else_is_refused(world: World, changes: dict[str, Any]) -> None:
    assert (await exchange(world, await world.assertion(), proof(world, **changes))).refusal == INVALID


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "null"])
async def test_garbage_is_no_proof_and_never_taken_for_none(world: World, text: str) -> None:
    assert (await exchange(world, await world.assertion(), [("DPoP", text)])).refusal == INVALID


@pytest.mark.requirement("RFC9449-4.3-4")
async def test_two_proofs_in_one_request_are_refused(world: World) -> None:
    two = proof(world) + proof(world)
    assert (await exchange(world, await world.assertion(), two)).refusal == INVALID
    joined = [("DPoP", ", ".join(value for _, value in proof(world) + proof(world)))]
    assert (await exchange(world, await world.assertion(), joined)).refusal == INVALID


@pytest.mark.requirement("RFC9449-11.1-1")
async def test_a_proof_is_used_once(world: World) -> None:
    headers = proof(world)
    assertion = await world.assertion()
    assert (await exchange(world, assertion, headers)).status == 200
    assert (await exchange(world, assertion, headers)).refusal == INVALID
    world.advance(60)
    assert (await exchange(world, await world.assertion(), headers)).refusal == INVALID


@pytest.mark.requirement("RFC9449-11.1-1")
async def test_of_a_hundred_parallel_uses_of_a_proof_one_succeeds(world: World) -> None:
    world.cloud.documents["guards"].delay_s = 0.001
    headers, assertion = proof(world), await world.assertion()
    answers = await gather(*(exchange(world, assertion, headers) for _ in range(100)))
    assert sum(answer.status == 200 for answer in answers) == 1
    assert {answer.refusal for answer in answers if answer.status != 200} == {INVALID}


async def test_two_keys_may_choose_the_same_jti(world: World) -> None:
    assertion = await world.assertion()
    for key in (KEY, OTHER):
        assert (await exchange(world, assertion, proof(world, key=key, jti="one-jti"))).status == 200


async def test_without_the_store_a_proof_proves_nothing(world: World) -> None:
    assertion = await world.assertion()
    world.break_documents("guards", "write")
    answer = await exchange(world, assertion, proof(world))
    assert answer.refusal == (503, "temporarily_unavailable", "store_unavailable")


@pytest.mark.requirement("RFC9449-4.3-5")
async def test_the_url_is_the_configured_one_whatever_host_the_request_names(world: World) -> None:
    evil = [("Host", "evil.test"), ("X-Forwarded-Host", "evil.test"), ("X-Forwarded-Proto", "https")]
    assertion = await world.assertion()
    assert (
        await exchange(world, assertion, [*proof(world, at="https://evil.test/oauth2/token"), *evil])
    ).refusal == INVALID
    assert (await exchange(world, assertion, [*proof(world), *evil])).status == 200
