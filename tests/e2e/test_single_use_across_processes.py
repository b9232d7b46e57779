"""Single-use things and limits under 200 parallel requests over four processes of exchange_token: exactly one, or exactly the limit."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import psutil
import pytest
import requests
from examples.acme.person import Person
from tests.e2e.caller import Caller
from tests.running_stack import ROOT, Stack

from cab.protocol.drafts import DEFERRED_GRANT_TYPE
from cab_dev.processes.ports import PortLeases

pytestmark = pytest.mark.stack
PARALLEL = 200
READY_WITHIN_S = 30.0


@dataclass(frozen=True)
class Instances:
    """Addresses of four processes of exchange_token: the stack's own, and the three that are in `processes`, in their order."""

    urls: list[str]
    processes: list[subprocess.Popen[bytes]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.urls)

    def kill_one(self) -> None:
        """As when its machine breaks: nothing that it holds is given back."""
        process = self.processes.pop()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)
        self.urls.pop()


@pytest.fixture(scope="module")
def instances(stack: Stack) -> Iterator[Instances]:
    """The stack's own process of exchange_token and three more with its settings."""
    entry = stack.file.services["exchange_token"]
    assert entry.pid is not None
    environment = psutil.Process(entry.pid).environ()
    assert entry.url is not None
    running = Instances([entry.url], [])
    urls, processes = running.urls, running.processes
    with PortLeases() as leases:
        for _ in range(3):
            port = leases.take_free()
            command = [
                *(sys.executable, "-m", "functions_framework", "--source", "functions/exchange_token/main.py"),
                *("--target", "exchange_token", "--host", "127.0.0.1", "--port", str(port)),
            ]
            processes.append(
                subprocess.Popen(
                    command, env=os.environ | environment, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True
                )
            )
            urls.append(f"http://127.0.0.1:{port}")
        try:
            for url in urls:
                wait_until_ready(url)
            yield running
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(20)


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            if requests.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except requests.RequestException:
            pass
        assert time.monotonic() < deadline, "an instance did not start"
        time.sleep(0.1)


def all_at_once(instances: Instances, forms: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Send every form in parallel, spread over the instances; the bodies of the answers."""

    def send(job: tuple[str, dict[str, str]]) -> dict[str, Any]:
        url, form = job
        body: dict[str, Any] = requests.post(f"{url}/oauth2/token", data=form, timeout=60).json()
        return body

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(send, zip(cycle(instances), forms, strict=False)))


def outcomes(answers: list[dict[str, Any]]) -> Counter[str]:
    return Counter("issued" if "access_token" in answer else answer["reason_code"] for answer in answers)


def assert_exactly(allowed: int, counted: Counter[str], *, otherwise: set[str]) -> None:
    """`allowed` tokens, never one more; everybody else is told why.

    The official emulator lets writers of one document wait for seconds. Where a request gave up on it, its mark or count may
    stand without a token, so then, and only then, fewer may have been issued.
    """
    assert counted.total() == PARALLEL
    assert set(counted) <= {"issued", "store_unavailable", *otherwise}
    fewest = allowed - counted["store_unavailable"]
    assert max(0, fewest) <= counted["issued"] <= allowed


def a_task(**more: Any) -> dict[str, Any]:
    return {
        "type": "cab_task",
        "task_id": f"t-{secrets.token_hex(6)}",
        "trigger": "user_turn",
        "actions": ["crm.opportunity.*", "tracker.task.*"],
        "identifiers": ["opportunity/*", "task/*"],
        **more,
    }


def test_one_client_assertion_authenticates_once(stack: Stack, instances: Instances) -> None:
    caller = Caller(stack)
    form = caller.exchange_form(caller.assertion("alice"), "warehouse.query.run", "query/deals_by_quarter")
    counted = outcomes(all_at_once(instances, [form] * PARALLEL))
    assert_exactly(1, counted, otherwise={"client_assertion_replayed"})


def test_a_task_is_used_exactly_as_often_as_its_limit_says(stack: Stack, instances: Instances) -> None:
    caller = Caller(stack)
    assertion = caller.assertion("bob", a_task(limits={"max_uses": 7}))
    forms = [caller.exchange_form(assertion, "crm.opportunity.list", "opportunity/*") for _ in range(PARALLEL)]
    counted = outcomes(all_at_once(instances, forms))
    assert_exactly(7, counted, otherwise={"task_exhausted"})


def test_an_approval_is_spent_once(stack: Stack, instances: Instances) -> None:
    caller = Caller(stack)
    assertion = caller.assertion("bob", a_task())

    def form() -> dict[str, str]:
        return caller.exchange_form(assertion, "tracker.task.create", "task/*", title="Call Acme", priority="high")

    asked = caller.post("/oauth2/token", form()).body
    assert asked["reason_code"] == "confirmation_required"
    approve(asked["interaction_uri"], "bob")
    counted = outcomes(all_at_once(instances, [form() for _ in range(PARALLEL)]))
    assert_exactly(1, counted, otherwise={"confirmation_required", "rate_limited"})


def test_a_deferral_code_is_redeemed_once(stack: Stack, instances: Instances) -> None:
    caller = Caller(stack)
    assertion = caller.assertion("alice", a_task())
    form = caller.exchange_form(assertion, "tracker.task.create", "task/*", title="Call Globex", priority="high")
    asked = caller.post("/oauth2/token", form | {"completion_mode": "deferred"}).body
    assert asked["error"] == "authorization_pending"
    approve(asked["interaction_uri"], "alice")
    polls = [
        {"grant_type": DEFERRED_GRANT_TYPE, "deferral_code": asked["deferral_code"], **caller.client()}
        for _ in range(PARALLEL)
    ]
    counted = outcomes(all_at_once(instances, polls))
    assert_exactly(1, counted, otherwise={"polled_too_fast", "deferral_code_invalid"})


def test_a_rate_limit_holds_also_when_a_process_dies_with_what_it_had_taken(stack: Stack, instances: Instances) -> None:
    """Stands last: it leaves a process less. Carol may delete nothing, so nothing is deleted; her requests are counted."""
    limit = 30  # of destructive actions in a minute: examples/acme/broker.yaml
    caller = Caller(stack)
    assertion = caller.assertion("carol", a_task())

    def forms(number: int) -> list[dict[str, str]]:
        return [caller.exchange_form(assertion, "crm.opportunity.delete", "opportunity/0061") for _ in range(number)]

    prepared = [forms(20), forms(PARALLEL - 20)]
    begun = time.time()
    counted = outcomes(all_at_once(instances, prepared[0]))
    instances.kill_one()
    counted += outcomes(all_at_once(instances, prepared[1]))
    windows = int(time.time() // 60) - int(begun // 60) + 1
    assert set(counted) <= {"policy_denied", "rate_limited", "store_unavailable"}
    assert counted.total() == PARALLEL
    assert counted["policy_denied"] <= limit * windows
    assert counted["rate_limited"] > 0


def approve(uri: str, user: str) -> None:
    person = Person(user)
    try:
        assert person.decide(uri, approve=True).status == 200
    finally:
        person.close()
