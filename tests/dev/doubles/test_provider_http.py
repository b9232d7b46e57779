"""The provider double as a client and a browser see it: consent, PKCE, client authentication, errors, pages."""

import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from tests.dev.doubles.in_process import Client
from tests.dev.doubles.provider_client import CALLBACK, ISSUER, SECRET, VERIFIER, ProviderUnderTest

from cab_dev.doubles.oauth_provider import s256


def test_the_metadata_names_the_issuer_exactly_and_offers_only_s256() -> None:
    metadata = ProviderUnderTest("acme-crm").http.get("/.well-known/oauth-authorization-server").json()
    assert metadata == {
        "issuer": ISSUER,
        "authorization_endpoint": f"{ISSUER}/oauth/authorize",
        "token_endpoint": f"{ISSUER}/oauth/token",
        "userinfo_endpoint": f"{ISSUER}/oauth/userinfo",
        "revocation_endpoint": f"{ISSUER}/oauth/revoke",
        "scopes_supported": ["read", "write", "offline_access", "refresh_token"],
        "response_types_supported": ["code"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
    }


def test_consent_brings_a_code_with_state_and_issuer_and_the_code_brings_tokens() -> None:
    double = ProviderUnderTest("acme-crm")

    answer = double.consent()
    tokens = double.redeem(answer.pop("code"))

    assert answer == {"state": "st-1", "iss": ISSUER}
    assert tokens.headers["cache-control"] == "no-store"
    assert set(tokens.json()) == {"access_token", "refresh_token", "token_type", "expires_in", "scope"}


def test_userinfo_names_the_account_of_the_user_who_agreed() -> None:
    double = ProviderUnderTest("acme-crm")
    token = double.connect(account="bob")["access_token"]
    answer = double.http.get("/oauth/userinfo", headers={"Authorization": f"Bearer {token}"})
    assert answer.json() == {
        "sub": "double-1002",
        "preferred_username": "bob",
        "name": "Bob",
        "email": "bob@acme.example",
    }


def test_a_refusal_goes_back_as_access_denied() -> None:
    assert ProviderUnderTest("acme-crm").consent(account="") == {
        "error": "access_denied",
        "state": "st-1",
        "iss": ISSUER,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "nobody"},
        {"client_id": None},
        {"redirect_uri": None},
        {"redirect_uri": CALLBACK + "/"},
        {"redirect_uri": CALLBACK + "?x=1"},
        {"redirect_uri": "https://evil.example/"},
        {"redirect_uri": CALLBACK.replace("127.0.0.1", "127.0.0.1:8080@evil.example")},
    ],
)
def test_an_unregistered_client_or_address_gets_a_page_and_no_redirect(changes: dict[str, str | None]) -> None:
    double = ProviderUnderTest("acme-crm")
    answer = double.http.get("/oauth/authorize", params=double.authorize_query(**changes))
    assert answer.status_code == 400
    assert "location" not in answer.headers


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"scope": "read admin.all"}, "invalid_scope"),
        ({"scope": None}, "invalid_scope"),
        ({"prompt": "none"}, "interaction_required"),
    ],
)
def test_a_faulty_request_of_a_known_client_goes_back_with_state_and_issuer(
    changes: dict[str, str | None], error: str
) -> None:
    double = ProviderUnderTest("acme-crm")
    answer = double.http.get("/oauth/authorize", params=double.authorize_query(**changes))
    assert answer.status_code == 303
    assert dict(parse_qsl(urlsplit(answer.headers["location"]).query)) == {
        "error": error,
        "state": "st-1",
        "iss": ISSUER,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"code_verifier": "w" * 43},
        {"redirect_uri": CALLBACK + "/"},
        {"code": "never-issued"},
    ],
)
def test_a_code_is_worth_nothing_without_its_verifier_and_address(changes: dict[str, str]) -> None:
    double = ProviderUnderTest("acme-crm")
    code = double.consent()["code"]
    assert double.redeem(code, **changes).json() == {"error": "invalid_grant"}


def test_a_code_of_one_client_is_worth_nothing_to_another() -> None:
    double = ProviderUnderTest("acme-crm")
    code = double.consent()["code"]
    form = {"code": code, "redirect_uri": CALLBACK, "code_verifier": VERIFIER}
    answer = double.token(client=("other", "other-secret"), grant_type="authorization_code", **form)
    assert answer.json() == {"error": "invalid_grant"}


def test_a_code_ends_after_a_minute() -> None:
    double = ProviderUnderTest("acme-crm")
    code = double.consent()["code"]
    double.clock.advance(60)
    assert double.redeem(code).json() == {"error": "invalid_grant"}


def test_a_code_used_twice_revokes_what_it_gave() -> None:
    double = ProviderUnderTest("acme-crm")
    code = double.consent()["code"]
    tokens = double.redeem(code).json()

    assert double.redeem(code).json() == {"error": "invalid_grant"}

    assert not double.works(tokens["access_token"])


def test_the_consent_form_works_once() -> None:
    double = ProviderUnderTest("acme-crm")
    page = double.http.get("/oauth/authorize", params=double.authorize_query())
    form = {"request": double.request_id_of(page.text), "account": "alice"}
    assert double.http.post("/oauth/consent", data=form).status_code == 303
    assert double.http.post("/oauth/consent", data=form).status_code == 400


def test_the_consent_form_is_worth_nothing_in_another_browser() -> None:
    double = ProviderUnderTest("acme-crm")
    page = double.http.get("/oauth/authorize", params=double.authorize_query())
    form = {"request": double.request_id_of(page.text), "account": "alice"}
    other_browser = Client(double.http.app, ISSUER)

    assert other_browser.post("/oauth/consent", data=form).status_code == 400
    other_browser.get("/oauth/authorize", params=double.authorize_query())
    assert other_browser.post("/oauth/consent", data=form).status_code == 400

    assert double.http.post("/oauth/consent", data=form).status_code == 303


def test_the_consent_form_expires() -> None:
    double = ProviderUnderTest("acme-crm")
    page = double.http.get("/oauth/authorize", params=double.authorize_query())
    double.clock.advance(600)
    form = {"request": double.request_id_of(page.text), "account": "alice"}
    assert double.http.post("/oauth/consent", data=form).status_code == 400


def test_the_browser_cookie_changes_when_somebody_signs_in() -> None:
    double = ProviderUnderTest("acme-crm")
    double.http.get("/oauth/authorize", params=double.authorize_query())
    before = double.http.cookies["double_session"]
    double.consent()
    assert double.http.cookies["double_session"] != before


def test_a_returning_user_is_offered_first() -> None:
    double = ProviderUnderTest("acme-crm")
    double.consent(account="bob")
    page = double.http.get("/oauth/authorize", params=double.authorize_query()).text
    assert re.findall(r'name="account" value="(\w+)"', page) == ["bob", "alice"]


def test_the_consent_page_says_who_asks_for_what_and_runs_no_script() -> None:
    double = ProviderUnderTest("acme-crm")
    page = double.http.get("/oauth/authorize", params=double.authorize_query(scope="read", state="<script>"))
    assert "Acme assistant" in page.text
    assert "Read your records" in page.text
    assert "Change your records" not in page.text
    assert "<script" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["referrer-policy"] == "no-referrer"
    cookie = page.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie


@pytest.mark.parametrize(
    ("auth", "posted"),
    [
        (None, {}),
        (("cab", "wrong"), {}),
        (("nobody", SECRET), {}),
        (None, {"client_id": "cab"}),
        (None, {"client_id": "cab", "client_secret": "wrong"}),
        (("cab", SECRET), {"client_secret": SECRET}),
        (("cab", SECRET), {"client_id": "other"}),
    ],
)
def test_a_client_that_does_not_prove_itself_is_refused(auth: Any, posted: dict[str, str]) -> None:
    double = ProviderUnderTest("acme-crm")
    form = {"grant_type": "refresh_token", "refresh_token": double.connect()["refresh_token"], **posted}
    answer = double.http.post("/oauth/token", data=form, auth=auth)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert answer.headers["www-authenticate"].startswith("Basic")


def test_a_client_may_post_its_secret() -> None:
    double = ProviderUnderTest("acme-crm")
    form = {"grant_type": "refresh_token", "refresh_token": double.connect()["refresh_token"]}
    posted = {"client_id": "cab", "client_secret": SECRET}
    assert double.http.post("/oauth/token", data={**form, **posted}).status_code == 200


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"grant_type=refresh_token&grant_type=x", "application/x-www-form-urlencoded", 400),
        (b"grant_type=%ff%fe", "application/x-www-form-urlencoded", 400),
        (b"\xff\xfe", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"a%d=1" % n for n in range(60)), "application/x-www-form-urlencoded", 400),
        (b"a=" + b"x" * 70_000, "application/x-www-form-urlencoded", 413),
        (b"{}", "application/json", 415),
        (b"", "application/x-www-form-urlencoded", 401),
        (b"grant_type=password", "application/x-www-form-urlencoded", 401),
    ],
)
def test_bad_bodies_are_the_callers_mistake(content: bytes, content_type: str, status: int) -> None:
    double = ProviderUnderTest("acme-crm")
    answer = double.http.post("/oauth/token", content=content, headers={"Content-Type": content_type})
    assert answer.status_code == status
    assert "error" in answer.json()


def test_other_grant_types_are_not_supported() -> None:
    answer = ProviderUnderTest("acme-crm").token(grant_type="password", username="alice")
    assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_grant_type")


def test_a_missing_parameter_is_named() -> None:
    answer = ProviderUnderTest("acme-crm").token(grant_type="refresh_token")
    assert answer.json() == {"error": "invalid_request", "error_description": "Needed: refresh_token."}


def test_a_query_parameter_is_no_form_parameter() -> None:
    double = ProviderUnderTest("acme-crm")
    token = double.connect()["refresh_token"]
    answer = double.http.post(
        f"/oauth/token?grant_type=refresh_token&refresh_token={token}", data={"x": "y"}, auth=("cab", SECRET)
    )
    assert answer.json()["error"] == "unsupported_grant_type"


def test_a_token_in_the_query_is_not_looked_at() -> None:
    double = ProviderUnderTest("acme-crm")
    token = double.connect()["access_token"]
    answer = double.http.get("/oauth/userinfo", params={"access_token": token})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="Double"'


@pytest.mark.parametrize("path", ["/oauth/token", "/oauth/revoke", "/oauth/consent"])
def test_get_is_not_allowed_where_something_happens(path: str) -> None:
    answer = ProviderUnderTest("acme-crm").http.get(path)
    assert (answer.status_code, answer.json()) == (405, {"error": "method_not_allowed"})


def test_a_request_that_names_another_host_is_refused() -> None:
    double = ProviderUnderTest("acme-crm")
    assert double.http.get("/health", headers={"Host": "evil.example"}).status_code == 403
    assert double.http.get("/health", headers={"Host": "[broken"}).status_code == 403
    assert double.http.get("/health").json() == {"status": "ok"}


def test_a_web_page_cannot_reach_the_control_endpoints() -> None:
    double = ProviderUnderTest("acme-crm")
    answer = double.http.post("/_control/reset", headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403


@pytest.mark.parametrize("advance_s", [-1, "5", True, 1e18, None])
def test_the_clock_only_moves_forward(advance_s: object) -> None:
    double = ProviderUnderTest("acme-crm")
    assert double.http.post("/_control/clock", json={"advance_s": advance_s}).status_code == 400
    assert double.http.post("/_control/clock", json={"advance_s": 5}).json() == {"now": 1_800_000_005.0}


def test_the_challenge_of_the_standards_example_is_right() -> None:
    assert s256("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_a_surrogate_in_an_authorization_header_is_no_server_error() -> None:
    double = ProviderUnderTest("acme-crm")
    answer = double.http.get("/oauth/userinfo", headers=[(b"authorization", b"Bearer \xff\xfe")])
    assert answer.status_code == 401
