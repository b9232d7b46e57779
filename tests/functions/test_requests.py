"""What the POST endpoints do with a request before anybody looks at its content (docs/api.md; security.md X6)."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from tests.support.jose import ABSENT
from tests.support.world import FORM, ORIGIN, World, as_form, check_promises


@pytest.fixture
def world(shared_world: World) -> World:
    return shared_world


@pytest.mark.parametrize(
    ("function", "paths"),
    [
        ("mint_assertion", ["/health", "/edge/token", "/nothing"]),
        (
            "exchange_token",
            ["/health", "/oauth2/token", "/oauth2/introspect", "/oauth2/revoke", "/oauth2/outcomes", "/nothing"],
        ),
        ("publish_metadata", ["/health", "/.well-known/openid-configuration", "/oauth2/jwks.json", "/nothing"]),
        ("connect_account", ["/health", "/me", "/connect", "/nothing", "/login/callback?code=x&state=y"]),
    ],
)
@pytest.mark.parametrize(("origin", "hsts"), [("https://cab.example", "max-age=31536000"), (ORIGIN, None)])
@pytest.mark.parametrize("accept", ["application/json", "text/html"])
async def test_every_answer_says_nosniff_and_on_https_hsts(
    function: str, paths: list[str], accept: str, origin: str, hsts: str | None
) -> None:
    world = World(CAB_ORIGIN=origin)
    for path in paths:
        for method in ("GET", "POST", "DELETE"):
            name, _, query = path.partition("?")
            answer = await world.request(method, name, function=function, query=query, headers=[("Accept", accept)])
            assert answer.header("x-content-type-options") == "nosniff"
            assert answer.header("strict-transport-security") == hsts


ENDPOINTS = ["/edge/token", "/oauth2/token", "/oauth2/introspect", "/oauth2/revoke"]


async def good_form(world: World, path: str) -> dict[str, Any]:
    if path == "/edge/token":
        return world.mint_form()
    if path == "/oauth2/token":
        return await world.exchange_form()
    return {"token": "some-token-of-nobody"} | world.credentials("assistant")


@pytest.mark.requirement("RFC6749-3.2-4")
@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_only_post_is_answered(world: World, path: str, method: str) -> None:
    answer = await world.request(method, path, headers=[FORM], body=as_form(await good_form(world, path)))
    check_promises(answer)
    assert answer.refusal == (405, "invalid_request", "method_not_allowed")
    assert answer.header("allow") == "POST"


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "multipart/form-data; boundary=x",
        "text/plain",
        "",
        "application/x-www-form-urlencoded-not",
        "application/x-www-form-urlencoded, application/json",
        "x-www-form-urlencoded",
        "*/*",
    ],
)
async def test_another_media_type_is_refused(world: World, path: str, media_type: str) -> None:
    answer = await world.request(
        "POST", path, headers=[("Content-Type", media_type)], body=as_form(await good_form(world, path))
    )
    check_promises(answer)
    assert answer.refusal == (415, "invalid_request", "unsupported_media_type")


@pytest.mark.requirement("CAB-4-1")
@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    "media_type",
    [
        "application/x-www-form-urlencoded;charset=UTF-8",
        "APPLICATION/X-WWW-FORM-URLENCODED",
        "application/x-www-form-urlencoded ; charset=utf-8",
    ],
)
async def test_the_media_type_is_compared_without_parameters_or_case(world: World, path: str, media_type: str) -> None:
    answer = await world.request(
        "POST", path, headers=[("Content-Type", media_type)], body=as_form(await good_form(world, path))
    )
    assert answer.status == 200


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity"])
async def test_an_encoded_body_is_refused(world: World, path: str, encoding: str) -> None:
    answer = await world.post(path, await good_form(world, path), headers=[("Content-Encoding", encoding)])
    assert answer.refusal == (415, "invalid_request", "unsupported_media_type")


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_a_body_of_sixty_four_kib_is_the_largest(world: World, path: str) -> None:
    body = as_form(await good_form(world, path))
    room = 65_536 - len(body)
    padding = "".join(f"&p{number}={'x' * 16_000}" for number in range(room // 16_010))
    padding += "&last=" + "x" * (room - len(padding) - len("&last="))
    full = body + padding.encode()
    assert len(full) == 65_536
    assert (await world.post(path, full)).status == 200
    assert (await world.post(path, full + b"x")).refusal == (413, "invalid_request", "body_too_large")


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_a_flood_of_chunks_is_not_read_to_its_end(world: World, path: str) -> None:
    answer = await world.request("POST", path, headers=[FORM], body=[b"x" * 16_384] * 2000)
    check_promises(answer)
    assert answer.refusal == (413, "invalid_request", "body_too_large")


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_a_caller_that_goes_away_while_it_sends_is_no_error_of_ours(
    world: World, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = as_form(await good_form(world, path))
    answer = await world.request("POST", path, headers=[FORM], body=body[:-7], is_cut=True)
    assert answer.refusal == (400, "invalid_request", "parameter_invalid")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_a_body_in_many_pieces_is_one_body(world: World, path: str) -> None:
    body = as_form(await good_form(world, path))
    pieces = [body[start : start + 7] for start in range(0, len(body), 7)]
    assert (await world.request("POST", path, headers=[FORM], body=pieces)).status == 200


@pytest.mark.requirement("RFC6749-3.2-2")
@pytest.mark.parametrize("path", ENDPOINTS)
async def test_every_parameter_that_stands_twice_is_refused(world: World, path: str) -> None:
    for name in await good_form(world, path):
        form = await good_form(world, path)
        repeated = as_form(form) + b"&" + as_form({name: form[name]})
        answer = await world.post(path, repeated)
        if name in ("resource", "audience"):
            assert answer.refusal == (400, "invalid_target", "target_repeated")
        else:
            assert answer.refusal == (400, "invalid_request", "parameter_repeated")
        assert answer.json["parameter"] == name


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_nothing_in_the_query_counts(world: World, path: str) -> None:
    """No parameter moves from the body to the query unnoticed, and none in the query overrides the body."""
    for name in await good_form(world, path):
        form = await good_form(world, path)
        query = as_form({name: form[name]}).decode()
        moved = await world.request("POST", path, headers=[FORM], query=query, body=as_form(form | {name: ABSENT}))
        check_promises(moved)
        without = await world.post(path, await good_form(world, path) | {name: ABSENT})
        assert (moved.status, moved.body[:40]) == (without.status, without.body[:40])
    form = await good_form(world, path)
    overridden = await world.request(
        "POST", path, headers=[FORM], query="grant_type=x&token=x&client_id=x&resource=x&audience=x", body=as_form(form)
    )
    assert overridden.status == 200


@pytest.mark.requirement("RFC6749-3.2-1")
@pytest.mark.parametrize("path", ENDPOINTS)
async def test_an_empty_parameter_is_an_omitted_one(world: World, path: str) -> None:
    for name in await good_form(world, path):
        empty = await world.post(path, await good_form(world, path) | {name: ""})
        without = await world.post(path, await good_form(world, path) | {name: ABSENT})
        assert empty.status == without.status
        if empty.status != 200:
            assert empty.refusal == without.refusal


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_a_parameter_too_long_is_an_error_never_dropped(world: World, path: str) -> None:
    for name in await good_form(world, path):
        answer = await world.post(path, await good_form(world, path) | {name: "x" * 16_385})
        assert answer.refusal == (400, "invalid_request", "parameter_invalid")
        assert answer.json["parameter"] == name


MALFORMED = [b"", b"grant_type", b"%", b"a=%zz", b"a=1&&b=2", b"\xff\xfe", b'{"grant_type":"x"}', b"a=%ff", b"&" * 60]


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("body", MALFORMED)
async def test_a_malformed_body_is_a_refusal_in_json(world: World, path: str, body: bytes) -> None:
    answer = await world.post(path, body)
    assert answer.status in (400, 401)
    assert answer.json["error"] in ("invalid_request", "invalid_client")


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    "values", [["Basic eDp5", "Bearer x"], ["Basic eDp5", "Basic eDp5"], ["Bearer a, Basic eDp5"], ["", "Basic eDp5"]]
)
async def test_two_authorization_headers_are_refused(world: World, path: str, values: list[str]) -> None:
    form = await good_form(world, path) | {"client_assertion": ABSENT, "client_assertion_type": ABSENT}
    answer = await world.post(path, form, headers=[("Authorization", value) for value in values])
    assert answer.refusal == (401, "invalid_client", "client_authentication_failed")


@pytest.mark.parametrize("function", ["mint_assertion", "exchange_token"])
@pytest.mark.parametrize("path", ["/", "/edge", "/oauth2/token/", "/oauth2//token", "/tools/call", "/mcp", "/admin"])
async def test_what_does_not_exist_is_404_in_json(world: World, function: str, path: str) -> None:
    answer = await world.request("POST", path, function=function, headers=[FORM])
    check_promises(answer)
    assert answer.refusal == (404, "invalid_request", "not_found")


@pytest.mark.parametrize(
    "function", ["mint_assertion", "exchange_token", "publish_metadata", "refresh_grants", "ingest_audit"]
)
async def test_health_says_nothing_but_that_it_is_there(world: World, function: str) -> None:
    answer = await world.request("GET", "/health", function=function)
    assert (answer.status, answer.json) == (200, {"status": "ok"})
    assert answer.header("cache-control") == "no-store"
    assert answer.txn or function in ("refresh_grants", "ingest_audit")  # the private ones promise no txn


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_every_answer_has_a_txn_of_its_own(world: World, path: str) -> None:
    txns = [(await world.post(path, await good_form(world, path) | {"x": str(turn)})).txn for turn in range(5)]
    txns += [(await world.post(path, b"%")).txn for _ in range(5)]
    assert len(set(txns)) == 10


async def test_what_a_request_holds_is_never_said_back(world: World) -> None:
    canary = "canary-9c41"
    for path in ENDPOINTS:
        for name in (*(await good_form(world, path)), canary, "scope", "actor_token", "completion_mode"):
            form = await good_form(world, path) | {name: f"{canary} \u00e9"}
            answer = await world.post(path, form)
            assert canary not in quote(answer.body.decode()) or name == canary
            assert not any(canary in value for _, value in answer.headers)
