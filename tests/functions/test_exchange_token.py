"""`POST /oauth2/token`, token exchange: an assertion and an intent in, a narrow token out (docs/api.md)."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from tests.support.jose import ABSENT, b64, claims_of, ec_key, header_of, present, sha256_hex
from tests.support.world import (
    CRM,
    DROP,
    EDGE,
    IDP,
    LEDGER,
    REFRESH_GRANTS,
    START,
    STS,
    TOKEN_TYPE,
    WAREHOUSE,
    WIKI,
    WRITE,
    World,
    intent,
    task,
)

from cab.domain.identifiers import digest, subject_key, token_sha256

TARGET = "invalid_target"
DETAILS = "invalid_authorization_details"
REQUEST = "invalid_request"


# --- successes, whole ---


@pytest.mark.requirement("RFC8693-2.2.1-1")
@pytest.mark.requirement("RFC9396-7-1")
@pytest.mark.requirement("RFC6749-5.1-1")
async def test_a_broker_token_is_answered_with_exactly_the_members_of_the_contract(world: World) -> None:
    assertion = await world.assertion()
    answer = await world.exchange(subject_token=assertion)
    assert answer.status == 200
    assert answer.header("content-type") == "application/json"
    assert answer.json == {
        "access_token": answer.json["access_token"],
        "issued_token_type": TOKEN_TYPE + "access_token",
        "token_type": "Bearer",
        "expires_in": 300,
        "scope": "query.run query.explain",
        "authorization_details": [intent(parameters={})],
        "txn": claims_of(assertion)["txn"],
    }
    assert answer.txn == claims_of(assertion)["txn"]


@pytest.mark.requirement("RFC8707-2-3")
@pytest.mark.requirement("RFC8693-4.3-1")
@pytest.mark.requirement("RFC9068-2.1-1")
@pytest.mark.requirement("RFC9068-2.2-1")
@pytest.mark.requirement("RFC9396-9.1-1")
@pytest.mark.requirement("RFC8693-4.1-1")
async def test_a_broker_token_has_exactly_the_claims_of_the_contract(world: World) -> None:
    bounds = task("warehouse.*")
    login: dict[str, Any] = {"auth_time": world.now - 60, "acr": "gold", "amr": ["pwd"]}
    assertion = await world.assertion(user="alice", task=bounds, **login)
    declared = intent("warehouse.table.write", "table/t1", parameters={"note": "é"}, reason="never signed")
    token = (await world.exchange(declared, subject_token=assertion)).json["access_token"]
    granted = {
        "type": "cab_action",
        "actions": ["warehouse.table.write"],
        "locations": [WAREHOUSE],
        "identifier": "table/t1",
        "parameters": {"mode": "append", "note": "é"},
        "task_id": bounds["task_id"],
    }
    canonical = json.dumps([granted], separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()
    sts_keys = (await world.request("GET", "/oauth2/jwks.json")).json["keys"]
    assert header_of(token) == {"typ": "at+jwt", "alg": "ES256", "kid": sts_keys[0]["kid"]}
    assert claims_of(token) == {
        "iss": STS,
        "aud": WAREHOUSE,
        "sub": subject_key("acme", IDP, "alice"),
        "client_id": "assistant",
        "act": {"sub": "assistant", "iss": STS, "sub_profile": "ai_agent"},
        "scope": "table.write",
        "authorization_details": [granted],
        "intent_hash": "sha-256:" + b64(hashlib.sha256(canonical).digest()),
        "txn": claims_of(assertion)["txn"],
        "task_id": bounds["task_id"],
        "tenant": "acme",
        "auth_time": world.now - 60,
        "acr": "gold",
        "amr": ["pwd"],
        "iat": world.now,
        "exp": world.now + 300,
        "jti": claims_of(token)["jti"],
    }


@pytest.mark.requirement("RFC9068-4-1")
async def test_a_resource_server_of_another_make_verifies_a_broker_token_by_discovery_alone(world: World) -> None:
    import jwt

    token = (await world.exchange()).json["access_token"]
    metadata = (await world.request("GET", "/.well-known/oauth-authorization-server/oauth2")).json
    assert metadata["issuer"] == STS
    jwks = (await world.request("GET", metadata["jwks_uri"].removeprefix("http://127.0.0.1:8080"))).json
    key = jwt.PyJWKSet.from_dict(jwks)[header_of(token)["kid"]]
    claims = jwt.decode(
        token,
        key,
        algorithms=["ES256"],
        issuer=STS,
        audience=WAREHOUSE,
        options={"verify_exp": False, "verify_iat": False},
    )
    assert claims["authorization_details"][0]["identifier"] == "query/q1"


async def test_a_downstream_token_is_the_platforms_own_for_that_user(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "deal.write", "offline")
    assertion = await world.assertion(user="alice")
    answer = await world.exchange(intent("crm.deal.list", "deal/*"), subject_token=assertion)
    assert answer.json == {
        "access_token": "crm-access-1",
        "issued_token_type": TOKEN_TYPE + "access_token",
        "token_type": "Bearer",
        "expires_in": 3600,  # an hour: this provider lets a token live on when the broker has refreshed
        "scope": "deal.read",
        "authorization_details": [intent("crm.deal.list", "deal/*", parameters={})],
        "txn": claims_of(assertion)["txn"],
    }
    assert world.crm.refreshes == [
        {
            "grant_type": "refresh_token",
            "refresh_token": "crm-refresh-0",
            "scope": "deal.read offline",
        }
    ]


async def test_a_downstream_token_is_reused_while_it_lives_and_never_for_another_user(world: World) -> None:
    for user in ("alice", "bob"):
        await world.connect(user, "crm", "deal.read", "contact.read", "offline")
    listing = intent("crm.deal.list", "deal/*")
    tokens = [
        (await world.exchange(listing, subject_token=await world.assertion(user=user))).json["access_token"]
        for user in ("alice", "bob", "alice", "bob")
    ]
    assert tokens == ["crm-access-1", "crm-access-2", "crm-access-1", "crm-access-2"]


async def test_a_token_that_the_platform_refuses_is_replaced_for_whoever_has_it(world: World) -> None:
    for user in ("alice", "bob"):
        await world.connect(user, "crm", "deal.read", "contact.read", "offline")
    listing = intent("crm.deal.list", "deal/*")

    async def token(user: str, **more: Any) -> str:
        answer = await world.exchange(listing, subject_token=await world.assertion(user=user), **more)
        return str(answer.json["access_token"])

    mine, others = await token("alice"), await token("bob")
    assert await token("alice", rejected_token_sha256=token_sha256(others)) == mine
    assert await token("alice", rejected_token_sha256=token_sha256("no token")) == mine
    world.advance(61)
    another = await token("alice", rejected_token_sha256=token_sha256(mine))
    assert await token("alice", rejected_token_sha256=token_sha256(another)) == another  # once a minute
    assert another not in (mine, others)
    assert (await token("alice"), await token("bob")) == (another, others)


async def test_what_a_handed_out_token_still_lives_is_told_anew_each_time(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    listing = intent("crm.deal.list", "deal/*")
    lives = []
    for _ in range(3):
        lives.append(
            (await world.exchange(listing, subject_token=await world.assertion(user="alice"))).json["expires_in"]
        )
        world.advance(1000)
    assert lives == [3600, 2600, 1600]


async def test_a_platform_that_cannot_narrow_says_so_in_answer_and_audit(world: World) -> None:
    await world.connect("alice", "wiki", "page.read", "page.write")
    answer = await world.exchange(intent("wiki.page.read", "page/1"), subject_token=await world.assertion(user="alice"))
    assert answer.json["narrowed"] is False
    assert sorted(answer.json["scope"].split()) == ["page.read", "page.write"]
    assert world.last_event()["scopes"] == {
        "requested": [],
        "granted": answer.json["scope"].split(),
        "narrowed": False,
    }


@pytest.mark.requirement("RFC8693-2.2.1-3")
async def test_there_is_never_a_refresh_token(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    broker = await world.exchange()
    downstream = await world.exchange(
        intent("crm.deal.list", "deal/*"), subject_token=await world.assertion(user="alice")
    )
    assert "refresh" not in broker.body.decode() + downstream.body.decode()


async def test_a_broker_token_lives_its_full_life_even_at_the_end_of_its_assertion(world: World) -> None:
    assertion = await world.assertion()
    world.advance(299)
    answer = await world.exchange(subject_token=assertion)
    assert answer.json["expires_in"] == 300
    assert claims_of(answer.json["access_token"])["exp"] == world.now + 300


async def test_an_assertion_is_good_for_many_exchanges(world: World) -> None:
    assertion = await world.assertion()
    answers = [await world.exchange(subject_token=assertion) for _ in range(5)]
    assert {answer.status for answer in answers} == {200}
    assert len({claims_of(answer.json["access_token"])["jti"] for answer in answers}) == 5


# --- parameters ---

WRONG: list[tuple[dict[str, Any], tuple[int, str, str]]] = [
    ({"grant_type": ABSENT}, (400, REQUEST, "parameter_missing")),
    ({"grant_type": "password"}, (400, "unsupported_grant_type", "grant_type_unknown")),
    ({"grant_type": "client_credentials"}, (400, "unsupported_grant_type", "grant_type_unknown")),
    ({"grant_type": "refresh_token"}, (400, "unsupported_grant_type", "grant_type_unknown")),
    ({"grant_type": "token-exchange"}, (400, "unsupported_grant_type", "grant_type_unknown")),
    ({"subject_token": ABSENT}, (400, REQUEST, "parameter_missing")),
    ({"subject_token": ""}, (400, REQUEST, "parameter_missing")),
    ({"subject_token": "x"}, (400, REQUEST, "subject_token_invalid")),
    ({"subject_token_type": ABSENT}, (400, REQUEST, "parameter_missing")),
    ({"subject_token_type": TOKEN_TYPE + "id_token"}, (400, REQUEST, "parameter_invalid")),
    ({"subject_token_type": TOKEN_TYPE + "access_token"}, (400, REQUEST, "parameter_invalid")),
    ({"requested_token_type": TOKEN_TYPE + "refresh_token"}, (400, REQUEST, "parameter_invalid")),
    ({"requested_token_type": TOKEN_TYPE + "id_token"}, (400, REQUEST, "parameter_invalid")),
    ({"requested_token_type": TOKEN_TYPE + "saml2"}, (400, REQUEST, "parameter_invalid")),
    ({"requested_token_type": TOKEN_TYPE + "id-jag"}, (400, REQUEST, "parameter_invalid")),
    ({"completion_mode": "async"}, (400, REQUEST, "parameter_invalid")),
    ({"resource": ABSENT}, (400, TARGET, "target_missing")),
    ({"resource": "", "audience": ""}, (400, TARGET, "target_missing")),
    ({"audience": "warehouse"}, (400, TARGET, "target_repeated")),
    ({"resource": ABSENT, "audience": "nothing"}, (400, TARGET, "target_unknown")),
    ({"resource": ABSENT, "audience": "Warehouse"}, (400, TARGET, "target_unknown")),
    ({"resource": ABSENT, "audience": "ledger"}, (400, TARGET, "target_unknown")),
    ({"resource": ABSENT, "audience": WAREHOUSE}, (400, TARGET, "target_unknown")),
    ({"resource": ABSENT, "audience": STS}, (400, TARGET, "target_unknown")),
    ({"resource": LEDGER}, (400, TARGET, "target_unknown")),
    ({"resource": "warehouse"}, (400, TARGET, "target_unknown")),
    ({"resource": WAREHOUSE + "/"}, (400, TARGET, "target_unknown")),
    ({"resource": WAREHOUSE + "/query"}, (400, TARGET, "target_unknown")),
    ({"resource": WAREHOUSE + "?x"}, (400, TARGET, "target_unknown")),
    ({"resource": WAREHOUSE + "#x"}, (400, TARGET, "target_unknown")),
    ({"resource": WAREHOUSE.upper()}, (400, TARGET, "target_unknown")),
    ({"resource": WAREHOUSE.replace("127.0.0.1", "localhost")}, (400, TARGET, "target_unknown")),
    ({"resource": WAREHOUSE.replace("http", "https")}, (400, TARGET, "target_unknown")),
    ({"resource": "https://evil.test"}, (400, TARGET, "target_unknown")),
    ({"scope": "query.run query.drop"}, (400, "invalid_scope", "scope_not_grantable")),
    ({"scope": "table.write"}, (400, "invalid_scope", "scope_not_grantable")),
    ({"scope": "query.run query.run"}, (400, "invalid_scope", "scope_not_grantable")),
    ({"scope": "QUERY.RUN"}, (400, "invalid_scope", "scope_not_grantable")),
    ({"scope": "https://www.googleapis.com/auth/cloud-platform"}, (400, "invalid_scope", "scope_not_grantable")),
    ({"scope": " "}, (400, "invalid_scope", "scope_not_grantable")),
    ({"scope": " query.run"}, (400, "invalid_scope", "scope_not_grantable")),
    ({"scope": "query.run "}, (400, "invalid_scope", "scope_not_grantable")),
    ({"scope": "query.run  query.explain"}, (400, "invalid_scope", "scope_not_grantable")),
    ({"scope": "query.run\tquery.explain"}, (400, "invalid_scope", "scope_not_grantable")),
    ({"scope": "query.run\u00a0query.explain"}, (400, "invalid_scope", "scope_not_grantable")),
    ({"scope": "*"}, (400, "invalid_scope", "scope_not_grantable")),
    ({"authorization_details": ABSENT}, (400, DETAILS, "intent_missing")),
    ({"authorization_details": ""}, (400, DETAILS, "intent_missing")),
    ({"authorization_details": "null"}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": []}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": intent()}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [intent(), intent()]}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [task()]}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [intent(type="payment")]}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [intent(datatypes=["x"])]}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [intent(privileges=["admin"])]}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [intent(identifier="table/t1")]}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [intent(identifier="query/*")]}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [present(intent() | {"identifier": ABSENT})]}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [intent(actions=["warehouse.nothing.do"])]}, (400, DETAILS, "intent_malformed")),
    (
        {"authorization_details": [intent("crm.deal.list", "deal/*", locations=[WAREHOUSE])]},
        (400, DETAILS, "intent_malformed"),
    ),
    ({"authorization_details": [intent(actions=["warehouse.*"])]}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [intent(parameters={"query": 7})]}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [intent(parameters={"limit": "7"})]}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [intent(parameters={"limit": True})]}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [intent(parameters={"limit": 1.0})]}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [intent(parameters={"limit": 2**53})]}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [intent(parameters={"limit": 2**63})]}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [intent(parameters={"limit": 10**400})]}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [intent(parameters={"owner": "x"})]}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [intent(parameters={"query": "x\u202e"})]}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [intent(parameters={"query": "\ud800"})]}, (400, DETAILS, "intent_malformed")),
    ({"authorization_details": [intent(locations=[CRM])]}, (400, DETAILS, "location_mismatch")),
    ({"authorization_details": [intent(locations=[WAREHOUSE + "/"])]}, (400, DETAILS, "location_mismatch")),
    ({"resource": WIKI}, (400, DETAILS, "intent_malformed")),
    ({"rejected_token_sha256": "x"}, (400, REQUEST, "parameter_invalid")),
    ({"rejected_token_sha256": "A" * 64}, (400, REQUEST, "parameter_invalid")),
    ({"actor_token": "x"}, (400, REQUEST, "parameter_missing")),
    ({"actor_token_type": TOKEN_TYPE + "jwt"}, (400, REQUEST, "parameter_missing")),
    ({"actor_token": "x", "actor_token_type": TOKEN_TYPE + "jwt"}, (400, REQUEST, "actor_token_invalid")),
    ({"actor_token": "x", "actor_token_type": TOKEN_TYPE + "access_token"}, (400, REQUEST, "parameter_invalid")),
]


@pytest.mark.requirement("RFC8693-2.1-1")
@pytest.mark.requirement("RFC8693-2.1-2")
@pytest.mark.requirement("RFC8707-2-1")
@pytest.mark.requirement("RFC9396-5-2")
@pytest.mark.requirement("RFC6749-3.3-1")
@pytest.mark.parametrize(("changes", "refusal"), WRONG, ids=lambda part: repr(part)[:70])
async def test_a_wrong_parameter_is_refused(
    shared_world: World, changes: dict[str, Any], refusal: tuple[int, str, str]
) -> None:
    assert (await shared_world.exchange(**changes)).refusal == refusal


async def test_the_parameter_at_fault_is_named(shared_world: World) -> None:
    assert (await shared_world.exchange(subject_token=ABSENT)).json["parameter"] == "subject_token"
    assert (await shared_world.exchange(actor_token="x")).json["parameter"] == "actor_token_type"
    malformed = await shared_world.exchange(intent(parameters={"limit": "7"}))
    assert malformed.json["parameter"] == "parameters.limit"


async def test_a_target_of_another_tenant_and_one_that_does_not_exist_get_the_same_answer(shared_world: World) -> None:
    bodies = []
    targets: tuple[dict[str, Any], ...]
    targets = ({"resource": LEDGER}, {"resource": "http://127.0.0.1:9"}, {"audience": "ledger"}, {"audience": "x"})
    for target in targets:
        answer = await shared_world.exchange(**({"resource": ABSENT} | target))
        body = answer.json
        assert body.pop("txn") == answer.txn
        bodies.append(body)
    assert all(body == bodies[0] for body in bodies)


@pytest.mark.requirement("RFC8693-2.1-3")
async def test_a_target_is_named_by_resource_or_by_audience(shared_world: World) -> None:
    by_audience = await shared_world.exchange(resource=ABSENT, audience="warehouse")
    assert claims_of(by_audience.json["access_token"])["aud"] == WAREHOUSE


@pytest.mark.requirement("RFC8693-2.1-4")
async def test_the_kinds_that_may_be_asked_for(shared_world: World) -> None:
    explicit = await shared_world.exchange(requested_token_type=TOKEN_TYPE + "access_token")
    assert explicit.json["issued_token_type"] == TOKEN_TYPE + "access_token"


@pytest.mark.requirement("RFC8693-2.2.1-4")
@pytest.mark.parametrize(
    ("scope", "granted"),
    [
        (ABSENT, "query.run query.explain"),
        ("query.run", "query.run"),
        ("query.explain", "query.explain"),
        ("query.explain query.run", "query.run query.explain"),
    ],
)
async def test_a_scope_is_part_of_what_the_action_needs(shared_world: World, scope: Any, granted: str) -> None:
    answer = await shared_world.exchange(scope=scope)
    assert answer.json["scope"] == claims_of(answer.json["access_token"])["scope"] == granted


@pytest.mark.parametrize("scope", [" ", "  ", "\t", "\u2003"])
async def test_a_blank_scope_never_opens_the_whole_grant(world: World, scope: str) -> None:
    """An empty list of scopes would be refreshed without `scope`: everything the user consented to."""
    await world.connect("alice", "crm", "deal.read", "contact.read", "deal.write", "offline")
    answer = await world.exchange(
        intent("crm.deal.list", "deal/*"), subject_token=await world.assertion(user="alice"), scope=scope
    )
    assert answer.refusal == (400, "invalid_scope", "scope_not_grantable")
    assert world.crm.refreshes == []


# --- the assertion ---


async def forged(world: World, header: dict[str, Any] | None = None, **changes: Any) -> str:
    """An assertion signed with the edge's real key, but for the changes: only its content can give it away."""
    real = await world.assertion()
    key = await world.signing_key("edge")
    return key.sign(
        {name: value for name, value in (claims_of(real) | changes).items() if value is not ABSENT},
        {"typ": "cab-assertion+jwt"} | (header or {}),
    )


async def test_the_edges_own_key_makes_good_assertions(world: World) -> None:
    """The control of the next test."""
    assert (await world.exchange(subject_token=await forged(world))).status == 200


BAD_ASSERTIONS: dict[str, dict[str, Any]] = {
    "for another audience": {"aud": EDGE},
    "for a resource": {"aud": WAREHOUSE},
    "for several audiences": {"aud": [STS]},
    "of the STS, by the edge's key": {"iss": STS},
    "of another issuer": {"iss": "https://evil.test"},
    "of an access token's type": {"header": {"typ": "at+jwt"}},
    "of no type": {"header": {"typ": ABSENT}},
    "of an ID token's type": {"header": {"typ": "JWT"}},
    "with an unknown key": {"header": {"kid": "unknown"}},
    "with no key named": {"header": {"kid": ABSENT}},
    "with a key of its own": {"header": {"jwk": ec_key("evil").jwk}},
    "without subject": {"sub": ABSENT},
    "without tenant": {"tenant": ABSENT},
    "without may_act": {"may_act": ABSENT},
    "with may_act as text": {"may_act": "assistant"},
    "without txn": {"txn": ABSENT},
    "without jti": {"jti": ABSENT},
    "without iat": {"iat": ABSENT},
    "without exp": {"exp": ABSENT},
    "living an hour": {"exp": START + 3600},
    "with two tasks": {"authorization_details": [task(), task()]},
    "with an intent for a task": {"authorization_details": [intent()]},
    "of another tenant than the agent": {"tenant": "globex"},
    "of a tenant nobody knows": {"tenant": "nowhere"},
}


@pytest.mark.requirement("RFC8693-2.2.2-1")
@pytest.mark.parametrize("changes", BAD_ASSERTIONS.values(), ids=BAD_ASSERTIONS.keys())
async def test_a_malformed_assertion_is_refused_whoever_signed_it(world: World, changes: dict[str, Any]) -> None:
    answer = await world.exchange(subject_token=await forged(world, **changes))
    assert answer.refusal == (400, REQUEST, "subject_token_invalid")


async def test_every_invalid_assertion_gets_the_same_answer_but_for_txn(world: World) -> None:
    bodies = set()
    for changes in BAD_ASSERTIONS.values():
        body = (await world.exchange(subject_token=await forged(world, **changes))).json
        body.pop("txn")
        bodies.add(json.dumps(body))
    assert len(bodies) == 1


@pytest.mark.requirement("RFC7519-4.1.4-1")
async def test_an_assertion_ends(world: World) -> None:
    assertion = await world.assertion()
    assert (await world.exchange(subject_token=assertion)).status == 200
    world.advance(329)
    assert (await world.exchange(subject_token=assertion)).status == 200
    world.advance(1)
    assert (await world.exchange(subject_token=assertion)).refusal == (400, REQUEST, "subject_token_expired")
    fresh = await world.assertion()
    world.advance(330)
    assert (await world.exchange(subject_token=fresh)).refusal == (400, REQUEST, "subject_token_expired")


@pytest.mark.requirement("RFC8693-4.4-1")
async def test_only_the_agent_the_assertion_names_may_use_it(world: World) -> None:
    assertion = await world.assertion("assistant")
    for agent in ("reader", "careful", "scribe", "warehouse-api"):
        answer = await world.exchange(agent=agent, subject_token=assertion)
        assert answer.refusal == (400, REQUEST, "may_act_violated")
    assert (await world.exchange(agent="assistant", subject_token=assertion)).status == 200


async def test_an_agent_of_another_tenant_learns_nothing_from_an_assertion(world: World) -> None:
    answer = await world.exchange(agent="stranger", subject_token=await world.assertion("assistant"))
    garbage = await world.exchange(agent="stranger", subject_token="a.b.c")
    first, second = answer.json, garbage.json
    assert (first.pop("txn"), second.pop("txn")) == (answer.txn, garbage.txn)
    assert first == second


# --- the actor ---


@pytest.mark.requirement("RFC8693-2.1-2")
@pytest.mark.parametrize("kind", ["jwt", "id_token"])
async def test_an_actor_token_that_resolves_to_the_agent_is_accepted(world: World, kind: str) -> None:
    actor: dict[str, Any] = {
        "actor_token": world.client_assertion("assistant", STS),
        "actor_token_type": TOKEN_TYPE + kind,
    }
    assert (await world.exchange(**actor)).status == 200


async def test_an_actor_token_of_another_agent_is_refused(world: World) -> None:
    actor: dict[str, Any] = {
        "actor_token": world.client_assertion("reader", STS),
        "actor_token_type": TOKEN_TYPE + "jwt",
    }
    assert (await world.exchange(**actor)).refusal == (400, REQUEST, "actor_mismatch")


@pytest.mark.parametrize(
    "changes", [{"aud": EDGE}, {"exp": START - 60, "iat": START - 120}, {"key": ec_key("evil")}, {"sub": "reader"}]
)
async def test_a_bad_actor_token_is_refused(world: World, changes: dict[str, Any]) -> None:
    actor_token = world.client_assertion("assistant", STS, **changes)
    answer = await world.exchange(actor_token=actor_token, actor_token_type=TOKEN_TYPE + "jwt")
    assert answer.refusal == (400, REQUEST, "actor_token_invalid")


async def test_a_federated_workload_may_prove_itself_as_actor_too(world: World) -> None:
    workload: dict[str, Any] = {"client_assertion": world.google_token(STS, sub="100000000000000000002")}
    actor_token = world.google_token(STS, sub="100000000000000000002")
    answer = await world.exchange(
        agent="workload",
        subject_token=await world.assertion("workload"),
        client_assertion_type="urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        actor_token=actor_token,
        actor_token_type=TOKEN_TYPE + "id_token",
        **workload,
    )
    assert answer.status == 200


# --- tasks ---

OUTSIDE = (400, DETAILS, "intent_outside_task")


@pytest.mark.parametrize("declared", [WRITE, DROP], ids=["write", "destructive"])
async def test_without_a_task_only_reads_pass(world: World, declared: dict[str, Any]) -> None:
    assertion = await world.assertion()
    assert (await world.exchange(declared, subject_token=assertion)).refusal == OUTSIDE
    assert (await world.exchange(intent(), subject_token=assertion)).status == 200


async def test_an_agent_that_needs_a_task_may_not_even_read_without_one(world: World) -> None:
    assert (await world.exchange(agent="careful")).refusal == OUTSIDE
    assertion = await world.assertion("careful", task=task("warehouse.query.*"))
    assert (await world.exchange(agent="careful", subject_token=assertion)).status == 200


@pytest.mark.requirement("RFC9396-5-3")
@pytest.mark.parametrize(
    ("declared", "bounds"),
    [
        (WRITE, task("warehouse.query.*")),
        (WRITE, task("warehouse.table.write", identifiers=["table/t2"])),
        (WRITE, task("warehouse.table.write", identifiers=["table/t"])),
        (WRITE, task("warehouse.table.writer")),
        (intent(), task("warehouse.table.*")),
        (intent(), task("warehouse.query.run", identifiers=["query/q2"])),
        (intent("warehouse.table.list", "table/*"), task("warehouse.*", identifiers=["table/t1"])),
        (intent(task_id="another"), task("*")),
        (WRITE | {"task_id": "another"}, task("*")),
    ],
    ids=lambda part: repr(part)[:60],
)
async def test_what_the_user_did_not_ask_for_is_refused(
    shared_world: World, declared: dict[str, Any], bounds: dict[str, Any]
) -> None:
    assertion = await shared_world.assertion(task=bounds)
    assert (await shared_world.exchange(declared, subject_token=assertion)).refusal == OUTSIDE


@pytest.mark.parametrize(
    ("declared", "bounds"),
    [
        (WRITE, task("warehouse.table.write", identifiers=["table/t1"])),
        (WRITE, task("warehouse.*", identifiers=["table/*"])),
        (WRITE, task("*")),
        (intent("warehouse.table.list", "table/*"), task("warehouse.*", identifiers=["table/*"])),
        (intent("warehouse.table.list", "table/*"), task("warehouse.*", identifiers=["t*"])),
    ],
    ids=lambda part: repr(part)[:60],
)
async def test_what_the_user_asked_for_is_granted_and_names_the_task(
    shared_world: World, declared: dict[str, Any], bounds: dict[str, Any]
) -> None:
    assertion = await shared_world.assertion(task=bounds)
    for named in ({}, {"task_id": bounds["task_id"]}):
        answer = await shared_world.exchange(declared | named, subject_token=assertion)
        assert answer.json["authorization_details"][0]["task_id"] == bounds["task_id"]


async def test_a_task_id_without_a_task_is_refused(world: World) -> None:
    assert (await world.exchange(intent(task_id="t-81"))).refusal == OUTSIDE


# --- the agent's list, policy ---


async def test_an_action_beyond_the_agents_list_is_refused(world: World) -> None:
    assertion = await world.assertion("researcher", task=task("*"))
    answer = await world.exchange(intent("crm.deal.list", "deal/*"), agent="researcher", subject_token=assertion)
    assert answer.refusal == (400, DETAILS, "action_not_allowed_for_agent")


async def test_an_effect_the_agent_may_not_have_is_refused(world: World) -> None:
    assertion = await world.assertion("reader", task=task("*"))
    answer = await world.exchange(WRITE, agent="reader", subject_token=assertion)
    assert answer.refusal == (400, DETAILS, "action_not_allowed_for_agent")


async def test_what_no_policy_permits_is_refused(world: World) -> None:
    answer = await world.exchange(intent("warehouse.salary.read", "salary/1"))
    assert answer.refusal == (400, DETAILS, "policy_denied")
    outsider = await world.exchange(subject_token=await world.assertion(groups=["G-OTHER"]))
    assert outsider.refusal == (400, DETAILS, "policy_denied")


async def test_what_a_policy_forbids_is_refused(world: World) -> None:
    assertion = await world.assertion(task=task("*"))
    answer = await world.exchange(WRITE | {"identifier": "table/locked"}, subject_token=assertion)
    assert answer.refusal == (400, DETAILS, "policy_denied")
    assert world.last_event()["policy"]["determining_rules"] == ["no-locked-tables"]


async def test_a_policy_that_fails_denies(world: World) -> None:
    for offset, refusal in ((1, None), (1000, (400, DETAILS, "policy_error"))):
        answer = await world.exchange(intent("warehouse.report.sum", "report/r1", parameters={"offset": offset}))
        assert (answer.refusal if answer.status != 200 else None) == refusal


async def test_nothing_about_rules_or_lists_is_told_to_the_agent(world: World) -> None:
    answer = await world.exchange(intent("warehouse.salary.read", "salary/1"))
    assert answer.json == {
        "error": DETAILS,
        "error_description": "Policy does not allow this.",
        "reason_code": "policy_denied",
        "txn": answer.txn,
    }


@pytest.mark.requirement("RFC9470-3-1")
@pytest.mark.parametrize(
    ("login", "passes"),
    [
        ({"acr": "gold", "auth_time": START - 600}, True),
        ({"acr": "platinum"}, True),
        ({"acr": "gold", "auth_time": START - 601}, False),
        ({"acr": "silver"}, False),
        ({"acr": ABSENT}, False),
        ({"acr": "gold", "auth_time": ABSENT}, False),
    ],
)
async def test_a_login_too_old_or_too_weak_is_told_what_would_do(
    world: World, login: dict[str, Any], passes: bool
) -> None:
    answer = await world.exchange(
        intent("warehouse.report.open", "report/r1"), subject_token=await world.assertion(**login)
    )
    if passes:
        assert answer.status == 200
    else:
        assert answer.status == 400
        assert answer.json == {
            "error": "insufficient_user_authentication",
            "error_description": "The user must log in again for this.",
            "reason_code": "step_up_required",
            "acr_values": "gold platinum",
            "max_age": 600,
            "txn": answer.txn,
        }


async def test_an_agent_in_call_mode_gets_no_token(world: World) -> None:
    answer = await world.exchange(agent="caller")
    assert answer.refusal == (400, "unauthorized_client", "grant_type_not_allowed")


# --- default intents ---


async def test_a_client_that_cannot_send_details_has_its_registered_intent(world: World) -> None:
    plain = await world.exchange(agent="legacy", authorization_details=ABSENT)
    assert plain.json["authorization_details"] == [intent(identifier="query/daily", parameters={})]
    scoped = await world.exchange(agent="legacy", authorization_details=ABSENT, scope="query.explain")
    assert scoped.json["authorization_details"] == [intent(identifier="query/weekly", parameters={"limit": 5})]
    assert scoped.json["scope"] == "query.explain"


async def test_a_default_intent_is_for_its_own_agent_resource_and_scope_only(world: World) -> None:
    missing = (400, DETAILS, "intent_missing")
    assert (await world.exchange(agent="assistant", authorization_details=ABSENT)).refusal == missing
    other_scope = await world.exchange(agent="legacy", authorization_details=ABSENT, scope="query.run")
    assert other_scope.refusal == missing
    other_resource = await world.exchange(agent="legacy", authorization_details=ABSENT, resource=CRM)
    assert other_resource.refusal == missing


async def test_a_default_intent_never_replaces_a_declared_one(world: World) -> None:
    declared = await world.exchange(agent="legacy")
    assert declared.json["authorization_details"] == [intent(parameters={})]
    malformed = await world.exchange(agent="legacy", authorization_details="x")
    assert malformed.refusal == (400, DETAILS, "intent_malformed")


# --- grants ---


async def test_without_a_grant_the_user_is_sent_to_connect(world: World) -> None:
    answer = await world.exchange(intent("crm.deal.list", "deal/*"))
    assert answer.status == 400
    assert answer.json == {
        "error": "interaction_required",
        "error_description": "The user has not connected this system.",
        "reason_code": "grant_missing",
        "interaction_uri": "http://127.0.0.1:8080/connect?connection=crm",
        "txn": answer.txn,
    }


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("needs_reauth", "grant_needs_reauth"),
        ("revoking", "grant_revoked"),
        ("revoked", "grant_revoked"),
        ("quarantined", "grant_revoked"),
    ],
)
async def test_a_grant_that_has_ended_gives_no_token_not_even_a_remembered_one(
    world: World, status: str, reason: str
) -> None:
    grant = await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    listing = intent("crm.deal.list", "deal/*")
    assert (await world.exchange(listing, subject_token=await world.assertion(user="alice"))).status == 200
    await world.set_grant(grant, status=status)
    answer = await world.exchange(listing, subject_token=await world.assertion(user="alice"))
    assert answer.refusal == (400, "interaction_required", reason)
    assert answer.json["interaction_uri"] == "http://127.0.0.1:8080/connect?connection=crm"


async def test_a_token_from_before_a_reconnect_is_not_handed_out_after_it(world: World) -> None:
    grant = await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    listing = intent("crm.deal.list", "deal/*")
    first = await world.exchange(listing, subject_token=await world.assertion(user="alice"))
    await world.set_grant(grant, revoke_epoch=1)
    asked = len(world.web.requests_to("http://127.0.0.1:8095"))
    second = await world.exchange(listing, subject_token=await world.assertion(user="alice"))
    assert (first.status, second.status) == (200, 200)
    assert len(world.web.requests_to("http://127.0.0.1:8095")) == asked + 1


async def test_policy_is_asked_before_anybody_looks_for_a_grant(world: World) -> None:
    """A refused agent learns nothing about which systems the user has connected."""
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    bodies = []
    for user in ("alice", "bob"):
        assertion = await world.assertion(user=user, groups=[])
        body = (await world.exchange(intent("crm.deal.list", "deal/*"), subject_token=assertion)).json
        body.pop("txn")
        bodies.append(body)
    assert bodies[0] == bodies[1]
    assert bodies[0]["reason_code"] == "policy_denied"
    assert world.cloud.documents["grants"].calls["read"] == 0


# --- limits ---


async def test_a_rate_limit_counts_a_users_requests_and_says_when_to_come_back(world: World) -> None:
    async def ask(user: str) -> Any:
        assertion = await world.assertion(user=user, task=task("*"))
        return await world.exchange(DROP, subject_token=assertion)

    asked = [(await ask("alice")).json["reason_code"] for _ in range(5)]
    assert asked == ["confirmation_required"] * 5
    limited = await ask("alice")
    assert limited.refusal == (429, "temporarily_unavailable", "rate_limited")
    assert 1 <= int(limited.header("retry-after") or 0) <= 61
    assert (await ask("bob")).json["reason_code"] == "confirmation_required"
    world.advance(int(limited.header("retry-after") or 0))
    assert (await ask("alice")).json["reason_code"] == "confirmation_required"


async def test_a_question_its_repetition_and_what_the_user_agreed_to_count_once(world: World) -> None:
    assertion = await world.assertion(user="alice", task=task("*"))

    async def ask(identifier: str) -> Any:
        return await world.exchange(DROP | {"identifier": identifier}, subject_token=assertion)

    for number in range(5):
        for _ in range(3):
            asked = await ask(f"table/t{number}")
            assert asked.json["reason_code"] == "confirmation_required"
        await world.decide(asked.json["interaction_uri"], approved=True)
    assert (await ask("table/t5")).json["reason_code"] == "rate_limited"
    for number in range(5):  # the limit is reached, and what was agreed to is no further action
        assert (await ask(f"table/t{number}")).status == 200
    assert (await ask("table/t0")).json["reason_code"] == "rate_limited"


async def test_asking_again_after_the_users_no_counts_each_time(world: World) -> None:
    assertion = await world.assertion(user="alice", task=task("*"))
    asked = await world.exchange(DROP, subject_token=assertion)
    await world.decide(asked.json["interaction_uri"], approved=False)
    answers = [(await world.exchange(DROP, subject_token=assertion)).json["reason_code"] for _ in range(5)]
    assert answers == ["confirmation_refused"] * 4 + ["rate_limited"]


async def test_a_request_that_fails_through_us_counts_nothing(world: World) -> None:
    assertion = await world.assertion(user="alice", task=task("*"))

    async def ask(number: int) -> str:
        drop = DROP | {"identifier": f"table/t{number}"}
        return str((await world.exchange(drop, subject_token=assertion)).json["reason_code"])

    for number in range(7):
        world.break_documents("guards", "write", skip=1)  # the question cannot be written down
        assert await ask(number) == "store_unavailable"
        world.mend_documents("guards")
    answers = [await ask(number) for number in range(6)]
    assert answers == ["confirmation_required"] * 5 + ["rate_limited"]


def limited(world: World, *entries: str) -> World:
    return World(config=world.write_policies(None, rate_limits="".join(f"  - {{{entry}}}\n" for entry in entries)))


async def test_a_provider_that_is_away_costs_no_count(world: World) -> None:
    world = limited(world, "effects: [read], limit: 3, window_s: 60")
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    listing = intent("crm.deal.list", "deal/*")
    assertion = await world.assertion(user="alice")
    world.web.down.add(REFRESH_GRANTS)
    for _ in range(10):
        assert (await world.exchange(listing, subject_token=assertion)).status == 503
    world.web.down.clear()
    statuses = [(await world.exchange(listing, subject_token=assertion)).status for _ in range(4)]
    assert statuses == [200, 200, 200, 429]


async def test_a_token_withheld_for_want_of_its_audit_event_costs_no_count(world: World) -> None:
    world = limited(world, "effects: [read], limit: 3, window_s: 60")
    assertion = await world.assertion(user="alice")
    await world.exchange(subject_token=assertion)
    world.cloud.audit_logs["exchange_token"].is_down = True
    for _ in range(5):
        assert (await world.exchange(subject_token=assertion)).status == 503
    world.cloud.audit_logs["exchange_token"].is_down = False
    statuses = [(await world.exchange(subject_token=assertion)).status for _ in range(3)]
    assert statuses == [200, 200, 429]


async def test_a_limit_may_name_actions_and_the_closest_entry_counts(world: World) -> None:
    world = limited(
        world,
        "effects: [read], limit: 4, window_s: 60",
        'actions: ["crm.*"], limit: 2, window_s: 60',
        "actions: [crm.deal.list], limit: 1, window_s: 60",
    )
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    assertion = await world.assertion(user="alice")

    async def statuses(declared: dict[str, Any], times: int) -> list[int]:
        return [(await world.exchange(declared, subject_token=assertion)).status for _ in range(times)]

    assert await statuses(intent("crm.deal.list", "deal/*"), 2) == [200, 429]
    assert await statuses(intent("crm.deal.read", "deal/1"), 3) == [200, 200, 429]
    assert await statuses(intent(), 5) == [200, 200, 200, 200, 429]


async def test_counting_costs_the_way_to_a_token_no_round_trip_more(world: World) -> None:
    world = limited(world, "effects: [read], limit: 100, window_s: 60")
    assertion = await world.assertion(user="alice")
    await world.exchange(subject_token=assertion)
    guards = world.cloud.documents["guards"]
    before = dict(guards.calls)
    assert (await world.exchange(subject_token=assertion)).status == 200
    assert {name: count - before.get(name, 0) for name, count in guards.calls.items()} == {
        "read": 0, "write": 1, "tally": 1, "find": 0, "server_time": 0,
    }  # fmt: skip


async def test_a_refused_request_is_counted_too(world: World) -> None:
    assertion = await world.assertion(task=task("warehouse.query.*"))
    for _ in range(5):
        assert (await world.exchange(DROP, subject_token=assertion)).refusal == OUTSIDE
    assert (await world.exchange(DROP, subject_token=assertion)).status == 429


async def test_a_task_is_used_as_often_as_it_says(world: World) -> None:
    bounds = task("*", limits={"max_uses": 3})
    statuses = []
    for turn in range(5):
        assertion = await world.assertion(user="alice", task=bounds)
        declared = intent() if turn % 2 else WRITE
        statuses.append((await world.exchange(declared, subject_token=assertion)).status)
    assert statuses == [200, 200, 200, 400, 400]
    last = await world.exchange(intent(), subject_token=await world.assertion(user="alice", task=bounds))
    assert last.refusal == (400, DETAILS, "task_exhausted")


async def test_only_permits_spend_a_task(world: World) -> None:
    bounds = task("warehouse.query.run", "warehouse.table.drop", "warehouse.salary.read", limits={"max_uses": 1})
    assertion = await world.assertion(task=bounds)
    for refused in (WRITE, intent("warehouse.salary.read", "salary/1"), intent(identifier="x"), DROP):
        assert (await world.exchange(refused, subject_token=assertion)).status == 400
    assert (await world.exchange(subject_token=assertion)).status == 200
    assert (await world.exchange(subject_token=assertion)).refusal == (400, DETAILS, "task_exhausted")


async def test_a_missing_grant_costs_the_task_no_use(world: World) -> None:
    bounds = task("*", limits={"max_uses": 1})
    listing = intent("crm.deal.list", "deal/*")
    for _ in range(3):
        assertion = await world.assertion(user="alice", task=bounds)
        assert (await world.exchange(listing, subject_token=assertion)).json["reason_code"] == "grant_missing"
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    assertion = await world.assertion(user="alice", task=bounds)
    assert (await world.exchange(listing, subject_token=assertion)).status == 200
    assert (await world.exchange(listing, subject_token=assertion)).json["reason_code"] == "task_exhausted"


async def test_a_later_assertion_may_lower_the_limit_of_its_task_and_never_raise_it(world: World) -> None:
    bounds = task("*", limits={"max_uses": 3})

    async def use(max_uses: int) -> int:
        renewed = bounds | {"limits": {"max_uses": max_uses}}
        return (await world.exchange(subject_token=await world.assertion(user="alice", task=renewed))).status

    assert await use(3) == 200
    assert await use(2) == 200
    assert await use(100) == 400
    assert await use(3) == 400


async def test_a_later_assertion_that_names_no_limit_does_not_lift_it(world: World) -> None:
    unlimited = task("*")

    async def use(bounds: dict[str, Any]) -> int:
        return (await world.exchange(subject_token=await world.assertion(user="alice", task=bounds))).status

    assert [await use(unlimited) for _ in range(2)] == [200, 200]
    assert await use(unlimited | {"limits": {"max_uses": 2}}) == 200
    assert await use(unlimited) == 200
    assert await use(unlimited) == 400


async def test_uses_are_counted_for_each_user_and_task_apart(world: World) -> None:
    bounds = task("*", limits={"max_uses": 1})
    for user, again in (("alice", bounds), ("bob", bounds), ("alice", task("*", limits={"max_uses": 1}))):
        assertion = await world.assertion(user=user, task=again)
        assert (await world.exchange(subject_token=assertion)).status == 200
        assert (await world.exchange(subject_token=assertion)).status == 400


# --- audit ---


async def test_an_exchange_leaves_one_event_with_the_whole_story(world: World) -> None:
    bounds = task("warehouse.*")
    assertion = await world.assertion(user="alice", task=bounds)
    declared = intent(
        "warehouse.table.write", "table/t1", parameters={"note": "private"}, reason="untrusted text of the agent"
    )
    answer = await world.exchange(declared, subject_token=assertion, scope="table.write")
    claims = claims_of(answer.json["access_token"])
    assert len(world.events()) == 1
    event = world.last_event()
    assert event == {
        "event_type": "exchange.decided",
        "occurred_at": "2026-11-21T12:00:00Z",
        "schema_version": 4,
        "tenant": "acme",
        "subject": {"key": subject_key("acme", IDP, "alice"), "idp_issuer": IDP, "groups": ["staff"]},
        "actor": {"agent_id": "assistant", "chain": [], "client_id": "web", "trust_zone": "internal"},
        "login": {"auth_time": event["login"]["auth_time"]},
        "assertion_jti": claims_of(assertion)["jti"],
        "tool": {
            "connection": "warehouse",
            "provider": "trusts-cab",
            "action": "warehouse.table.write",
            "effect": "write",
            "mode": "token",
        },
        "intent": {
            "identifier": "table/t1",
            "parameters": '{"mode":"append","note":"[redacted]"}',
            "parameters_digest": digest("cab-parameters", '{"mode":"append","note":"private"}'),
            "reason": "untrusted text of the agent",
            "trigger": "user_turn",
            "task_id": bounds["task_id"],
            "intent_hash": claims["intent_hash"],
        },
        "task": {"bounds_digest": event["task"]["bounds_digest"], "within": True, "comparison": "within"},
        "decision": "permit",
        "decided_by": "policy",
        "policy": {"version": event["policy"]["version"], "determining_rules": ["staff-writes"]},
        "scopes": {"requested": ["table.write"], "granted": ["table.write"], "narrowed": True},
        "token": {
            "kind": "broker_jwt",
            "jti": claims["jti"],
            "sha256": sha256_hex(answer.json["access_token"]),
            "expires_at": "2026-11-21T12:05:00Z",
        },
        "outcome": "issued",
        "txn": claims["txn"],
        "caller_ip_prefix": "192.0.2.0/24",
        "service": {"function": "exchange_token", "revision": "test-00001"},
    }
    minted = world.last_event("mint_assertion")
    assert (event["task"]["bounds_digest"], event["txn"]) == (minted["task"]["bounds_digest"], minted["txn"])


async def test_an_exchange_of_a_grant_names_grant_and_secret_version(world: World) -> None:
    grant = await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    answer = await world.exchange(intent("crm.deal.list", "deal/*"), subject_token=await world.assertion(user="alice"))
    event = world.last_event()
    assert event["grant"] == {"id": grant, "seq": 2, "secret_version": 2}
    assert event["token"]["expires_at"].startswith("2026-11-21T13:00:00")
    assert event["token"] == {
        "kind": "downstream",
        "sha256": sha256_hex(answer.json["access_token"]),
        "expires_at": event["token"]["expires_at"],
    }


async def test_a_refusal_by_policy_leaves_decision_reason_and_intent_and_no_token(world: World) -> None:
    answer = await world.exchange(intent("warehouse.salary.read", "salary/1"))
    event = world.last_event()
    assert (event["decision"], event["reason_code"], event["outcome"]) == ("deny", "policy_denied", "refused")
    assert (event["tool"]["action"], event["intent"]["identifier"]) == ("warehouse.salary.read", "salary/1")
    assert event["txn"] == answer.txn
    assert "token" not in event


async def test_an_attempt_outside_the_task_shows_which_bound_it_left(world: World) -> None:
    assertion = await world.assertion(task=task("warehouse.query.*"))
    await world.exchange(DROP, subject_token=assertion)
    event = world.last_event()
    assert (event["decision"], event["reason_code"]) == ("deny", "intent_outside_task")
    assert event["task"]["within"] is False
    assert event["task"]["comparison"] == "action_outside"


async def test_nothing_leaves_when_the_audit_log_takes_nothing(world: World) -> None:
    await world.exchange()
    world.cloud.audit_logs["exchange_token"].is_down = True
    withheld = await world.exchange()
    assert withheld.refusal == (503, "temporarily_unavailable", "audit_unavailable")
    refused = await world.exchange(WRITE)
    assert refused.refusal == OUTSIDE
    world.cloud.audit_logs["exchange_token"].is_down = False
    assert (await world.exchange()).status == 200
    assert {withheld.txn, refused.txn} < {event.txn for event in world.events()}


async def test_the_whole_transaction_has_one_txn_from_login_to_token(world: World) -> None:
    assertion = await world.assertion()
    answer = await world.exchange(subject_token=assertion)
    txn = claims_of(assertion)["txn"]
    assert {event.txn for event in (*world.events("mint_assertion"), *world.events())} == {txn}
    assert claims_of(answer.json["access_token"])["txn"] == txn
