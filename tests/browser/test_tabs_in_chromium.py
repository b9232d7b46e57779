"""Two tabs, back and reload, as a real browser does them."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import requests
from playwright.sync_api import Page, Route
from tests.browser.conftest import Visitor, complaint_expected
from tests.browser.test_pages_in_chromium import ask, looks_right
from tests.running_stack import Stack

from cab_client import Intent

pytestmark = [pytest.mark.browser, pytest.mark.stack]


def tab_of(visitor: Visitor) -> Visitor:
    """A second tab of the same browser."""
    page: Page = visitor.page.context.new_page()
    return Visitor(page, visitor.login, visitor.origin, visitor.device, visitor.complaints)


def test_two_tabs_that_begin_a_login_before_either_has_an_answer_both_arrive(person: Callable[..., Visitor]) -> None:
    first = person("alice")
    second = tab_of(first)
    held: list[Route] = []

    def hold(route: Route) -> None:
        """Until both have left: neither carries what the other's answer sets."""
        held.append(route)
        if len(held) == 2:
            answers = [requests.get(request.request.url, allow_redirects=False, timeout=20) for request in held]
            for request, answer in zip(held, answers, strict=True):
                request.fulfill(status=answer.status_code, headers=dict(answer.headers))

    first.page.context.route(re.compile(r"/login\?to="), hold)
    for tab, path in ((first, "/login?to=/connect?connection=crm"), (second, "/login?to=/me")):
        tab.page.goto(f"{tab.origin}/logout")
        tab.page.evaluate("(path) => { location.href = path }", path)
    for tab in (first, second):
        tab.page.wait_for_url("**/authorize?**")
    bindings = [cookie for cookie in first.page.context.cookies() if str(cookie.get("name")).startswith("cab_login")]
    assert len(bindings) == 2

    first.page.reload()  # Acme ID itself knows one form per browser only
    first.press("Continue as Alice Moreau")
    second.page.reload()  # the identity provider knows her by now

    assert first.heading() == "Connect Acme CRM?"
    assert second.heading() == "What agents may do as you"


def test_two_open_login_pages_are_finished_in_either_order(person: Callable[..., Visitor]) -> None:
    first = person("alice")
    second = tab_of(first)
    first.page.goto(f"{first.origin}/connect?connection=crm")
    second.page.goto(f"{second.origin}/me")

    second.press("Continue as Alice Moreau")
    assert second.heading() == "What agents may do as you"
    first.page.reload()  # the identity provider knows her by now
    assert first.heading() == "Connect Acme CRM?"


def test_going_back_and_reloading_on_the_way_of_connecting_ends_well(person: Callable[..., Visitor]) -> None:
    carol = person("carol")
    callbacks: list[str] = []
    carol.page.on(
        "request", lambda request: callbacks.append(request.url) if "/connect/callback/" in request.url else None
    )
    carol.open("/connect?connection=tracker")
    carol.press("Connect Acme Tracker")
    carol.press("Continue as Carol Lindqvist")
    assert carol.heading() == "Acme Tracker is connected"

    carol.page.reload()
    assert carol.heading() == "Acme Tracker is connected"
    carol.page.goto(callbacks[0])  # the same answer once more
    assert carol.heading() == "Acme Tracker is already connected"
    assert "code=" not in carol.page.url
    looks_right(carol)
    carol.picture("12-already-connected")
    carol.page.reload()
    assert carol.heading() == "Acme Tracker is already connected"
    carol.page.goto(f"{carol.origin}/connect?connection=tracker")
    assert carol.page.get_by_text("You are connected already").is_visible()


def test_a_fresh_login_in_another_tab_leaves_forms_and_consents_alone(person: Callable[..., Visitor]) -> None:
    carol = person("carol")
    carol.open("/connect?connection=crm")
    other = tab_of(carol)
    other.open("/login?to=/me")
    assert other.heading() == "What agents may do as you"

    carol.press("Connect Acme CRM")
    other.open("/login?to=/me")
    carol.press("Continue as Carol Lindqvist")

    assert carol.heading() == "Acme CRM is connected"


def test_going_back_after_a_decision_shows_the_decision(
    stack: Stack, person: Callable[..., Visitor], device: str
) -> None:
    intent = Intent(
        "tracker.task.create",
        on="tracker",
        identifier="task/*",
        parameters={"title": f"There and back ({device})", "priority": "high"},
    )
    uri = ask(stack, "alice", intent)
    alice = person("alice")
    alice.open(uri)
    assert alice.page.get_by_text("With your account").is_visible()
    alice.press("Refuse")
    assert alice.heading() == "You refused this"

    alice.page.go_back()
    assert alice.heading() == "You refused this"
    assert alice.page.get_by_role("button", name="Approve").count() == 0
    alice.page.reload()
    assert alice.heading() == "You refused this"
    looks_right(alice)


def test_questions_of_a_flood_fold_away(stack: Stack, person: Callable[..., Visitor], device: str) -> None:
    for number in range(8):
        ask(
            stack,
            "bob",
            Intent(
                "tracker.task.create",
                on="tracker",
                identifier="task/*",
                parameters={"title": f"Flood {number} ({device})", "priority": "high"},
            ),
        )
    bob = person("bob")
    bob.open("/me")

    assert bob.page.get_by_text("Sales assistant asks").count() == 1
    more = bob.page.get_by_text("more of Sales assistant")
    assert bob.page.get_by_role("link", name="Decide").count() == 5
    looks_right(bob)
    bob.picture("13-flood")
    more.click()
    assert bob.page.get_by_role("link", name="Decide").count() >= 8
    looks_right(bob)


def test_a_program_that_sends_a_browser_for_a_code_is_explained(person: Callable[..., Visitor]) -> None:
    alice = person("alice")
    with complaint_expected(alice):
        alice.page.goto(
            f"{alice.origin}/connect?response_type=code&client_id=x&redirect_uri=http%3A%2F%2Flocalhost%2Fcb&state=s"
        )
        assert alice.heading() == "Programs cannot be given access this way"
        looks_right(alice)
        alice.picture("14-no-code-grant")


def test_a_cancelled_login_and_a_wrong_setting_say_what_they_are(person: Callable[..., Visitor]) -> None:
    for error, heading, name in (
        ("access_denied", "The login was cancelled", "15-login-cancelled"),
        ("invalid_scope", "Your organisation's settings are wrong", "16-settings"),
    ):
        alice = person("alice")
        alice.page.goto(f"{alice.origin}/me")
        state = alice.page.evaluate("() => new URLSearchParams(location.search).get('state')")
        issuer = alice.page.url.partition("/authorize")[0]
        with complaint_expected(alice):
            alice.page.goto(f"{alice.origin}/login/callback?error={error}&state={state}&iss={issuer}")
            assert alice.heading() == heading
            looks_right(alice)
            alice.picture(name)
