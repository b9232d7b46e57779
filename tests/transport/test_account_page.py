"""A person's own page: what is connected and how it is, what waits, what agents did, and disconnecting."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.examples.acme_in_process import CRM
from tests.transport.acme_pages import AcmePages, Browser

from cab.domain.configured.connections import GrantKind, RotationClass
from cab.domain.configured.deployment import Deployment
from cab.domain.grants import NO_TOKENS, Grant, GrantStatus, grant_id
from cab.stores.issued_tokens import IssuedToken
from cab_dev.fakes.documents import Outage


@pytest.fixture
def acme() -> AcmePages:
    return AcmePages()


def card(html: str, title: str) -> str:
    """The part of the page about one connection."""
    return html.partition(f"<h3>{title}</h3>")[2].partition("</article>")[0]


def set_status(acme: AcmePages, status: GrantStatus) -> None:
    stored = asyncio.run(acme.grants.read(grant_id("acme", acme.subject("alice"), "crm")))
    assert stored is not None
    asyncio.run(acme.grants.replace(stored, stored.grant.model_copy(update={"status": status})))


def hand_out(acme: AcmePages, login: str = "alice", number: int = 1, **changes: Any) -> None:
    """What exchange_token remembers of a token it gave to an agent."""
    now = acme.clock.now()
    token = IssuedToken(
        tenant="acme",
        subject=acme.subject(login),
        client_id=changes.pop("client_id", "sales-assistant"),
        connection="crm",
        grant_id="g",
        scope="opportunity.read",
        details=[
            {
                "type": "cab_action",
                "actions": [changes.pop("action", "crm.opportunity.read")],
                "identifier": f"opportunity/{number:04}",
            }
        ],
        act={},
        txn=f"txn-{number}",
        issued_at=now,
        expires_at=now + timedelta(seconds=300),
        **changes,
    )
    asyncio.run(acme.issued_tokens.remember(f"sha-{login}-{number}", token))


# --- health ---


@pytest.mark.parametrize(
    ("status", "words", "can_connect", "can_disconnect"),
    [
        (GrantStatus.ACTIVE, "Connected", False, True),
        (GrantStatus.REFRESHING, "Connected", False, True),
        (GrantStatus.RECOVERING, "Connected", False, True),
        (GrantStatus.NEEDS_REAUTH, "Stopped working", True, False),
        (GrantStatus.QUARANTINED, "Stopped for safety", True, False),
        (GrantStatus.REVOKING, "Being disconnected", False, False),
        (GrantStatus.REVOKED, "Disconnected", True, False),
    ],
)
def test_every_state_of_a_connection_has_words_and_a_way_on(
    acme: AcmePages, status: GrantStatus, words: str, can_connect: bool, can_disconnect: bool
) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    set_status(acme, status)

    html = card(browser.get("/me").text, "Acme CRM")

    assert words in html
    assert ('href="/connect?connection=crm"' in html) is can_connect
    assert ('action="/me/disconnect"' in html) is can_disconnect


@pytest.mark.parametrize(
    ("cause", "refused_as", "words", "can_connect"),
    [
        ("our client is refused", None, "does not accept your organisation", False),
        ("unread answer", None, "cannot be read", True),
        ("http 400", "400 sorry", "refuses to renew", True),
        ("http 503", None, "gave no access when it was last asked", False),
        ("secrets", None, "gave no access when it was last asked", False),
    ],
)
def test_a_connection_that_gives_no_token_does_not_say_connected(
    acme: AcmePages, cause: str, refused_as: str | None, words: str, can_connect: bool
) -> None:
    """The page said "Connected" while every agent was told to come back later."""
    browser = acme.logged_in("alice")
    browser.connect()
    ended = acme.clock.now() - timedelta(seconds=1)
    acme.change_grant("alice", fail_cause=cause, fail_count=3, refused_as=refused_as, access_expires_at=ended)

    html = card(browser.get("/me").text, "Acme CRM")

    assert words in html
    assert '">Connected</span>' not in html
    assert ('href="/connect?connection=crm"' in html) is can_connect
    assert 'action="/me/disconnect"' in html


@pytest.mark.parametrize(
    ("cause", "seconds_left"), [("our client is refused", 60), ("http 503", 60), ("invalid_scope", -60), (None, -60)]
)
def test_a_connection_whose_token_works_or_is_renewed_when_asked_for_says_connected(
    acme: AcmePages, cause: str | None, seconds_left: int
) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    ends_at = acme.clock.now() + timedelta(seconds=seconds_left)
    acme.change_grant("alice", fail_cause=cause, access_expires_at=ends_at)

    assert '">Connected</span>' in card(browser.get("/me").text, "Acme CRM")


def ending_unused() -> AcmePages:
    def change(deployment: Deployment) -> Deployment:
        connections = (
            it.model_copy(update={"grant_idle_days": 30}) if it.id == "crm" else it for it in deployment.connections
        )
        return replace(deployment, connections=tuple(connections))

    return AcmePages(change=change)


@pytest.mark.parametrize(("days_left", "says_so"), [(7, True), (8, False)])
def test_a_week_before_an_unused_connection_ends_its_person_reads_when_and_what_to_do(
    days_left: int, says_so: bool
) -> None:
    acme = ending_unused()
    browser = acme.logged_in("alice")
    browser.connect()
    ends_at = acme.clock.now() + timedelta(days=days_left)
    acme.change_grant("alice", last_used_at=ends_at - timedelta(days=31), ends_unused_at=ends_at)

    html = card(browser.get("/me").text, "Acme CRM")

    assert ("Nobody has used it for a while. It ends" in html) is says_so
    assert '">Connected</span>' in html


def test_of_a_setting_that_was_taken_back_the_page_gives_no_notice(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    acme.change_grant("alice", last_used_at=acme.clock.now(), ends_unused_at=acme.clock.now())

    assert "used it for a while" not in card(browser.get("/me").text, "Acme CRM")


def test_a_connection_that_ended_unused_says_so_and_how_to_have_it_back() -> None:
    acme = ending_unused()
    browser = acme.logged_in("alice")
    browser.connect()
    acme.change_grant("alice", status=GrantStatus.REVOKED, fail_cause="idle")

    html = card(browser.get("/me").text, "Acme CRM")

    assert "Ended, unused" in html
    assert 'href="/connect?connection=crm"' in html
    assert 'action="/me/disconnect"' not in html
    browser.connect()
    assert '">Connected</span>' in card(browser.get("/me").text, "Acme CRM")


def test_a_connection_names_the_account_and_who_may_ask_for_it(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()

    html = browser.get("/me").text

    assert "alice@acme.example" in card(html, "Acme CRM")
    assert "Sales assistant, Operations bot" in card(html, "Acme CRM")
    assert "Not connected" in card(html, "Acme Tracker")
    assert "no account to connect" in card(html, "Acme Warehouse")


def test_nobody_sees_another_persons_connections(acme: AcmePages) -> None:
    acme.logged_in("alice").connect()

    assert "Not connected" in card(acme.logged_in("bob").get("/me").text, "Acme CRM")


# --- pending and past ---


def test_what_waits_for_a_decision_is_listed_until_it_is_decided(acme: AcmePages) -> None:
    request = acme.ask_approval()
    browser = acme.logged_in("alice")

    assert f'href="/approvals/{request.id}"' in browser.get("/me").text
    browser.post(f"/approvals/{request.id}", {"csrf": browser.csrf(), "decision": "refuse"})
    assert request.id not in browser.get("/me").text


def question_from(acme: AcmePages, agent: str, number: int) -> str:
    """A question of an agent, each about another opportunity; the link to it."""
    request = acme.ask_approval(id=f"{agent}-{number:04}", agent=agent, identifier=f"opportunity/{number:04}")
    return f'href="/approvals/{request.id}"'


@pytest.mark.parametrize("flood", [3, 40, 120])
@pytest.mark.parametrize("first", ["quiet", "loud"])
def test_a_flood_of_one_agents_questions_neither_hides_nor_pushes_down_anothers(
    acme: AcmePages, flood: int, first: str
) -> None:
    if first == "quiet":
        link = question_from(acme, "ops-bot", 9999)
        acme.wait(seconds=1)
    for number in range(flood):
        question_from(acme, "sales-assistant", number)
    if first == "loud":
        acme.wait(seconds=1)
        link = question_from(acme, "ops-bot", 9999)

    page = acme.logged_in("alice").get("/me").text

    pending = page.partition('id="pending"')[2].partition("</section>")[0]
    quiet, _, loud = pending.partition("Sales assistant <span")
    assert link in quiet
    assert "Operations bot" in quiet
    assert "asks 1 thing<" in quiet or "asks 1 thing" in quiet
    at_once, _, folded = loud.partition("<details>")
    assert at_once.count('href="/approvals/') == min(flood, 5)
    assert ("asks about more than 50 things" if flood > 50 else f"asks {flood} things") in at_once
    assert folded.count('href="/approvals/') == min(flood, 50) - min(flood, 5)


def test_questions_are_counted_without_those_that_are_decided(acme: AcmePages) -> None:
    for number in range(8):
        question_from(acme, "sales-assistant", number)
    browser = acme.logged_in("alice")
    browser.post("/approvals/sales-assistant-0000", {"csrf": browser.csrf(), "decision": "refuse"})

    page = browser.get("/me").text

    assert "asks 7 things" in page
    assert "2 more of Sales assistant" in page


def test_nobody_sees_what_waits_for_another_person(acme: AcmePages) -> None:
    request = acme.ask_approval("alice")

    assert request.id not in acme.logged_in("bob").get("/me").text


def test_what_is_over_does_not_wait_any_more(acme: AcmePages) -> None:
    request = acme.ask_approval()
    browser = acme.logged_in("alice")
    acme.wait(seconds=600)

    assert request.id not in browser.get("/me").text


def test_what_agents_did_is_listed_newest_first_for_its_own_person(acme: AcmePages) -> None:
    hand_out(acme, number=1)
    acme.wait(minutes=5)
    hand_out(acme, number=2)
    hand_out(acme, "bob", number=3)

    html = acme.logged_in("alice").get("/me").text

    assert html.index("opportunity/0002") < html.index("opportunity/0001")
    assert "opportunity/0003" not in html
    assert "5 minutes ago" in html
    assert "Last used just now" in card(html, "Acme CRM") or "Last used" in html


def test_a_deed_of_an_agent_that_is_gone_is_still_listed(acme: AcmePages) -> None:
    hand_out(acme, client_id="former-bot")

    assert "former-bot" in acme.logged_in("alice").get("/me").text


# --- disconnecting ---


def test_disconnecting_revokes_the_persons_own_grant(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()

    answer = browser.post("/me/disconnect", {"csrf": browser.csrf(), "connection": "crm"})

    assert "Acme CRM is disconnected" in answer.text
    assert "confirmed" in answer.text
    assert acme.refresher.revoked == [
        (grant_id("acme", acme.subject("alice"), "crm"), "disconnected by the user"),
    ]


def test_a_disconnect_that_the_other_system_did_not_confirm_says_so(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    acme.refresher.confirms = False

    answer = browser.post("/me/disconnect", {"csrf": browser.csrf(), "connection": "crm"})

    assert "did not confirm" in answer.text


def test_a_form_names_a_connection_and_never_whose_grant(acme: AcmePages) -> None:
    acme.logged_in("alice").connect()
    bob = acme.logged_in("bob")
    form = {"csrf": bob.csrf(), "connection": "crm", "grant_id": grant_id("acme", acme.subject("alice"), "crm")}

    assert bob.post("/me/disconnect", form).status_code == 400
    assert acme.refresher.revoked == []


@pytest.mark.parametrize("csrf", ["", "A" * 43])
def test_a_foreign_form_disconnects_nothing(acme: AcmePages, csrf: str) -> None:
    browser = acme.logged_in("alice")
    browser.connect()

    assert browser.post("/me/disconnect", {"csrf": csrf, "connection": "crm"}).status_code == 403
    assert acme.refresher.revoked == []


@pytest.mark.parametrize("connection", ["nothing", "warehouse", "tracker", "../crm"])
def test_what_is_not_connected_cannot_be_disconnected(acme: AcmePages, connection: str) -> None:
    browser = acme.logged_in("alice")

    answer = browser.post("/me/disconnect", {"csrf": browser.csrf(), "connection": connection})

    assert answer.status_code in (400, 404)
    assert acme.refresher.revoked == []


def test_a_disconnect_that_could_not_be_done_says_so(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    acme.refresher.is_down = True

    answer = browser.post("/me/disconnect", {"csrf": browser.csrf(), "connection": "crm"})

    assert answer.status_code == 503
    assert acme.refusals() == ["provider_unavailable"]


def test_the_page_says_so_when_the_stores_do_not_answer(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    acme.grant_documents.outage = Outage(frozenset({"read"}))

    answer = browser.get("/me")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert "does not work at the moment" in answer.text


def test_a_person_finds_the_way_from_their_page_to_connecting(acme: AcmePages) -> None:
    browser = Browser(acme.browser(), "alice")
    page = browser.log_in("/me")

    assert page.status == 200
    assert browser.get("/connect?connection=crm").status_code == 200
    assert browser.connect().headers["location"] == "/connect/done/crm"
    assert ("POST", f"{CRM}/oauth/token") in acme.provider_http.requests


# --- systems that the organisation approves instead of its users ---


def approved(kind: GrantKind, *logins: str) -> AcmePages:
    """The CRM on the organisation's trust, which has said who these people are there."""
    users = {AcmePages().subject(login): f"{login}@crm.test" for login in logins}

    def change(known: Deployment) -> Deployment:
        update = {"grant_kind": kind, "user_map": users}
        connections = (item.model_copy(update=update) if item.id == "crm" else item for item in known.connections)
        return replace(known, connections=tuple(connections))

    return AcmePages(change=change)


def use(acme: AcmePages, login: str, status: GrantStatus) -> None:
    """The document that refresh_grants makes at the first use, in this state."""
    grant = Grant(
        grant_id=grant_id("acme", acme.subject(login), "crm"),
        tenant="acme",
        subject=acme.subject(login),
        connection="crm",
        provider="acme-crm",
        provider_class=RotationClass.STATIC,
        secret_version=NO_TOKENS,
        status=status,
        connected_at=acme.clock.now(),
    )
    assert asyncio.run(acme.grants.create(grant)) is not None


@pytest.mark.parametrize("kind", [GrantKind.JWT_BEARER, GrantKind.TOKEN_EXCHANGE, GrantKind.ID_JAG])
@pytest.mark.parametrize(
    ("status", "words", "can_disconnect"),
    [
        (None, "Ready, approved by your organisation", False),
        (GrantStatus.ACTIVE, "Ready, approved by your organisation", True),
        (GrantStatus.REVOKING, "Disconnected", False),
        (GrantStatus.REVOKED, "Disconnected", False),
    ],
)
def test_what_the_organisation_approved_can_be_ended_and_not_connected(
    kind: GrantKind, status: GrantStatus | None, words: str, can_disconnect: bool
) -> None:
    acme = approved(kind, "alice")
    browser = acme.logged_in("alice")
    if status is not None:
        use(acme, "alice", status)

    html = card(browser.get("/me").text, "Acme CRM")

    assert words in html
    assert 'href="/connect?connection=crm"' not in html
    assert ('action="/me/disconnect"' in html) is can_disconnect
    assert ("Only your organisation can allow it again." in html) is (status is not None)
    page = browser.get("/connect?connection=crm")
    assert (page.status_code, "There is nothing to connect" in page.text) == (400, True)


def test_where_the_organisation_approved_before_people_connect_as_if_for_the_first_time() -> None:
    acme = AcmePages()
    browser = acme.logged_in("alice")
    use(acme, "alice", GrantStatus.ACTIVE)

    before = card(browser.get("/me").text, "Acme CRM")
    assert "Not connected" in before
    assert 'href="/connect?connection=crm"' in before
    assert "connected already" not in browser.get("/connect?connection=crm").text
    assert browser.get("/connect/done/crm").status_code == 404

    assert browser.connect().headers["location"] == "/connect/done/crm"
    stored = asyncio.run(acme.grants.read(grant_id("acme", acme.subject("alice"), "crm")))
    assert stored is not None
    assert (stored.grant.keeps_tokens, stored.grant.provider_class) == (True, RotationClass.STRICT)
    assert "Connected" in card(browser.get("/me").text, "Acme CRM")


@pytest.mark.parametrize("kind", [GrantKind.JWT_BEARER, GrantKind.ID_JAG])
def test_somebody_whom_the_organisation_has_not_mapped_is_told_so(kind: GrantKind) -> None:
    acme = approved(kind, "alice")
    html = card(acme.logged_in("bob").get("/me").text, "Acme CRM")
    assert "Not available to you" in html
    assert "/connect" not in html


def test_each_access_says_what_came_of_it_and_whose_word_that_is(acme: AcmePages) -> None:
    hand_out(acme, number=1, outcome="rejected")
    hand_out(acme, number=2, by_broker=True)
    hand_out(acme, number=3)
    for number, outcome in enumerate(("done", "rejected", "not_sent", "unknown", None), start=4):
        hand_out(acme, number=number, action="crm.opportunity.update", by_broker=True, outcome=outcome)
    text = acme.logged_in("alice").get("/me").text
    assert "The agent says that the system refused it." in text
    assert "The call was made for the agent, which was given the answer and no access." in text
    assert "Nobody has said what came of it: it counts as used." in text
    more = "The agent may have done so again since, to this or to others."
    assert text.count(more) == 3, "after each of the reads, of which the first is recorded, and after no change"
    for words in (
        "The call was made for the agent: it was done.",
        "The call was made for the agent: the system refused it.",
        "The call for the agent was not made: the system could not be reached.",
        "The call was made for the agent: whether it was done is not known.",
        "A call for the agent. Whether it was done is not known so far.",
    ):
        assert text.count(words) == 1


@pytest.mark.parametrize("text", ["x" * 16_384, "\u3164" * 5_461])
def test_fifty_long_questions_of_one_agent_do_not_make_the_page_too_large_for_anybody_elses(
    acme: AcmePages, text: str
) -> None:
    """Cloud Run answers with 32 MiB at most, and this was 38: with it went every question, and the way to disconnect."""
    browser = acme.logged_in("alice")
    for number in range(50):
        parameters = {"first": text, "second": text}
        acme.ask_approval(id=f"{number:022}", identifier=f"opportunity/{number}", parameters=parameters)
    acme.ask_approval(id="B" * 22, agent="ops-bot", action="crm.opportunity.update", parameters={"stage": "won"})

    page = browser.get("/me")

    assert len(page.content) < 1_000_000
    assert f'href="/approvals/{"B" * 22}"' in page.text
    assert page.text.count(">Decide<") == 51
    whole = browser.get("/approvals/" + "0" * 22).text
    assert whole.count(text[0]) > 2 * len(text) or whole.count("U+3164") >= 2 * len(text)


def test_of_a_question_the_page_shows_the_whole_where_that_is_short_and_else_how_it_begins(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    acme.ask_approval(
        id="A" * 22, identifier="opportunity/1", parameters={"amount": 120000, "to": "won", "tags": ["a", "b"]}
    )
    acme.ask_approval(
        id="C" * 22, identifier="opportunity/2", parameters={"note": "n" * 150, "tags": ["t" * 60, "u"], "more": 1}
    )

    page = re.sub(r"<[^>]+>", "", browser.get("/me").text)

    assert "amount: 120000 (120,000), to: “won”, tags: “a”“b”" in page
    assert f"note: “{'n' * 150}”, tags: “{'t' * 46}”…, …" in page
