"""Keycloak as identity provider and as the provider of a connection, with reuse detection, in Chromium. `make real` runs it.

The order is that of a day: log in, connect, work, trouble, the administrator ends it.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser
from tests.e2e.caller import Answer, Caller
from tests.real.conftest import Tokens, assertion, choose_idp, connect, log_in, window
from tests.real.keycloak import Admin
from tests.running_stack import Stack

FILES = ("files.file.list", "file/*")
REPORTS = ("files.report.list", "report/*")
LIFE_S = 12  # of an access token while these tests run
PATIENCE_S = 150.0


def ask(stack: Stack, user: str, minted: str, what: tuple[str, str] = FILES) -> Answer:
    return Caller(stack, "assistant").exchange(minted, *what)


def ask_until_issued(stack: Stack, user: str, minted: str, what: tuple[str, str] = FILES) -> Answer:
    """As an agent does: come back while the broker says `temporarily_unavailable`."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            answer = ask(stack, user, minted, what)
        except requests.ConnectionError:
            answer = None
        if answer is not None and (answer.status != 503 or time.monotonic() > deadline):
            return answer
        assert time.monotonic() < deadline
        time.sleep(1)


def claims(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    content: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return content


def works(origin: str, token: str) -> bool:
    """Whether the files' own server takes the token."""
    url = f"{origin}/realms/files/protocol/openid-connect/userinfo"
    return requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=10).status_code in (200, 403)


@pytest.fixture(scope="session", autouse=True)
def short_lives(admin: Admin) -> None:
    admin("PUT", "/files", {"accessTokenLifespan": LIFE_S})


@pytest.fixture
def alice(stack: Stack, origin: str) -> str:
    return assertion(stack, origin, "alice")


@pytest.fixture(scope="session")
def connected(stack: Stack, chromium: Browser) -> None:
    with window(chromium) as page:
        assert connect(page, stack, "alice") == "Acme Files is connected"


def test_a_person_logs_in_at_the_pages(stack: Stack, chromium: Browser) -> None:
    with window(chromium) as page:
        page.goto(f"{stack.file.origin}/me")
        choose_idp(page, stack, "staff")
        log_in(page, "alice")
        assert page.get_by_role("heading", level=1).inner_text() == "What agents may do as you"


@pytest.mark.usefixtures("connected")
def test_a_group_path_permits(stack: Stack, origin: str, alice: str) -> None:
    answer = ask(stack, "alice", alice)
    assert answer.status == 200, answer.body
    assert works(origin, answer.body["access_token"])


def test_who_is_in_no_group_is_denied(stack: Stack, origin: str) -> None:
    answer = ask(stack, "dave", assertion(stack, origin, "dave"))
    assert answer.reason == "policy_denied"


def test_realm_roles_in_their_nested_claim_permit(stack: Stack, origin: str, chromium: Browser) -> None:
    with window(chromium) as page:
        assert connect(page, stack, "petra") == "Acme Files is connected"
    answer = ask(stack, "petra", assertion(stack, origin, "petra"))
    assert answer.status == 200, answer.body


@pytest.mark.usefixtures("connected")
def test_tokens_go_on_through_expiry_and_rotation(stack: Stack, origin: str, alice: str, tokens: Tokens) -> None:
    begun, refreshes = time.monotonic(), tokens.refreshes
    seen = set()
    while time.monotonic() < begun + 4 * LIFE_S:
        answer = ask(stack, "alice", alice)
        assert answer.status == 200, answer.body
        assert answer.body["expires_in"] >= 1
        assert works(origin, answer.body["access_token"])
        seen.add(answer.body["access_token"])
        time.sleep(2)
    assert len(seen) >= 3
    assert tokens.refreshes - refreshes <= 10


@pytest.mark.usefixtures("connected")
def test_fifty_at_once_cost_few_refreshes_and_lose_nothing(stack: Stack, alice: str, tokens: Tokens) -> None:
    time.sleep(LIFE_S)
    refreshes = tokens.refreshes
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: ask_until_issued(stack, "alice", alice), range(50)))
    assert {answer.status for answer in answers} == {200}
    assert tokens.refreshes - refreshes <= 3


@pytest.mark.usefixtures("connected")
def test_tokens_of_sixteen_kilobytes_are_kept_and_handed_out(stack: Stack, origin: str, alice: str) -> None:
    answer = ask_until_issued(stack, "alice", alice, REPORTS)
    assert answer.status == 200, answer.body
    assert len(answer.body["access_token"]) > 16_000
    assert works(origin, answer.body["access_token"])


def kill_during_a_refresh(stack: Stack, minted: str) -> None:
    """SIGKILL while refresh_grants waits for the token endpoint; then it is started again."""
    pid = stack.file.services["refresh_grants"].pid
    assert pid is not None
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, stack, "alice", minted)
        time.sleep(1.5)
        os.kill(pid, signal.SIGKILL)
        asked.exception(timeout=30)
    stack.restart("refresh_grants")


@pytest.mark.usefixtures("connected")
def test_a_refresh_that_is_killed_before_keycloak_did_it_loses_nothing(
    stack: Stack, alice: str, tokens: Tokens
) -> None:
    time.sleep(LIFE_S)
    tokens.fault(kind="hang", count=1)
    kill_during_a_refresh(stack, alice)
    tokens.clear()
    answer = ask_until_issued(stack, "alice", alice)
    assert answer.status == 200, answer.body


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("seconds", [5, 12])
def test_a_slow_answer_is_not_a_lost_one(stack: Stack, alice: str, tokens: Tokens, seconds: int) -> None:
    """Keycloak rotates at once, its answer takes its time: the used token must not be sent again."""
    time.sleep(LIFE_S)
    tokens.fault(kind="slow", seconds=seconds, after_commit=True, count=1)
    answer = ask_until_issued(stack, "alice", alice)
    assert answer.status == 200, answer.body


@pytest.mark.usefixtures("connected")
def test_an_outage_changes_nothing(stack: Stack, alice: str, tokens: Tokens) -> None:
    time.sleep(LIFE_S)
    tokens.fault(kind="status", status=503)
    assert ask(stack, "alice", alice).status == 503
    tokens.clear()
    assert ask_until_issued(stack, "alice", alice).status == 200


@pytest.mark.usefixtures("connected")
def test_killed_in_the_one_window_that_cannot_be_closed_the_user_is_asked_and_nothing_is_silent(
    stack: Stack, alice: str, tokens: Tokens, chromium: Browser
) -> None:
    """Keycloak has rotated, its answer is on the way, and the process that waits for it dies."""
    time.sleep(LIFE_S)
    tokens.fault(kind="slow", seconds=10, after_commit=True, count=1)
    kill_during_a_refresh(stack, alice)
    assert ask_until_issued(stack, "alice", alice).reason == "grant_needs_reauth"
    with window(chromium) as page:
        assert connect(page, stack, "alice") == "Acme Files is connected"
    assert ask_until_issued(stack, "alice", alice).status == 200


@pytest.mark.usefixtures("connected")
def test_after_the_administrators_logout_the_user_is_asked(
    stack: Stack, alice: str, admin: Admin, chromium: Browser
) -> None:
    admin.log_out("files", "alice")
    time.sleep(LIFE_S)
    answer = ask_until_issued(stack, "alice", alice)
    assert answer.reason == "grant_needs_reauth"
    with window(chromium) as page:
        assert connect(page, stack, "alice") == "Acme Files is connected"
    assert ask_until_issued(stack, "alice", alice).status == 200
