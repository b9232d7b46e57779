"""Who is calling: private_key_jwt, federated workload identities, and a secret where the entry allows it (docs/api.md)."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any
from urllib.parse import quote

import pytest
from tests.support.asgi import Answer
from tests.support.jose import ABSENT, ec_key, key_set, rsa_key
from tests.support.world import (
    CLIENTS,
    EDGE,
    GOOGLE,
    JWT_BEARER_ASSERTION,
    ORIGIN,
    SECRET_OF_READER,
    SPIFFE,
    SPIFFE_KEY,
    START,
    STS,
    World,
    client_key,
    gather,
)

from cab.encoding.records import as_json

FAILED = (401, "invalid_client", "client_authentication_failed")
REPLAYED = (401, "invalid_client", "client_assertion_replayed")


async def ask(world: World, client_id: str = "assistant", audience: str = STS, **changes: Any) -> Answer:
    """A request that needs nothing but authentication: introspection of a token nobody knows."""
    return await world.post(
        "/oauth2/introspect", {"token": "unknown"} | world.credentials(client_id, audience, **changes)
    )


async def mint(world: World, client_id: str = "web", **changes: Any) -> Answer:
    return await world.post("/edge/token", world.mint_form() | world.credentials(client_id, EDGE, **changes))


@pytest.mark.requirement("RFC7523-3-9")
async def test_a_client_is_known_by_its_own_key(world: World) -> None:
    for client in ("assistant", "researcher", "warehouse-api", "stranger"):
        assert (await ask(world, client)).status == 200


@pytest.mark.requirement("RFC7523BIS-1")
@pytest.mark.parametrize("typ", [ABSENT, "JWT", "jwt", "client-authentication+jwt"])
async def test_the_types_that_clients_really_send_are_accepted(world: World, typ: Any) -> None:
    assert (await ask(world, header={"typ": typ})).status == 200
    assert (await mint(world, header={"typ": typ})).status == 200


async def test_a_client_assertion_may_have_times_with_fractions(world: World) -> None:
    assert (await ask(world, iat=world.now - 0.25, nbf=world.now - 0.25, exp=world.now + 59.75)).status == 200


BAD: dict[str, dict[str, Any]] = {
    "audience of the other endpoint family": {"aud": EDGE},
    "the endpoint as audience": {"aud": f"{STS}/token"},
    "the origin as audience": {"aud": ORIGIN},
    "the issuer with a slash": {"aud": STS + "/"},
    "the issuer in a list": {"aud": [STS]},
    "two audiences": {"aud": [STS, f"{STS}/token"]},
    "no audience": {"aud": ABSENT},
    "another audience": {"aud": "https://other.test"},
    "another issuer than subject": {"iss": "reader"},
    "another subject than issuer": {"sub": "reader"},
    "no issuer": {"iss": ABSENT},
    "no subject": {"sub": ABSENT},
    "an unknown client": {"iss": "nobody", "sub": "nobody"},
    "a front end at the agents' door": {"iss": "web", "sub": "web", "key": client_key("web")},
    "no exp": {"exp": ABSENT},
    "ended": {"iat": START - 100, "exp": START - 30},
    "living longer than five minutes": {"exp": START + 301},
    "living longer than five minutes without iat": {"iat": ABSENT, "exp": START + 331},
    "issued in the future": {"iat": START + 31},
    "not valid yet": {"nbf": START + 31},
    "exp as text": {"exp": str(START + 60)},
    "no jti": {"jti": ABSENT},
    "an empty jti": {"jti": ""},
    "a numeric jti": {"jti": 7},
    "a jti of 256 characters": {"jti": "j" * 256},
    "a jti with an invisible character": {"jti": "j\u200b"},
    "another client's key": {"key": client_key("reader")},
    "a stranger's key under the client's kid": {"key": ec_key("evil"), "header": {"kid": "assistant-key"}},
    "an algorithm the client is not registered for": {"key": rsa_key("another"), "header": {"kid": "assistant-key"}},
    "alg none": {"header": {"alg": "none"}},
    "HMAC": {"header": {"alg": "HS256"}},
    "an access token's type": {"header": {"typ": "at+jwt"}},
    "an assertion's type": {"header": {"typ": "cab-assertion+jwt"}},
    "a DPoP proof's type": {"header": {"typ": "dpop+jwt"}},
    "a key of its own": {"header": {"jwk": ec_key("evil").jwk}},
    "a key set of its own": {"header": {"jku": "https://evil.test/keys"}},
    "an unknown kid": {"header": {"kid": "unknown"}},
}


@pytest.mark.requirement("RFC7523-3-3")
@pytest.mark.requirement("RFC7523-3-4")
@pytest.mark.requirement("RFC7523-3-2")
@pytest.mark.requirement("RFC6749-5.2-1")
@pytest.mark.parametrize("changes", BAD.values(), ids=BAD.keys())
async def test_a_bad_client_assertion_is_refused(shared_world: World, changes: dict[str, Any]) -> None:
    assert (await ask(shared_world, **changes)).refusal == FAILED


async def test_every_bad_client_assertion_gets_the_same_answer_but_for_txn(shared_world: World) -> None:
    bodies = set()
    for changes in BAD.values():
        body = (await ask(shared_world, **changes)).json
        body.pop("txn")
        bodies.add(json.dumps(body))
    assert len(bodies) == 1


@pytest.mark.parametrize("text", ["x", "a.b.c", "....", "null", "eyJhbGciOiJub25lIn0.e30."])
@pytest.mark.parametrize("path", ["/oauth2/token", "/oauth2/introspect", "/oauth2/revoke", "/edge/token"])
async def test_garbage_authenticates_nobody(shared_world: World, path: str, text: str) -> None:
    form = {"token": "unknown", "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange"}
    answer = await shared_world.post(
        path, form | {"client_assertion": text, "client_assertion_type": JWT_BEARER_ASSERTION}
    )
    assert answer.refusal == FAILED


@pytest.mark.parametrize("path", ["/oauth2/token", "/oauth2/introspect", "/oauth2/revoke", "/edge/token"])
@pytest.mark.parametrize(
    "offered",
    [
        {},
        {"client_id": "assistant"},
        {"client_id": "reader", "client_secret": SECRET_OF_READER},
        {"client_assertion_type": JWT_BEARER_ASSERTION},
    ],
)
async def test_without_proof_nobody_is_authenticated(shared_world: World, path: str, offered: dict[str, str]) -> None:
    form = {"token": "unknown", "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange"}
    assert (await shared_world.post(path, form | offered)).refusal == FAILED


@pytest.mark.requirement("RFC7521-4.2-1")
@pytest.mark.parametrize(
    "kind",
    [ABSENT, "", "jwt-bearer", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer", JWT_BEARER_ASSERTION + " "],
)
async def test_the_type_of_the_client_assertion_is_required_and_known(shared_world: World, kind: Any) -> None:
    form = {"token": "unknown"} | shared_world.credentials("assistant") | {"client_assertion_type": kind}
    assert (await shared_world.post("/oauth2/introspect", form)).refusal == FAILED


@pytest.mark.requirement("RFC7521-4.2-2")
async def test_a_client_id_parameter_is_optional_and_must_agree(shared_world: World) -> None:
    for client_id, status in (("assistant", 200), ("reader", 401), ("Assistant", 401), ("nobody", 401)):
        form = {"token": "unknown", "client_id": client_id} | shared_world.credentials("assistant")
        assert (await shared_world.post("/oauth2/introspect", form)).status == status


async def test_an_agent_cannot_mint_and_a_front_end_cannot_exchange(shared_world: World) -> None:
    assert (await mint(shared_world, "assistant")).refusal == FAILED
    assert (await ask(shared_world, "web")).refusal == FAILED


# --- single use ---


@pytest.mark.requirement("RFC7523-3-7")
async def test_a_client_assertion_is_used_once(world: World) -> None:
    for path, form, audience, client in (
        ("/oauth2/introspect", {"token": "unknown"}, STS, "assistant"),
        ("/oauth2/revoke", {"token": "unknown"}, STS, "assistant"),
        ("/edge/token", world.mint_form(), EDGE, "web"),
        ("/oauth2/token", await world.exchange_form(), STS, "assistant"),
    ):
        credentials = world.credentials(client, audience)
        assert (await world.post(path, form | credentials)).status == 200
        assert (await world.post(path, form | credentials)).refusal == REPLAYED


async def test_a_client_assertion_used_at_one_endpoint_is_spent_at_all(world: World) -> None:
    credentials = world.credentials("assistant")
    assert (await world.post("/oauth2/introspect", {"token": "unknown"} | credentials)).status == 200
    for path in ("/oauth2/revoke", "/oauth2/introspect"):
        assert (await world.post(path, {"token": "unknown"} | credentials)).refusal == REPLAYED
    assert (await world.post("/oauth2/token", await world.exchange_form() | credentials)).refusal == REPLAYED


async def test_a_replay_is_refused_whatever_else_is_wrong_with_the_request(world: World) -> None:
    credentials = world.credentials("assistant")
    assert (await world.post("/oauth2/introspect", {"token": "unknown"} | credentials)).status == 200
    form = await world.exchange_form()
    for wrong in ({"subject_token": "x"}, {"resource": "https://evil.test"}, {"authorization_details": "x"}):
        assert (await world.post("/oauth2/token", form | credentials | wrong)).refusal == REPLAYED
    assert (await world.post("/oauth2/introspect", credentials)).refusal == REPLAYED
    assert (await world.post("/oauth2/revoke", credentials)).refusal == REPLAYED


async def test_a_failed_request_spends_its_client_assertion_too(world: World) -> None:
    for path, wrong in (
        ("/oauth2/token", await world.exchange_form(subject_token="x")),
        ("/oauth2/introspect", {}),
        ("/oauth2/revoke", {}),
    ):
        credentials = world.credentials("assistant")
        assert (await world.post(path, wrong | credentials)).status == 400
        assert (await world.post("/oauth2/introspect", {"token": "unknown"} | credentials)).refusal == REPLAYED


async def test_two_clients_may_choose_the_same_jti(world: World) -> None:
    for client in ("assistant", "reader", "stranger"):
        assert (await ask(world, client, jti="one-jti")).status == 200


@pytest.mark.requirement("RFC7523-3-7")
async def test_of_two_hundred_parallel_replays_over_two_instances_one_succeeds(world: World) -> None:
    world.cloud.documents["guards"].delay_s = 0.001
    other = World()
    other.cloud = world.cloud
    await world.set_up()
    other._is_set_up = True
    for path, form, audience, client in (
        ("/oauth2/introspect", {"token": "unknown"}, STS, "assistant"),
        ("/edge/token", world.mint_form(), EDGE, "web"),
    ):
        body = form | world.credentials(client, audience)
        answers = await gather(*(broker.post(path, body) for broker in (world, other) for _ in range(100)))
        assert sorted({answer.status for answer in answers}) == [200, 401]
        assert sum(answer.status == 200 for answer in answers) == 1
        assert {answer.refusal for answer in answers if answer.status != 200} == {REPLAYED}


async def test_a_used_client_assertion_stays_used_to_its_very_end(world: World) -> None:
    credentials = world.credentials("assistant", exp=world.now + 300)
    assert (await world.post("/oauth2/introspect", {"token": "unknown"} | credentials)).status == 200
    world.advance(329)
    assert (await world.post("/oauth2/introspect", {"token": "unknown"} | credentials)).refusal == REPLAYED
    world.advance(1)
    assert (await world.post("/oauth2/introspect", {"token": "unknown"} | credentials)).refusal == FAILED


async def test_the_mark_of_a_used_assertion_is_kept_past_every_clocks_leeway(world: World) -> None:
    await ask(world, exp=world.now + 300)
    (mark,) = await world.cloud.documents["guards"].find("single_use")
    assert int(mark.fields["expire_at"].timestamp()) >= world.now + 300 + 30


# --- compatibility ---


@pytest.mark.requirement("CAB-1.9-1")
async def test_the_compatibility_flag_is_for_its_own_client_only(world: World) -> None:
    for client, status in (("legacy", 200), ("assistant", 401)):
        assert (await ask(world, client, aud=f"{STS}/token", exp=world.now + 3600)).status == status
    accepted: tuple[Any, ...] = (STS, [STS], [f"{STS}/token"])
    for audience in accepted:
        assert (await ask(world, "legacy", aud=audience)).status == 200
    refused: tuple[Any, ...] = (
        f"{EDGE}/token",
        f"{STS}/introspect",
        [STS, f"{STS}/token"],
        [ORIGIN],
        [[STS]],
        [],
        ORIGIN,
    )
    for audience in refused:
        assert (await ask(world, "legacy", aud=audience)).refusal == FAILED
    assert (await ask(world, "legacy", exp=world.now + 3601)).refusal == FAILED


# --- secrets ---


def basic(client_id: str, secret: str) -> list[tuple[str, str]]:
    return [("Authorization", "Basic " + b64encode(f"{client_id}:{secret}".encode()).decode())]


@pytest.mark.requirement("RFC6749-2.3.1-1")
async def test_a_secret_is_accepted_only_where_the_entry_allows_it(world: World) -> None:
    form = {"token": "unknown"}
    for written in (quote(SECRET_OF_READER, safe=""), SECRET_OF_READER):  # as the RFC says, and as `curl -u` does
        assert (await world.post("/oauth2/introspect", form, headers=basic("reader", written))).status == 200
    for client_id, secret in (
        ("reader", "wrong"),
        ("reader", ""),
        ("reader", SECRET_OF_READER + " "),
        ("assistant", SECRET_OF_READER),
        ("web", SECRET_OF_READER),
        ("nobody", SECRET_OF_READER),
        ("", ""),
    ):
        answer = await world.post("/oauth2/introspect", form, headers=basic(client_id, secret))
        assert answer.refusal == FAILED
        assert answer.header("www-authenticate") == 'Basic realm="cab"'


@pytest.mark.requirement("RFC6749-5.2-1")
async def test_only_a_client_that_tried_basic_is_challenged_to_basic(shared_world: World) -> None:
    """A browser or a library would take the challenge for the method it should use next."""
    form = {"token": "unknown"}
    for value in ("Basic", "basic eDp5", "BASIC !", "Basic " + "A" * 9000):
        answer = await shared_world.post("/oauth2/introspect", form, headers=[("Authorization", value)])
        assert (answer.status, answer.header("www-authenticate")) == (401, 'Basic realm="cab"')
    tried = [
        await shared_world.post("/oauth2/introspect", form),
        await shared_world.post("/oauth2/introspect", form | secret_in_form("poster", "wrong")),
        await shared_world.post("/oauth2/introspect", form, headers=[("Authorization", "Bearer abc")]),
        await shared_world.post("/oauth2/introspect", form, headers=[("Authorization", "Basically")]),
        await ask(shared_world, aud=EDGE),
        await mint(shared_world, aud=STS),
    ]
    assert [(answer.status, answer.header("www-authenticate")) for answer in tried] == [(401, None)] * len(tried)


def secret_in_form(client_id: str, secret: str) -> dict[str, str]:
    return {"client_id": client_id, "client_secret": secret}


@pytest.mark.requirement("RFC6749-2.3.1-1")
@pytest.mark.parametrize("path", ["/oauth2/introspect", "/oauth2/revoke"])
async def test_a_secret_in_the_form_is_accepted_only_where_the_entry_allows_it(world: World, path: str) -> None:
    form = {"token": "unknown"}
    assert (await world.post(path, form | secret_in_form("poster", SECRET_OF_READER))).status == 200
    for client_id, secret in (
        ("poster", "wrong"),
        ("poster", SECRET_OF_READER + " "),
        ("reader", SECRET_OF_READER),  # may send it in the header only
        ("assistant", SECRET_OF_READER),
        ("web", SECRET_OF_READER),
        ("nobody", SECRET_OF_READER),
        ("", SECRET_OF_READER),
    ):
        assert (await world.post(path, form | secret_in_form(client_id, secret))).refusal == FAILED
    assert (await world.post(path, form, headers=basic("poster", SECRET_OF_READER))).refusal == FAILED


async def test_a_secret_in_the_form_gets_a_token_and_stands_in_no_record(world: World) -> None:
    subject = await world.assertion(agent="poster")
    form = await world.exchange_form(subject_token=subject, client_assertion=ABSENT, client_assertion_type=ABSENT)
    answer = await world.post("/oauth2/token", form | secret_in_form("poster", SECRET_OF_READER))
    assert answer.status == 200
    refused = await world.post("/oauth2/token", form | secret_in_form("poster", "wr0ng-" + SECRET_OF_READER))
    assert refused.refusal == FAILED
    assert all(SECRET_OF_READER not in str(as_json(event)) for event in world.events())


async def test_no_front_end_may_use_a_secret(world: World) -> None:
    answer = await world.post(
        "/edge/token",
        world.mint_form(client_assertion=ABSENT, client_assertion_type=ABSENT),
        headers=basic("reader", SECRET_OF_READER),
    )
    assert answer.refusal == FAILED


@pytest.mark.requirement("RFC6749-2.3-1")
async def test_two_methods_at_once_are_refused(world: World) -> None:
    path, form = "/oauth2/introspect", {"token": "unknown"}
    signed, header = world.credentials("reader"), basic("reader", SECRET_OF_READER)
    posted = secret_in_form("poster", SECRET_OF_READER)
    assert (await world.post(path, form | signed, headers=header)).refusal == FAILED
    assert (await world.post(path, form | signed | posted)).refusal == FAILED
    assert (await world.post(path, form | posted, headers=header)).refusal == FAILED
    assert (await world.post(path, form | posted, headers=basic("poster", SECRET_OF_READER))).refusal == FAILED
    assert (await world.post(path, form | signed | posted, headers=header)).refusal == FAILED


@pytest.mark.parametrize("value", ["Bearer abc", "Basic", "Basic !", "Digest x", "", "basic " + "A" * 9000])
async def test_another_authorization_header_authenticates_nobody(world: World, value: str) -> None:
    answer = await world.post("/oauth2/introspect", {"token": "unknown"}, headers=[("Authorization", value)])
    assert answer.refusal == FAILED


async def test_a_secret_that_is_gone_authenticates_nobody(world: World) -> None:
    await world.set_up()
    await world.cloud.vault.destroy("cab-client-reader", 1)
    answer = await world.post("/oauth2/introspect", {"token": "unknown"}, headers=basic("reader", SECRET_OF_READER))
    assert answer.refusal == FAILED


async def test_a_secret_that_cannot_be_read_is_our_outage(world: World) -> None:
    await world.set_up()
    world.cloud.vault.is_down = True
    answer = await world.post("/oauth2/introspect", {"token": "unknown"}, headers=basic("reader", SECRET_OF_READER))
    assert answer.refusal == (503, "temporarily_unavailable", "store_unavailable")


# --- workloads of other issuers ---


def workload(token: str) -> dict[str, str]:
    return {"client_assertion": token, "client_assertion_type": JWT_BEARER_ASSERTION}


@pytest.mark.requirement("RFC7521-5.2-1")
async def test_a_platforms_identity_token_made_for_us_authenticates_its_registered_workload(world: World) -> None:
    google = world.google_token(STS, sub="100000000000000000002")
    assert (await world.post("/oauth2/introspect", {"token": "unknown"} | workload(google))).status == 200
    spiffe = SPIFFE_KEY.sign(
        {
            "iss": SPIFFE,
            "sub": "spiffe://acme.test/pod",
            "aud": STS,
            "iat": world.now - 0.5,
            "exp": world.now + 599.5,
        }
    )
    assert (await world.post("/oauth2/introspect", {"token": "unknown"} | workload(spiffe))).status == 200
    kiosk = world.google_token(EDGE, sub="100000000000000000001")
    form = world.mint_form(subject_token=world.id_token(aud="kiosk-at-idp"), **workload(kiosk))
    assert (await world.post("/edge/token", form)).status == 200


async def test_a_platforms_identity_token_may_be_used_again_until_it_ends(world: World) -> None:
    token = world.google_token(STS, sub="100000000000000000002")
    for _ in range(3):
        assert (await world.post("/oauth2/introspect", {"token": "unknown"} | workload(token))).status == 200
    world.advance(3630)
    assert (await world.post("/oauth2/introspect", {"token": "unknown"} | workload(token))).refusal == FAILED


@pytest.mark.parametrize(
    "changes",
    [
        {"sub": "100000000000000000001"},
        {"sub": "100000000000000000003"},
        {"sub": ABSENT},
        {"iss": "accounts.google.com"},
        {"iss": GOOGLE + "/"},
        {"iss": SPIFFE},
        {"aud": EDGE},
        {"aud": [STS]},
        {"aud": f"{STS}/token"},
        {"aud": "https://other.run.app"},
        {"exp": START + 3601},
        {"exp": START - 31},
        {"key": rsa_key("another")},
        {"key": ec_key("google-key")},
    ],
    ids=repr,
)
async def test_another_identity_than_the_registered_one_is_refused(world: World, changes: dict[str, Any]) -> None:
    standard = {"audience": STS, "sub": "100000000000000000002"}
    token = world.google_token(**(standard | changes))
    assert (await world.post("/oauth2/introspect", {"token": "unknown"} | workload(token))).refusal == FAILED


# --- keys of clients ---


async def test_a_client_may_rotate_its_keys_without_us(world: World) -> None:
    assert (await ask(world)).status == 200
    fresh = ec_key("assistant-next")
    world.clients.documents["/assistant"] = key_set(client_key("assistant"), fresh)
    world.advance(31)
    assert (await ask(world, key=fresh)).status == 200
    world.clients.documents["/assistant"] = key_set(fresh)
    world.advance(3601)
    assert (await ask(world)).refusal == FAILED


async def test_a_client_whose_keys_cannot_be_had_is_told_to_come_back(world: World) -> None:
    world.web.down.add(CLIENTS)
    answer = await ask(world)
    assert answer.refusal == (503, "temporarily_unavailable", "idp_unavailable")


async def test_an_unknown_client_causes_no_fetch(world: World) -> None:
    for number in range(30):
        await ask(world, iss=f"nobody-{number}", sub=f"nobody-{number}")
    assert world.web.sent == []
