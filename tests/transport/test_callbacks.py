"""Callback addresses are written by others: what is odd but harmless works, what decides is read strictly, and an error gets its own words."""

from __future__ import annotations

import json

import pytest
from tests.examples.acme_in_process import BROKER
from tests.transport.acme_pages import AcmePages, Browser, with_query

from cab.domain.audit import EventType
from cab.ports import HttpAnswer


@pytest.fixture
def acme() -> AcmePages:
    return AcmePages()


HARMLESS = [
    "{}&",
    "{}&&",
    "&{}",
    "&&&{}&=&=x&",
    "{}&location=us&accounts-server=https%3A%2F%2Faccounts.zoho.com",
    "{}&session_state=4f5c.0b-3c%2Fx",
    "{}&extra[0]=1&extra[0]=2&extra[]=",
    "{}&extra%5B0%5D=1",
    "{}&scope=read+write&scope=more",
    "{}&hd=acme.test&authuser=0&prompt=consent&prompt=consent",
    "{}&note=100%&other=%zz&%=%",
    "{}&caf%E9=%ff%fe&\u00e9=1",
    "{}&flag",
    "{}&na+me=a+b&=",
    "{}&nul=%00",
    "{}&error_description=&error_uri=",
    "{}&error=",
    "{}&STATE=x&Code=y&connection=other&to=/x&idp=9",
    "{}&redirect_uri=https://evil.example/&client_id=x",
    "{}&" + "&".join(f"p{number}=1" for number in range(200)),
    "{}&long=" + "x" * 5000,
    "{}&a=b;c=d",
    '{}&json={{"a":[1,2]}}&pipe=|&back=\\',
]


def oddly(callback: str, oddity: str) -> str:
    path, _, query = callback.partition("?")
    return f"{path}?{oddity.format(query)}"


@pytest.mark.parametrize("oddity", HARMLESS)
def test_an_odd_callback_of_a_connection_is_handled_as_without_the_odd_part(acme: AcmePages, oddity: str) -> None:
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])

    answer = browser.get_as_it_stands(oddly(callback, oddity))

    assert (answer.status_code, answer.headers["location"]) == (303, "/connect/done/crm")
    assert acme.grant("alice") is not None


@pytest.mark.parametrize("oddity", HARMLESS)
def test_an_odd_callback_of_a_login_is_handled_as_without_the_odd_part(acme: AcmePages, oddity: str) -> None:
    browser = Browser(acme.browser(), "alice")
    callback = browser.consent(browser.get("/me").headers["location"])

    answer = browser.get_as_it_stands(oddly(callback, oddity))

    assert (answer.status_code, answer.headers["location"]) == (303, "/me")


@pytest.mark.parametrize("path", ["/me", "/connect?connection=crm"])
@pytest.mark.parametrize("oddity", ["{}&utm_source=mail&utm_source=x", "{}&", "{}&a[b]=%zz"])
def test_an_odd_link_to_a_page_works_too(acme: AcmePages, path: str, oddity: str) -> None:
    assert acme.logged_in("alice").get_as_it_stands(oddly(path, oddity)).status_code == 200


AMBIGUOUS = [
    "{}&code=another",
    "{}&code=",
    "{}&%63ode=another",
    "{}&state=another",
    "{}&state",
    "{}&iss=https%3A%2F%2Fevil.example&iss=https%3A%2F%2Fevil.example",
    "{}&error=a&error=b",
    "{}&error=&error=access_denied",
    "code=%ff&{}",
    "{}&error=%00",
]


@pytest.mark.parametrize("oddity", AMBIGUOUS)
def test_what_decides_stands_once_and_can_be_read(acme: AcmePages, oddity: str) -> None:
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])

    answer = browser.get_as_it_stands(oddly(callback, oddity))

    assert answer.status_code == 400
    assert "This address is not valid" in answer.text
    assert 'href="/connect?connection=crm"' in answer.text  # where to go on
    assert acme.grant("alice") is None


@pytest.mark.parametrize("oddity", AMBIGUOUS)
def test_what_decides_a_login_stands_once_and_can_be_read(acme: AcmePages, oddity: str) -> None:
    browser = Browser(acme.browser(), "alice")
    callback = browser.consent(browser.get("/me").headers["location"])

    answer = browser.get_as_it_stands(oddly(callback, oddity))

    assert answer.status_code == 400
    assert 'href="/me"' in answer.text
    assert "cab_session" not in answer.headers.get("set-cookie", "")


# --- cancelled, our own fault, busy ---

CONSENTS = {
    "access_denied": (400, "Connecting was cancelled"),
    "user_cancelled_authorize": (400, "Connecting was cancelled"),
    "invalid_scope": (400, "Your organisation&#39;s settings are wrong"),
    "unauthorized_client": (400, "Your organisation&#39;s settings are wrong"),
    "redirect_uri_mismatch": (400, "Your organisation&#39;s settings are wrong"),
    "OAUTH_APP_BLOCKED": (400, "Your organisation&#39;s settings are wrong"),
    "temporarily_unavailable": (503, "The other system does not answer"),
    "server_error": (503, "The other system does not answer"),
    "consent_required": (400, "The connection did not work"),
    "user_canceled_request": (400, "Connecting was cancelled"),
    "app_not_installed": (400, "Your organisation&#39;s settings are wrong"),
    "org_internal": (400, "Your organisation&#39;s settings are wrong"),
    "internal_error": (503, "The other system does not answer"),
    "rate_limit_exceeded": (503, "The other system does not answer"),
    "<script>": (400, "The connection did not work"),
}


@pytest.mark.parametrize("error", CONSENTS)
def test_a_system_that_says_no_is_understood(acme: AcmePages, error: str) -> None:
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])

    answer = browser.get(with_query(callback, code=None, error=error, error_description="Call 555-0100"))

    status, words = CONSENTS[error]
    assert answer.status_code == status
    assert f"<h1>{words}</h1>" in answer.text
    assert answer.headers["cab-txn"] in answer.text
    assert "555-0100" not in answer.text
    assert "<script>" not in answer.text
    assert ('href="/connect?connection=crm"' in answer.text) == ("settings" not in words)  # no use to try that again
    assert 'href="/me"' in answer.text
    assert acme.grant("alice") is None


LOGINS = {
    "access_denied": (403, "The login was cancelled"),
    "invalid_scope": (400, "Your organisation&#39;s settings are wrong"),
    "unauthorized_client": (400, "Your organisation&#39;s settings are wrong"),
    "invalid_request": (400, "Your organisation&#39;s settings are wrong"),
    "server_error": (503, "Your login page does not answer"),
    "unauthorized": (403, "The login was cancelled"),
    "login_required": (403, "You are not logged in"),
}


@pytest.mark.parametrize("error", LOGINS)
def test_a_login_page_that_says_no_is_understood(acme: AcmePages, error: str) -> None:
    browser = Browser(acme.browser(), "alice")
    callback = browser.consent(browser.get("/me").headers["location"])

    answer = browser.get(with_query(callback, code=None, error=error))

    status, words = LOGINS[error]
    assert answer.status_code == status
    assert f"<h1>{words}</h1>" in answer.text
    assert answer.headers["cab-txn"] in answer.text


TOKEN_ENDPOINTS = {
    "invalid_client": (401, {"error": "invalid_client"}, "Your organisation&#39;s settings are wrong"),
    "a wrong redirect": (400, {"error": "redirect_uri_mismatch"}, "Your organisation&#39;s settings are wrong"),
    "a wrong client in a success": (
        200,
        {"error": "incorrect_client_credentials"},
        "Your organisation&#39;s settings are wrong",
    ),
    "a bad code": (400, {"error": "invalid_grant"}, "The connection did not work"),
}


@pytest.mark.parametrize("case", TOKEN_ENDPOINTS)
def test_a_token_endpoint_that_refuses_our_client_is_told_from_a_bad_code(
    acme: AcmePages, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    status, body, words = TOKEN_ENDPOINTS[case]
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])
    acme.provider_http.instead = HttpAnswer(status, {}, json.dumps(body).encode())

    answer = browser.get(callback)

    assert answer.status_code == 400
    assert f"<h1>{words}</h1>" in answer.text
    ours = "settings" in words
    assert ("refuses our client, connection crm" in caplog.text) == ours  # what the alert goes by
    (event,) = acme.events(EventType.REQUEST_REFUSED)
    assert event.reason_code == ("client_misconfigured" if ours else "authorization_failed")
    assert event.why is not None
    assert event.why.startswith("the code was refused: http ")


def test_an_identity_provider_that_refuses_our_client_is_told_from_a_failed_login(acme: AcmePages) -> None:
    browser = Browser(acme.browser(), "alice")
    callback = browser.consent(browser.get("/me").headers["location"])
    acme.idp_http.instead = HttpAnswer(401, {}, b'{"error": "invalid_client"}')

    answer = browser.get(callback)

    assert answer.status_code == 400
    assert "settings are wrong" in answer.text
    assert acme.refusals() == ["client_misconfigured"]


# --- there is no authorization code grant here ---

REQUESTS = [
    "response_type=code&client_id=x&redirect_uri=https%3A%2F%2Fapp.example%2Fcb&state=s&scope=a+b",
    "response_type=code&client_id=x&code_challenge=y&code_challenge_method=S256&resource=a&resource=b",
    "client_id=x&request_uri=urn%3Aietf%3Aparams%3Aoauth%3Arequest_uri%3Ax",
    "client_id=x&redirect_uri=http%3A%2F%2Flocalhost%3A1234&redirect_uri=http%3A%2F%2Flocalhost%3A1234",
    "response_type=token&connection=crm",
    "request=eyJ",
]


@pytest.mark.parametrize("query", REQUESTS)
@pytest.mark.parametrize("known", [True, False])
def test_a_browser_that_a_program_sends_for_a_code_is_told_that_there_is_none(
    acme: AcmePages, query: str, known: bool
) -> None:
    browser = acme.logged_in("alice") if known else Browser(acme.browser(), "alice")

    answer = browser.get(f"/connect?{query}")

    assert answer.status_code == 400
    assert "authorization code" in answer.text
    assert "token exchange" in answer.text
    assert 'href="/me"' in answer.text
    assert "app.example" not in answer.text  # nor is anybody sent there: a redirect would be open
    assert "location" not in answer.headers


def test_a_program_that_asks_for_a_code_is_told_in_json(acme: AcmePages) -> None:
    answer = acme.browser().get(f"{BROKER}/connect?{REQUESTS[0]}", headers={"Accept": "application/json"})

    assert answer.status_code == 400
    assert answer.json()["error"] == "unsupported_response_type"
    assert answer.json()["reason_code"] == "no_authorization_code_grant"
    assert "token endpoint" in answer.json()["error_description"]
