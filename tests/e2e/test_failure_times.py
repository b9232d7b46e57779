"""What docs/api.md promises when something is down: a standard error in time, never a token without its audit record, and
recovery without a restart. With emulators whose data survive a kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import requests
from tests.e2e.caller import Answer, Caller
from tests.running_stack import Stack

pytestmark = pytest.mark.stack
REFUSED_WITHIN_S = 5.0
HANGING_WITHIN_S = 12.0
READ = ("crm.opportunity.read", "opportunity/0061")


@pytest.fixture
def own_stack(guests_stack: Stack) -> Stack:
    return guests_stack


@pytest.fixture
def caller(own_stack: Stack) -> Caller:
    return Caller(own_stack)


@contextmanager
def without(stack: Stack, service: str) -> Iterator[None]:
    stack.kill(service)
    try:
        yield
    finally:
        stack.restart(service)


def until_it_works(attempt: Callable[[], Answer], *, within_s: float = 35) -> Answer:
    deadline = time.monotonic() + within_s
    while (answer := attempt()).status != 200:
        assert time.monotonic() < deadline, (answer.status, answer.body)
        time.sleep(0.2)
    return answer


def test_without_pubsub_no_token_leaves(own_stack: Stack, caller: Caller) -> None:
    assertion = caller.assertion("alice")
    assert caller.exchange(assertion, *READ).status == 200
    with without(own_stack, "pubsub"):
        caller.exchange(assertion, *READ).assert_unavailable("audit_unavailable", within_s=REFUSED_WITHIN_S)
        caller.exchange(assertion, "warehouse.query.run", "query/deals_by_quarter").assert_unavailable(
            "audit_unavailable", within_s=REFUSED_WITHIN_S
        )
        refused = caller.exchange(assertion, "crm.opportunity.delete", "opportunity/0061")
        assert (refused.status, refused.reason) == (400, "intent_outside_task")  # a refusal is answered anyway
        assert refused.took_s < REFUSED_WITHIN_S
    until_it_works(lambda: caller.exchange(assertion, *READ))


def test_without_firestore_nothing_is_issued(own_stack: Stack, caller: Caller) -> None:
    assertion = caller.assertion("alice")
    with without(own_stack, "firestore"):
        caller.exchange(assertion, *READ).assert_unavailable("store_unavailable", within_s=REFUSED_WITHIN_S)
    until_it_works(lambda: caller.exchange(assertion, *READ))


def test_without_the_idp_known_keys_mint_and_an_unknown_one_is_unavailable_not_invalid(
    own_stack: Stack, caller: Caller
) -> None:
    front_end = own_stack.front_end
    known = front_end.id_token("alice")
    idp = own_stack.file.services["idp"].url
    fault = {"kind": "unknown_kid", "endpoint": "token", "count": 1}
    assert requests.post(f"{idp}/_control/faults", json=fault, timeout=5).status_code == 200
    unknown = front_end.id_token("alice")
    with without(own_stack, "idp"):
        answer = caller.post("/edge/token", front_end.mint_form(known, agent="sales-assistant"))
        assert (answer.status, answer.took_s < REFUSED_WITHIN_S) == (200, True)
        answer = caller.post("/edge/token", front_end.mint_form(unknown, agent="sales-assistant"))
        answer.assert_unavailable("idp_unavailable", within_s=REFUSED_WITHIN_S)

    def log_in_and_mint() -> Answer:
        return caller.post("/edge/token", front_end.mint_form(front_end.id_token("alice"), agent="sales-assistant"))

    until_it_works(log_in_and_mint)  # with the new key of the restarted IdP


def test_a_crm_that_is_down_does_not_stop_tokens_in_memory(own_stack: Stack, caller: Caller) -> None:
    assertion = caller.assertion("bob")
    read = ("crm.opportunity.read", "opportunity/0062")
    assert caller.exchange(assertion, *read).status == 200
    with without(own_stack, "crm"):
        assert caller.exchange(assertion, *read).status == 200
        fresh = caller.exchange(
            caller.assertion("bob", task("crm.note.create", "opportunity/*")),
            *("crm.note.create", "opportunity/0062"),
            text="a note that nobody will store",
        )
        fresh.assert_unavailable("provider_unavailable", within_s=REFUSED_WITHIN_S)


def test_a_hanging_provider_is_answered_in_time(own_stack: Stack, caller: Caller) -> None:
    tracker = own_stack.file.services["tracker"].url
    assertion = caller.assertion("bob", task("tracker.task.create", "task/*"))
    hang = {"kind": "hang", "endpoint": "token", "grant_type": "refresh_token"}
    assert requests.post(f"{tracker}/_control/faults", json=hang, timeout=5).status_code == 200
    try:
        answer = caller.exchange(assertion, "tracker.task.create", "task/*", title="x")
        answer.assert_unavailable("provider_unavailable", within_s=HANGING_WITHIN_S)
    finally:
        requests.delete(f"{tracker}/_control/faults", timeout=5)
    until_it_works(lambda: caller.exchange(assertion, "tracker.task.create", "task/*", title="x"), within_s=60)


def test_without_refresh_grants_tokens_in_memory_still_go_out_and_others_wait(own_stack: Stack, caller: Caller) -> None:
    assertion = caller.assertion("alice", task("crm.opportunity.*", "opportunity/*"))
    until_it_works(lambda: caller.exchange(assertion, *READ))
    with without(own_stack, "refresh_grants"):
        assert caller.exchange(assertion, *READ).status == 200
        other = caller.exchange(assertion, "crm.opportunity.update", "opportunity/0061", next_step="call")
        other.assert_unavailable("provider_unavailable", within_s=REFUSED_WITHIN_S)
    until_it_works(lambda: caller.exchange(assertion, "crm.opportunity.update", "opportunity/0061", next_step="call"))


def test_without_the_secret_store_running_functions_go_on(own_stack: Stack, caller: Caller) -> None:
    assertion = caller.assertion("alice")
    assert caller.exchange(assertion, *READ).status == 200
    with without(own_stack, "secret_manager"):
        assert caller.exchange(caller.assertion("alice"), *READ).status == 200


def task(action: str, identifier: str) -> dict[str, object]:
    return {
        "type": "cab_task",
        "task_id": f"t-{time.time_ns()}",
        "trigger": "user_turn",
        "actions": [action],
        "identifiers": [identifier],
    }
