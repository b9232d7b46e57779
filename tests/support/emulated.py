"""The functions over the real adapters of Google's services, on emulators that can be slow: which calls waited for which."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
import requests
from aiohttp import web
from tests.support.asgi import Answer
from tests.support.functions import Cloud
from tests.support.web import Host, Sent
from tests.support.world import EXCHANGE_TOKEN, REFRESH_GRANTS, World, unique

from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments
from cab.adapters.google_cloud.secrets import SecretManagerVault
from cab.adapters.store_clock import StoreClock
from cab.ports import Clock, Documents, HttpAnswer
from cab_dev import loopback
from gcp_emulators import Emulators
from gcp_emulators.control_client import ControlClient
from gcp_emulators.faults import CallFault, Service

SERVICES: Final[tuple[Service, ...]] = ("firestore", "pubsub", "secret_manager")
QUIET_WITHIN_S: Final = 10.0


@dataclass(frozen=True)
class Call:
    """To Google or to a platform. Instants are of time.perf_counter, which is the same in all processes."""

    name: str
    came_at: float
    ended_at: float


def chain(calls: list[Call]) -> list[str]:
    """The longest row of calls of which each began after the one before had ended."""
    following: list[str] = []
    ended_at = 0.0
    for call in sorted(calls, key=lambda call: call.ended_at):
        if call.came_at > ended_at:
            following.append(call.name)
            ended_at = call.ended_at
    return following


class Databases(dict[str, FirestoreDocuments]):
    """Opened where they are asked for: what a test itself reads and writes."""

    def __init__(self, project: str) -> None:
        super().__init__()
        self._project = project

    def __missing__(self, name: str) -> FirestoreDocuments:
        self[name] = FirestoreDocuments(self._project, name)
        return self[name]


@dataclass
class EmulatedCloud(Cloud):
    """Functions keep their own adapters, so each has connections of its own, as deployed."""

    project: str = ""
    built: list[Any] = field(default_factory=list)  # whoever lets go of a function loses the task that closes it, too

    def build(self, function: str, environment: Mapping[str, str]) -> Any:
        self.built.append(super().build(function, environment))
        return self.built[-1]

    def __post_init__(self) -> None:
        opened: Any = Databases(self.project), SecretManagerVault(self.project)
        self.documents, self.vault = opened
        self.clock.set(datetime.now(UTC).replace(microsecond=0))

    @contextmanager
    def google(self) -> Iterator[None]:
        yield

    def store_clock(self, documents: Documents, local: Clock) -> StoreClock:
        return super().store_clock(_InTheWorldsTime(documents, local), local)  # type: ignore[arg-type]

    async def close(self) -> None:
        for documents in self.documents.values():
            await documents.close()
        await self.vault.close()


@dataclass(frozen=True)
class _InTheWorldsTime:
    """Asks the emulator, whose time is the machine's, and answers with the time to which a test has moved the world."""

    documents: Documents
    clock: Clock

    async def server_time(self) -> datetime:
        await self.documents.server_time()
        return self.clock.now()


class Rows:
    """BigQuery's stand-in: takes every row."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.calls: list[Call] = []

    async def answer(self, request: web.Request) -> web.Response:
        came_at = time.perf_counter()
        await request.read()
        await asyncio.sleep(self.delay_s)
        self.calls.append(Call(request.path.rpartition("/")[2], came_at, time.perf_counter()))
        return web.json_response({"kind": "bigquery#tableDataInsertAllResponse"})


class EmulatedWorld(World):
    def __init__(self, control: ControlClient, rows: Rows, scratch: Path) -> None:
        self.project = unique("demo-waits")
        cloud = EmulatedCloud(project=self.project)
        super().__init__(scratch=scratch, cloud=cloud, GOOGLE_CLOUD_PROJECT=self.project)
        self.close = cloud.close
        self._control = control
        self._rows = rows
        self._platforms: list[Call] = []

    def slow_down(self, delay_s: float) -> None:
        """From now on everybody else takes so much longer to answer: Google's services, platforms, whoever publishes keys."""
        for service in SERVICES:
            self._control.add_fault(CallFault(service=service, latency_s=delay_s, resource=self.project))
        self._rows.delay_s = delay_s
        for origin in self.web.hosts.keys() - {REFRESH_GRANTS, EXCHANGE_TOKEN}:
            self.web.hosts[origin] = self._slowly(self.web.hosts[origin], delay_s)

    async def be_quiet(self) -> None:
        """Wait until nothing is on its way any more that nobody waits for."""
        deadline = time.monotonic() + QUIET_WITHIN_S
        before: list[Any] = []
        while (now := self._control.calls(self.project)) != before or any(call["took_s"] is None for call in now):
            assert time.monotonic() < deadline, "calls do not end"
            before = now
            await asyncio.sleep(0.01)

    async def calls_of(self, request: Awaitable[Answer]) -> tuple[Answer, list[Call]]:
        """Its answer, and the calls that had ended when it came."""
        begun = time.perf_counter()
        answer = await request
        answered = time.perf_counter()
        calls = [*self._platforms, *self._rows.calls, *self._calls_to_google()]
        return answer, [call for call in calls if begun < call.came_at and call.ended_at < answered]

    def _calls_to_google(self) -> Iterator[Call]:
        for call in self._control.calls(self.project):
            if call["took_s"] is not None:
                yield Call(call["method"], call["came_at"], call["came_at"] + call["took_s"])

    def _slowly(self, host: Host, delay_s: float) -> Host:
        async def answer(sent: Sent) -> HttpAnswer:
            came_at = time.perf_counter()
            await asyncio.sleep(delay_s)
            answer = await host(sent)
            self._platforms.append(Call(f"{sent.method} {sent.path}", came_at, time.perf_counter()))
            return answer

        return answer


@asynccontextmanager
async def emulated(emulators: Emulators, scratch: Path) -> AsyncIterator[EmulatedWorld]:
    """A world in a project of its own, with nothing slow yet. Its functions end in order with the block."""
    rows, application, control = Rows(), web.Application(), emulators.control("firestore")  # one process has all three
    application.router.add_post("/{path:.*}", rows.answer)
    runner, port = await loopback.serve(application, 0)
    with pytest.MonkeyPatch.context() as environment:
        for name, value in (emulators.environment() | {"BIGQUERY_EMULATOR_HOST": f"http://127.0.0.1:{port}"}).items():
            environment.setenv(name, value)
        world = EmulatedWorld(control, rows, scratch)
        topic = f"http://{emulators.address('pubsub')}/v1/projects/{world.project}/topics/cab-audit"
        requests.put(topic, json={}, timeout=10).raise_for_status()
        others = asyncio.all_tasks()
        try:
            yield world
        finally:
            control.clear_faults()
            await _end(asyncio.all_tasks() - others)
            await world.close()
            await runner.cleanup()


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    """As the end of the event loop does, at which functions close what they have opened."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
