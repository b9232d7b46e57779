"""A database goes back to an earlier instant while agents go on asking: the drill of docs/operations.md, section "Restoring a database"."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from unittest.mock import patch

import requests
from examples.acme.person import Person
from google.cloud import firestore
from tests.drills.fleet import Fleet
from tests.drills.load import AGENT, Load
from tests.e2e.caller import Caller
from tests.running_stack import Stack

from cab.protocol.drafts import DEFERRED_GRANT_TYPE

RESTORED: Final = ("approvals", "grants", "keys")
LIFE_S: Final = 2
USE_THEM: Final = ("mint_assertion", "exchange_token", "refresh_grants", "connect_account", "call_tool")
Copy = Mapping[str, Mapping[str, Any]]
"""Documents by path, as a clone of the database at an instant holds them."""


@contextmanager
def _opened(stack: Stack, database: str) -> Iterator[firestore.Client]:
    with patch.dict("os.environ", {"FIRESTORE_EMULATOR_HOST": stack.file.emulators.firestore}):
        client = firestore.Client(project=stack.file.project_id, database=database)
    try:
        yield client
    finally:
        client.close()


def copy_of(stack: Stack, database: str) -> Copy:
    with _opened(stack, database) as client:
        return {
            document.reference.path: document.to_dict()
            for collection in client.collections()
            for document in collection.stream()
        }


def put_in_place(stack: Stack, database: str, kept: Copy) -> int:
    """Make the database hold these documents and no others. Returns how many changed."""
    now, changed = copy_of(stack, database), 0
    with _opened(stack, database) as client:
        for path in now.keys() - kept.keys():
            client.document(path).delete()
            changed += 1
        for path, content in kept.items():
            if now.get(path) != content:
                client.document(path).set(dict(content))
                changed += 1
    return changed


@dataclass
class Restored:
    """What was spent before the databases went back, and what came of it when it was presented again."""

    documents: int = 0
    spent_again: dict[str, str] = field(default_factory=dict)  # what: how it was answered
    refreshes: int = 0  # at the CRM, after the copy
    refused_refreshes: int = 0


def restore(fleet: Fleet, asking: Load, successors: Mapping[str, str]) -> Restored:
    """Copies are taken; a yes, a client assertion and a refresh token are spent; the copies are put in place with nobody serving.

    Then `successors` serve, by function the addresses of others than before.
    """
    stack, seen = fleet.stack, Restored()
    caller = Caller(stack, AGENT)
    refresh(caller)
    code, spent_poll = _a_yes(caller)
    before = {name: copy_of(stack, name) for name in RESTORED}
    since = _ledger(stack)["entries"][-1]["seq"]
    assert caller.post("/oauth2/token", spent_poll).status == 200
    form = caller.exchange_form(caller.assertion("alice"), "warehouse.query.run", "query/acme_history")
    assert caller.post("/oauth2/token", form).status == 200
    refresh(caller)
    asking.each_kind()

    for function in successors:
        fleet.serve(function)
    asking.until_told_to_repeat()
    for name, kept in before.items():
        seen.documents += put_in_place(stack, name, kept)
    for function, url in successors.items():
        fleet.serve(function, url)

    asking.each_kind()
    again = {
        "the deferral": {"grant_type": DEFERRED_GRANT_TYPE, "deferral_code": code, **caller.client()},
        "the client assertion": form,
    }
    for what, presented in again.items():
        seen.spent_again[what] = caller.post("/oauth2/token", presented).reason or "issued"
    refresh(caller)
    entries = [entry for entry in _ledger(stack)["entries"] if entry["seq"] > since]
    seen.refreshes = sum(entry["event"] == "refreshed" for entry in entries)
    seen.refused_refreshes = sum(entry["event"] == "refused" and entry["kind"] == "refresh" for entry in entries)
    return seen


def _a_yes(caller: Caller) -> tuple[str, dict[str, str]]:
    """A deferral code whose question bob has answered with yes, and the form that redeems it."""
    task = {
        "type": "cab_task",
        "task_id": f"restore-{secrets.token_hex(4)}",
        "trigger": "user_turn",
        "actions": ["tracker.task.*"],
        "identifiers": ["task/*"],
    }
    form = caller.exchange_form(
        caller.assertion("bob", task), "tracker.task.create", "task/*", title="Call Acme", priority="high"
    )
    asked = caller.post("/oauth2/token", form | {"completion_mode": "deferred"}).body
    person = Person("bob")
    try:
        assert person.decide(asked["interaction_uri"], approve=True).status == 200
    finally:
        person.close()
    code = asked["deferral_code"]
    return code, {"grant_type": DEFERRED_GRANT_TYPE, "deferral_code": code, **caller.client()}


@contextmanager
def short_lived_tokens(stack: Stack) -> Iterator[None]:
    """From now on the CRM says of new tokens that they end soon, so that they are refreshed as they are in hours of serving.

    Alice connects it anew, so that none is left of those which somebody asked for before.
    """
    url = f"{stack.file.connections['crm'].resource}/_control/faults"
    fault = {"endpoint": "token", "kind": "answer", "answer": "expires_in", "value": LIFE_S}
    requests.post(url, json=fault, timeout=5).raise_for_status()
    try:
        person = Person("alice")
        try:
            assert person.connect(f"{stack.file.origin}/connect?connection=crm").status == 200
        finally:
            person.close()
        yield
    finally:
        requests.delete(url, timeout=5)


def refresh(caller: Caller) -> None:
    """Have a token of alice's refreshed that nothing else asks for."""
    time.sleep(LIFE_S + 0.2)
    task = {
        "type": "cab_task",
        "task_id": f"refresh-{secrets.token_hex(4)}",
        "trigger": "user_turn",
        "actions": ["crm.note.create"],
        "identifiers": ["opportunity/*"],
    }
    answer = caller.exchange(caller.assertion("alice", task), "crm.note.create", "opportunity/0061", text="Called.")
    assert answer.status == 200, answer.body


def _ledger(stack: Stack) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{stack.file.connections['crm'].resource}/_control/ledger", timeout=10).json()
    return found
