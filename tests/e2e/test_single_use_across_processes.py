"""Single-use things and limits when 200 callers ask four processes of exchange_token in the same moment: exactly one, or exactly the limit."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from threading import Barrier
from typing import Any

import psutil
import pytest
import requests
from examples.acme.person import Person
from tests.e2e.caller import Caller
from tests.running_stack import ROOT, Stack

from cab.protocol.drafts import DEFERRED_GRANT_TYPE
from cab.stores.limits import LARGEST_SHARE
from cab_dev.processes.ports import PortLeases

pytestmark = pytest.mark.stack
PARALLEL = 200
LIMIT = 160
READY_WITHIN_S = 30.0
ANSWERED_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def instances(stack: Stack) -> Iterator[list[str]]:
    """The stack's own process of exchange_token and three more with its settings."""
    own = stack.file.services["exchange_token"].url
    assert own is not None
    with more_instances(stack, 3) as more:
        yield [own, *more]


@contextmanager
def more_instances(stack: Stack, number: int, **settings: str) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """So many processes of exchange_token, by address, with the settings of the stack's own and these."""
    pid = stack.file.services["exchange_token"].pid
    assert pid is not None
    environment = os.environ | psutil.Process(pid).environ() | settings
    processes: dict[str, subprocess.Popen[bytes]] = {}
    with PortLeases() as leases:
        for _ in range(number):
            port = leases.take_free()
            command = [
                *(sys.executable, "-m", "functions_framework", "--source", "functions/exchange_token/main.py"),
                *("--target", "exchange_token", "--host", "127.0.0.1", "--port", str(port)),
            ]
            processes[f"http://127.0.0.1:{port}"] = subprocess.Popen(
                command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True
            )
        try:
            for url in processes:
                wait_until_ready(url)
            yield processes
        finally:
            for process in processes.values():
                process.terminate()
            for process in processes.values():
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


Form = dict[str, str]


def post(url: str, form: Form) -> dict[str, Any]:
    """The body of the answer. Who is told that a process has too much to do comes again: it has done nothing yet."""
    deadline = time.monotonic() + ANSWERED_WITHIN_S
    while True:
        answer = requests.post(f"{url}/oauth2/token", data=form, timeout=ANSWERED_WITHIN_S)
        body: dict[str, Any] = answer.json()
        if body.get("reason_code") != "overloaded" or time.monotonic() > deadline:
            return body
        time.sleep(int(answer.headers["Retry-After"]))


def all_at_once(
    urls: list[str],
    forms: list[Form],
    *,
    send: Callable[[str, Form], dict[str, Any]] = post,
    meanwhile: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Send every form in the same moment, spread over the instances; what `send` returned."""
    barrier = Barrier(len(forms) + 1)

    def wait_and_send(url: str, form: Form) -> dict[str, Any]:
        barrier.wait(ANSWERED_WITHIN_S)
        return send(url, form)

    with ThreadPoolExecutor(len(forms)) as pool:
        answers = [pool.submit(wait_and_send, url, form) for url, form in zip(cycle(urls), forms, strict=False)]
        barrier.wait(ANSWERED_WITHIN_S)
        meanwhile()
        return [answer.result() for answer in answers]


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


def test_one_client_assertion_authenticates_once(stack: Stack, instances: list[str]) -> None:
    caller = Caller(stack)
    form = caller.exchange_form(caller.assertion("alice"), "warehouse.query.run", "query/deals_by_quarter")
    counted = outcomes(all_at_once(instances, [form] * PARALLEL))
    assert_exactly(1, counted, otherwise={"client_assertion_replayed"})


def test_a_task_is_used_exactly_as_often_as_its_limit_says(stack: Stack, instances: list[str]) -> None:
    caller = Caller(stack)
    assertion = caller.assertion("bob", a_task(limits={"max_uses": 7}))
    forms = [caller.exchange_form(assertion, "crm.opportunity.list", "opportunity/*") for _ in range(PARALLEL)]
    counted = outcomes(all_at_once(instances, forms))
    assert_exactly(7, counted, otherwise={"task_exhausted"})


def test_an_approval_is_spent_once(stack: Stack, instances: list[str]) -> None:
    """What deletes has a limit of its own: bob's other writes of this minute, by other tests, count elsewhere."""
    caller = Caller(stack)
    assertion = caller.assertion("bob", a_task())

    def form() -> dict[str, str]:
        return caller.exchange_form(assertion, "crm.opportunity.delete", "opportunity/0062")

    asked = caller.post("/oauth2/token", form()).body
    assert asked["reason_code"] == "confirmation_required"
    approve(asked["interaction_uri"], "bob")
    counted = outcomes(all_at_once(instances, [form() for _ in range(PARALLEL)]))
    assert_exactly(1, counted, otherwise={"confirmation_required", "rate_limited"})


def test_a_deferral_code_is_redeemed_once(stack: Stack, instances: list[str]) -> None:
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


def test_a_rate_limit_holds_also_when_a_process_dies_with_what_it_had_taken(stack: Stack, tmp_path: Path) -> None:
    """Carol may delete nothing, so nothing is deleted; her requests are counted."""
    window_s = next(length for length in range(3_600, 0, -1) if length - time.time() % length > 600)  # it will not end
    settings = {"CAB_CONFIG_DIR": str(configured(stack, tmp_path / "acme", window_s=window_s))}
    caller, before = Caller(stack), counters(stack)
    lost = Counter[str]()

    def form() -> Form:
        return caller.exchange_form(assertion, "crm.opportunity.delete", "opportunity/0061")

    def send(url: str, first: Form) -> dict[str, Any]:
        try:
            return post(url, first)
        except requests.ConnectionError:
            lost[url] += 1  # it may have been counted
            return post(survivors[0], form())

    with more_instances(stack, 4, **settings) as running:
        assertion = caller.assertion("carol", a_task())
        victim, *survivors = running
        counted, taken = Counter[str](), 0
        while taken <= counted.total():  # alone, so all that was taken and not served is held by it
            assert counted.total() < 20, "it takes nothing ahead"
            counted += outcomes([post(victim, form())])
            (taken,) = (number for path, number in counters(stack).items() if path not in before)
        counted += outcomes(
            all_at_once(
                [victim, *survivors],
                [form() for _ in range(PARALLEL)],
                send=send,
                meanwhile=lambda: os.killpg(running[victim].pid, signal.SIGKILL),
            )
        )
        for url in survivors:  # what they have taken ahead is served, too
            while (last := outcomes([post(url, form())])) != {"rate_limited": 1}:
                counted += last
    assert set(counted) <= {"policy_denied", "rate_limited", "store_unavailable"}
    assert set(lost) <= {victim}
    held_at_most = LIMIT // LARGEST_SHARE
    fewest = LIMIT - held_at_most - lost[victim] - counted["store_unavailable"]
    assert fewest <= counted["policy_denied"] <= LIMIT


def configured(stack: Stack, folder: Path, *, window_s: int) -> Path:
    """The stack's configuration with another limit for what destroys."""
    pid = stack.file.services["exchange_token"].pid
    assert pid is not None
    shutil.copytree(psutil.Process(pid).environ()["CAB_CONFIG_DIR"], folder)
    file = folder / "broker.yaml"
    text, changed = re.subn(
        r"(effects: \[destructive\]), limit: \d+, window_s: \d+",
        rf"\1, limit: {LIMIT}, window_s: {window_s}",
        file.read_text("utf-8"),
    )
    assert changed == 1
    file.write_text(text, "utf-8")
    return folder


def counters(stack: Stack) -> dict[str, int]:
    """What all processes together have taken of each limit, by its document."""
    database = f"projects/{stack.file.project_id}/databases/guards/documents"
    url = f"http://{stack.file.emulators.firestore}/v1/{database}/rate_limits"
    listed = requests.get(url, params={"pageSize": "1000"}, timeout=10).json().get("documents", [])
    return {document["name"]: int(document["fields"]["n"]["integerValue"]) for document in listed}


def approve(uri: str, user: str) -> None:
    person = Person(user)
    try:
        assert person.decide(uri, approve=True).status == 200
    finally:
        person.close()
