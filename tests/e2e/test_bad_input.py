"""Bad input at every endpoint of the running stack: the standard error, never a 500, never an echo of what was sent."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from tests.e2e.caller import Caller
from tests.running_stack import Stack

pytestmark = pytest.mark.stack
FORM_ENDPOINTS = ("/edge/token", "/oauth2/token", "/oauth2/introspect", "/oauth2/revoke")
PAGES = (
    "/connect?connection=crm",
    "/connect?connection=../x",
    "/approvals/none",
    "/me",
    "/login/callback?state=x&code=y",
)
MARK = "canary-8f2a1c"
FORM = "application/x-www-form-urlencoded"
BODIES: dict[str, tuple[str, bytes]] = {
    "empty": (FORM, b""),
    "not utf-8": (FORM, b"grant_type=%ff%fe"),
    "broken escape": (FORM, b"grant_type=%zz"),
    "raw bytes": (FORM, b"\xff\x00\xff"),
    "repeated": (FORM, b"grant_type=a&grant_type=b"),
    "many fields": (FORM, b"&".join(b"f%d=1" % n for n in range(200))),
    "nul": (FORM, b"grant_type=a%00b"),
    "long value": (FORM, b"subject_token=" + b"a" * 20_000),
    "unknown grant": (FORM, f"grant_type={MARK}".encode()),
    "garbage tokens": (
        FORM,
        f"grant_type=urn:ietf:params:oauth:grant-type:token-exchange&client_assertion={MARK}".encode(),
    ),
    "json": ("application/json", b'{"grant_type":"x"}'),
    "no type": ("", b"grant_type=x"),
}


def assert_standard_error(response: requests.Response) -> dict[str, Any]:
    assert 400 <= response.status_code < 500, response.status_code
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    body: dict[str, Any] = response.json()
    assert {"error", "reason_code", "txn"} <= body.keys()
    assert response.headers["CAB-Txn"] == body["txn"]
    assert MARK not in response.text
    assert "Traceback" not in response.text
    return body


@pytest.mark.parametrize("path", FORM_ENDPOINTS)
@pytest.mark.parametrize("case", BODIES)
def test_a_bad_body_gets_the_standard_error(stack: Stack, path: str, case: str) -> None:
    media_type, body = BODIES[case]
    headers = {"Content-Type": media_type} if media_type else {}
    assert_standard_error(requests.post(stack.file.origin + path, data=body, headers=headers, timeout=10))


@pytest.mark.parametrize("path", FORM_ENDPOINTS)
def test_other_methods_and_large_bodies_are_refused(stack: Stack, path: str) -> None:
    url = stack.file.origin + path
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        response = requests.request(method, url, timeout=10)
        assert response.status_code == 405
        assert assert_standard_error(response)["reason_code"] == "method_not_allowed"
    large = requests.post(url, data=b"a=" + b"b" * 70_000, headers={"Content-Type": FORM}, timeout=10)
    assert large.status_code == 413
    assert assert_standard_error(large)["reason_code"] == "body_too_large"


@pytest.mark.parametrize("path", ["/tools/other", "/mcp/other", "/oauth2/other", "/nothing", "/oauth2/token/"])
def test_what_does_not_exist_is_404_as_json(stack: Stack, path: str) -> None:
    response = requests.post(stack.file.origin + path, data={"a": "b"}, timeout=10)
    assert response.status_code == 404
    assert response.json()["error"] == "invalid_request"


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_pages_answer_with_pages(stack: Stack, path: str, method: str) -> None:
    response = requests.request(
        method,
        stack.file.origin + path,
        data={"x": MARK} if method == "POST" else None,
        timeout=10,
        allow_redirects=False,
    )
    assert response.status_code < 500
    assert MARK not in response.text


@pytest.mark.parametrize("path", ["/grants/token", "/grants/revoke", "/grants/sweep", "/grants/due"])
def test_private_endpoints_answer_nobody_without_an_identity_and_are_not_on_the_public_origin(
    stack: Stack, path: str
) -> None:
    direct = stack.file.services["refresh_grants"].url
    assert requests.post(f"{direct}{path}", json={}, timeout=10).status_code == 401
    assert requests.post(stack.file.origin + path, json={}, timeout=10).status_code == 404


def test_an_intent_full_of_hostile_text_is_refused_by_name_without_an_echo(stack: Stack) -> None:
    caller = Caller(stack)
    assertion = caller.assertion("alice")
    for details in (
        "[]",
        "{}",
        "[" * 100_0,
        '[{"type":"cab_action"}]',
        '[{"type":"cab_action","type":"x"}]',
        f'[{{"type":"{MARK}"}}]',
        '[{"type":"cab_action","actions":["crm.opportunity.read"],"locations":["x"],"identifier":"opportunity/0061","parameters":{"a":null}}]',
    ):
        form = caller.exchange_form(assertion, "crm.opportunity.read", "opportunity/0061")
        answer = caller.post("/oauth2/token", form | {"authorization_details": details})
        body = assert_standard_error(answer.response)
        assert body["error"] == "invalid_authorization_details"
