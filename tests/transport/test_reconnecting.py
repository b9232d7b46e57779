"""A second consent, and one that does not last: nothing that was there is lost by silence, and nothing is claimed that is not so."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import suppress
from typing import Any

import pytest
import requests
from tests.examples.acme_in_process import BROKER, CRM
from tests.grants.test_provider_faults import alerted
from tests.transport.acme_pages import AcmePages, Browser, change_connection

from cab.domain.audit import EventType
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.domain.grants import Grant, GrantStatus, grant_id
from cab.ports import AccessToken, HttpAnswer, Unavailable
from cab.protocol import token_responses
from cab.stores.grant_payloads import GrantPayloads
from cab.stores.grants import StoredGrant
from cab.use_cases.audit.outbox import Outbox
from cab.use_cases.grants.move import MoveGrants
from cab.use_cases.grants.refresh.attempt import Wanted
from cab.use_cases.grants.refresh.caller import RefreshGrant
from cab.use_cases.grants.refresh.escrow import ESCROW_SECRET, Escrow
from cab.use_cases.grants.revoke import RevokeGrants
from cab.use_cases.grants.sweep import SweepGrants
from cab.use_cases.upstream.provider_client import ProviderCalls
from cab.use_cases.upstream.revoke import RevokeUpstream, Upstream
from cab_dev.fakes.documents import Outage
from cab_dev.fakes.randomness import PredictableRandomness

DONE = f"{BROKER}/connect/done/crm"


@pytest.fixture
def acme() -> AcmePages:
    return AcmePages()


def fault(browser: Browser, **members: Any) -> None:
    browser.http.post(f"{CRM}/_control/faults", json=members)


def without_refresh_token(browser: Browser, **more: Any) -> None:
    """The provider's next answer to a code has no refresh token."""
    fault(
        browser,
        endpoint="token",
        kind="answer",
        answer="no_refresh_token",
        grant_type="authorization_code",
        count=1,
        **more,
    )


def grant_of(acme: AcmePages) -> Grant:
    grant = acme.grant("alice")
    assert grant is not None
    return grant


class RefreshGrants:
    """refresh_grants beside the pages, over the same stores."""

    def __init__(self, acme: AcmePages) -> None:
        self._acme = acme
        payloads, randomness = GrantPayloads(acme.vault), PredictableRandomness("refresh_grants")
        calls = ProviderCalls(acme.provider_http, acme.secrets)
        outbox = Outbox(acme.deployment, acme.grants, acme.audit_log, acme.clock)
        ending = (Escrow(acme.secrets, acme.deployment.broker.escrow_key), RevokeUpstream(calls), outbox)
        self.refresher = RefreshGrant(acme.deployment, acme.grants, payloads, calls, *ending, acme.clock, randomness)
        self.revoker = RevokeGrants(acme.deployment, acme.grants, payloads, *ending, acme.clock, randomness)
        self.sweeper = SweepGrants(
            acme.deployment,
            acme.grants,
            payloads,
            self.refresher,
            self.revoker,
            MoveGrants(acme.deployment, acme.grants, payloads, outbox, acme.clock, randomness),
            outbox,
            acme.clock,
        )

    def token(self, *scopes: str) -> AccessToken:
        return self._acme.run(self._token(scopes))

    async def _token(self, scopes: tuple[str, ...]) -> AccessToken:
        await self.keep_escrow_key()
        connection = self._acme.deployment.connection_by_id["crm"]
        name = grant_id("acme", self._acme.subject("alice"), "crm")
        wanted = Wanted(scopes, connection, self._acme.deployment.provider_of(connection))
        return await self.refresher.access_token(name, wanted)

    def sweep(self) -> None:
        self._acme.run(self._sweep())

    async def _sweep(self) -> None:
        await self.keep_escrow_key()
        for name in await self.sweeper.due(limit=10):
            await self.sweeper.visit(name)

    def revoke(self) -> bool | None:
        name = grant_id("acme", self._acme.subject("alice"), "crm")
        return self._acme.run(self.revoker.one(name, cause="user", txn="txn")).upstream

    async def keep_escrow_key(self) -> None:
        if ESCROW_SECRET not in self._acme.secrets._secrets:
            await self._acme.secrets.create(ESCROW_SECRET)
            await self._acme.secrets.add(ESCROW_SECRET, b"k" * 32)


# --- silence overwrites nothing (case 13) ---


def test_a_new_consent_without_a_refresh_token_keeps_that_of_the_same_account(acme: AcmePages) -> None:
    """It was grant_needs_reauth before, when the access token ended."""
    browser, refresh_grants = acme.logged_in("alice"), RefreshGrants(acme)
    browser.connect()
    without_refresh_token(browser)
    browser.connect()
    grant = grant_of(acme)
    assert (grant.secret_version, grant.refresh_version, grant.lasts) == (2, 1, True)
    assert "This connection ends" not in browser.get(DONE).text

    acme.wait(seconds=400)
    token = refresh_grants.token("opportunity.read")

    assert token.outcome == "success"
    assert grant_of(acme).refresh_version is None


def test_the_kept_refresh_token_outlives_the_clean_up(acme: AcmePages) -> None:
    browser, refresh_grants = acme.logged_in("alice"), RefreshGrants(acme)
    for _ in range(3):
        browser.connect()
    without_refresh_token(browser)
    browser.connect()
    without_refresh_token(browser)
    browser.connect()
    for _ in range(4):
        acme.wait(seconds=120)
        refresh_grants.sweep()
    assert grant_of(acme).destroy_below == grant_of(acme).refresh_version == 3

    assert refresh_grants.token("opportunity.read").outcome == "success"
    acme.wait(seconds=120)
    refresh_grants.sweep()
    assert grant_of(acme).destroy_below == grant_of(acme).secret_version


def test_disconnecting_revokes_the_kept_refresh_token_upstream(acme: AcmePages) -> None:
    browser, refresh_grants = acme.logged_in("alice"), RefreshGrants(acme)
    browser.connect()
    without_refresh_token(browser)
    browser.connect()

    assert refresh_grants.revoke() is True
    assert live_refresh_tokens(browser) == 1  # the one that the double made and did not tell us


def live_refresh_tokens(browser: Browser) -> int:
    grants = browser.http.get(f"{CRM}/_control/ledger").json()["grants"]
    return sum(len(grant["usable_refresh_tokens"]) for grant in grants)


def test_an_attempt_that_a_new_consent_overtook_is_recovered_before_the_kept_token_is_sent_again(
    acme: AcmePages,
) -> None:
    """The token of the first consent may be spent, and its successor stored above the new consent's version."""
    browser, refresh_grants = acme.logged_in("alice"), RefreshGrants(acme)
    browser.connect()
    acme.wait(seconds=400)
    refresh_grants.token("opportunity.read")  # version 2 holds the successor
    acme.change_grant(  # as if the process had died right after storing it
        "alice",
        status=GrantStatus.REFRESHING,
        secret_version=1,
        seq=1,
        attempt_id="lost",
        sent_at=acme.clock.now(),
        base_version=1,
    )
    without_refresh_token(browser)
    browser.connect()
    grant = grant_of(acme)
    assert (grant.status, grant.secret_version, grant.refresh_version) == (GrantStatus.RECOVERING, 3, 1)

    assert RefreshGrants(acme).token("opportunity.read", "opportunity.write", "opportunity.delete", "note.write")
    acme.wait(seconds=400)
    assert RefreshGrants(acme).token("opportunity.read").outcome == "success"


@pytest.mark.parametrize("status", [GrantStatus.NEEDS_REAUTH, GrantStatus.REVOKED, GrantStatus.QUARANTINED])
def test_a_refresh_token_that_has_ended_is_not_used_again(acme: AcmePages, status: GrantStatus) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    acme.change_grant("alice", status=status)
    without_refresh_token(browser)

    browser.connect()

    assert not grant_of(acme).lasts


def test_another_accounts_refresh_token_is_not_used(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    acme.change_grant("alice", upstream_account="crm-40018", status=GrantStatus.REVOKED)
    without_refresh_token(browser)

    browser.connect()

    assert not grant_of(acme).lasts
    assert grant_of(acme).upstream_account == "crm-40017"


def test_where_accounts_have_no_names_nobody_knows_whose_the_old_refresh_token_is() -> None:
    acme = AcmePages(change=lambda it: change_connection(it, "crm", userinfo_endpoint=None))
    browser = acme.logged_in("alice")
    browser.connect()
    without_refresh_token(browser)

    browser.connect()

    assert not grant_of(acme).lasts
    assert "This connection ends" in browser.get(DONE).text


# --- a consent that does not last (case 14) ---


def test_a_consent_without_a_refresh_token_says_when_it_ends_and_why(acme: AcmePages) -> None:
    """The page said only "connected" before."""
    browser = acme.logged_in("alice")
    without_refresh_token(browser)

    browser.connect()

    page = browser.get(DONE).text
    assert "This connection ends" in page
    assert "08:05 UTC" in page  # five minutes from the start
    assert "no refresh token" in page
    assert "connect again" in page
    me = browser.get("/me").text
    assert "Connected for now" in me
    assert "08:05 UTC" in me
    event = acme.events(EventType.GRANT_CONNECTED)[-1].grant
    assert event is not None
    assert event.cause == "connected, without a refresh token"


@pytest.mark.parametrize("form", ["too long", "an object"])
def test_a_refresh_token_that_cannot_be_read_is_told_to_the_user_and_the_operator(
    acme: AcmePages, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It counted as none, and nobody was told that it was ours to read."""
    browser = acme.logged_in("alice")
    unread = {"value": "R1"} if form == "an object" else "R1" * 10_000
    answer = {"access_token": "A1", "token_type": "Bearer", "expires_in": 300, "refresh_token": unread}
    acme.provider_http.instead = HttpAnswer(200, {}, json.dumps(answer).encode())

    browser.connect()
    acme.provider_http.instead = None

    assert "This connection ends" in browser.get(DONE).text
    event = acme.events(EventType.GRANT_CONNECTED)[-1].grant
    assert event is not None
    assert event.cause == "connected, its refresh token cannot be read"
    assert alerted("unread-answer", caplog.text)
    assert "R1" not in caplog.text


def test_a_grant_that_did_not_last_goes_on_from_a_refresh_token_that_a_later_release_reads(
    acme: AcmePages, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = acme.logged_in("alice")
    read = token_responses._is_token
    monkeypatch.setattr(token_responses, "_is_token", lambda value: read(value) and "refresh" not in str(value))
    real, tokens = acme.provider_http._send, dict[str, str]()

    async def renamed(method: str, url: str, *rest: Any) -> HttpAnswer:
        answer = await real(method, url, *rest)
        members = json.loads(answer.body) if url.endswith("/oauth/token") else {}
        if "refresh_token" in members:
            tokens["refresh-" + members["refresh_token"]] = members["refresh_token"]
            members["refresh_token"] = "refresh-" + members["refresh_token"]
            return HttpAnswer(answer.status, {}, json.dumps(members).encode())
        return answer

    monkeypatch.setattr(acme.provider_http, "_send", renamed)
    browser.connect()
    assert not grant_of(acme).lasts
    monkeypatch.setattr(token_responses, "_is_token", read)
    acme.wait(seconds=301)
    posted: list[str] = []
    post_form = acme.provider_http.post_form

    async def noting(url: str, form: Any, **more: Any) -> HttpAnswer:
        posted.append(form.get("refresh_token", ""))
        named = {name: tokens.get(value, value) for name, value in form.items()}
        return await post_form(url, named, **more)

    monkeypatch.setattr(acme.provider_http, "post_form", noting)
    RefreshGrants(acme).sweep()

    assert posted == list(tokens)[:1]
    assert (grant_of(acme).status, grant_of(acme).lasts) == (GrantStatus.ACTIVE, True)


def test_it_is_served_to_its_end_and_no_longer(acme: AcmePages) -> None:
    browser, refresh_grants = acme.logged_in("alice"), RefreshGrants(acme)
    without_refresh_token(browser)
    browser.connect()
    every = ("opportunity.read", "opportunity.write", "opportunity.delete", "note.write")
    acme.wait(seconds=290)
    assert refresh_grants.token(*every).outcome == "cached"  # inside the margin: nothing better is available
    with pytest.raises(BrokerError) as refused:
        refresh_grants.token("opportunity.read")
    assert refused.value.reason is Reason.SCOPE_NOT_GRANTABLE
    assert grant_of(acme).status is GrantStatus.ACTIVE  # what works goes on working

    acme.wait(seconds=10)
    assert "Ended" in browser.get("/me").text
    refresh_grants.sweep()

    grant = grant_of(acme)
    assert (grant.status, grant.fail_cause) == (GrantStatus.NEEDS_REAUTH, "no refresh token")
    assert "Stopped working" in browser.get("/me").text


def test_what_has_no_end_is_simply_connected() -> None:
    """GitHub's OAuth Apps: no refresh token, and none is needed."""
    acme = AcmePages()
    browser = acme.logged_in("alice")
    without_refresh_token(browser)
    browser.connect()
    acme.change_grant("alice", access_expires_at=None)

    assert not grant_of(acme).lasts
    assert "This connection ends" not in browser.get(DONE).text
    assert "Connected for now" not in browser.get("/me").text
    RefreshGrants(acme).sweep()
    assert grant_of(acme).status is GrantStatus.ACTIVE


# --- names ---


def test_an_account_is_shown_by_a_name_that_people_know(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()

    assert grant_of(acme).upstream_account == "crm-40017"
    assert "alice@acme.example" in browser.get(DONE).text
    assert "alice@acme.example" in browser.get("/me").text
    assert "alice@acme.example" in browser.get("/connect?connection=crm").text
    page = browser.connect(account="bob").text
    assert "alice@acme.example" in page
    assert "bob@acme.example" in page
    assert "crm-40018" in page  # two accounts may go by one name


def test_the_preset_says_which_claim_is_the_name() -> None:
    acme = AcmePages(change=lambda it: change_connection(it, "crm", account_name_claim="name"))
    acme.logged_in("alice").connect()

    assert grant_of(acme).upstream_account_name == "Alice Moreau"


def test_a_changed_name_is_no_other_account(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    acme.change_grant("alice", upstream_account_name="old@acme.example")

    assert browser.connect().headers["location"] == "/connect/done/crm"
    assert grant_of(acme).upstream_account_name == "alice@acme.example"


# --- nothing is left behind upstream ---


def revoking_ends(radius: str) -> AcmePages:
    """What one revocation ends there, as the configuration says it. The double's own ends what came of one consent."""

    def change(deployment: Deployment) -> Deployment:
        provider = deployment.provider_of(deployment.connection_by_id["crm"])
        changed = provider.revocation.model_copy(update={"blast_radius": radius})
        return change_connection(deployment, "crm", revocation=changed)

    return AcmePages(change=change)


def let_the_sweeper_run(acme: AcmePages, refresh_grants: RefreshGrants) -> None:
    for _ in range(3):
        acme.wait(seconds=70)
        refresh_grants.sweep()


def upstream_of_the_last_event(acme: AcmePages) -> tuple[str | None, bool | None]:
    event = acme.events(EventType.GRANT_REVOKED)[-1].grant
    assert event is not None
    return event.cause, event.upstream_revoked


def test_the_refresh_token_before_a_reconnect_is_revoked_upstream() -> None:
    """It lived on before, as long as the provider let it."""
    acme = revoking_ends("token")
    browser, refresh_grants = acme.logged_in("alice"), RefreshGrants(acme)
    browser.connect()
    browser.connect()
    assert live_refresh_tokens(browser) == 2

    let_the_sweeper_run(acme, refresh_grants)

    assert live_refresh_tokens(browser) == 1
    assert upstream_of_the_last_event(acme) == ("replaced by a new consent", True)
    assert grant_of(acme).destroy_below == 2
    assert refresh_grants.token("opportunity.read").outcome == "success"


def test_what_a_revocation_would_take_along_is_left_alone_and_the_audit_says_so() -> None:
    acme = revoking_ends("grant")
    browser, refresh_grants = acme.logged_in("alice"), RefreshGrants(acme)
    browser.connect()
    browser.connect()

    let_the_sweeper_run(acme, refresh_grants)

    assert live_refresh_tokens(browser) == 2
    assert upstream_of_the_last_event(acme) == ("replaced by a new consent", False)
    assert refresh_grants.token("opportunity.read").outcome == "success"


def test_the_account_before_is_revoked_upstream_also_where_a_revocation_ends_its_whole_grant() -> None:
    acme = revoking_ends("grant")
    browser, refresh_grants = acme.logged_in("alice"), RefreshGrants(acme)
    browser.connect()
    page = browser.connect(account="bob").text
    assert "confirmed that the access you just gave has ended" in page
    assert live_refresh_tokens(browser) == 1
    question = page.partition('name="question" value="')[2].partition('"')[0]
    form = {"csrf": browser.csrf(), "question": question, "decision": "replace"}
    location = browser.post("/connect/account", form).headers["location"]
    browser.get(browser.consent(location, "bob"))
    assert grant_of(acme).upstream_account == "crm-40018"

    let_the_sweeper_run(acme, refresh_grants)

    assert live_refresh_tokens(browser) == 1
    assert upstream_of_the_last_event(acme) == ("replaced by a new consent", True)
    assert refresh_grants.token("opportunity.read").outcome == "success"


def test_the_page_does_not_claim_what_the_provider_did_not_confirm(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    fault(browser, endpoint="revoke", kind="status", status=500)

    page = browser.connect(account="bob").text

    assert "did not confirm that the access you just gave has ended" in page


def test_a_provider_that_does_not_answer_is_asked_again_and_the_version_stays_until_then() -> None:
    acme = revoking_ends("token")
    browser, refresh_grants = acme.logged_in("alice"), RefreshGrants(acme)
    browser.connect()
    browser.connect()
    fault(browser, endpoint="revoke", kind="status", status=500, count=2)
    for _ in range(2):
        acme.wait(seconds=70)
        with suppress(Unavailable):
            refresh_grants.sweep()
    assert grant_of(acme).destroy_below == 1

    let_the_sweeper_run(acme, refresh_grants)

    assert live_refresh_tokens(browser) == 1
    assert grant_of(acme).destroy_below == 2


def test_a_consent_given_while_the_former_grant_is_cleaned_up_is_not_taken_for_what_that_left() -> None:
    """Its tokens are in the vault before the grant points to them: the sweep revoked and destroyed them, and the user was told
    "connected" of a grant that was quarantined with its first use."""
    acme = revoking_ends("token")
    browser, refresh_grants = acme.logged_in("alice"), RefreshGrants(acme)
    browser.connect()
    refresh_grants.revoke()
    acme.wait(seconds=70)
    callback = browser.consent(browser.start().headers["location"])
    add = acme.vault.add

    async def swept_then(secret: str, payload: bytes) -> int:
        version = await add(secret, payload)
        await asyncio.to_thread(refresh_grants.sweep)
        return version

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acme.vault, "add", swept_then)
        assert DONE.endswith(browser.get(callback).headers["location"])
    let_the_sweeper_run(acme, refresh_grants)

    acme.wait(seconds=400)
    assert refresh_grants.token("opportunity.read").outcome == "success"
    assert live_refresh_tokens(browser) == 1


def test_an_account_that_is_replaced_during_a_refresh_of_the_former_one_stays_replaced() -> None:
    """The refresh got the higher number: the clean-up destroyed the new account's tokens as the older ones, and agents went on as
    the former account, while the user and the record had the new one."""
    acme = revoking_ends("user")
    browser, refresh_grants = acme.logged_in("alice"), RefreshGrants(acme)
    browser.connect()
    acme.wait(seconds=400)
    asked = browser.get(browser.consent(browser.start().headers["location"], account="bob"))
    callback = browser.consent(replacing(browser, asked), account="bob")
    add = acme.vault.add

    async def refreshed_then(secret: str, payload: bytes) -> int:
        version = await add(secret, payload)
        acme.vault.add = add  # type: ignore[method-assign]
        await asyncio.to_thread(refresh_grants.token, "opportunity.read")
        return version

    acme.vault.add = refreshed_then  # type: ignore[method-assign]
    assert DONE.endswith(browser.get(callback).headers["location"])
    assert grant_of(acme).upstream_account == "crm-40018"
    let_the_sweeper_run(acme, refresh_grants)

    token = RefreshGrants(acme).token("opportunity.read").access_token
    account = browser.http.get(f"{CRM}/oauth/userinfo", headers={"Authorization": f"Bearer {token}"}).json()
    assert account["sub"] == "crm-40018"


def replacing(browser: Browser, asked: requests.Response) -> str:
    """Where the answer "replace the account" leads."""
    form = dict(re.findall(r'name="(\w+)" value="([^"]*)"', asked.text)) | {"decision": "replace"}
    return browser.post("/connect/account", form).headers["location"]


def test_a_new_consent_whose_write_was_not_acknowledged_is_not_written_over_its_own_refresh(acme: AcmePages) -> None:
    """The agent that waited for it had it refreshed before the write was looked up: a spent token was the newest then."""
    browser, refresh_grants = acme.logged_in("alice"), RefreshGrants(acme)
    browser.connect()
    callback = browser.consent(browser.start().headers["location"])
    replace = acme.grants.replace

    async def lost(stored: StoredGrant, grant: Grant) -> StoredGrant | None:
        acme.grants.replace = replace  # type: ignore[method-assign]
        await replace(stored, grant)
        acme.wait(seconds=290)
        await asyncio.to_thread(refresh_grants.token, "opportunity.read")
        raise Unavailable("documents")

    acme.grants.replace = lost  # type: ignore[method-assign]
    assert DONE.endswith(browser.get(callback).headers["location"])

    assert (grant_of(acme).secret_version, grant_of(acme).seq) == (3, 3)
    acme.wait(seconds=400)
    assert RefreshGrants(acme).token("opportunity.read").outcome == "success"


def test_a_consent_that_came_to_nothing_after_the_former_grant_had_ended_is_ended_with_that() -> None:
    acme = revoking_ends("token")
    browser, refresh_grants = acme.logged_in("alice"), RefreshGrants(acme)
    browser.connect()
    refresh_grants.revoke()
    acme.wait(seconds=50)
    callback = browser.consent(browser.start().headers["location"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acme.grant_documents, "outage", Outage(frozenset({"write"})))
        assert browser.get(callback).status_code == 503
    assert live_refresh_tokens(browser) == 1

    let_the_sweeper_run(acme, refresh_grants)

    assert live_refresh_tokens(browser) == 0
    assert set(next(iter(acme.vault._secrets.values()))) == {None}


def test_a_consent_that_a_crash_left_without_its_grant_is_revoked_upstream() -> None:
    """The tokens were in the vault, and no document pointed to them."""
    acme = revoking_ends("token")
    browser, refresh_grants = acme.logged_in("alice"), RefreshGrants(acme)
    browser.connect()
    browser.connect()  # version 2
    acme.change_grant(
        "alice", secret_version=1, seq=1, clean_below=None, replaced_below=None
    )  # as if it had not been written
    acme.wait(seconds=400)

    assert refresh_grants.token("opportunity.read").outcome == "success"  # version 3
    let_the_sweeper_run(acme, refresh_grants)

    assert live_refresh_tokens(browser) == 1
    assert grant_of(acme).destroy_below == 3


def test_a_rotated_refresh_token_is_not_shown_to_the_provider_again() -> None:
    """At some providers that would end the family."""
    acme = revoking_ends("token")
    browser, refresh_grants = acme.logged_in("alice"), RefreshGrants(acme)
    browser.connect()
    acme.wait(seconds=400)
    refresh_grants.token("opportunity.read")
    acme.provider_http.requests.clear()

    let_the_sweeper_run(acme, refresh_grants)

    assert grant_of(acme).destroy_below == 2
    assert [url for _, url in acme.provider_http.requests if url.endswith("/revoke")] == []


def test_disconnecting_soon_after_a_reconnect_ends_both_consents_before_it_is_called_confirmed() -> None:
    acme = revoking_ends("grant")
    browser, refresh_grants = acme.logged_in("alice"), RefreshGrants(acme)
    browser.connect()
    browser.connect()

    assert refresh_grants.revoke() is True
    assert live_refresh_tokens(browser) == 0


def test_it_is_not_called_confirmed_while_an_earlier_consent_lives_upstream() -> None:
    acme = revoking_ends("grant")
    browser, refresh_grants = acme.logged_in("alice"), RefreshGrants(acme)
    browser.connect()
    browser.connect()
    calls = RevokeUpstream.token

    async def second_fails(self: RevokeUpstream, token: str, *rest: Any) -> Upstream:
        second_fails.seen += 1  # type: ignore[attr-defined]
        return Upstream.FAILED if second_fails.seen > 1 else await calls(self, token, *rest)  # type: ignore[attr-defined]

    second_fails.seen = 0  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RevokeUpstream, "token", second_fails)
        assert refresh_grants.revoke() is False
    let_the_sweeper_run(acme, refresh_grants)

    assert live_refresh_tokens(browser) == 0
