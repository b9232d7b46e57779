"""The private endpoints of refresh_grants: each for its own callers, each with a body it knows (architecture.md)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.asgi import Answer
from tests.support.jose import ABSENT, present, rsa_key
from tests.support.world import ACCOUNTS, INGEST_AUDIT, REFRESH_GRANTS, START, World, deployment

ACCOUNT_BY_PATH = {
    "/grants/token": "exchange-token",
    "/grants/revoke": "connect-account",
    "/grants/sweep": "scheduler",
    "/grants/due": "pubsub-push",
}
REFUSED = (401, "invalid_client", "client_authentication_failed")


def identity(world: World, account: str, **claims: Any) -> str:
    return world.google_token(**({"audience": REFRESH_GRANTS, "email": f"{account}@{ACCOUNTS}"} | claims))


async def token_request(world: World, **changes: Any) -> dict[str, Any]:
    standard = {"connection": "crm", "scopes": ["deal.read"], "txn": "t-1"}
    assertion = {} if "subject_assertion" in changes else {"subject_assertion": await world.assertion(user="alice")}
    return present(standard | assertion | changes)


async def ask_for_token(world: World, **changes: Any) -> Answer:
    return await world.call_service(
        "/grants/token", await token_request(world, **changes), identity(world, "exchange-token")
    )


async def test_a_token_is_served_to_exchange_token_for_the_user_of_the_assertion(world: World) -> None:
    grant = await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    answer = await ask_for_token(world)
    assert answer.status == 200
    assert answer.header("cache-control") == "no-store"
    assert answer.txn == "t-1"
    body = answer.json
    assert set(body.pop("waited_ms")) == {"provider", "publish"}
    assert body == {
        "access_token": "crm-access-1",
        "expires_at": "2026-11-21T13:00:00+00:00",
        "renew_at": "2026-11-21T12:56:00+00:00",
        "works_until": "2026-11-21T13:00:00+00:00",
        "scopes": ["deal.read"],
        "narrowed": True,
        "grant_id": grant,
        "seq": 2,
        "secret_version": 2,
        "outcome": "success",
    }


async def test_every_scope_of_the_connection_may_be_asked_for_and_no_other(world: World) -> None:
    connection = deployment().connection_by_id["crm"]
    await world.connect("alice", "crm", *connection.all_scopes, "offline")
    every = await ask_for_token(world, scopes=list(connection.all_scopes))
    assert (every.status, set(every.json["scopes"])) == (200, set(connection.all_scopes))
    more = await ask_for_token(world, scopes=[*connection.all_scopes, "offline"])
    assert more.refusal == (400, "invalid_scope", "scope_not_grantable")


@pytest.mark.parametrize("path", ACCOUNT_BY_PATH)
@pytest.mark.parametrize(
    "account", ["exchange-token", "connect-account", "scheduler", "pubsub-push", "mint-assertion", "ingest-audit", "x"]
)
async def test_each_endpoint_answers_its_own_callers_only(world: World, path: str, account: str) -> None:
    answer = await world.call_service(path, {}, identity(world, account))
    allowed = account == ACCOUNT_BY_PATH[path] or (
        {account, ACCOUNT_BY_PATH[path]} == {"scheduler", "pubsub-push"}  # both sweep
    )
    assert (answer.status != 401) == allowed


@pytest.mark.parametrize("path", ACCOUNT_BY_PATH)
@pytest.mark.parametrize(
    "claims",
    [
        {"audience": INGEST_AUDIT},
        {"aud": [REFRESH_GRANTS]},
        {"iss": "https://evil.test"},
        {"email_verified": False},
        {"email": ABSENT},
        {"iat": START - 3700, "exp": START - 100},
        {"key": rsa_key("another")},
    ],
    ids=repr,
)
async def test_a_forged_identity_is_refused_everywhere(world: World, path: str, claims: dict[str, Any]) -> None:
    answer = await world.call_service(path, {}, identity(world, ACCOUNT_BY_PATH[path], **claims))
    assert answer.refusal == REFUSED


@pytest.mark.parametrize("path", ACCOUNT_BY_PATH)
async def test_nobody_without_identity_is_answered(world: World, path: str) -> None:
    assert (await world.call_service(path, {}, None)).refusal == REFUSED


MALFORMED: list[dict[str, Any]] = [
    {"subject_assertion": ABSENT},
    {"subject_assertion": ""},
    {"subject_assertion": 7},
    {"subject_assertion": "x" * 16_385},
    {"connection": ABSENT},
    {"connection": ["crm"]},
    {"scopes": "deal.read"},
    {"scopes": ["deal.read"] * 101},
    {"scopes": [7]},
    {"scopes": [""]},
    {"txn": ABSENT},
    {"txn": ""},
    {"user": "alice"},
    {"grant_id": "x"},
]


@pytest.mark.parametrize("changes", MALFORMED, ids=lambda changes: repr(changes)[:40])
async def test_a_malformed_request_for_a_token_is_refused(world: World, changes: dict[str, Any]) -> None:
    assert (await ask_for_token(world, **changes)).refusal == (400, "invalid_request", "parameter_invalid")


@pytest.mark.parametrize(
    "body", [b"", b"x", b"[]", b"null", b'{"txn":"a","txn":"b"}', b"\xff", b'{"a":' * 1000, b"[" * 60_000]
)
@pytest.mark.parametrize("path", ["/grants/token", "/grants/revoke"])
async def test_what_is_not_a_strict_object_is_refused(world: World, path: str, body: bytes) -> None:
    headers = [("Authorization", f"Bearer {identity(world, ACCOUNT_BY_PATH[path])}")]
    answer = await world.request("POST", path, headers=headers, body=body)
    assert answer.refusal == (400, "invalid_request", "parameter_invalid")


async def test_other_methods_types_and_sizes_are_refused(world: World) -> None:
    headers = [("Authorization", f"Bearer {identity(world, 'exchange-token')}")]
    assert (await world.request("GET", "/grants/token", headers=headers)).status == 405
    form = [("Content-Type", "application/x-www-form-urlencoded"), *headers]
    assert (await world.request("POST", "/grants/token", headers=form)).status == 415
    large = json.dumps(await token_request(world, txn="x" * 70_000)).encode()
    assert (await world.request("POST", "/grants/token", headers=headers, body=large)).status == 413
    assert (await world.request("POST", "/grants", function="refresh_grants", headers=headers)).status == 404


async def test_the_user_is_taken_from_the_assertion_alone(world: World) -> None:
    """refresh_grants trusts no caller about whose grant is meant: it verifies the assertion itself."""
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    missing = await ask_for_token(world, subject_assertion=await world.assertion(user="bob"))
    assert missing.refusal == (400, "interaction_required", "grant_missing")
    for bad in ("x", world.id_token("alice"), (await world.exchange()).json["access_token"]):
        assert (await ask_for_token(world, subject_assertion=bad)).refusal == (
            400,
            "invalid_request",
            "subject_token_invalid",
        )
    old = await world.assertion(user="alice")
    world.advance(330)
    assert (await ask_for_token(world, subject_assertion=old)).refusal == (
        400,
        "invalid_request",
        "subject_token_expired",
    )


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"connection": "nothing"}, (400, "invalid_target", "target_unknown")),
        ({"connection": "ledger"}, (400, "invalid_target", "target_unknown")),
        ({"connection": "warehouse"}, (400, "invalid_target", "target_not_allowed")),
        ({"scopes": ["admin"]}, (400, "invalid_scope", "scope_not_grantable")),
        ({"scopes": ["deal.read", "offline"]}, (400, "invalid_scope", "scope_not_grantable")),
    ],
)
async def test_what_no_connection_of_the_tenant_offers_is_refused(
    world: World, changes: dict[str, Any], refusal: tuple[int, str, str]
) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    assert (await ask_for_token(world, **changes)).refusal == refusal


async def test_no_refusal_and_no_answer_ever_holds_a_refresh_token(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    answers = [await ask_for_token(world), await ask_for_token(world, scopes=["admin"])]
    assert all(b"refresh" not in answer.body for answer in answers)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"cause": "user", "txn": "t"},
        {"grant_id": "x", "txn": "t"},
        {"grant_id": "x", "cause": "user", "txn": "t", "all": True},
        {"tenant": 7, "cause": "user", "txn": "t"},
        {"grant_id": "a/b", "cause": "user", "txn": "t"},
        {"grant_id": "../grants/x", "cause": "user", "txn": "t"},
    ],
    ids=repr,
)
async def test_a_malformed_revocation_is_refused(world: World, body: dict[str, Any]) -> None:
    answer = await world.call_service("/grants/revoke", body, identity(world, "connect-account"))
    assert answer.refusal == (400, "invalid_request", "parameter_invalid")


async def test_a_revocation_names_what_it_ended(world: World) -> None:
    grant = await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    body = {"grant_id": grant, "cause": "user", "txn": "t-9"}
    answer = await world.call_service("/grants/revoke", body, identity(world, "connect-account"))
    assert answer.status == 200
    assert [(item["grant_id"], item["connection"]) for item in answer.json["revoked"]] == [(grant, "crm")]
    event = world.last_event("refresh_grants")
    assert (event["event_type"], event["txn"], event["grant"]["cause"]) == ("grant.revoked", "t-9", "user")
    assert event["actor"]["client_id"] == "connect-account"  # who asked for it, never an e-mail address
    assert (await ask_for_token(world)).refusal == (400, "interaction_required", "grant_revoked")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"message": {}},
        {"message": []},
        {"message": {"data": 7}},
        {"message": {"data": "!"}},
        {"message": {"data": "é"}},
        {"message": {"data": "Li4vLi4veA=="}},
    ],
    ids=repr,
)
async def test_a_push_that_names_no_grant_is_acknowledged_and_does_nothing(world: World, body: dict[str, Any]) -> None:
    """Delivering it again would not make it better."""
    answer = await world.call_service("/grants/due", body, identity(world, "pubsub-push"))
    assert (answer.status, answer.json) == (200, {"visited": False})


async def test_a_refused_caller_leaves_an_event(world: World) -> None:
    await world.call_service("/grants/token", {}, identity(world, "mint-assertion"))
    (event,) = world.events("refresh_grants")
    assert (event.event_type, event.outcome, event.reason_code) == (
        "grant.served",
        "refused",
        "client_authentication_failed",
    )
