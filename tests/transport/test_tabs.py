"""People do not follow the plan: two tabs, a login elsewhere, back, reload, an answer that arrives twice. Each ends well, or says what happened."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.examples.acme_in_process import BROKER, IDP
from tests.transport.acme_pages import AcmePages, Browser, query_of, with_query

from cab.domain.audit import EventType
from cab.ports import Delete


@pytest.fixture
def acme() -> AcmePages:
    return AcmePages()


def sessions(acme: AcmePages) -> list[str]:
    return [path for path in acme.approvals._documents if path.startswith("sessions/")]


def begun_at_once(acme: AcmePages, browser: Browser, *paths: str) -> list[str]:
    """Requests of several tabs that all left before any answer came: none carries what another's answer sets.

    The browser then holds the cookies of all answers, of one name the later one. Returns where each answer leads.
    """
    tabs = [acme.browser() for _ in paths]
    answers = [tab.get(BROKER + path, allow_redirects=False) for tab, path in zip(tabs, paths, strict=True)]
    for tab in tabs:
        browser.http.cookies.update(tab.cookies)
    return [answer.headers["location"] for answer in answers]


def answered(browser: Browser, location: str) -> str:
    """The callback that the identity provider sends the browser to, at once where it knows the person already."""
    answer = browser.http.get(location, allow_redirects=False)
    return answer.headers["location"] if answer.is_redirect else browser.consent(location)


# --- two tabs ---


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_two_logins_that_began_at_once_both_end_where_they_should(acme: AcmePages, order: list[int]) -> None:
    browser = Browser(acme.browser(), "alice")
    paths = ["/login?to=/connect?connection=crm", "/login?to=/me"]
    locations = begun_at_once(acme, browser, *paths)
    ends = {}
    for tab in order:
        answer = browser.get(answered(browser, locations[tab]))
        ends[tab] = (answer.status_code, answer.headers["location"])

    assert ends == {0: (303, "/connect?connection=crm"), 1: (303, "/me")}
    assert browser.get("/me").status_code == 200
    assert len(sessions(acme)) == 1


def test_thirty_tabs_that_are_restored_at_once_all_log_in(acme: AcmePages) -> None:
    browser = Browser(acme.browser(), "alice")
    for location in begun_at_once(acme, browser, *["/me"] * 30):
        assert browser.get(answered(browser, location)).headers["location"] == "/me"


def test_one_login_after_another_needs_one_cookie(acme: AcmePages) -> None:
    browser = Browser(acme.browser(), "alice")
    for _ in range(50):
        browser.get("/me")

    assert len([name for name in browser.http.cookies.keys() if name.startswith("cab_login")]) == 1  # noqa: SIM118


def test_a_login_of_tabs_is_still_only_for_the_browser_that_began_it(acme: AcmePages) -> None:
    browser, thief = Browser(acme.browser(), "alice"), Browser(acme.browser(), "alice")
    first, second = begun_at_once(acme, browser, "/me", "/me")
    begun_at_once(acme, thief, "/me", "/me")

    assert thief.get(answered(browser, first)).status_code == 400
    assert thief.get(answered(browser, second)).status_code == 400
    assert sessions(acme) == []


def test_two_consents_in_two_tabs_both_connect(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    crm = browser.consent(browser.start("crm").headers["location"])
    tracker = browser.consent(browser.start("tracker").headers["location"])

    assert browser.get(tracker).headers["location"] == "/connect/done/tracker"
    assert browser.get(crm).headers["location"] == "/connect/done/crm"


def test_two_consents_for_one_system_both_connect_it(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    first = browser.consent(browser.start().headers["location"])
    second = browser.consent(browser.start().headers["location"])

    assert browser.get(first).headers["location"] == "/connect/done/crm"
    assert browser.get(second).headers["location"] == "/connect/done/crm"


# --- a login elsewhere ---


def test_a_new_login_in_another_tab_does_not_end_what_was_begun(acme: AcmePages) -> None:
    """As when an approval wants a fresh login while a consent is under way."""
    browser = acme.logged_in("alice")
    form = {"csrf": browser.csrf(), "connection": "tracker", "decision": "connect"}
    callback = browser.consent(browser.start().headers["location"])
    cookie = browser.http.cookies["cab_session"]
    browser.log_in_again()
    assert browser.http.cookies["cab_session"] != cookie

    assert browser.get(callback).headers["location"] == "/connect/done/crm"
    assert browser.post("/connect", form).headers["location"].startswith("http://127.0.0.1:8083/")


def test_a_login_as_somebody_else_takes_nothing_over(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    csrf = browser.csrf()
    callback = browser.consent(browser.start().headers["location"])
    login = browser.get("/login").headers["location"]
    other = Browser(acme.browser(), "bob")
    browser.get(other.consent(login))  # in this browser, bob's answer at the identity provider

    assert "Bob Okafor" in browser.get("/me").text
    assert browser.csrf() != csrf
    assert browser.post("/me/disconnect", {"csrf": csrf, "connection": "crm"}).status_code == 403
    assert browser.get(callback).status_code == 400
    assert (acme.grant("alice"), acme.grant("bob")) == (None, None)


def test_whoever_logged_out_in_another_tab_is_told_and_can_go_on(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    csrf = browser.csrf()
    request = acme.ask_approval()
    browser.post("/logout", {"csrf": csrf})

    answer = browser.post(f"/approvals/{request.id}", {"csrf": csrf, "decision": "approve"})

    assert answer.status_code == 400
    assert "Please log in again" in answer.text
    assert f'href="/approvals/{request.id}"' in answer.text
    assert acme.events(EventType.CONFIRMATION_DECIDED) == []


def test_logging_out_twice_ends_logged_out(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    form = {"csrf": browser.csrf()}
    for _ in range(2):
        answer = browser.post("/logout", form)
        assert answer.status_code == 200
        assert "You are logged out" in answer.text


# --- back and reload ---


def test_a_login_that_is_gone_back_to_leads_where_it_led(acme: AcmePages) -> None:
    browser = Browser(acme.browser(), "alice")
    callback = browser.consent(browser.get("/connect?connection=crm").headers["location"])
    first = browser.get(callback)

    for _ in range(3):
        again = browser.get(callback)
        assert (again.status_code, again.headers["location"]) == (303, first.headers["location"])
    assert len(sessions(acme)) == 1


def test_a_login_whose_answer_was_lost_on_the_way_goes_through_when_it_is_reloaded(acme: AcmePages) -> None:
    browser = Browser(acme.browser(), "alice")
    callback = browser.consent(browser.get("/connect?connection=crm").headers["location"])
    browser.get(callback)
    browser.http.cookies.pop("cab_session")  # the answer with the cookie never arrived

    again = browser.get(callback)

    assert again.headers["location"].startswith(f"{IDP}/authorize?")
    assert browser.get(answered(browser, again.headers["location"])).headers["location"] == "/connect?connection=crm"


def test_a_cancelled_login_stays_cancelled_when_it_is_reloaded(acme: AcmePages) -> None:
    browser = Browser(acme.browser(), "alice")
    callback = with_query(browser.consent(browser.get("/me").headers["location"]), code=None, error="access_denied")

    for _ in range(3):
        answer = browser.get(callback)
        assert answer.status_code == 403
        assert "The login was cancelled" in answer.text


def test_a_login_that_took_too_long_says_so_and_leads_on(acme: AcmePages) -> None:
    browser = Browser(acme.browser(), "alice")
    callback = browser.consent(browser.get("/connect?connection=crm").headers["location"])
    acme.wait(seconds=600)

    answer = browser.get(callback)

    assert answer.status_code == 400
    assert "That took too long" in answer.text
    assert 'href="/connect?connection=crm"' in answer.text


def test_a_finished_callback_that_arrives_again_says_that_it_is_already_connected(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])
    browser.get(callback)
    before = acme.grant("alice")

    again = browser.get(callback)

    assert (again.status_code, again.headers["location"]) == (303, "/connect/done/crm?again")
    page = browser.get(again.headers["location"])
    assert "Acme CRM is already connected" in page.text
    assert "changed nothing" in page.text
    assert acme.grant("alice") == before
    assert len(acme.events(EventType.GRANT_CONNECTED)) == 1


def test_a_callback_that_arrives_again_after_the_person_has_disconnected_claims_no_connection(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])
    browser.get(callback)
    browser.post("/me/disconnect", {"csrf": browser.csrf(), "connection": "crm"})

    answer = browser.get(callback)

    assert answer.status_code == 400
    assert "This was received before" in answer.text
    assert 'href="/connect?connection=crm"' in answer.text


def test_a_callback_that_arrives_while_the_first_is_still_worked_on_says_so(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])
    acme.provider_http.down.add("http://127.0.0.1:8082")
    assert browser.get(callback).status_code == 503  # nobody knows what came of it

    answer = browser.get(callback)

    assert answer.status_code == 400
    assert "This was received before" in answer.text
    assert 'href="/connect?connection=crm"' in answer.text


def test_a_refused_callback_says_the_same_when_it_is_reloaded(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    callback = with_query(browser.consent(browser.start().headers["location"]), code=None, error="access_denied")

    for _ in range(3):
        answer = browser.get(callback)
        assert answer.status_code == 400
        assert "Connecting was cancelled" in answer.text


def test_the_question_about_another_account_is_put_again_when_it_is_reloaded(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    callback = browser.consent(browser.start().headers["location"], "bob")
    first, second = browser.get(callback), browser.get(callback)

    assert "This is a different account" in first.text
    assert strip_secrets(first.text) == strip_secrets(second.text)
    assert acme.versions("alice") == 1


def test_a_question_that_was_answered_is_not_answered_again(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    page = browser.get(browser.consent(browser.start().headers["location"], "bob")).text
    question = page.partition('name="question" value="')[2].partition('"')[0]
    form = {"csrf": browser.csrf(), "question": question, "decision": "keep"}
    assert browser.post("/connect/account", form).headers["location"] == "/me"

    answer = browser.post("/connect/account", form | {"decision": "replace"})

    assert answer.status_code == 400
    assert "This was received before" in answer.text
    assert 'href="/connect?connection=crm"' in answer.text


def test_a_consent_that_took_too_long_says_so_and_leads_on(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])
    acme.wait(seconds=600)

    answer = browser.get(callback)

    assert answer.status_code == 400
    assert "That took too long" in answer.text
    assert 'href="/connect?connection=crm"' in answer.text


def test_what_a_spent_state_keeps_is_of_no_use_to_anybody(acme: AcmePages) -> None:
    browser = Browser(acme.browser(), "alice")
    callback = browser.consent(browser.get("/me").headers["location"])
    browser.get(callback)
    callback = browser.consent(browser.start().headers["location"])
    browser.get(callback)

    spent = [
        document.fields
        for path, document in acme.approvals._documents.items()
        if path.startswith(("login_states/", "connect_states/"))
    ]
    assert len(spent) == 2
    assert all(fields["code_verifier"] == "" and fields.get("nonce", "") == "" for fields in spent)
    assert query_of(callback)["code"] not in repr(spent)


def test_an_answer_that_comes_so_late_that_nothing_is_known_of_it_says_what_to_do(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])
    for path in [path for path in acme.approvals._documents if path.startswith("connect_states/")]:
        acme.run(acme.approvals.write(Delete(path)))

    answer = browser.get(callback)

    assert answer.status_code == 400
    assert "Please start again" in answer.text
    assert 'href="/connect?connection=crm"' in answer.text


@pytest.mark.parametrize("decision", ["approve", "refuse"])
def test_a_decision_that_is_sent_twice_counts_once(acme: AcmePages, decision: str) -> None:
    browser = acme.logged_in("alice")
    request = acme.ask_approval()
    form = {"csrf": browser.csrf(), "decision": decision}

    pages = [browser.post(f"/approvals/{request.id}", form) for _ in range(3)]

    words = "You approved this" if decision == "approve" else "You refused this"
    assert all(page.status_code == 200 and words in page.text for page in pages)
    assert len(acme.events(EventType.CONFIRMATION_DECIDED)) == 1


def test_disconnecting_twice_ends_disconnected(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    form = {"csrf": browser.csrf(), "connection": "crm"}

    pages = [browser.post("/me/disconnect", form) for _ in range(2)]

    assert all("is disconnected" in page.text for page in pages)


def strip_secrets(html: str) -> str:
    cut: Callable[[str, str], str] = lambda text, name: text.partition(name)[0] + text.partition(name)[2][50:]  # noqa: E731
    return cut(cut(html, 'name="question" value="'), "Reference for support: <code>")
