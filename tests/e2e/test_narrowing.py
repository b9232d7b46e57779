"""Narrowing by exchange on the local stack: the deployed functions over HTTP, the CRM by RFC 8693, the tracker on behalf of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from examples.acme.person import Person
from tests.e2e.caller import Answer, Caller
from tests.e2e.test_zz_canary import canaries, forms_of
from tests.running_stack import ROOT, Stack
from tests.support.narrowing_acme import narrowing_by_exchange

from cab_dev.doubles.oauth_provider import token_sha256

pytestmark = pytest.mark.stack
ACME = ROOT / "examples" / "acme"


class System(NamedTuple):
    """One action and its API call, and a call of the same API that another action's scope is for."""

    connection: str
    action: str
    identifier: str
    path: str
    forbidden: str


CRM = System("crm", "crm.opportunity.list", "opportunity/*", "/opportunities", "/opportunities/0061/notes")
TRACKER = System("tracker", "tracker.task.list", "task/*", "/tasks", "/tasks")
BOTH = pytest.mark.parametrize("system", [CRM, TRACKER], ids=["token_exchange", "on_behalf_of"])


@pytest.fixture(scope="module")
def stack(second_stack: Stack) -> Iterator[Stack]:
    """Alice has connected both accounts."""
    alice = Person("alice")
    try:
        for system in (CRM, TRACKER):
            page = alice.connect(f"{second_stack.file.origin}/connect?connection={system.connection}")
            assert page.status == 200, page.text
        yield second_stack
    finally:
        alice.close()


def ask(stack: Stack, system: System, user: str = "alice") -> Answer:
    caller = Caller(stack)
    return caller.exchange(caller.assertion(user), system.action, system.identifier)


def ledger(stack: Stack, system: System, since: int = 0) -> list[dict[str, Any]]:
    url = stack.file.services[system.connection].url
    entries: list[dict[str, Any]] = requests.get(f"{url}/_control/ledger?since={since}", timeout=10).json()["entries"]
    return entries


def call(stack: Stack, system: System, token: str, *, method: str, path: str) -> int:
    url = stack.file.services[system.connection].url
    headers = {"Authorization": f"Bearer {token}"}
    return requests.request(method, f"{url}{path}", headers=headers, json={"title": "x"}, timeout=10).status_code


@BOTH
def test_agents_get_tokens_for_one_action_and_the_connected_one_stays_inside(stack: Stack, system: System) -> None:
    connected = ledger(stack, system)[-1]["seq"]
    answer = ask(stack, system)
    assert answer.status == 200, answer.body
    token = answer.body["access_token"]
    assert "narrowed" not in answer.body, "only what is wide is told"
    assert call(stack, system, token, method="GET", path=system.path) == 200
    assert call(stack, system, token, method="POST", path=system.forbidden) == 403
    assert ask(stack, system).body["access_token"] == token

    entries = ledger(stack, system, since=connected)
    (exchanged,) = [entry for entry in entries if entry["event"] == "exchanged"]
    used = {entry["token_sha256"] for entry in entries if (entry["event"], entry["kind"]) == ("used", "access")}
    assert used == {token_sha256(token)}
    assert exchanged["token_sha256"] not in used


def test_neither_wide_nor_narrow_tokens_stand_in_any_log(stack: Stack) -> None:
    narrow = {ask(stack, system).body["access_token"] for system in (CRM, TRACKER)}
    logs = [*(stack.state_dir / "logs").iterdir(), Path(stack.state_dir / "output.txt")]
    told = b"".join(path.read_bytes() for path in logs)
    assert len(told) > 1000
    assert [value[:4] for value in canaries(stack) | narrow for form in forms_of(value) if form in told] == []


def test_the_demo_is_changed_in_nothing_but_its_narrowing() -> None:
    text = (ACME / "connections.yaml").read_text("utf-8")
    assert len(narrowing_by_exchange(text).splitlines()) == len(text.splitlines()) + 2
