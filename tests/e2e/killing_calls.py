"""call_tool dies under load, again and again, on a running stack: what the platform, the callers and SQL say of it must agree.

Used by a test of a few kills and by `make soak`, which does fifty.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
import requests
from tests.e2e.audit_rows import eventually, query
from tests.e2e.caller import Caller
from tests.running_stack import Stack

from cab.adapters.configuration.loader import FolderConfiguration
from cab.adapters.google_cloud.bigquery.audit_schema import view_sql
from cab.domain.calls.rendering import render
from cab.domain.intents import DeclaredIntent, check_against_catalog
from cab_dev.stack_file import read_environment

AGENT: Final = "sales-assistant"
ACTION: Final = "tracker.task.create"
CALLERS: Final = 12
AT_ONCE_BEFORE: Final = (0.05, 0.6)  # seconds under load before a kill
ANSWERED_AFTER_S: Final = 0.12  # by the tracker, which has made the task by then
DONE, ALREADY, GONE = "done", "call_already_attempted", "gone"


@dataclass
class Killing:
    """All that was seen: calls by id with what their callers were told, and what is at the platform and in the record."""

    kills: int = 0
    told: dict[str, str] = field(default_factory=dict)  # to the first request of each call
    told_again: dict[str, str] = field(default_factory=dict)  # to the same call, repeated once the function was back
    hits: Counter[str] = field(default_factory=Counter)
    digests_of_hits: dict[str, str] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)  # of the view `calls`, as it reads in two minutes

    def violations(self) -> list[str]:
        """What must not be. Empty when every promise was kept."""
        broken = [f"{name} was done {count} times" for name, count in self.hits.items() if count > 1]
        broken += [f"{name} was done without an attempt on record" for name in self.hits.keys() - self.rows.keys()]
        for name, row in self.rows.items():
            was_done, outcome = name in self.hits, row["outcome"]
            if row["outcome_at"] is None and (outcome, row["cause"]) != ("unknown", "no_outcome"):
                broken.append(f"{name} has no outcome and reads {outcome}")
            if (outcome == DONE and not was_done) or (outcome in ("not_sent", "rejected") and was_done):
                broken.append(f"{name} reads {outcome}, which is not what happened")
            if row["outcome_at"] is not None and not row["sent_as_decided"]:
                broken.append(f"{name} was not sent as it was decided")
            if was_done and self.digests_of_hits[name] != row["request_digest"]:
                broken.append(f"{name} arrived otherwise than it was decided")
        for name, answer in (self.told | self.told_again).items():
            if answer == DONE and self.rows.get(name, {}).get("outcome") != DONE:
                broken.append(f"{name} was told to be done, and the record does not say so")
            if answer == ALREADY and name not in self.rows:
                broken.append(f"{name} is said to have been attempted, and no attempt is on record")
        return broken

    def __str__(self) -> str:
        outcomes = Counter(row["outcome"] for row in self.rows.values())
        unknown = [name for name, row in self.rows.items() if row["outcome"] == "unknown"]
        arrived = sum(name in self.hits for name in unknown)
        counted = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        return (
            f"{self.kills} kills of call_tool: {len(self.told)} calls, {len(self.rows)} attempts, {self.hits.total()} at the "
            f"platform; {counted}; of the unknown {arrived} were done and {len(unknown) - arrived} not"
        )


def kill_under_load(stack: Stack, kills: int, dice: random.Random, *, user: str = "bob") -> Killing:
    """Kill call_tool `kills` times while callers have tasks made, bring it back each time, and repeat what went unanswered."""
    seen = Killing()
    tracker = stack.file.connections["tracker"].resource
    slow = {"endpoint": "api", "kind": "slow", "seconds": ANSWERED_AFTER_S, "after_commit": True}
    requests.post(f"{tracker}/_control/faults", json=slow, timeout=5).raise_for_status()
    began = datetime.now(UTC)
    try:
        for number in range(kills):
            token = _call_token(stack, user)
            asyncio.run(_one_kill(stack, token, f"k{began:%H%M%S}-{number}", seen, dice))
    finally:
        requests.delete(f"{tracker}/_control/faults", timeout=5)
    _look_at_the_platform(stack, seen, user)
    _look_at_the_record(stack, seen)
    return seen


async def _one_kill(stack: Stack, token: str, prefix: str, seen: Killing, dice: random.Random) -> None:
    origin, killed = stack.file.origin, asyncio.Event()
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http:

        async def load(caller: int) -> None:
            number = 0
            while not killed.is_set():
                name = f"{prefix}-{caller}-{number}"
                seen.told[name] = await _call(http, origin, name)
                number += 1
                await asyncio.sleep(0.01 if seen.told[name] == DONE else 0.2)

        callers = [asyncio.create_task(load(caller)) for caller in range(CALLERS)]
        while not any(name.startswith(prefix) and told == DONE for name, told in seen.told.items()):
            await asyncio.sleep(0.01)  # the first of this process are slow: it has keys to fetch
        await asyncio.sleep(dice.uniform(*AT_ONCE_BEFORE))
        await asyncio.to_thread(stack.kill, "call_tool")
        seen.kills += 1
        killed.set()
        await asyncio.gather(*callers)
        await asyncio.to_thread(stack.restart, "call_tool")
        lost = [name for name, told in seen.told.items() if name.startswith(prefix) and told != DONE]
        for name in lost:
            seen.told_again[name] = await _call(http, origin, name)


async def _call(http: aiohttp.ClientSession, origin: str, name: str) -> str:
    body = {"tool": "tracker_task_create", "arguments": {"title": name}, "call_id": name}
    try:
        async with http.post(f"{origin}/tools/call", json=body, timeout=aiohttp.ClientTimeout(total=30)) as answer:
            content = await answer.json()
    except (aiohttp.ClientError, TimeoutError):
        return GONE
    return str(content.get("outcome") or content.get("reason_code"))


def _call_token(stack: Stack, user: str) -> str:
    task = {
        "type": "cab_task",
        "task_id": f"kill-{user}",
        "trigger": "user_turn",
        "actions": ["tracker.task.*"],
        "identifiers": ["task/*"],
    }
    assertion = Caller(stack).assertion(user, task)
    return stack.agent(AGENT).call_token(assertion=assertion).reveal()


def _look_at_the_platform(stack: Stack, seen: Killing, user: str) -> None:
    """Each task that is there is one that was asked for: its request is worked out anew from what the tracker stored."""
    caller = Caller(stack)
    token = caller.exchange(caller.assertion(user), "tracker.task.list", "task/*").body["access_token"]
    tracker = stack.file.connections["tracker"].resource
    tasks = requests.get(f"{tracker}/tasks", headers={"Authorization": f"Bearer {token}"}, timeout=10).json()["tasks"]
    environment = read_environment(stack.state_dir)
    deployment = FolderConfiguration(Path(environment["CAB_CONFIG_DIR"]), environment).load()
    connection = deployment.connection_by_id["tracker"]
    action = connection.action_by_id[ACTION]
    for task in tasks:
        name = task["title"]
        if name not in seen.told:
            continue
        seen.hits[name] += 1
        parameters = {key: task[key] for key in ("title", "priority", "due", "opportunity") if task[key] is not None}
        declared = DeclaredIntent(
            type="cab_action",
            actions=(ACTION,),
            locations=(connection.resource,),
            identifier="task/*",
            parameters=parameters,
        )
        intent = check_against_catalog(declared, action, connection="tracker", resource=connection.resource, task=None)
        seen.digests_of_hits[name] = render(action, connection, intent).digest


def _look_at_the_record(stack: Stack, seen: Killing) -> None:
    told = seen.told | seen.told_again
    done = {name for name, answer in told.items() if answer == DONE}
    attempted = seen.hits.keys() | {name for name, answer in told.items() if answer == ALREADY}

    def arrived() -> bool:
        seen.rows = {row["call_id"]: row for row in query(stack, _in_two_minutes(stack)) if row["call_id"] in seen.told}
        with_outcome = {name for name, row in seen.rows.items() if row["outcome_at"] is not None}
        return attempted <= seen.rows.keys() and done <= with_outcome

    try:
        eventually(arrived, within_s=60)
    except AssertionError:
        return  # what is missing then is what `violations` names


def _in_two_minutes(stack: Stack) -> str:
    """The view `calls` as it will read when every attempt is older than an outcome may be."""
    view = view_sql("calls", project=stack.file.project_id, dataset="cab_audit")
    later = view.replace("CURRENT_TIMESTAMP()", "TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL 121 SECOND)")
    assert later != view
    return later
