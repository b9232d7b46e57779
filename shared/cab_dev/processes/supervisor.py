"""Starts services side by side, watches them by real requests, and leaves nothing behind.

A stack is data: `Service`s (processes) and `Step`s (work to be done once between them), tied by what they `need`.
The supervisor starts each part as soon as its needs are met, calls a service ready when it answers, and stops
everything in reverse order. Services write to one log file each. Nothing here knows about CAB.

No orphans: every service leads a session of its own and is signalled as a process group; `cab_dev.processes.watchdog` ends the
groups when the supervisor itself is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from urllib.parse import urlsplit

from cab_dev.processes import ports, watchdog
from cab_dev.processes.progress import Progress, without_tokens

STOP_GRACE_S = 8.0
_PROBE_TIMEOUT_S = 2.0
_PROBE_PAUSE_S = 0.1
_TAIL_LINES = 12


class StartFailed(Exception):
    """The stack cannot start or go on. The text is one sentence with its remedy, perhaps followed by log lines."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """One process of the stack.

    `environment` is complete: nothing is inherited. `port` must be free before the start. `ready` is the URL that must
    answer 2xx (`http://...`), or accept a connection (`tcp://...`); without it the service is ready when it runs.
    `on_end` is called with the exit status whenever the process has ended.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path | None = None
    port: int | None = None
    ready: str | None = None
    url: str | None = None
    needs: tuple[str, ...] = ()
    ready_within_s: float = 60.0
    on_end: Callable[[int], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """Work done in the supervisor when its needs are ready, and again after a restart of any service in `redo_after`.

    `run` returns a few words on what it did, and raises StartFailed when it cannot.
    """

    name: str
    run: Callable[[], Awaitable[str]]
    needs: tuple[str, ...] = ()
    redo_after: tuple[str, ...] = ()


Part = Service | Step


@dataclass
class _Running:
    process: asyncio.subprocess.Process
    watch: asyncio.Task[None] | None = None
    stopping: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)


def inherited_environment() -> dict[str, str]:
    """What a local service may see of the caller's environment: nothing that leads to a real cloud account or a proxy.

    HOME is not among it: clients of Google find a developer's credentials there. Give each service one of its own.
    """
    wanted = ("PATH", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "JAVA_HOME", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in wanted if name in os.environ}


class _Watchdog:
    """The process that outlives a killed supervisor just long enough to end its services."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", watchdog.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _tell(self, line: str) -> None:
        if self._process.stdin is None:
            raise RuntimeError("the watchdog has no pipe")
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()

    def add(self, group: int) -> None:
        self._tell(f"+{group}\n")

    def remove(self, group: int) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._tell(f"-{group}\n")

    def close(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait()


class Supervisor:
    """One stack. `start` once, then `restart` and `halt` single services at will, `stop` at the end whatever happened before."""

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        logs: Path,
        progress: Progress,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`logs` is the folder of the log files, which are appended to. `on_change` is called after each change of a
        process id once `start` is done.

        Raises: ValueError when two parts share a name, need something unknown, or wait for each other.
        """
        self._parts = {part.name: part for part in parts}
        if len(self._parts) != len(parts):
            raise ValueError("two parts have the same name")
        for part in parts:
            if unknown := set(part.needs) - self._parts.keys():
                raise ValueError(f"{part.name} needs unknown parts: {', '.join(sorted(unknown))}")
        try:
            order = TopologicalSorter({part.name: part.needs for part in parts}).static_order()
            self._order = tuple(order)
        except CycleError as exc:
            raise ValueError(f"parts wait for each other: {exc.args[1]}") from exc
        self._logs = logs
        self._progress = progress
        self._on_change = on_change
        self._started = False
        self._running: dict[str, _Running] = {}
        self._watchdog: _Watchdog | None = None
        self._early_death: asyncio.Future[StartFailed] | None = None
        self._control = asyncio.Lock()

    # --- the whole stack ---

    async def start(self) -> None:
        """Return when every part is ready. Raises: StartFailed at the first part that cannot be; call `stop` then too."""
        self._logs.mkdir(parents=True, exist_ok=True)
        self._watchdog = _Watchdog()
        finished = {name: asyncio.Event() for name in self._parts}

        async def bring_up(part: Part) -> None:
            for need in part.needs:
                await finished[need].wait()
            await self._bring_up(part)
            finished[part.name].set()
            self._progress.awaiting([name for name in self._order if not finished[name].is_set()])

        self._early_death = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.TaskGroup() as group:
                helpers = [group.create_task(self._fail_on_early_death()), group.create_task(self._tick(finished))]
                await asyncio.gather(*(group.create_task(bring_up(part)) for part in self._parts.values()))
                for helper in helpers:
                    helper.cancel()
        except BaseExceptionGroup as failures:
            raise _first(failures) from failures
        finally:
            self._progress.awaiting(())
        self._started = True

    async def stop(self) -> None:
        """Stop every service, those that others need last. Safe at any time and more than once."""
        self._started = False
        needed_by: dict[str, list[str]] = {name: [] for name in self._parts}
        for part in self._parts.values():
            for need in part.needs:
                needed_by[need].append(part.name)
        stopped = {name: asyncio.Event() for name in self._parts}

        async def take_down(name: str) -> None:
            for dependent in needed_by[name]:
                await stopped[dependent].wait()
            await self._terminate(name)
            stopped[name].set()

        async with asyncio.TaskGroup() as group:
            for name in self._parts:
                group.create_task(take_down(name))
        if self._watchdog is not None:
            self._watchdog.close()
            self._watchdog = None

    def kill(self) -> None:
        """SIGKILL to every service at once, for a person who does not want to wait for `stop`."""
        for running in self._running.values():
            _signal_group(running.process.pid, signal.SIGKILL)

    # --- single services ---

    def pids(self) -> dict[str, int]:
        """Process id of every service that runs now."""
        return {name: running.process.pid for name, running in self._running.items()}

    async def restart(self, name: str) -> None:
        """Stop the service if it runs, start it, and redo the steps that need it. Raises: KeyError, StartFailed."""
        service = self._service(name)
        async with self._control:
            await self._terminate(name)
            await self._bring_up(service)
            for step in map(self._parts.__getitem__, self._order):
                if isinstance(step, Step) and name in step.redo_after:
                    await self._bring_up(step)
        self._on_change()

    async def halt(self, name: str, *, kill: bool = False) -> None:
        """Stop the service and leave it so; `kill` sends SIGKILL only. Others keep running. Raises: KeyError."""
        self._service(name)
        async with self._control:
            await self._terminate(name, kill=kill)
        self._progress.line(f"  {name} stopped")
        self._on_change()

    def _service(self, name: str) -> Service:
        part = self._parts[name]
        if not isinstance(part, Service):
            raise KeyError(name)
        return part

    # --- starting ---

    async def _bring_up(self, part: Part) -> None:
        begun = time.monotonic()
        detail = await _run_step(part) if isinstance(part, Step) else await self._run(part)
        self._progress.ready(part.name, time.monotonic() - begun, detail)

    async def _run(self, service: Service) -> str:
        if service.port is not None and ports.is_bound(service.port):
            raise StartFailed(
                f"{service.name} needs port {service.port} on 127.0.0.1, which another program uses: "
                "stop that program or choose another port."
            )
        try:
            with self._log_file(service.name).open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *service.command,
                    env=dict(service.environment),
                    cwd=service.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as exc:
            raise StartFailed(f"{service.name} cannot start: {service.command[0]}: {exc.strerror}.") from exc
        running = _Running(process)
        self._running[service.name] = running
        running.watch = asyncio.create_task(self._watch(service.name, running))
        if self._watchdog is not None:
            self._watchdog.add(process.pid)
        await self._until_ready(service, running)
        return service.url or ""

    async def _until_ready(self, service: Service, running: _Running) -> None:
        if service.ready is None:
            return
        deadline = time.monotonic() + service.ready_within_s
        while not await _answers(service.ready):
            if running.gone.is_set():
                raise self._ended(service.name, running)
            if time.monotonic() > deadline:
                raise StartFailed(
                    f"{service.name} did not answer {service.ready} within {service.ready_within_s:.0f} s.{self._tail(service.name)}"
                )
            await asyncio.sleep(_PROBE_PAUSE_S)

    async def _tick(self, finished: Mapping[str, asyncio.Event]) -> None:
        while True:
            self._progress.awaiting([name for name in self._order if not finished[name].is_set()])
            await asyncio.sleep(0.2)

    async def _fail_on_early_death(self) -> None:
        """End the start when a service that was ready already dies before the others are."""
        if self._early_death is not None:
            raise await self._early_death

    def _ended(self, name: str, running: _Running) -> StartFailed:
        return StartFailed(f"{name} ended ({_describe_exit(running.process.returncode)}).{self._tail(name)}")

    # --- ending ---

    async def _watch(self, name: str, running: _Running) -> None:
        """Wait for the end of the process, clear its group away, and tell when nobody asked for that end."""
        code = await running.process.wait()
        running.gone.set()
        _signal_group(running.process.pid, signal.SIGKILL)  # children it may have left
        if self._watchdog is not None:
            self._watchdog.remove(running.process.pid)
        if self._running.get(name) is running:
            del self._running[name]
        if on_end := self._service(name).on_end:
            on_end(code)
        if running.stopping:
            return
        if self._early_death is not None and not self._started:
            if not self._early_death.done():
                self._early_death.set_result(self._ended(name, running))
        else:
            self._progress.trouble(
                f"  {name} died ({_describe_exit(code)}); `cab dev restart {name}` starts it again.{self._tail(name)}"
            )
            self._on_change()

    async def _terminate(self, name: str, *, kill: bool = False) -> None:
        running = self._running.get(name)
        if running is None:
            return
        running.stopping = True
        _signal_group(running.process.pid, signal.SIGKILL if kill else signal.SIGTERM)
        try:
            await asyncio.wait_for(running.gone.wait(), STOP_GRACE_S)
        except TimeoutError:
            _signal_group(running.process.pid, signal.SIGKILL)
            await running.gone.wait()

    def _log_file(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _tail(self, name: str) -> str:
        path = self._log_file(name)
        text = path.read_text("utf-8", errors="replace") if path.exists() else ""
        lines = [without_tokens(line) for line in text.splitlines() if line.strip()][-_TAIL_LINES:]
        shown = "".join(f"\n    {line}" for line in lines)
        return f" Last lines of {path}:{shown}" if lines else f" Its log {path} is empty."


async def _run_step(step: Step) -> str:
    try:
        return await step.run()
    except StartFailed:
        raise
    except Exception as exc:
        raise StartFailed(f"{step.name} failed: {without_tokens(str(exc)) or type(exc).__name__}.") from exc


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}"


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _answers(url: str) -> bool:
    """Whether the service behind `url` answers: any connection for tcp, status 2xx for http."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                if parts.scheme == "tcp":
                    return True
                path = parts.path or "/"
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
                status_line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return False
    fields = status_line.split()
    return len(fields) >= 2 and fields[1].startswith(b"2")
