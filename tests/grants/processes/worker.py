"""Processes of refresh_grants that can be killed at any step, forked from one that has everything imported and nothing open.

`python worker.py` reads commands, one JSON object a line; each starts one process, which writes one JSON line about itself.
What works on grants is wired by `cab.bootstrap`, with the real adapters; only the timings are shorter, unless a command says
`production_timings`, and a step may be the last.

| `work` | what the process does |
|---|---|
| `ask` | `times` concurrent requests for a token of grant `name` at `connection`; `fate`: `{"at": STEP, "signal": N}` |
| `crowd` | `each` concurrent requests for every grant of `grants` (pairs of name and connection), `at_once` grants at a time; writes the answers to `report` |
| `sweep` | visits what is due, until it is killed |
| `revoke` | revokes grant `name` |
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import traceback
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from cab.adapters.google_cloud.pubsub import publisher as pubsub  # noqa: F401 - imported before the fork
from cab.adapters.http import aiohttp_wire  # noqa: F401
from cab.adapters.store_clock import StoreClock
from cab.bootstrap.shared import Parts
from cab.domain.errors import BrokerError
from cab.domain.grants import PRODUCTION_TIMINGS, Timings
from cab.ports import Unavailable
from cab.settings import RefreshGrantsSettings, load
from cab.stores.grants import Grants
from cab.use_cases.audit.outbox import Outbox
from cab.use_cases.grants.move import MoveGrants
from cab.use_cases.grants.refresh.attempt import Wanted
from cab.use_cases.grants.refresh.caller import RefreshGrant
from cab.use_cases.grants.refresh.escrow import Escrow
from cab.use_cases.grants.revoke import RevokeGrants
from cab.use_cases.grants.sweep import SweepGrants
from cab.use_cases.upstream.revoke import RevokeUpstream

TIMINGS = Timings(
    lease=timedelta(seconds=4),
    provider_timeout=timedelta(seconds=2.5),
    longest_pause=timedelta(seconds=1.5),
    answer_within=timedelta(seconds=8),
    shortest_send=timedelta(seconds=1),
    first_back_off=timedelta(seconds=0.2),
    longest_back_off=timedelta(seconds=1),
    write_breaker=timedelta(seconds=0.2),
    clean_up_after=timedelta(seconds=5),
    visit_again=timedelta(seconds=1),
)
SWEEP_EVERY_S = 0.5


class Process:
    """One instance of refresh_grants. Built before the fork; connects when it first needs to, after it."""

    def __init__(self, timings: Timings = TIMINGS) -> None:
        self._parts = parts = Parts(load(RefreshGrantsSettings), "refresh_grants")
        self.deployment = parts.deployment
        self.clock = StoreClock(parts.documents("grants"), parts.clock)
        self._store = Grants(parts.documents("grants"))
        payloads = parts.grant_payloads
        calls = parts.provider_calls()
        escrow, revoke_upstream = Escrow(parts.secrets, parts.deployment.broker.escrow_key), RevokeUpstream(calls)
        outbox = Outbox(parts.deployment, self._store, parts.audit_log, self.clock, timings=timings)
        self.refresher = RefreshGrant(
            parts.deployment,
            self._store,
            payloads,
            calls,
            escrow,
            revoke_upstream,
            outbox,
            self.clock,
            parts.randomness,
            timings=timings,
            step=self._step,
        )
        self.revoker = RevokeGrants(
            parts.deployment,
            self._store,
            payloads,
            escrow,
            revoke_upstream,
            outbox,
            self.clock,
            parts.randomness,
            timings=timings,
        )
        mover = MoveGrants(
            parts.deployment, self._store, payloads, outbox, self.clock, parts.randomness, timings=timings
        )
        self.sweeper = SweepGrants(
            parts.deployment,
            self._store,
            payloads,
            self.refresher,
            self.revoker,
            mover,
            outbox,
            self.clock,
            timings=timings,
        )
        self.fate: dict[str, Any] = {}
        self.passed: dict[str, float] = {}

    async def _step(self, name: str) -> None:
        self.passed.setdefault(name, time.monotonic())
        if self.fate.get("at") == name:
            self.fate = {} if self.fate["signal"] == signal.SIGSTOP else self.fate
            os.kill(os.getpid(), signal.SIGSTOP if not self.fate else self.fate["signal"])

    async def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        self.fate = command.get("fate") or {}
        connection = self.deployment.connection_by_id[command["connection"]]
        wanted = Wanted(("read",), connection, self.deployment.provider_of(connection))
        await self.clock.synchronize()
        if "start_at" in command:  # together with the other processes
            await asyncio.sleep(max(0.0, command["start_at"] - time.time()))
        answers = await asyncio.gather(*(self._token(command["name"], wanted) for _ in range(command.get("times", 1))))
        window = self.passed.get("persisted", 0.0) - self.passed.get("after send", 0.0)
        return {"answers": sorted(set(answers)), "count": len(answers), "window_s": window if window > 0 else None}

    async def crowd(self, command: dict[str, Any]) -> dict[str, Any]:
        """A report file, because a line of its size would not be written at once."""
        await self.clock.synchronize()
        await asyncio.sleep(max(0.0, command["start_at"] - time.time()))
        grants, answers = command["grants"], Counter[tuple[str, str]]()
        for first in range(0, len(grants), command["at_once"]):
            callers = [
                (name, Wanted(("read",), connection, self.deployment.provider_of(connection)))
                for name, connection_id in grants[first : first + command["at_once"]]
                for connection in [self.deployment.connection_by_id[connection_id]]
                for _ in range(command["each"])
            ]
            found = await asyncio.gather(*(self._token(name, wanted) for name, wanted in callers))
            answers.update((name, answer) for (name, _), answer in zip(callers, found, strict=True))
        Path(command["report"]).write_text(json.dumps([[*key, count] for key, count in answers.items()]), "utf-8")
        return {"count": answers.total()}

    async def _token(self, name: str, wanted: Wanted) -> str:
        from hashlib import sha256

        try:
            token = await self.refresher.access_token(name, wanted)
        except BrokerError as error:
            return error.reason.value
        except Unavailable as error:
            return f"{error.what} unavailable"
        finally:
            await self.refresher.until_settled(name)  # as the function's request stays open: ending here is dying
        return "token " + sha256(token.access_token.encode()).hexdigest()

    async def sweep(self, _: dict[str, Any]) -> dict[str, Any]:
        while True:
            with suppress(Unavailable):
                await self.clock.synchronize()
                due = await self.sweeper.due(limit=200)
                await asyncio.gather(*(self._visit(name) for name in due))
            await asyncio.sleep(SWEEP_EVERY_S)

    async def _visit(self, name: str) -> None:
        with suppress(Unavailable):
            await self.sweeper.visit(name)

    async def revoke(self, command: dict[str, Any]) -> dict[str, Any]:
        await self.clock.synchronize()
        done = await self.revoker.one(command["name"], cause="user", txn="txn")
        return {"upstream": done.upstream}

    async def run(self, command: dict[str, Any]) -> dict[str, Any]:
        try:
            result: dict[str, Any] = await getattr(self, command["work"])(command)
        finally:
            for close in self._parts.closers:
                await close()
        return result


def tell(**members: Any) -> None:
    """One line, in one write: lines of several processes never mix."""
    os.write(1, json.dumps(members).encode() + b"\n")


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps; the harness learns of ends by their lines
    process = Process()
    tell(ready=True)
    for line in sys.stdin:
        command = json.loads(line)
        if command["work"] == "echo":  # what processes said before this is on its way before this
            tell(echo=command["id"])
            continue
        pid = os.fork()
        if pid:
            tell(id=command["id"], pid=pid)
            continue
        status = 1
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if command.get("production_timings"):
                process = Process(PRODUCTION_TIMINGS)
            tell(id=command["id"], result=asyncio.run(process.run(command)))
            status = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(status)


if __name__ == "__main__":
    main()
