"""`POST /edge/token`: an ID token in, an assertion out (docs/api.md)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.support.jose import ABSENT, claims_of, ec_key, header_of, key_set, rsa_key, sha256_hex
from tests.support.world import EDGE, GLOBEX_IDP, GLOBEX_KEY, IDP, START, STS, TOKEN_TYPE, WRITE, World, gather, task

from cab.domain.identifiers import digest, subject_key


@pytest.mark.requirement("RFC6749-5.1-1")
@pytest.mark.requirement("RFC8693-2.2.1-1")
@pytest.mark.requirement("RFC8693-2.2.1-2")
async def test_a_mint_answers_with_exactly_the_members_of_rfc_8693(world: World) -> None:
    answer = await world.mint()
    assert answer.status == 200
    assert answer.header("content-type") == "application/json"
    assert answer.header("cache-control") == "no-store"
    assert answer.json == {
        "access_token": answer.json["access_token"],
        "issued_token_type": TOKEN_TYPE + "jwt",
        "token_type": "N_A",
        "expires_in": 300,
        "txn": answer.txn,
    }


@pytest.mark.requirement("RFC8693-4.4-1")
@pytest.mark.requirement("RFC8725-3.11-1")
async def test_an_assertion_has_exactly_the_claims_of_the_contract(world: World) -> None:
    bounds = task("warehouse.*", identifiers=["table/*"], limits={"max_uses": 20}, request_digest="sha-256:" + "A" * 43)
    login = world.id_token(
        "alice", auth_time=world.now - 100, acr="gold", amr=["pwd", "otp"], groups=["G-ADMIN", "G-STAFF", "G-OTHER"]
    )
    answer = await world.mint(subject_token=login, authorization_details=[bounds])
    token = answer.json["access_token"]
    claims = claims_of(token)
    assert header_of(token) == {"typ": "cab-assertion+jwt", "alg": "ES256", "kid": header_of(token)["kid"]}
    assert claims == {
        "iss": EDGE,
        "aud": STS,
        "sub": subject_key("acme", IDP, "alice"),
        "tenant": "acme",
        "idp": {"iss": IDP, "sub_hash": digest("cab-idp-subject", IDP, "alice")},
        "groups": ["admin", "staff"],
        "client_id": "web",
        "may_act": {"sub": "assistant"},
        "authorization_details": [bounds],
        "auth_time": world.now - 100,
        "acr": "gold",
        "amr": ["pwd", "otp"],
        "txn": answer.txn,
        "iat": world.now,
        "exp": world.now + 300,
        "jti": claims["jti"],
    }


async def test_what_the_login_does_not_say_the_assertion_does_not_say(world: World) -> None:
    token = await world.assertion(auth_time=ABSENT, groups=ABSENT)
    assert claims_of(token)["groups_unknown"] == "missing"
    assert not claims_of(token).keys() & {"groups", "auth_time", "acr", "amr", "authorization_details", "act", "cnf"}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"groups": ABSENT, "_claim_names": {"groups": "src1"}}, "left_out"),
        ({"groups": ABSENT, "hasgroups": "true"}, "left_out"),
        ({"groups": ABSENT}, "missing"),
        ({"groups": {"G-STAFF": True}}, "unreadable"),
    ],
)
async def test_unknown_groups_are_said_in_the_assertion_and_in_the_audit_event(
    world: World, said: dict[str, Any], why: str
) -> None:
    answer = await world.mint(subject_token=world.id_token("alice", **said))
    claims = claims_of(answer.json["access_token"])
    assert claims["groups_unknown"] == why
    assert "groups" not in claims
    subject = world.last_event("mint_assertion")["subject"]
    assert (subject["groups"], subject["groups_unknown"]) == ([], why)


@pytest.mark.parametrize("life_s", [3600, 36_000, 43_200, 86_400])
async def test_logins_of_a_day_are_minted_for_and_the_assertion_still_lives_minutes(world: World, life_s: int) -> None:
    login = world.id_token(
        "alice", iat=world.now - 300, nbf=world.now - 300, exp=world.now - 300 + life_s, auth_time=world.now - 5
    )
    answer = await world.mint(subject_token=login)
    assert (answer.status, answer.json["expires_in"]) == (200, 300)


async def test_the_assertion_is_verified_by_the_published_edge_key_and_no_other(world: World) -> None:
    token = await world.assertion()
    edge = (await world.request("GET", "/edge/jwks.json")).json["keys"]
    sts = (await world.request("GET", "/oauth2/jwks.json")).json["keys"]
    assert [key["kid"] for key in edge] == [header_of(token)["kid"]]
    assert not {key["kid"] for key in edge} & {key["kid"] for key in sts}


async def test_the_subject_is_the_same_for_every_agent_and_front_end_and_says_nothing(world: World) -> None:
    first = claims_of(await world.assertion("assistant", "alice"))
    second = claims_of(await world.assertion("reader", "alice"))
    portal = await world.mint(
        client_id="portal", agent=ABSENT, subject_token=world.id_token("alice", aud="portal-at-idp")
    )
    third = claims_of(portal.json["access_token"])
    assert first["sub"] == second["sub"] == third["sub"]
    assert "alice" not in str(first)
    assert len({first["jti"], second["jti"], third["jti"]}) == 3
    assert len({first["txn"], second["txn"], third["txn"]}) == 3


@pytest.mark.parametrize(("life_s", "expires_in"), [(3570, 300), (300, 300), (61, 61), (1, 1)])
async def test_an_assertion_never_outlives_the_login(world: World, life_s: int, expires_in: int) -> None:
    answer = await world.mint(subject_token=world.id_token(exp=world.now + life_s))
    assert answer.json["expires_in"] == expires_in
    assert claims_of(answer.json["access_token"])["exp"] == world.now + expires_in


async def test_times_with_fractions_are_read_and_our_own_stay_whole(world: World) -> None:
    login = world.id_token(
        iat=world.now - 9.75, nbf=world.now - 9.75, auth_time=world.now - 20.25, exp=world.now + 60.5
    )
    answer = await world.mint(subject_token=login)
    claims = claims_of(answer.json["access_token"])
    assert [claims[name] for name in ("iat", "auth_time", "exp")] == [world.now, world.now - 21, world.now + 60]
    assert all(type(claims[name]) is int for name in ("iat", "auth_time", "exp"))
    assert answer.json["expires_in"] == 60
    assert (await world.exchange(subject_token=answer.json["access_token"])).status == 200


async def test_a_login_without_kid_is_accepted_from_any_of_several_keys_and_ends_with_its_own(world: World) -> None:
    second = rsa_key("another")
    world.idp.documents["/jwks"] = key_set(rsa_key("idp-key"), second)
    login = world.id_token(key=second, header={"kid": ABSENT})
    assert (await world.mint(subject_token=login)).status == 200
    assert (await world.mint(subject_token=login)).status == 200  # remembered
    forged = world.id_token(key=rsa_key("stranger"), header={"kid": ABSENT})
    assert (await world.mint(subject_token=forged)).refusal == (400, "invalid_request", "subject_token_invalid")

    world.idp.documents["/jwks"] = key_set(rsa_key("idp-key"), rsa_key("third"))
    world.advance(301)
    await world.mint()  # notices that the keys have aged, and has them fetched
    assert (await world.mint(subject_token=login)).refusal == (400, "invalid_request", "subject_token_invalid")


# --- parameters ---

WRONG: list[tuple[str, Any, tuple[int, str, str]]] = [
    ("grant_type", ABSENT, (400, "invalid_request", "parameter_missing")),
    ("grant_type", "", (400, "invalid_request", "parameter_missing")),
    ("grant_type", "authorization_code", (400, "unsupported_grant_type", "grant_type_unknown")),
    ("grant_type", "client_credentials", (400, "unsupported_grant_type", "grant_type_unknown")),
    ("grant_type", "urn:ietf:params:oauth:grant-type:deferred", (400, "unsupported_grant_type", "grant_type_unknown")),
    (
        "grant_type",
        "URN:IETF:PARAMS:OAUTH:GRANT-TYPE:TOKEN-EXCHANGE",
        (400, "unsupported_grant_type", "grant_type_unknown"),
    ),
    ("subject_token", ABSENT, (400, "invalid_request", "parameter_missing")),
    ("subject_token", "", (400, "invalid_request", "parameter_missing")),
    ("subject_token_type", ABSENT, (400, "invalid_request", "parameter_missing")),
    ("subject_token_type", TOKEN_TYPE + "access_token", (400, "invalid_request", "parameter_invalid")),
    ("subject_token_type", TOKEN_TYPE + "jwt", (400, "invalid_request", "parameter_invalid")),
    ("subject_token_type", "id_token", (400, "invalid_request", "parameter_invalid")),
    ("requested_token_type", ABSENT, (400, "invalid_request", "parameter_missing")),
    ("requested_token_type", TOKEN_TYPE + "access_token", (400, "invalid_request", "parameter_invalid")),
    ("requested_token_type", TOKEN_TYPE + "refresh_token", (400, "invalid_request", "parameter_invalid")),
    ("requested_token_type", TOKEN_TYPE + "id-jag", (400, "invalid_request", "parameter_invalid")),
    ("audience", ABSENT, (400, "invalid_target", "target_missing")),
    ("audience", "", (400, "invalid_target", "target_missing")),
    ("audience", STS + "/", (400, "invalid_target", "target_unknown")),
    ("audience", EDGE, (400, "invalid_target", "target_unknown")),
    ("audience", "warehouse", (400, "invalid_target", "target_unknown")),
    ("resource", STS, (400, "invalid_target", "target_unknown")),
    ("may_act", ABSENT, (400, "invalid_request", "parameter_missing")),
    ("may_act", "", (400, "invalid_request", "parameter_missing")),
    ("may_act", "warehouse-api", (400, "invalid_request", "may_act_violated")),
    ("may_act", "stranger", (400, "invalid_request", "may_act_violated")),
    ("may_act", "nobody", (400, "invalid_request", "may_act_violated")),
    ("may_act", "assistant ", (400, "invalid_request", "may_act_violated")),
    ("may_act", "assistant,reader", (400, "invalid_request", "may_act_violated")),
    ("may_act", '{"sub":"assistant"}', (400, "invalid_request", "may_act_violated")),
    ("scope", "openid", (400, "invalid_request", "parameter_invalid")),
    ("actor_token", "x", (400, "invalid_request", "parameter_invalid")),
    ("actor_token_type", TOKEN_TYPE + "jwt", (400, "invalid_request", "parameter_invalid")),
    ("authorization_details", "x", (400, "invalid_authorization_details", "intent_malformed")),
    ("authorization_details", [], (400, "invalid_authorization_details", "intent_malformed")),
    ("authorization_details", [WRITE], (400, "invalid_authorization_details", "intent_malformed")),
    ("authorization_details", [task(), task()], (400, "invalid_authorization_details", "intent_malformed")),
    ("authorization_details", [task(x=1)], (400, "invalid_authorization_details", "intent_malformed")),
    ("subject_token", "x" * 16_385, (400, "invalid_request", "parameter_invalid")),
    ("may_act", "assistant\x00", (400, "invalid_request", "parameter_invalid")),
]


@pytest.mark.requirement("RFC8693-2.1-1")
@pytest.mark.requirement("RFC9396-5-2")
@pytest.mark.parametrize(("name", "value", "refusal"), WRONG, ids=lambda part: repr(part)[:50])
async def test_a_wrong_parameter_is_refused(world: World, name: str, value: Any, refusal: tuple[int, str, str]) -> None:
    answer = await world.mint(**{"agent" if name == "may_act" else name: value})
    assert answer.refusal == refusal


async def test_a_missing_parameter_is_named(world: World) -> None:
    answer = await world.mint(agent=ABSENT)
    assert answer.json["parameter"] == "may_act"


@pytest.mark.requirement("RFC6749-3.2-3")
async def test_a_parameter_nobody_knows_is_ignored(world: World) -> None:
    assert (await world.mint(ui_locales="de", client_secret="x")).status == 200


async def test_the_default_agent_of_a_front_end_is_used_when_none_is_named(world: World) -> None:
    answer = await world.mint(client_id="portal", agent=ABSENT, subject_token=world.id_token(aud="portal-at-idp"))
    assert claims_of(answer.json["access_token"])["may_act"] == {"sub": "assistant"}


# --- whose login it is ---

REFUSED_LOGINS: dict[str, dict[str, Any]] = {
    "another client's": {"aud": "portal-at-idp"},
    "nobody's": {"aud": ABSENT},
    "another client is authorized": {"aud": ["web-at-idp", "x"], "azp": "portal-at-idp"},
    "several audiences, nobody authorized": {"aud": ["web-at-idp", "x"]},
    "another client is the authorized party": {"azp": "portal-at-idp"},
    "a hundred and one audiences": {"aud": ["web-at-idp"] * 101, "azp": "web-at-idp"},
    "an audience that is no text": {"aud": ["web-at-idp", 7], "azp": "web-at-idp"},
    "another issuer": {"iss": "https://evil.test"},
    "the other tenant's issuer": {"iss": GLOBEX_IDP},
    "issuer with a slash": {"iss": IDP + "/"},
    "no issuer": {"iss": ABSENT},
    "the edge itself as issuer": {"iss": EDGE},
    "no subject": {"sub": ABSENT},
    "an empty subject": {"sub": ""},
    "a logout token": {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
    "a numeric subject": {"sub": 7},
    "no exp": {"exp": ABSENT},
    "exp as text": {"exp": "1795266000"},
    "a life of over a day": {"iat": START - 2000, "exp": START + 84_401},
    "no iat": {"iat": ABSENT, "auth_time": 0},
    "issued in the future": {"iat": START + 31},
    "not valid yet": {"nbf": START + 31},
    "a login in the future": {"auth_time": START + 3000},
    "a login time as text": {"auth_time": "now"},
    "another key of the IdP's name": {"key": rsa_key("another", 2048)},
    "another algorithm": {"key": ec_key("idp-key")},
    "another type": {"header": {"typ": "at+jwt"}},
    "an assertion's type": {"header": {"typ": "cab-assertion+jwt"}},
    "a key of its own": {"header": {"jwk": rsa_key("another").jwk}},
    "a critical extension": {"header": {"crit": ["x"], "x": 1}},
    "an unknown key": {"header": {"kid": "unknown"}},
}


@pytest.mark.requirement("RFC8693-2.2.2-1")
@pytest.mark.requirement("OIDC-3.1.3.7-3")
@pytest.mark.parametrize("login", REFUSED_LOGINS.values(), ids=REFUSED_LOGINS.keys())
async def test_a_login_that_is_not_this_front_ends_own_is_refused(world: World, login: dict[str, Any]) -> None:
    answer = await world.mint(subject_token=world.id_token(**login))
    assert answer.refusal == (400, "invalid_request", "subject_token_invalid")


@pytest.mark.parametrize("text", ["x", "a.b.c", "....", "null", "{}", "eyJhbGciOiJub25lIn0.e30."])
async def test_garbage_is_no_login(world: World, text: str) -> None:
    assert (await world.mint(subject_token=text)).refusal == (400, "invalid_request", "subject_token_invalid")


async def test_every_refused_login_gets_the_same_answer_but_for_txn(world: World) -> None:
    bodies = set()
    for login in REFUSED_LOGINS.values():
        body = (await world.mint(subject_token=world.id_token(**login))).json
        del body["txn"]
        bodies.add(str(body))
    assert len(bodies) == 1


@pytest.mark.parametrize("ago_s", [0, 1, 29, 31, 3600])
async def test_an_ended_login_is_refused_as_expired(world: World, ago_s: int) -> None:
    answer = await world.mint(subject_token=world.id_token(iat=world.now - 3599, exp=world.now - ago_s))
    assert answer.refusal == (400, "invalid_request", "subject_token_expired")


async def test_several_audiences_pass_when_the_front_end_is_the_authorized_party(world: World) -> None:
    login = world.id_token(aud=["web-at-idp", "api"], azp="web-at-idp")
    assert (await world.mint(subject_token=login)).status == 200


async def test_a_login_of_another_tenant_is_refused(world: World) -> None:
    login = world.id_token(key=GLOBEX_KEY, iss=GLOBEX_IDP, aud="web-at-idp")
    assert (await world.mint(subject_token=login)).refusal == (400, "invalid_request", "subject_token_invalid")


async def test_tenants_mint_side_by_side_with_keys_of_their_own(world: World) -> None:
    claims = claims_of(await world.globex_assertion("alice"))
    assert (claims["tenant"], claims["idp"]["iss"], claims["client_id"]) == ("globex", GLOBEX_IDP, "globex-web")
    assert claims["sub"] != claims_of(await world.assertion(user="alice"))["sub"]


async def test_a_login_can_be_used_for_several_assertions(world: World) -> None:
    login = world.id_token()
    first, second = await gather(world.mint(subject_token=login), world.mint(subject_token=login, agent="reader"))
    assert (first.status, second.status) == (200, 200)


async def test_a_login_used_before_ends_when_it_says(world: World) -> None:
    login = world.id_token(exp=world.now + 400)
    for _ in range(2):
        assert (await world.mint(subject_token=login)).status == 200
    world.advance(399)
    assert (await world.mint(subject_token=login)).json["expires_in"] == 1
    world.advance(1)
    assert (await world.mint(subject_token=login)).refusal == (400, "invalid_request", "subject_token_expired")


async def test_a_login_used_at_one_front_end_is_none_at_another(world: World) -> None:
    login = world.id_token()
    assert (await world.mint(subject_token=login)).status == 200
    kiosk = {
        "client_assertion": world.google_token(EDGE, sub="100000000000000000001"),
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    }
    assert (await world.mint(subject_token=world.id_token(aud="kiosk-at-idp"), **kiosk)).status == 200
    answer = await world.mint(subject_token=login, **kiosk)
    assert answer.refusal == (400, "invalid_request", "subject_token_invalid")


# --- the IdP's keys ---


@pytest.mark.requirement("CAB-1.21-2")
async def test_minting_goes_on_with_known_keys_while_the_idp_is_down(world: World) -> None:
    await world.assertion()
    world.web.down.add(IDP)
    world.advance(30 * 60)
    assert (await world.mint()).status == 200
    world.advance(22 * 3600)
    assert (await world.mint()).status == 200


async def test_after_a_day_without_the_idp_its_keys_are_trusted_no_more(world: World) -> None:
    await world.assertion()
    world.web.down.add(IDP)
    world.advance(24 * 3600 + 1)
    answer = await world.mint()
    assert answer.refusal == (503, "temporarily_unavailable", "idp_unavailable")
    world.web.down.clear()
    world.advance(10)
    assert (await world.mint()).status == 200


async def test_an_unknown_key_is_our_outage_while_the_idp_is_down_and_the_tokens_fault_while_it_is_up(
    world: World,
) -> None:
    await world.assertion()
    stranger = rsa_key("another")
    assert (await world.mint(subject_token=world.id_token(key=stranger))).refusal == (
        400,
        "invalid_request",
        "subject_token_invalid",
    )
    world.web.down.add(IDP)
    world.advance(60)
    assert (await world.mint(subject_token=world.id_token(key=stranger))).refusal == (
        503,
        "temporarily_unavailable",
        "idp_unavailable",
    )
    assert (await world.mint()).status == 200


async def test_without_any_key_of_the_idp_nothing_is_minted(world: World) -> None:
    world.web.down.add(IDP)
    assert (await world.mint()).refusal == (503, "temporarily_unavailable", "idp_unavailable")


async def test_a_key_the_idp_has_just_added_is_found_at_once(world: World) -> None:
    await world.assertion()
    world.advance(31)
    fresh = rsa_key("another")
    world.idp.documents["/jwks"] = key_set(rsa_key("idp-key"), fresh)
    assert (await world.mint(subject_token=world.id_token(key=fresh))).status == 200


async def test_a_key_the_idp_has_removed_is_unusable_within_an_hour(world: World) -> None:
    await world.assertion()
    world.idp.documents["/jwks"] = key_set(rsa_key("another"))
    world.advance(3601)
    assert (await world.mint()).refusal == (400, "invalid_request", "subject_token_invalid")


@pytest.mark.parametrize("kid", ["another", "idp-key"])
async def test_a_login_used_before_ends_with_the_key_that_signed_it(world: World, kid: str) -> None:
    """Also when another key takes its place under the same name."""
    login = world.id_token()
    assert (await world.mint(subject_token=login)).status == 200
    world.idp.documents["/jwks"] = key_set(replace(rsa_key("another"), kid=kid))
    world.advance(301)
    await world.mint()  # notices that the keys have aged, and has them fetched
    assert (await world.mint(subject_token=login)).refusal == (400, "invalid_request", "subject_token_invalid")


async def test_no_connection_is_made_for_an_issuer_nobody_configured(world: World) -> None:
    for number in range(50):
        await world.mint(subject_token=world.id_token(iss=f"http://{number}.evil.test"))
    assert {sent.url.partition("/")[2].split("/")[1] for sent in world.web.sent} == {"127.0.0.1:8089"}


@pytest.mark.requirement("CAB-1.21-2")
async def test_many_unknown_keys_cause_one_fetch(world: World) -> None:
    await world.assertion()
    world.advance(31)
    before = len(world.web.requests_to(IDP))
    await gather(
        *(world.mint(subject_token=world.id_token(header={"kid": f"unknown-{number}"})) for number in range(60))
    )
    assert len(world.web.requests_to(IDP)) - before == 2  # discovery and the key set, once


# --- audit ---


async def test_a_mint_leaves_one_event_that_names_everything_but_the_token(world: World) -> None:
    bounds = task("warehouse.*", trigger="schedule")
    answer = await world.mint(subject_token=world.id_token("alice"), authorization_details=[bounds])
    claims = claims_of(answer.json["access_token"])
    assert len(world.events("mint_assertion")) == 1
    event = world.last_event("mint_assertion")
    assert event == {
        "event_type": "assertion.minted",
        "occurred_at": "2026-11-21T12:00:00Z",
        "schema_version": 4,
        "tenant": "acme",
        "subject": {"key": subject_key("acme", IDP, "alice"), "idp_issuer": IDP, "groups": ["staff"]},
        "actor": {"agent_id": "assistant", "chain": [], "client_id": "web"},
        "login": event["login"],
        "intent": {"trigger": "schedule", "task_id": bounds["task_id"]},
        "task": {"bounds_digest": event["task"]["bounds_digest"]},
        "token": {
            "kind": "assertion",
            "jti": claims["jti"],
            "sha256": sha256_hex(answer.json["access_token"]),
            "expires_at": "2026-11-21T12:05:00Z",
        },
        "outcome": "issued",
        "txn": answer.txn,
        "caller_ip_prefix": "192.0.2.0/24",
        "service": {"function": "mint_assertion", "revision": "test-00001"},
    }


async def test_a_refused_mint_leaves_its_reason_and_no_token(world: World) -> None:
    answer = await world.mint(subject_token="garbage")
    event = world.last_event("mint_assertion")
    assert (event["outcome"], event["reason_code"], event["txn"]) == ("refused", "subject_token_invalid", answer.txn)
    assert event["actor"] == {"client_id": "web", "agent_id": "assistant", "chain": []}
    assert "token" not in event


async def test_without_the_audit_log_nothing_is_minted_but_refusals_are_answered(world: World) -> None:
    await world.assertion()
    world.cloud.audit_logs["mint_assertion"].is_down = True
    withheld = await world.mint()
    assert withheld.refusal == (503, "temporarily_unavailable", "audit_unavailable")
    refused = await world.mint(subject_token="garbage")
    assert refused.refusal == (400, "invalid_request", "subject_token_invalid")
    world.cloud.audit_logs["mint_assertion"].is_down = False
    assert (await world.mint()).status == 200
    assert {withheld.txn, refused.txn} < {event.txn for event in world.events("mint_assertion")}
