"""Call mode on the running stack: what an agent holds while it works, and what it cannot do that an agent with a token can."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from examples.acme.person import Person
from tests.e2e.caller import Caller
from tests.e2e.test_zz_canary import canaries
from tests.running_stack import ROOT, Stack

pytestmark = pytest.mark.stack

TASK = {
    "type": "cab_task",
    "task_id": "call-mode",
    "trigger": "user_turn",
    "actions": ["crm.opportunity.*", "tracker.task.*"],
    "identifiers": ["opportunity/*", "task/*"],
}
STEPS: list[tuple[str, str, dict[str, Any]]] = [
    ("http", "crm_opportunity_list", {}),
    ("http", "tracker_task_create", {"title": "held by nobody"}),
    ("mcp", "crm_opportunity_read", {"id": "0061"}),
    ("mcp", "tracker_task_create", {"title": "held by nobody either"}),
]
_WRITABLE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw")


def memory_of(pid: int) -> bytes:
    """What a process holds, as a debugger or a core dump would show it: every page that it may write."""
    found = []
    process = Path(f"/proc/{pid}")
    with (process / "mem").open("rb", buffering=0) as memory:
        for line in (process / "maps").read_text("utf-8").splitlines():
            if (match := _WRITABLE.match(line)) is None:
                continue
            start, end = (int(part, 16) for part in match.groups())
            try:
                memory.seek(start)
                found.append(memory.read(end - start))
            except OSError:  # gone meanwhile, or of a device
                continue
    return b"".join(found)


@contextmanager
def slow_platforms(stack: Stack, seconds: float) -> Iterator[None]:
    urls = [f"{stack.file.connections[name].resource}/_control/faults" for name in ("crm", "tracker")]
    for url in urls:
        fault = {"endpoint": "api", "kind": "slow", "seconds": seconds, "after_commit": True}
        requests.post(url, json=fault, timeout=5).raise_for_status()
    try:
        yield
    finally:
        for url in urls:
            requests.delete(url, timeout=5)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="memory is read as Linux shows it")
def test_an_agent_that_calls_tools_has_no_token_of_any_system_in_its_memory(stack: Stack) -> None:
    caller = Caller(stack)
    assertion = caller.assertion("alice", TASK)

    def tokens_of_these_calls() -> set[str]:
        """The broker keeps them in memory for all calls of this user, and gives them to an agent that may hold tokens."""
        asked: list[tuple[str, str, dict[str, Any]]] = [
            ("crm.opportunity.list", "opportunity/*", {}),
            ("tracker.task.create", "task/*", {"title": "x"}),
        ]
        return {
            caller.exchange(assertion, action, identifier, **parameters).body["access_token"]
            for action, identifier, parameters in asked
        }

    tokens = tokens_of_these_calls() | canaries(stack)
    call_token = printed_call_token(stack, "alice", caller.agent)
    command = [sys.executable, "-m", "tests.e2e.blind_agent"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "shared"), str(ROOT)))}
    looks = 0
    found: set[str] = set()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as agent:
        assert agent.stdin is not None
        assert agent.stdout is not None

        def tell(line: Any) -> None:
            assert agent.stdin is not None
            agent.stdin.write(json.dumps(line) + "\n")
            agent.stdin.flush()

        def look() -> None:
            nonlocal looks
            memory = memory_of(agent.pid)
            assert call_token.encode() in memory, "this way of looking does not find what is there"
            found.update(token for token in tokens if token.encode() in memory)
            looks += 1

        tell({"origin": stack.file.origin, "call_token": call_token})
        assert agent.stdout.readline() == "ready\n"
        with slow_platforms(stack, 0.5), ThreadPoolExecutor(1) as pool:
            for step in STEPS:
                tell(step)
                answer = pool.submit(agent.stdout.readline)
                while not answer.done():  # while it works, and once more when it has its answer
                    look()
                    time.sleep(0.1)
                tokens |= tokens_of_these_calls()  # renewed meanwhile, perhaps
                look()
                assert json.loads(answer.result())
        agent.stdin.close()
        assert agent.wait(20) == 0
    assert looks >= 2 * len(STEPS)
    assert found == set()
    of_calls = tokens_of_these_calls()
    assert of_calls <= tokens, "other tokens were used than those that were looked for"
    broker = stack.file.services["exchange_token"].pid
    assert broker is not None
    held = b"".join(memory_of(pid) for pid in (broker, *children_of(broker)))
    assert all(token.encode() in held for token in of_calls)


def printed_call_token(stack: Stack, user: str, agent: str) -> str:
    """As a newcomer gets one."""
    command = [sys.executable, "-m", "cab_ops.cli", "dev", "call-token", "--user", user, "--agent", agent]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "shared"), str(ROOT)))}
    done = subprocess.run(
        [*command, "--task", "-", "--state-dir", str(stack.state_dir)],
        input=json.dumps(TASK),
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=ROOT,
    )
    return done.stdout.strip()


def children_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8")
    return [int(child) for child in children.split()]


def test_what_was_approved_can_be_sidestepped_with_a_token_and_not_by_a_call(stack: Stack) -> None:
    caller = Caller(stack)
    tracker = stack.file.connections["tracker"].resource
    assertion = caller.assertion("bob", TASK)
    # With a token: got for a task of normal priority, good for one of high priority too. Nobody asked bob.
    held = caller.exchange(assertion, "tracker.task.create", "task/*", title="small", priority="normal")
    other = {"title": "sidestepped", "priority": "high"}
    headers = {"Authorization": f"Bearer {held.body['access_token']}"}
    assert requests.post(f"{tracker}/tasks", json=other, headers=headers, timeout=10).status_code == 201
    # By a call: what is sent is what was decided on, so high priority is asked for, and the answer is of that alone.
    token = stack.agent(caller.agent).call_token(assertion=assertion).reveal()

    def call(**arguments: Any) -> dict[str, Any]:
        asked = {"tool": "tracker_task_create", "arguments": arguments}
        url = f"{stack.file.origin}/tools/call"
        answer: dict[str, Any] = requests.post(
            url, json=asked, headers={"Authorization": f"Bearer {token}"}, timeout=30
        ).json()
        return answer

    assert call(title="called", priority="normal")["result"]["priority"] == "normal"
    asked = call(title="called", priority="high")
    assert asked["reason_code"] == "confirmation_required"
    person = Person("bob")
    try:
        page = person.approval_page(asked["interaction_uri"])
        assert "POST" in page.text
        assert "high" in page.text
        person.decide(asked["interaction_uri"], approve=True)
    finally:
        person.close()
    assert call(title="called otherwise", priority="high")["reason_code"] == "confirmation_required"
    assert call(title="called", priority="high")["result"]["priority"] == "high"
    assert call(title="called", priority="high")["reason_code"] == "confirmation_required"
    # And the call token itself opens no door of the tracker.
    bare = requests.post(f"{tracker}/tasks", json=other, headers={"Authorization": f"Bearer {token}"}, timeout=10)
    assert bare.status_code == 401
    listing = caller.exchange(assertion, "tracker.task.list", "task/*").body["access_token"]
    tasks = requests.get(f"{tracker}/tasks", headers={"Authorization": f"Bearer {listing}"}, timeout=10).json()["tasks"]
    of_high_priority = [task["title"] for task in tasks if task["priority"] == "high"]
    assert [of_high_priority.count(title) for title in ("sidestepped", "called", "called otherwise")] == [1, 1, 0]
