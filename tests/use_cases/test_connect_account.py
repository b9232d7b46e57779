"""What becomes of a consent when the grant changes underneath it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from tests.examples.acme_in_process import CRM
from tests.transport.acme_pages import AcmePages, Browser
from tests.transport.test_connect_flow import question_of
from tests.transport.test_reconnecting import RefreshGrants, let_the_sweeper_run, revoking_ends, without_refresh_token

from cab.domain.errors import BrokerError
from cab.domain.grant_transitions import acquired, revoking
from cab.domain.grants import Grant
from cab.encoding.records import as_json
from cab.stores.grants import StoredGrant


@pytest.fixture
def acme() -> AcmePages:
    return AcmePages()


def interrupt(acme: AcmePages, monkeypatch: pytest.MonkeyPatch, change: Callable[[Grant], Grant]) -> None:
    """Let somebody else write to the grant right before the next `replace`."""
    replace = acme.grants.replace

    async def interrupted(stored: StoredGrant, grant: Grant) -> StoredGrant | None:
        monkeypatch.setattr(acme.grants, "replace", replace)
        assert await replace(stored, change(stored.grant)) is not None
        return await replace(stored, grant)

    monkeypatch.setattr(acme.grants, "replace", interrupted)


def test_a_consent_takes_the_grant_from_whoever_refreshes_it(acme: AcmePages, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    interrupt(acme, monkeypatch, lambda grant: acquired(grant, attempt_id="refresher", now=acme.clock.now()))

    browser.connect()

    grant = acme.grant("alice")
    assert grant is not None
    assert (grant.status, grant.secret_version, grant.attempt_id, grant.lease_until) == ("active", 2, None, None)
    assert grant.fence == 2  # the refresher holds 1: what it brings comes too late


def test_a_consent_does_not_undo_a_disconnect_that_came_first(acme: AcmePages, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = acme.logged_in("alice")
    browser.connect()
    interrupt(
        acme, monkeypatch, lambda grant: revoking(grant, cause="user", now=acme.clock.now(), event=_an_event(acme))
    )

    answer = browser.connect()

    grant = acme.grant("alice")
    assert "still being disconnected" in answer.text
    assert grant is not None
    assert grant.status == "revoking"


def _an_event(acme: AcmePages) -> dict[str, object]:
    return as_json(acme.audit_log.events[-1])


def test_two_first_consents_at_once_end_in_one_grant_with_one_of_the_accounts_asked_about(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    first = browser.consent(browser.start().headers["location"])
    second = browser.consent(browser.start().headers["location"], account="bob")
    read = acme.grants.read
    waiting: list[str] = []

    async def late(grant_id: str) -> StoredGrant | None:
        """The first consent sees no grant until the second has made one."""
        if not waiting:
            waiting.append(grant_id)
            found = await read(grant_id)
            await asyncio.to_thread(browser.get, second)
            return found
        return await read(grant_id)

    acme.grants.read = late  # type: ignore[method-assign]
    browser.get(first)

    grant = acme.grant("alice")
    assert grant is not None
    assert (grant.upstream_account, grant.seq) == ("crm-40018", 1)
    assert acme.refusals() == ["state_invalid"]


def test_a_consent_that_was_refused_is_not_taken_for_the_successor_of_one_without_a_refresh_token() -> None:
    """Neither was got with a refresh token: that is all that they had in common. The grant went on as the other account."""
    acme = revoking_ends("user")  # nothing is given back
    browser, refresh_grants = acme.logged_in("alice"), RefreshGrants(acme)
    first = browser.consent(browser.start().headers["location"])
    second = browser.consent(browser.start().headers["location"], account="bob")
    add = acme.vault.add

    async def second_then(secret: str, payload: bytes) -> int:
        acme.vault.add = add  # type: ignore[method-assign]
        without_refresh_token(browser)
        await asyncio.to_thread(browser.get, second)
        return await add(secret, payload)

    acme.vault.add = second_then  # type: ignore[method-assign]
    browser.get(first)
    assert acme.refusals() == ["state_invalid"]

    acme.wait(seconds=300)
    let_the_sweeper_run(acme, refresh_grants)

    grant = acme.grant("alice")
    assert grant is not None
    assert (grant.status, grant.upstream_account, grant.secret_version) == ("needs_reauth", "crm-40018", 1)


def test_tokens_of_an_account_that_nobody_agreed_to_are_not_saved_once_more(acme: AcmePages) -> None:
    browser = acme.logged_in("alice")
    first = browser.consent(browser.start().headers["location"])
    second = browser.consent(browser.start().headers["location"], account="bob")
    add = acme.vault.add

    async def then_second(secret: str, payload: bytes) -> int:
        acme.vault.add = add  # type: ignore[method-assign]
        version = await add(secret, payload)
        await asyncio.to_thread(browser.get, second)
        return version

    acme.vault.add = then_second  # type: ignore[method-assign]
    browser.get(first)
    assert acme.refusals() == ["state_invalid"]
    assert acme.versions("alice") == 2


# --- between any two steps of a consent ---


class Between:
    """Whatever `acme` asks of its stores and of the provider is counted; before the call of that number `something` is done once."""

    def __init__(self, acme: AcmePages, number: int, something: Callable[[], Any]) -> None:
        self.calls, self._number, self._something = 0, number, something
        for database in (acme.approvals, acme.grant_documents):
            self._watch(database, "read", "write")
        self._watch(acme.vault, "create", "add")
        self._watch(acme.provider_http, "_send")

    def _watch(self, store: Any, *methods: str) -> None:
        for method in methods:
            setattr(store, method, self._counted(getattr(store, method)))

    def _counted(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self._number:
                await asyncio.to_thread(self._something)
            return await call(*args, **kwargs)

        return counted


def begun(acme: AcmePages, before: str) -> tuple[Browser, RefreshGrants, str]:
    """A consent that was given at the provider, as its callback's URL."""
    browser, refresh_grants = acme.logged_in("alice"), RefreshGrants(acme)
    if before == "nothing":
        return browser, refresh_grants, browser.consent(browser.start().headers["location"])
    browser.connect()
    if before == "ended":
        refresh_grants.revoke()
        acme.wait(seconds=70)
        return browser, refresh_grants, browser.consent(browser.start().headers["location"])
    acme.wait(seconds=400)
    if before == "a grant":
        return browser, refresh_grants, browser.consent(browser.start().headers["location"])
    asked = browser.connect(account="bob")
    answer = browser.post("/connect/account", question_of(asked) | {"decision": "replace"})
    return browser, refresh_grants, browser.consent(answer.headers["location"], account="bob")


@pytest.mark.parametrize("before", ["nothing", "a grant", "another account", "ended"])
@pytest.mark.parametrize("something", ["refresh", "sweep", "another consent"])
def test_whatever_comes_between_two_steps_of_a_consent_the_grant_is_whole(before: str, something: str) -> None:
    number = 0
    while True:
        number += 1
        acme = AcmePages()
        browser, refresh_grants, callback = begun(acme, before)
        other = browser.consent(browser.start().headers["location"])

        def interfere(
            refresh_grants: RefreshGrants = refresh_grants, browser: Browser = browser, other: str = other
        ) -> None:
            if something == "another consent":
                browser.get(other)
            elif something == "sweep":
                refresh_grants.sweep()
            else:
                with suppress(BrokerError):  # none is there yet, or it has ended
                    refresh_grants.token("opportunity.read")

        between = Between(acme, number, interfere)
        assert browser.get(callback).headers["location"] == "/connect/done/crm"
        if between.calls < number:
            return
        let_the_sweeper_run(acme, refresh_grants)
        grant = acme.grant("alice")
        assert grant is not None
        token = RefreshGrants(acme).token("opportunity.read").access_token
        user = browser.http.get(f"{CRM}/oauth/userinfo", headers={"Authorization": f"Bearer {token}"}).json()
        assert user["sub"] == grant.upstream_account, number
        let_the_sweeper_run(acme, refresh_grants)
        (versions,) = acme.vault._secrets.values()
        assert sum(payload is not None for payload in versions) == 1, number
