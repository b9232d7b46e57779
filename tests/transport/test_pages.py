"""What holds for every page: headers that forbid the rest, words instead of errors, and strict ways in."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
import requests
from starlette.requests import Request
from tests.examples.acme_in_process import BROKER, CRM, IDP
from tests.transport.acme_pages import AcmePages, Browser, change_connection

from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.protocol.oauth_errors import TABLE
from cab.stores.sessions import Session
from cab.transport.page_problems import words_for
from cab_dev.fakes.documents import Outage

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def acme() -> AcmePages:
    return AcmePages()


def every_page(acme: AcmePages) -> dict[str, requests.Response]:
    request = acme.ask_approval()
    browser = acme.logged_in("alice")
    pages = {
        "consent": browser.get("/connect?connection=crm"),
        "approval": browser.get(f"/approvals/{request.id}"),
        "logout": browser.get("/logout"),
        "not found": browser.get("/nothing"),
        "refused": browser.post("/connect", {"csrf": "A" * 43}),
    }
    browser.connect()
    pages |= {
        "connected": browser.get("/connect/done/crm"),
        "another account": browser.connect(account="bob"),
        "account": browser.get("/me"),
        "decided": browser.post(f"/approvals/{request.id}", {"csrf": browser.csrf(), "decision": "approve"}),
        "disconnected": browser.post("/me/disconnect", {"csrf": browser.csrf(), "connection": "crm"}),
        "logged out": browser.post("/logout", {"csrf": browser.csrf()}),
    }
    return pages


def policy_of(answer: requests.Response) -> dict[str, list[str]]:
    directives = (item.split() for item in answer.headers["content-security-policy"].split(";"))
    return {name: values for name, *values in directives}


def test_every_page_forbids_what_it_does_not_need(acme: AcmePages) -> None:
    for name, answer in every_page(acme).items():
        policy = policy_of(answer)
        style = answer.text.partition("<style>")[2].partition("</style>")[0]
        hashed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert policy.pop("style-src") == [f"'sha256-{hashed}'"], name
        targets = policy.pop("form-action")
        assert targets == (["'self'", CRM] if name in ("consent", "another account") else ["'self'"]), name
        assert policy == {"default-src": ["'none'"], "frame-ancestors": ["'none'"], "base-uri": ["'none'"]}, name
        assert answer.headers["cache-control"] == "no-store", name
        assert answer.headers["referrer-policy"] == "no-referrer", name
        assert answer.headers["x-content-type-options"] == "nosniff", name
        assert answer.headers["content-type"] == "text/html; charset=utf-8", name
        assert answer.headers["cab-txn"] in answer.text, name


class _Outline(HTMLParser):
    """Finds what a page must not have, and what people who do not see it need."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.headings: list[str] = []
        self.language = ""
        self.landmarks: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        forbidden = {"script", "img", "iframe", "object", "link", "base", "embed"} & {tag}
        scripted = {name for name in names if name.startswith("on") or name == "style"}
        self.found += sorted(forbidden | scripted)
        target = names.get("href") or names.get("action") or ""
        if not re.fullmatch(r"(/[a-z?=/A-Z0-9_&;%-]*|#[a-z]+|)", target):
            self.found.append(target)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(tag)
        if tag in ("main", "header", "footer"):
            self.landmarks.add(tag)
        if tag == "html":
            self.language = names.get("lang") or ""


def test_every_page_is_only_text_and_forms_and_has_an_outline(acme: AcmePages) -> None:
    for name, answer in every_page(acme).items():
        outline = _Outline()
        outline.feed(answer.text)
        assert outline.found == [], name
        assert outline.headings[0] == "h1", name
        assert outline.headings.count("h1") == 1, name
        assert outline.language == "en", name
        assert outline.landmarks == {"main", "header", "footer"}, name


def test_redirects_are_not_kept_either(acme: AcmePages) -> None:
    answer = Browser(acme.browser(), "alice").get("/me")

    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "cab-txn" in answer.headers


# --- the origin decides about cookies and where forms lead ---


def _on_https(deployment: Deployment) -> Deployment:
    broker = deployment.broker.model_copy(update={"origin": "https://cab.example"})
    return change_connection(
        replace(deployment, broker=broker),
        "crm",
        authorization_endpoint="https://crm.example/oauth/authorize",
    )


def test_on_https_cookies_are_bound_to_the_host_and_pages_ask_for_https_always() -> None:
    acme = AcmePages(change=_on_https)
    answer = acme.browser().get("https://cab.example/me", allow_redirects=False)

    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-cab_login_")
    assert {"secure", "httponly", "samesite=lax", "path=/"} <= {part.strip().lower() for part in cookie.split(";")}
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert answer.headers["location"].startswith(IDP)
    assert "redirect_uri=https%3A%2F%2Fcab.example%2Flogin%2Fcallback" in answer.headers["location"]


def test_on_https_a_cookie_of_the_loopback_name_is_no_session() -> None:
    acme = AcmePages(change=_on_https)

    answer = acme.browser().get(
        "https://cab.example/me", headers={"Cookie": "cab_session=" + "A" * 43}, allow_redirects=False
    )

    assert answer.status_code == 303


@pytest.mark.parametrize("before", [b"\xa0", b"\x85", b"\x0b", b"\x1c", b"\xc2\xa0"])
def test_a_name_that_browsers_do_not_take_for_one_of_our_host_is_no_session(before: bytes) -> None:
    # Chromium keeps the first two of any sibling host, for the whole domain: whoever runs one would choose who the visitor is.
    acme = AcmePages(change=_on_https)
    cookie = "A" * 43
    session = Session(
        tenant="acme",
        subject=acme.subject("bob"),
        idp_issuer=IDP,
        groups=[],
        auth_time=acme.clock.now(),
        acr=None,
        amr=[],
        display_name="Bob",
        csrf="B" * 43,
        expires_at=acme.clock.now() + timedelta(hours=1),
    )
    acme.run(acme.states.put(cookie, session))

    async def status(name: bytes) -> int:
        scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/me", "query_string": b""}
        headers = [(b"cookie", name + b"=" + cookie.encode())]
        answer = await acme.handle(Request(scope | {"headers": headers, "server": ("cab.example", 443)}))
        return answer.status_code

    assert acme.run(status(b"__Host-cab_session")) == acme.run(status(b" \t__Host-cab_session")) == 200
    assert acme.run(status(before + b"__Host-cab_session")) == 303  # to log in


# --- ways in ---


@pytest.mark.parametrize(
    "path",
    ["/", "/nothing", "/me/", "/connect/", "/connect/callback", "/connect/callback/a/b", "/approvals", "/static/x"],
)
def test_an_unknown_address_is_a_page_that_says_so(acme: AcmePages, path: str) -> None:
    answer = Browser(acme.browser(), "alice").get(path)

    assert answer.status_code == 404
    assert "There is nothing here for you" in answer.text
    assert acme.audit_log.events == []


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/me", "GET"),
        ("POST", "/me", "GET"),
        ("GET", "/me/disconnect", "POST"),
        ("GET", "/connect/account", "POST"),
        ("POST", "/connect/callback/crm", "GET"),
        ("DELETE", "/connect", "GET, POST"),
        ("POST", "/login", "GET"),
        ("POST", "/login/callback", "GET"),
    ],
)
def test_a_wrong_method_is_refused_with_the_right_ones(acme: AcmePages, method: str, path: str, allowed: str) -> None:
    answer = acme.browser().request(method, BROKER + path, allow_redirects=False)

    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_a_form_of_more_than_64_kib_is_refused(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")

    answer = browser.http.post(f"{BROKER}/connect", data=b"csrf=" + b"a" * 65_536, headers=FORM)

    assert answer.status_code == 413


@pytest.mark.parametrize("media_type", ["application/json", "text/plain", "multipart/form-data; boundary=x"])
def test_only_a_plain_form_is_read(acme: AcmePages, media_type: str) -> None:
    browser = acme.logged_in("alice")
    body = f"csrf={browser.csrf()}&connection=crm&decision=connect"

    answer = browser.http.post(f"{BROKER}/connect", data=body, headers={"Content-Type": media_type})

    assert answer.status_code == 415


@pytest.mark.parametrize(
    "query",
    [
        *("connection=crm&connection=crm", "connection=&connection=crm", "connection=crm&%63onnection=crm"),
        *("connection=%ff", "connection=%00", "a" * 9000 + "=1"),
    ],
)
def test_a_malformed_address_is_refused_in_words(acme: AcmePages, query: str) -> None:
    answer = acme.logged_in("alice").get(f"/connect?{query}")

    assert answer.status_code == 400
    assert "not valid" in answer.text


def test_health_tells_nothing(acme: AcmePages) -> None:
    answer = acme.browser().get(f"{BROKER}/health")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


# --- errors ---


def test_a_program_that_came_to_the_wrong_door_gets_json(acme: AcmePages) -> None:
    answer = acme.browser().get(f"{BROKER}/nothing", headers={"Accept": "application/json"})

    txn = answer.headers["cab-txn"]
    assert answer.json() == {"error": "invalid_request", "reason_code": "not_found", "txn": txn}


def test_a_bug_is_a_page_without_its_text(acme: AcmePages, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ValueError("a secret: hunter2")

    browser = acme.logged_in("alice")
    monkeypatch.setattr(acme.states, "read", broken)

    answer = browser.get("/me")

    assert answer.status_code == 500
    assert "hunter2" not in answer.text
    assert "Something went wrong on our side" in answer.text


def test_an_outage_of_the_session_store_is_a_page_that_says_try_again(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    acme.approvals.outage = Outage(frozenset({"read"}))

    assert browser.get("/me").status_code == 503


def test_every_refusal_has_words_and_no_words_quote_anything() -> None:
    for reason in TABLE:
        title, sentence = words_for(BrokerError(reason, "DETAIL"))
        assert title
        assert sentence.endswith(".")
        assert "DETAIL" not in title + sentence
        assert not re.search(r"[<>{}_]", title + sentence)


def test_refusals_of_strangers_do_not_flood_the_audit_log(acme: AcmePages) -> None:
    stranger = Browser(acme.browser(), "nobody")
    for _ in range(20):
        stranger.get("/connect/callback/crm?code=x&state=y")

    assert len(acme.refusals()) == 5
    assert Reason.STATE_INVALID.value in acme.refusals()
