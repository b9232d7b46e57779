"""Connecting an account through the pages, and every attack on it that must end without a grant (design C1 to C7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlencode

import pytest
import requests
from tests.examples.acme_in_process import BROKER, CRM, IDP, TRACKER
from tests.transport.acme_pages import AcmePages, Browser, change_connection, csrf_of, query_of, with_query

from cab.domain.audit import EventType
from cab.domain.configured.deployment import Deployment
from cab.domain.configured.scope_names import ScopeNames
from cab.domain.grant_transitions import revoking
from cab.domain.grants import GrantStatus, grant_id
from cab.stores.grant_payloads import GrantPayloads
from cab_dev.fakes.documents import Outage


@pytest.fixture
def acme() -> AcmePages:
    return AcmePages()


def connect_states(acme: AcmePages) -> list[str]:
    """Those that somebody could still use."""
    return [
        path
        for path, document in acme.approvals._documents.items()
        if path.startswith("connect_states/") and "spent_at" not in document.fields
    ]


# --- the way it is meant ---


def test_a_person_connects_an_account_through_login_and_both_consents(acme: AcmePages) -> None:
    page = acme.person("alice").connect(f"{BROKER}/connect?connection=crm")

    assert page.status == 200
    assert "Acme CRM is connected" in page.text
    grant = acme.grant("alice")
    assert grant is not None
    assert (grant.status, grant.upstream_account, grant.secret_version, grant.seq) == ("active", "crm-40017", 1, 1)
    assert set(grant.scopes) == {
        *("offline_access", "opportunity.read", "opportunity.write", "opportunity.delete", "note.write")
    }


def test_the_provider_is_asked_with_pkce_and_the_connections_own_redirect_uri(acme: AcmePages) -> None:
    location = acme.logged_in("alice").start().headers["location"]

    query = query_of(location)
    assert location.startswith(f"{CRM}/oauth/authorize?")
    assert len(query.pop("state")) == 43
    assert len(query.pop("code_challenge")) == 43
    assert query == {
        "response_type": "code",
        "client_id": "cab",
        "redirect_uri": f"{BROKER}/connect/callback/crm",
        "scope": "offline_access opportunity.read opportunity.write opportunity.delete note.write",
        "code_challenge_method": "S256",
    }


def test_where_tokens_are_made_by_exchange_the_user_consents_to_what_they_are_made_from() -> None:
    def change(deployment: Deployment) -> Deployment:
        deployment = change_connection(deployment, "crm", narrowing="token_exchange")
        connections = tuple(
            item.model_copy(update={"connect_scopes": ("note.write",)} if item.id == "crm" else {})
            for item in deployment.connections
        )
        return replace(deployment, connections=connections)

    acme = AcmePages(change=change)
    browser = acme.logged_in("alice")

    shown = browser.get(f"{BROKER}/connect?connection=crm").text
    location = browser.start().headers["location"]
    assert query_of(location)["scope"] == "offline_access note.write"
    assert "note.write" in shown
    assert "opportunity.read" not in shown
    browser.get(browser.consent(location))

    grant = acme.grant("alice")
    assert grant is not None
    assert grant.scopes == ["offline_access", "note.write"]
    result = browser.get(f"{BROKER}/connect/done/crm").text
    assert "Not everything was allowed" not in result


def test_a_connection_is_in_the_audit_log_before_the_person_is_answered(acme: AcmePages) -> None:
    acme.logged_in("alice").connect()

    (event,) = acme.events(EventType.GRANT_CONNECTED)
    grant = acme.grant("alice")
    assert grant is not None
    assert grant.outbox == []
    assert event.subject is not None
    assert event.subject.key == acme.subject("alice")
    assert event.grant is not None
    assert (event.grant.id, event.grant.seq, event.grant.cause) == (grant.grant_id, 1, "connected")
    assert event.scopes is not None
    assert "opportunity.delete" in event.scopes.granted


def test_a_connection_whose_event_cannot_be_sent_keeps_it_in_the_grants_outbox(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    acme.audit_log.is_down = True

    answer = browser.connect()

    grant = acme.grant("alice")
    assert answer.status_code == 303
    assert grant is not None
    assert [event["event_type"] for event in grant.outbox] == ["grant.connected"]


def test_the_stored_payload_is_what_refresh_grants_will_read(acme: AcmePages) -> None:
    acme.logged_in("alice").connect()

    grant = acme.grant("alice")
    assert grant is not None
    provider = acme.deployment.provider_of(acme.deployment.connection_by_id["crm"])
    payload = asyncio.run(GrantPayloads(acme.vault).load(grant, grant.secret_version, provider))
    assert payload.refresh_token is not None
    assert payload.newest.scopes == tuple(grant.scopes)


def test_connecting_never_reads_a_grant_secret(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    browser.connect()

    assert acme.vault.calls.get("access", 0) == 0


def test_connecting_again_renews_the_grant_in_place(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    browser.connect()

    grant = acme.grant("alice")
    assert grant is not None
    assert (grant.status, grant.secret_version, grant.seq, grant.fence, grant.revoke_epoch) == ("active", 2, 2, 1, 1)
    causes = [event.grant.cause for event in acme.events(EventType.GRANT_CONNECTED) if event.grant]
    assert causes == ["connected", "reconnected"]


def test_connecting_again_revives_a_grant_that_needs_it(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    stored = asyncio.run(acme.grants.read(grant_id("acme", acme.subject("alice"), "crm")))
    assert stored is not None
    dead = stored.grant.model_copy(update={"status": GrantStatus.NEEDS_REAUTH, "fail_cause": "invalid_grant"})
    asyncio.run(acme.grants.replace(stored, dead))

    assert "stopped working" in browser.get("/connect?connection=crm").text
    browser.connect()

    grant = acme.grant("alice")
    assert grant is not None
    assert (grant.status, grant.fail_cause) == ("active", None)


def test_what_the_provider_did_not_grant_is_said_on_the_last_page(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    location = browser.start().headers["location"]
    browser.get(browser.consent(with_query(location, scope="offline_access opportunity.read")))

    page = browser.get("/connect/done/crm").text
    assert "Not everything was allowed" in page
    assert "Delete an opportunity" in page.partition("Not everything was allowed")[2]


def test_the_last_page_is_only_for_who_is_connected(acme: AcmePages) -> None:
    acme.logged_in("alice").connect()

    assert acme.logged_in("bob").get("/connect/done/crm").status_code == 404


def test_the_consent_page_names_every_action_and_who_may_ask_for_it(acme: AcmePages) -> None:
    page = acme.logged_in("alice").log_in("/connect?connection=crm").text

    for words in (
        *("See your opportunities", "Change an opportunity", "Delete an opportunity", "Deletes data"),
        *("Sales assistant", "Operations bot", "opportunity.delete"),
    ):
        assert words in page


# --- nothing starts by itself ---


def test_looking_at_the_consent_page_leaves_no_state(acme: AcmePages) -> None:
    acme.logged_in("alice").get("/connect?connection=crm")

    assert connect_states(acme) == []


def test_declining_our_consent_leaves_no_state(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")

    answer = browser.post("/connect", {"csrf": browser.csrf(), "connection": "crm", "decision": "cancel"})

    assert (answer.status_code, answer.headers["location"]) == (303, "/me")
    assert connect_states(acme) == []


@pytest.mark.parametrize(
    "form",
    [
        {"connection": "crm", "decision": "connect"},
        {"connection": "crm", "decision": "connect", "csrf": ""},
        {"connection": "crm", "decision": "connect", "csrf": "A" * 43},
        {"connection": "crm", "decision": "connect", "csrf": "ä"},
    ],
)
def test_a_consent_without_the_pages_own_token_starts_nothing(acme: AcmePages, form: dict[str, str]) -> None:
    answer = acme.logged_in("alice").post("/connect", form)

    assert answer.status_code == 403
    assert connect_states(acme) == []


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}]
)
def test_a_consent_sent_from_another_site_starts_nothing(acme: AcmePages, headers: dict[str, str]) -> None:
    browser = acme.logged_in("alice")
    form = {"csrf": browser.csrf(), "connection": "crm", "decision": "connect"}

    assert browser.post("/connect", form, headers=headers).status_code == 403
    assert connect_states(acme) == []


def test_a_consent_is_not_started_by_the_token_of_another_session(acme: AcmePages) -> None:
    form = {"csrf": acme.logged_in("bob").csrf(), "connection": "crm", "decision": "connect"}

    assert acme.logged_in("alice").post("/connect", form).status_code == 403
    assert connect_states(acme) == []


@pytest.mark.parametrize("connection", ["nothing", "warehouse"])
def test_what_cannot_be_connected_is_not_found(acme: AcmePages, connection: str) -> None:
    browser = acme.logged_in("alice")
    form = {"csrf": browser.csrf(), "connection": connection, "decision": "connect"}

    assert browser.get(f"/connect?connection={connection}").status_code == 404
    assert browser.post("/connect", form).status_code == 404
    assert browser.get(f"/connect/callback/{connection}?code=c&state=s").status_code == 400


def test_the_state_is_stored_as_a_hash_only(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    state = query_of(browser.start().headers["location"])["state"]

    assert len(connect_states(acme)) == 1
    assert state not in repr(acme.approvals._documents)
    assert browser.http.cookies["cab_session"] not in repr(acme.approvals._documents)


# --- attacks on the callback: each ends without a grant ---


def in_the_victims_browser(acme: AcmePages, callback: str) -> requests.Response:
    """The attacker, bob, lures alice's browser to his callback."""
    return acme.logged_in("alice").get(callback)


def without_any_session(acme: AcmePages, callback: str) -> requests.Response:
    return Browser(acme.browser(), "nobody").get(callback)


def in_another_browser_of_the_same_person(acme: AcmePages, callback: str) -> requests.Response:
    return acme.logged_in("bob").get(callback)


@pytest.mark.parametrize("attack", [in_the_victims_browser, without_any_session, in_another_browser_of_the_same_person])
def test_a_callback_finishes_only_in_the_browser_that_began(
    acme: AcmePages, attack: Callable[[AcmePages, str], requests.Response]
) -> None:
    bob = acme.logged_in("bob")
    callback = bob.consent(bob.start().headers["location"])

    answer = attack(acme, callback)

    assert answer.status_code == 400
    assert "Please start again" in answer.text
    assert (acme.grant("alice"), acme.grant("bob"), acme.versions("alice"), acme.versions("bob")) == (None, None, 0, 0)
    assert acme.refusals()[-1] == "state_invalid"


def test_a_callback_finishes_only_for_the_person_who_began(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])
    browser.http.cookies.clear()
    browser.login = "bob"
    browser.log_in()

    assert browser.get(callback).status_code == 400
    assert (acme.grant("alice"), acme.grant("bob")) == (None, None)


def test_a_callback_does_not_outlive_the_login_it_began_in(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])
    browser.post("/logout", {"csrf": browser.csrf()})
    browser.log_in()

    assert browser.get(callback).status_code == 400
    assert acme.grant("alice") is None


def test_replaying_a_logged_callback_changes_nothing(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])
    browser.get(callback)
    before = acme.grant("alice")

    assert browser.get(callback).headers["location"] == "/connect/done/crm?again"
    assert in_the_victims_browser(acme, callback).status_code == 400
    assert without_any_session(acme, callback).status_code == 400
    assert acme.grant("alice") == before
    assert acme.versions("alice") == 1


def test_a_stolen_callback_is_spent_even_when_it_is_refused(acme: AcmePages) -> None:
    alice = acme.logged_in("alice")
    callback = alice.consent(alice.start().headers["location"])
    acme.logged_in("bob").get(callback)

    assert alice.get(callback).status_code == 400
    assert acme.grant("alice") is None


def test_a_state_lives_ten_minutes(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    location = browser.start().headers["location"]
    acme.wait(seconds=600)

    assert browser.get(browser.consent(location)).status_code == 400
    assert acme.grant("alice") is None


def _state_of_a_login(acme: AcmePages) -> str:
    return query_of(Browser(acme.browser(), "alice").get("/login").headers["location"])["state"]


@pytest.mark.parametrize(
    "mutate",
    [
        lambda url, _: with_query(url, state=None),
        lambda url, _: with_query(url, state="A" * 43),
        lambda url, _: with_query(url, state=query_of(url)["state"][:-1]),
        lambda url, _: with_query(url, state=query_of(url)["state"].swapcase()),
        lambda url, _: with_query(url, state=query_of(url)["state"] + "="),
        lambda url, _: url + "&state=" + query_of(url)["state"],
        lambda url, _: url + "&state=" + "A" * 43,
        lambda url, acme: with_query(url, state=_state_of_a_login(acme)),
        lambda url, _: with_query(url, code=None),
        lambda url, _: url + "&code=another",
        lambda url, _: url.replace("/callback/crm", "/callback/tracker"),
        lambda url, _: url.replace("/callback/crm", "/callback/nothing"),
        lambda url, _: with_query(url, error="server_error"),
        lambda url, _: url.replace("state=", "State="),
    ],
)
def test_a_changed_callback_stores_nothing(acme: AcmePages, mutate: Callable[[str, AcmePages], str]) -> None:
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])

    answer = browser.get(mutate(callback, acme))

    assert answer.status_code in (400, 404, 503)
    assert (acme.grant("alice"), acme.grant("alice", "tracker")) == (None, None)


# --- mix-up (RFC 9207) ---


@pytest.mark.parametrize("iss", [None, TRACKER, CRM + "/", CRM.upper(), IDP, "http://evil.example"])
@pytest.mark.parametrize("answer", ["code", "error"])
def test_an_answer_of_another_issuer_is_thrown_away(acme: AcmePages, iss: str | None, answer: str) -> None:
    browser = acme.logged_in("alice")
    callback = with_query(browser.consent(browser.start().headers["location"]), iss=iss)
    if answer == "error":
        callback = with_query(callback, code=None, error="access_denied")

    assert browser.get(callback).status_code == 400
    assert acme.grant("alice") is None
    assert acme.refusals()[-1] == "issuer_mismatch"


@pytest.mark.parametrize(
    ("iss_parameter", "iss", "connects"),
    [
        ("required", CRM, True),
        ("required", None, False),
        ("optional", None, True),
        ("optional", TRACKER, False),
        ("unknown", None, True),
        ("unknown", CRM, True),
        ("unknown", TRACKER, False),
    ],
)
def test_iss_is_required_where_the_profile_says_so_and_compared_wherever_it_is(
    iss_parameter: str, iss: str | None, connects: bool
) -> None:
    acme = AcmePages(change=lambda deployment: change_connection(deployment, "crm", iss_parameter=iss_parameter))
    browser = acme.logged_in("alice")

    browser.get(with_query(browser.consent(browser.start().headers["location"]), iss=iss))

    assert (acme.grant("alice") is not None) is connects


def test_a_profile_that_requires_iss_and_names_none_never_connects() -> None:
    acme = AcmePages(change=lambda deployment: change_connection(deployment, "crm", issuer=None))

    assert acme.logged_in("alice").connect().status_code == 400
    assert acme.grant("alice") is None


# --- codes ---


def test_a_foreign_code_cannot_be_injected(acme: AcmePages) -> None:
    bob, alice = acme.logged_in("bob"), acme.logged_in("alice")
    stolen = query_of(bob.consent(bob.start().headers["location"]))["code"]
    callback = alice.consent(alice.start().headers["location"])

    answer = alice.get(with_query(callback, code=stolen))

    assert answer.status_code == 400
    assert acme.refusals()[-1] == "authorization_failed"
    assert (acme.grant("alice"), acme.versions("alice")) == (None, 0)


def test_an_own_code_of_another_attempt_cannot_be_used(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    earlier = query_of(browser.consent(browser.start().headers["location"]))["code"]
    callback = browser.consent(browser.start().headers["location"])

    assert browser.get(with_query(callback, code=earlier)).status_code == 400
    assert acme.grant("alice") is None


def test_a_refusal_at_the_provider_is_told_and_connects_nothing(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    callback = with_query(browser.consent(browser.start().headers["location"]), code=None, error="access_denied")

    answer = browser.get(callback)

    assert "Connecting was cancelled" in answer.text
    assert acme.grant("alice") is None


def test_an_error_text_of_the_provider_is_never_shown(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])
    said = "Call 555-0100 now"

    answer = browser.get(with_query(callback, code=None, error="server_error", error_description=said))

    assert said not in answer.text


# --- another account upstream ---


def question_of(answer: requests.Response) -> dict[str, str]:
    value = answer.text.partition('name="question" value="')[2].partition('"')[0]
    return {"csrf": csrf_of(answer.text), "question": value}


def replace_with(browser: Browser, form: dict[str, str], account: str) -> requests.Response:
    """Say that the other account is meant, and agree at the provider with `account`."""
    answer = browser.post("/connect/account", form | {"decision": "replace"})
    return browser.get(browser.consent(answer.headers["location"], account))


def test_another_upstream_account_is_asked_about_and_nothing_of_it_is_kept(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    before = acme.grant("alice")

    answer = browser.connect(account="bob")

    assert answer.status_code == 200
    assert "crm-40017" in answer.text
    assert "crm-40018" in answer.text
    assert acme.grant("alice") == before
    assert acme.versions("alice") == 1


def test_keeping_the_account_changes_nothing(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    before = acme.grant("alice")
    form = question_of(browser.connect(account="bob"))

    browser.post("/connect/account", form | {"decision": "keep"})

    assert browser.post("/connect/account", form | {"decision": "replace"}).status_code == 400
    assert acme.grant("alice") == before


def test_replacing_the_account_takes_a_new_consent_and_is_audited_as_that(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()

    answer = replace_with(browser, question_of(browser.connect(account="bob")), "bob")

    grant = acme.grant("alice")
    assert answer.headers["location"] == "/connect/done/crm"
    assert grant is not None
    assert (grant.upstream_account, grant.secret_version, grant.seq) == ("crm-40018", 2, 2)
    last = acme.events(EventType.GRANT_CONNECTED)[-1].grant
    assert last is not None
    assert last.cause == "account replaced"


def test_the_answer_about_an_account_is_used_once(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    form = question_of(browser.connect(account="bob"))
    replace_with(browser, form, "bob")

    assert browser.post("/connect/account", form | {"decision": "replace"}).status_code == 400


def test_nobody_else_answers_about_an_account(acme: AcmePages) -> None:
    alice, bob = acme.logged_in("alice"), acme.logged_in("bob")
    alice.connect()
    form = question_of(alice.connect(account="bob")) | {"decision": "replace"}

    assert alice.post("/connect/account", form | {"csrf": "A" * 43}).status_code == 403
    assert bob.post("/connect/account", form | {"csrf": bob.csrf()}).status_code == 400
    assert len(connect_states(acme)) == 0


def test_an_answer_about_an_account_comes_too_late_after_ten_minutes(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    form = question_of(browser.connect(account="bob")) | {"decision": "replace"}
    acme.wait(seconds=600)

    assert browser.post("/connect/account", form).status_code == 400
    assert len(connect_states(acme)) == 0


def test_agreeing_to_replace_one_account_does_not_replace_another(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    early = question_of(browser.connect(account="bob"))
    replace_with(browser, question_of(browser.connect(account="carol")), "carol")

    answer = replace_with(browser, early, "bob")

    grant = acme.grant("alice")
    assert "This is a different account" in answer.text
    assert grant is not None
    assert grant.upstream_account == "crm-40019"


def test_an_account_that_the_provider_does_not_name_counts_as_another(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    fault = {"endpoint": "userinfo", "kind": "status", "status": 500}
    browser.http.post(f"{CRM}/_control/faults", json=fault)

    page = browser.connect().text
    assert "did not name" in page
    assert "This may be a different account" in page
    assert "remove it in your account settings" not in page  # it may be the connected one


def test_after_disconnecting_another_account_is_not_asked_about(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    browser.post("/me/disconnect", {"csrf": browser.csrf(), "connection": "crm"})

    browser.connect(account="bob")

    grant = acme.grant("alice")
    assert grant is not None
    assert (grant.status, grant.upstream_account) == ("active", "crm-40018")


# --- faults ---


def test_a_provider_that_does_not_answer_connects_nothing_and_says_so(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])
    acme.provider_http.down.add(CRM)

    answer = browser.get(callback)

    assert answer.status_code == 503
    assert "does not answer" in answer.text
    assert acme.grant("alice") is None


def test_a_code_is_not_spent_when_its_tokens_could_not_be_kept(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])
    acme.vault.is_down = True

    assert browser.get(callback).status_code == 503
    assert ("POST", f"{CRM}/oauth/token") not in acme.provider_http.requests
    assert acme.grant("alice") is None


def test_a_lost_answer_of_the_grants_write_connects_once(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])
    acme.grant_documents.outage = Outage(frozenset({"write"}), after=True, times=1)

    assert browser.get(callback).status_code == 303
    grant = acme.grant("alice")
    assert grant is not None
    assert (grant.seq, grant.secret_version, grant.outbox) == (1, 1, [])
    assert len(acme.events(EventType.GRANT_CONNECTED)) == 1


def test_a_failed_write_of_the_grant_is_an_error_and_connecting_again_works(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])
    acme.grant_documents.outage = Outage(frozenset({"write"}))

    assert browser.get(callback).status_code == 503
    acme.grant_documents.outage = None
    assert acme.grant("alice") is None
    browser.connect()
    grant = acme.grant("alice")
    assert grant is not None
    assert (grant.status, grant.secret_version) == ("active", 2)


@pytest.mark.parametrize("body", ["html", "garbage", "empty_object", "large"])
def test_an_answer_without_tokens_connects_nothing(acme: AcmePages, body: str) -> None:
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])
    browser.http.post(f"{CRM}/_control/faults", json={"endpoint": "token", "kind": "body", "body": body})

    assert browser.get(callback).status_code in (400, 503)
    assert acme.grant("alice") is None


def test_nothing_connects_while_a_disconnect_is_under_way(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    callback = browser.consent(browser.start().headers["location"])
    stored = asyncio.run(acme.grants.read(grant_id("acme", acme.subject("alice"), "crm")))
    assert stored is not None
    ending = revoking(stored.grant, cause="user", now=acme.clock.now(), event={}).model_copy(update={"outbox": []})
    asyncio.run(acme.grants.replace(stored, ending))

    assert "still being disconnected" in browser.get(callback).text
    assert "still being disconnected" in browser.start().text
    grant = acme.grant("alice")
    assert grant is not None
    assert grant.status is GrantStatus.REVOKING


def test_nobodys_callback_leads_anywhere_else(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    callback = browser.consent(browser.start().headers["location"])
    answer = browser.get(callback + "&" + urlencode({"redirect_uri": "https://evil.example", "to": "//evil.example"}))

    assert answer.headers["location"] == "/connect/done/crm"


def test_the_result_page_knows_scopes_that_include_others() -> None:
    """Case 15: the page said "no permission was given" before."""
    everything = ("opportunity.read", "opportunity.write", "opportunity.delete", "note.write")
    acme = AcmePages(
        change=lambda it: change_connection(it, "crm", scope_names=ScopeNames(implies={"crm.all": everything}))
    )
    browser = acme.logged_in("alice")
    browser.connect()
    acme.change_grant("alice", scopes=["crm.all"])

    page = browser.get(f"{BROKER}/connect/done/crm").text

    assert "Not everything was allowed" not in page
    assert "Delete an opportunity" in page
