"""`python -m benchmarks.instructions [ROW ...]`: how many instructions a request of a row takes.

CPU time differs from run to run by more than most changes gain; instructions do not. Each function runs as it is deployed, its
server and connections included, under valgrind's callgrind, which counts what the worker does between the first request and the
last. The kernel's own instructions are not counted. Everything is slower by fifty times there, so the requests are few.
`--profile` keeps callgrind's files, for `callgrind_annotate`. Needs valgrind.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.clients import AGENT, FRONT_END, PEOPLE, Clients
from benchmarks.load import Sent, send
from benchmarks.processes import HOST, OTHER_CORES, Function, Server
from benchmarks.rows import (
    BARE,
    BARE_ONE,
    CALL,
    ECHO,
    ECHO_ONE,
    EXCHANGE_TOKEN,
    HOT,
    INGEST,
    INGEST_ONE,
    MANY,
    MINT,
    MINT_KEY,
    ONE,
    PER_MESSAGE,
    RELAXED,
    TASK,
)
from benchmarks.surroundings import ORIGIN, Surroundings, surroundings

_CALLGRIND: Final = ("valgrind", "--quiet", "--tool=callgrind", "--trace-children=yes", "--instr-atstart=no")
_TOTAL: Final = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)
_STARTS_WITHIN_S: Final = 240.0
_ROUNDS: Final = 3
_ANSWER_BYTES: Final = 668  # of an exchange, for those who answer as many and decide nothing


Prepare = Callable[[Clients, Surroundings, str], Awaitable[Callable[[], Sent]]]  # `str` is the project


@dataclass(frozen=True)
class Counted:
    """A row of the benchmark, with what it takes to start it alone."""

    function: str
    prepare: Prepare
    deployment: str = "default"
    connections: int | None = None
    people: int = 1
    is_decided_elsewhere: bool = False  # by an exchange_token, which counts, too

    def functions(self, around: Surroundings, project: str) -> list[tuple[Function, int]]:
        """What to start and where, first what is asked."""
        port = around.ports.take_free()
        target = self.function.rpartition("/")[2]
        if not self.is_decided_elsewhere:
            asked = around.function(self.function, target, project=project, deployment=self.deployment)
            return [(replace(asked, environment={**asked.environment, "BENCH_ANSWER_BYTES": str(_ANSWER_BYTES)}), port)]
        behind = around.ports.take_free()
        both = {"project": project, "exchange_token": f"http://{HOST}:{behind}"}
        return [
            (around.function(self.function, target, **both), port),
            (around.function(EXCHANGE_TOKEN, "exchange_token", **both), behind),
        ]


def _requests(make: Callable[[Clients], Callable[[], Sent]]) -> Prepare:
    async def prepare(clients: Clients, around: Surroundings, project: str) -> Callable[[], Sent]:
        return make(clients)

    return prepare


def _as_workload(make: Callable[[Clients, str], Sent], client_id: str, endpoint: str) -> Prepare:
    async def prepare(clients: Clients, around: Surroundings, project: str) -> Callable[[], Sent]:
        identity = around.google_identity(client_id, audience=f"{ORIGIN}/{endpoint}")
        return lambda: make(clients, identity)

    return prepare


def _messages(events: int) -> Prepare:
    """What Pub/Sub delivers of a record like that of an exchange, which is asked for once."""

    async def prepare(clients: Clients, around: Surroundings, project: str) -> Callable[[], Sent]:
        with around.servers() as start:
            server = await asyncio.to_thread(start, around.function(EXCHANGE_TOKEN, "exchange_token", project=project))
            publisher = await around.publisher(
                project, lambda: send([clients.list_opportunities()], port=server.port, connections=1), to=project
            )
        return lambda: publisher.push(events)

    return prepare


_ECHO: Final = Counted("benchmarks/functions/echo", _requests(lambda clients: clients.list_opportunities))
_BARE: Final = replace(_ECHO, function="benchmarks/functions/bare_calls")
_HOT: Final = Counted(EXCHANGE_TOKEN, _requests(lambda clients: clients.list_opportunities))
_INGEST_AUDIT: Final = "functions/ingest_audit"
ROWS: Final = {
    ECHO: _ECHO,
    ECHO_ONE: replace(_ECHO, connections=1),
    BARE: _BARE,
    BARE_ONE: replace(_BARE, connections=1),
    MINT: Counted(
        "functions/mint_assertion",
        _as_workload(lambda clients, identity: clients.mint(identity=identity), FRONT_END, "edge"),
    ),
    MINT_KEY: Counted("functions/mint_assertion", _requests(lambda clients: clients.mint)),
    RELAXED: Counted(
        EXCHANGE_TOKEN,
        _as_workload(lambda clients, identity: clients.list_opportunities(identity=identity), AGENT, "oauth2"),
        deployment="relaxed",
    ),
    HOT: _HOT,
    ONE: replace(_HOT, connections=1),
    MANY: replace(_HOT, prepare=_requests(lambda clients: clients.list_of_many_users), people=PEOPLE),
    TASK: replace(_HOT, prepare=_requests(lambda clients: clients.update_opportunity)),
    INGEST: Counted(_INGEST_AUDIT, _messages(PER_MESSAGE)),
    INGEST_ONE: Counted(_INGEST_AUDIT, _messages(1)),
    CALL: Counted(
        "functions/call_tool",
        _requests(lambda clients: clients.call_list_opportunities),
        is_decided_elsewhere=True,
        # Over more, one that is asked next lies idle here for the two seconds after which the framework's server ends it, just then.
        connections=4,
    ),
}


class CountedServer(Server):
    """A function under callgrind, whose worker's instructions can be counted."""

    _starts_within_s = _STARTS_WITHIN_S

    def __init__(self, function: Function, port: int, folder: Path) -> None:
        self._folder = folder
        super().__init__(replace(function, under=(*_CALLGRIND, f"--callgrind-out-file={folder}/out.%p")), port)

    @contextmanager
    def counting(self) -> Iterator[Callable[[], int]]:
        """Gives a function that tells, after the block, what was counted in it."""
        worker = str(self._tree()[-1].pid)
        for command in ("--zero", "--instr=on"):
            _control(command, worker)
        yield lambda: total(self._folder, worker)
        _control("--instr=off", worker)
        _control("--dump", worker)


def _control(command: str, worker: str) -> None:
    subprocess.run(["callgrind_control", command, worker], check=True, capture_output=True)


def total(folder: Path, worker: str) -> int:
    """What the last part says that callgrind wrote for this process."""
    newest = max(folder.glob(f"out.{worker}.*"), key=lambda file: int(file.suffix[1:]))
    return max(int(number) for number in _TOTAL.findall(newest.read_text()))


async def count(name: str, around: Surroundings, *, posts: int, connections: int, folder: Path) -> list[int]:
    """Instructions of a request, by round."""
    row = ROWS[name]
    project = f"demo-{name}"
    clients = await around.open_project(project, people=row.people)
    prepare = await row.prepare(clients, around, project)
    with ExitStack() as started:
        servers = []
        for function, port in row.functions(around, project):
            servers.append(CountedServer(function, port, folder))
            started.callback(servers[-1].stop)
        for server in servers:
            await asyncio.to_thread(server.wait_until_it_answers)

        async def ask(number: int, at_once: int) -> None:
            await send([prepare() for _ in range(number)], port=servers[0].port, connections=at_once)

        at_once = row.connections or connections
        await ask(1, 1)  # imports and fetches what only the first one waits for
        await ask(max(posts, row.people), at_once)  # fills caches and opens connections
        counted = []
        for _ in range(_ROUNDS):
            with ExitStack() as counting:
                tell = [counting.enter_context(server.counting()) for server in servers]
                await ask(posts, at_once)
            counted.append(sum(told() for told in tell) // posts)
        return counted


async def run(names: Sequence[str], *, posts: int, connections: int, profile: Path | None) -> None:
    os.sched_setaffinity(0, OTHER_CORES)
    async with surroundings() as around:
        with tempfile.TemporaryDirectory(prefix="cab-callgrind-") as temporary:
            for name in names:
                folder = (profile or Path(temporary)) / name
                folder.mkdir(parents=True)
                counted = await count(name, around, posts=posts, connections=connections, folder=folder)
                thousands = [number / 1000 for number in counted]
                rounds = ", ".join(f"{number:,.0f}" for number in thousands)
                print(f"{name:<10} {median(thousands):8,.0f} thousand instructions ({rounds})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; hot, hot-1 and relaxed by default"
    )
    parser.add_argument("--posts", type=int, default=160, help="requests of each of the three rounds")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="keep what callgrind wrote, there")
    arguments = parser.parse_args()
    if shutil.which("callgrind_control") is None:
        sys.exit("This counts with valgrind, which is not here.")
    names = arguments.rows or [HOT, ONE, RELAXED]
    if unknown := set(names) - set(ROWS):
        sys.exit(f"There is no row {', '.join(sorted(unknown))}.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that every server is stopped
    asyncio.run(run(names, posts=arguments.posts, connections=arguments.connections, profile=arguments.profile))


if __name__ == "__main__":
    main()
