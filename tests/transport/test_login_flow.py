"""Logging in for the pages: bound to one browser, verified like every token, as fresh and strong as was asked (design X9, I6, I7)."""

from __future__ import annotations

import asyncio
import gzip
import html
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.examples.acme_in_process import BROKER, CRM, IDP
from tests.transport.acme_pages import AcmePages, Browser, query_of, with_query

from cab.domain.audit import EventType
from cab.domain.configured.deployment import Deployment, SharedSignals
from cab.ports import Replace
from cab.stores.people.departures import Departure, Departures


@pytest.fixture
def acme() -> AcmePages:
    return AcmePages()


def sessions(acme: AcmePages) -> list[str]:
    return [path for path in acme.approvals._documents if path.startswith("sessions/")]


def begun(acme: AcmePages, path: str = "/me", login: str = "alice") -> tuple[Browser, str]:
    """A browser that was sent to the identity provider and agreed there; the callback is not visited yet."""
    browser = Browser(acme.browser(), login)
    return browser, browser.consent(browser.get(path).headers["location"])


def fault(acme: AcmePages, **members: Any) -> None:
    Browser(acme.browser(), "alice").http.post(f"{IDP}/_control/faults", json=members)


def test_a_session_does_not_outlive_the_persons_access(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    (path,) = sessions(acme)
    stored = asyncio.run(acme.approvals.read(path))
    assert stored is not None
    ends_at = acme.clock.now() + timedelta(minutes=1)
    asyncio.run(acme.approvals.write(Replace(path, stored.fields | {"access_ends_at": ends_at}, stored.version)))
    assert browser.get("/me").status_code == 200
    acme.clock.advance(timedelta(minutes=1))
    assert browser.get("/me").status_code in (302, 303), "sent to log in"


# --- the way it is meant ---


def test_the_identity_provider_is_asked_with_pkce_nonce_and_state(acme: AcmePages) -> None:
    location = Browser(acme.browser(), "alice").get("/me").headers["location"]

    query = query_of(location)
    assert location.startswith(f"{IDP}/authorize?")
    for name in ("state", "nonce", "code_challenge"):
        assert len(query.pop(name)) == 43
    assert query == {
        "response_type": "code",
        "client_id": "cab",
        "redirect_uri": f"{BROKER}/login/callback",
        "scope": "openid profile email",
        "code_challenge_method": "S256",
    }


@pytest.mark.parametrize("path", ["/me", "/connect?connection=crm"])
def test_a_login_leads_back_to_the_page_it_was_for(acme: AcmePages, path: str) -> None:
    browser, callback = begun(acme, path)

    answer = browser.get(callback)

    assert (answer.status_code, answer.headers["location"]) == (303, path)


def test_the_session_cookie_is_for_this_site_and_no_script(acme: AcmePages) -> None:
    browser, callback = begun(acme)

    cookie = browser.get(callback).headers["set-cookie"].lower()

    assert cookie.startswith("cab_session=")
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "path=/;" in cookie + ";"
    assert "domain" not in cookie


def test_every_login_has_a_session_cookie_of_its_own_and_ends_the_one_before(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    first = browser.http.cookies["cab_session"]

    browser.log_in_again()

    assert browser.http.cookies["cab_session"] != first
    assert len(sessions(acme)) == 1


def test_a_session_ends_after_its_time(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    acme.wait(seconds=3600)

    assert browser.get("/me").headers["location"].startswith(IDP)


def test_logging_out_ends_the_session_for_whoever_copied_its_cookie(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    copied = browser.http.cookies["cab_session"]
    browser.post("/logout", {"csrf": browser.csrf()})

    thief = Browser(acme.browser(), "thief")
    thief.http.cookies.set("cab_session", copied, domain="127.0.0.1")
    assert thief.get("/me").status_code == 303
    assert sessions(acme) == []


def test_nobody_is_logged_out_by_a_link_or_a_foreign_form(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")

    browser.get("/logout")
    assert browser.post("/logout", {"csrf": "A" * 43}).status_code == 403
    assert browser.get("/me").status_code == 200


# --- attacks ---


def test_nobody_is_logged_in_by_somebody_elses_callback(acme: AcmePages) -> None:
    _, callback = begun(acme, login="bob")
    victim = Browser(acme.browser(), "alice")
    victim.get("/me")  # has a login of her own under way

    answer = victim.get(callback)

    assert answer.status_code == 400
    assert "cab_session" not in answer.headers.get("set-cookie", "")
    assert sessions(acme) == []


def test_a_login_is_finished_once(acme: AcmePages) -> None:
    browser, callback = begun(acme)
    browser.get(callback)
    cookie = browser.http.cookies["cab_session"]

    again = browser.get(callback)
    assert (again.status_code, again.headers["location"]) == (303, "/me")
    assert "set-cookie" not in again.headers
    assert browser.http.cookies["cab_session"] == cookie
    assert Browser(acme.browser(), "thief").get(callback).status_code == 400
    assert len(sessions(acme)) == 1


def test_a_login_is_finished_within_ten_minutes(acme: AcmePages) -> None:
    browser = Browser(acme.browser(), "alice")
    location = browser.get("/me").headers["location"]
    acme.wait(seconds=600)

    assert browser.get(browser.consent(location)).status_code == 400
    assert sessions(acme) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": None}, "state_invalid"),
        ({"state": "A" * 43}, "state_invalid"),
        ({"iss": None}, "issuer_mismatch"),
        ({"iss": IDP + "/"}, "issuer_mismatch"),
        ({"iss": CRM}, "issuer_mismatch"),
        ({"code": None}, "login_failed"),
        ({"code": "another"}, "login_failed"),
        ({"code": None, "error": "access_denied"}, "login_cancelled"),
        ({"error": "access_denied"}, "login_cancelled"),
        ({"error": "invalid_scope"}, "client_misconfigured"),
        ({"error": "login_required"}, "login_failed"),
        ({"error": "nobody knows this"}, "login_failed"),
    ],
)
def test_a_changed_callback_logs_nobody_in(acme: AcmePages, changes: dict[str, str | None], reason: str) -> None:
    browser, callback = begun(acme)

    assert browser.get(with_query(callback, **changes)).status_code in (400, 403)
    assert sessions(acme) == []
    assert acme.refusals() == [reason]


def test_a_state_of_a_connection_is_no_state_of_a_login(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    state = query_of(browser.start().headers["location"])["state"]
    _, callback = begun(acme)

    assert browser.get(with_query(callback, state=state)).status_code == 400


def test_a_foreign_code_logs_nobody_in(acme: AcmePages) -> None:
    _, stolen = begun(acme, login="bob")
    browser, callback = begun(acme)

    assert browser.get(with_query(callback, code=query_of(stolen)["code"])).status_code == 403
    assert sessions(acme) == []


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "acme-web"},
        {"aud": ["cab", "acme-web"], "azp": "acme-web"},
        {"azp": "acme-web"},
        {"iss": IDP + "/"},
        {"iss": "http://evil.example"},
        {"exp": 1_000_000_000},
        {"exp": "1900000000"},
        {"iat": 2_000_000_000},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
        {"aud": ["cab", 7], "azp": "cab"},
    ],
)
def test_an_id_token_that_is_not_for_this_login_is_refused(acme: AcmePages, claims: dict[str, Any]) -> None:
    browser, callback = begun(acme)
    fault(acme, endpoint="token", kind="claims", value=claims)

    assert browser.get(callback).status_code == 403
    assert sessions(acme) == []


CAUSES: dict[str, tuple[dict[str, str | None], dict[str, Any]]] = {
    "This login was not begun in this browser, or it is over.": ({"state": "A" * 43}, {}),
    "iss is missing from the callback": ({"iss": None}, {}),
    "iss of the callback is another issuer": ({"iss": CRM}, {}),
    "the callback brings no code": ({"code": None}, {}),
    "the token endpoint answered 400 without an ID token": ({"code": "another"}, {}),
    "nonce does not match": ({}, {"nonce": "another"}),
    "aud is not us": ({}, {"aud": "acme-web"}),
    "azp is another client": ({}, {"azp": "acme-web"}),
    "iss is not this identity provider": ({}, {"iss": "http://evil.example"}),
    "expired": ({}, {"exp": 1_000_000_000}),
    "exp is not a number of seconds": ({}, {"exp": "1900000000"}),
    "iat is in the future": ({}, {"iat": 2_000_000_000}),
    "the configured subject claim is missing or no text": ({}, {"sub": None}),
    "a logout token is no ID token": ({}, {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}),
}


@pytest.mark.parametrize("why", CAUSES)
def test_each_way_in_which_a_login_fails_leaves_its_own_cause_in_the_record_and_none_on_the_page(
    acme: AcmePages, why: str
) -> None:
    changes, claims = CAUSES[why]
    browser, callback = begun(acme)
    if claims:
        fault(acme, endpoint="token", kind="claims", value=claims)

    page = browser.get(with_query(callback, **changes))

    (event,) = acme.events(EventType.REQUEST_REFUSED)
    assert event.why == why
    assert why not in page.text or event.reason_code == "state_invalid"


@pytest.mark.parametrize(
    "written",
    [
        lambda body: b"\xef\xbb\xbf" + body,
        lambda body: body[:-1] + b',"scope":"openid","scope":"openid"}',
        lambda body: body.decode().encode("utf-16"),
        gzip.compress,
    ],
)
def test_the_login_answer_of_an_identity_provider_is_read_like_that_of_any_token_endpoint(
    acme: AcmePages, written: Callable[[bytes], bytes]
) -> None:
    browser, callback = begun(acme)
    acme.idp_http.rewritten = written

    assert browser.get(callback).status_code == 303
    assert len(sessions(acme)) == 1


def test_two_different_id_tokens_in_one_answer_log_nobody_in(acme: AcmePages) -> None:
    browser, callback = begun(acme)
    acme.idp_http.rewritten = lambda body: body[:-1] + b',"id_token":"x"}'

    assert browser.get(callback).status_code == 503
    assert sessions(acme) == []


def test_an_id_token_signed_by_an_unpublished_key_is_refused(acme: AcmePages) -> None:
    browser, callback = begun(acme)
    fault(acme, endpoint="token", kind="unknown_kid")

    assert browser.get(callback).status_code == 403
    assert sessions(acme) == []


@pytest.mark.parametrize(
    "to",
    [
        *("https://evil.example", "//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example"),
        *("/me/../../evil", "/me?next=https://evil.example", "/me#https://evil.example", "/me\n", "/me%0d%0aX:1"),
        *("javascript:alert(1)", "data:text/html,hi", "/connect?connection=crm&x=1", "/connect?connection=../../x"),
        *("/connect?connection=", "/approvals/", "/approvals/../me", "/approvals/a%2fb", "/logout", "me", " /me"),
        *("http://127.0.0.1:8080@evil.example/", "/connect/callback/crm?code=x", "/login?to=/me"),
    ],
)
def test_a_login_never_leads_to_an_address_from_outside(acme: AcmePages, to: str) -> None:
    browser = Browser(acme.browser(), "alice")
    location = browser.get("/login", params={"to": to}).headers["location"]

    answer = browser.get(browser.consent(location))

    assert answer.headers["location"] == "/me"


@pytest.mark.parametrize("cookie", ["", "short", "A" * 44, "A" * 42 + "!", "A" * 43 + "; cab_session=" + "B" * 43])
def test_a_cookie_that_is_not_ours_is_no_session(acme: AcmePages, cookie: str) -> None:
    answer = Browser(acme.browser(), "alice").get("/me", headers={"Cookie": f"cab_session={cookie}"})

    assert answer.status_code == 303
    assert answer.headers["location"].startswith(IDP)


# --- fresh and strong ---


def test_an_approval_asks_for_a_login_of_the_last_five_minutes(acme: AcmePages) -> None:
    request = acme.ask_approval()

    query = query_of(Browser(acme.browser(), "alice").get(f"/approvals/{request.id}").headers["location"])

    assert (query["max_age"], query.get("prompt")) == ("300", None)


def test_an_old_login_is_renewed_by_the_person_and_then_shows_the_approval(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    acme.wait(seconds=301)
    request = acme.ask_approval()

    location = browser.get(f"/approvals/{request.id}").headers["location"]

    query = query_of(location)
    assert (query["max_age"], query["prompt"]) == ("300", "login")
    answer = browser.get(browser.consent(location))
    assert answer.headers["location"] == f"/approvals/{request.id}"
    assert browser.get(answer.headers["location"]).status_code == 200


@pytest.mark.parametrize("auth_time", [None, 1_000_000_000])
def test_a_login_that_stayed_old_is_refused(acme: AcmePages, auth_time: int | None) -> None:
    request = acme.ask_approval()
    browser, callback = begun(acme, f"/approvals/{request.id}")
    fault(acme, endpoint="token", kind="claims", value={"auth_time": auth_time})

    answer = browser.get(callback)

    assert answer.status_code == 400
    assert "Please log in again" in answer.text
    assert f'href="/approvals/{request.id}"' in answer.text
    assert sessions(acme) == []


def test_a_login_without_auth_time_opens_the_own_page_but_no_approval(acme: AcmePages) -> None:
    browser, callback = begun(acme)
    fault(acme, endpoint="token", kind="claims", value={"auth_time": None}, count=1)
    browser.get(callback)

    assert browser.get("/me").status_code == 200
    assert browser.get(f"/approvals/{acme.ask_approval().id}").headers["location"].startswith(IDP)


def test_a_stronger_login_is_asked_for_where_the_request_wants_it(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    request = acme.ask_approval(acr_values="urn:acme:acr:mfa")

    location = browser.get(f"/approvals/{request.id}").headers["location"]

    assert query_of(location)["acr_values"] == "urn:acme:acr:mfa"
    answer = browser.get(browser.consent(location))
    assert browser.get(answer.headers["location"]).status_code == 200


def test_a_login_that_stayed_weak_is_refused(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    request = acme.ask_approval(acr_values="urn:acme:acr:mfa")
    location = browser.get(f"/approvals/{request.id}").headers["location"]
    callback = browser.consent(location)
    fault(acme, endpoint="token", kind="claims", value={"acr": "urn:acme:acr:password"})

    assert browser.get(callback).status_code == 400
    assert acme.refusals() == ["step_up_required"]


# --- the identity provider's own document, and its outages ---


@pytest.mark.parametrize("kind", ["issuer_mismatch", "status", "body"])
def test_a_discovery_document_that_is_not_the_issuers_own_sends_nobody_anywhere(acme: AcmePages, kind: str) -> None:
    fault(acme, endpoint="discovery", kind=kind)

    answer = Browser(acme.browser(), "alice").get("/me")

    assert answer.status_code == 503
    assert "does not answer" in answer.text


def test_people_still_log_in_while_discovery_is_down_for_a_while(acme: AcmePages) -> None:
    acme.logged_in("alice")
    acme.wait(hours=2)
    fault(acme, endpoint="discovery", kind="status")

    assert Browser(acme.browser(), "bob").get("/me").headers["location"].startswith(IDP)


def test_a_login_works_again_when_the_identity_provider_is_back(acme: AcmePages) -> None:
    acme.idp_http.down.add(IDP)
    assert Browser(acme.browser(), "alice").get("/me").status_code == 503
    asked = len(acme.idp_http.requests)
    assert Browser(acme.browser(), "alice").get("/me").status_code == 503
    assert len(acme.idp_http.requests) == asked  # not asked again at once

    acme.idp_http.down.clear()
    acme.clock.advance(timedelta(seconds=6))
    assert acme.logged_in("alice").get("/me").status_code == 200


# --- several identity providers ---


def _with_second_idp(deployment: Deployment) -> Deployment:
    (first,) = deployment.identity_providers
    second = first.model_copy(update={"issuer": "https://login.other.example"})
    return replace(deployment, identity_providers=(first, second))


def test_with_several_identity_providers_the_person_picks_one() -> None:
    acme = AcmePages(change=_with_second_idp)
    browser = Browser(acme.browser(), "alice")

    page = browser.get("/connect?connection=crm")

    assert page.status_code == 200
    assert "https://login.other.example" in page.text
    link = "/login?idp=0&amp;to=%2Fconnect%3Fconnection%3Dcrm"
    assert f'href="{link}"' in page.text
    location = browser.get(link.replace("&amp;", "&")).headers["location"]
    assert location.startswith(f"{IDP}/authorize?")
    assert browser.get(browser.consent(location)).headers["location"] == "/connect?connection=crm"


def test_an_identity_provider_is_offered_by_its_title_and_without_one_by_its_tenants() -> None:
    """A second one in a tenant was told from the first by its address alone."""

    def titled(deployment: Deployment) -> Deployment:
        first, second = _with_second_idp(deployment).identity_providers
        return replace(deployment, identity_providers=(first, second.model_copy(update={"title": "Acme's shops"})))

    page = Browser(AcmePages(change=titled).browser(), "alice").get("/connect?connection=crm").text

    assert [html.unescape(name) for name in re.findall(r"<strong>(.*?)</strong>", page)] == ["Acme", "Acme's shops"]


@pytest.mark.parametrize("idp", ["2", "-1", "1e0", "٠", "00001", "https://evil.example"])
def test_only_a_configured_identity_provider_can_be_picked(idp: str) -> None:
    acme = AcmePages(change=_with_second_idp)

    assert Browser(acme.browser(), "alice").get("/login", params={"idp": idp}).status_code == 400
    assert acme.idp_http.requests == []


# --- what the provider says afterwards ---


def listening(deployment: Deployment) -> Deployment:
    (provider,) = deployment.identity_providers
    signals = SharedSignals(audience=("https://cab.example.com/signals",))
    return replace(deployment, identity_providers=(provider.model_copy(update={"shared_signals": signals}),))


def depart(acme: AcmePages, said: Departure) -> None:
    (stored,) = [acme.approvals._documents[path] for path in sessions(acme)]
    subject = stored.fields["subject"]
    asyncio.run(Departures(acme.approvals).note("acme", subject, said))


def test_a_session_that_the_provider_ended_shows_nothing_more_and_a_new_login_does() -> None:
    acme = AcmePages(change=listening)
    browser = acme.logged_in("alice")
    assert browser.get("/me").status_code == 200

    depart(acme, Departure(logins_until=acme.clock.now()))
    assert browser.get("/me").status_code == 303

    acme.clock.advance(timedelta(seconds=5))
    again = acme.logged_in("alice")
    assert again.get("/me").status_code == 200


def test_nobody_logs_in_to_an_account_that_was_closed() -> None:
    acme = AcmePages(change=listening)
    acme.logged_in("alice")
    depart(acme, Departure(closed_at=acme.clock.now()))
    acme.clock.advance(timedelta(seconds=5))

    browser, callback = begun(acme)
    answer = browser.get(callback)

    assert answer.status_code == 403
    assert acme.audit_log.events[-1].why == "the identity provider closed the account"
