"""What becomes of a consent when the grant changes underneath it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.transport.acme_pages import AcmePages

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
