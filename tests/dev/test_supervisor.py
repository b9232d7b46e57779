"""The supervisor on fast fake services: order, readiness, failures told in a sentence, nothing left behind."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cab_dev.processes import supervisor as supervisor_module
from cab_dev.processes.ports import PortLeases
from cab_dev.processes.progress import Progress
from cab_dev.processes.supervisor import Part, Service, StartFailed, Step, Supervisor, inherited_environment

FAKE = Path(__file__).with_name("fake_service.py")


@pytest.fixture
def port() -> Iterator[int]:
    with PortLeases() as leases:
        yield leases.take_free()


def fake(
    name: str, *flags: str, port: int | None = None, needs: tuple[str, ...] = (), ready_within_s: float = 20
) -> Service:
    command = (sys.executable, str(FAKE), "--name", name, *flags, *(("--port", str(port)) if port else ()))
    url = f"http://127.0.0.1:{port}" if port else None
    return Service(
        name=name,
        command=command,
        environment=inherited_environment(),
        port=port,
        ready=url,
        url=url,
        needs=needs,
        ready_within_s=ready_within_s,
    )


def supervise(tmp_path: Path, *parts: Part, stream: io.StringIO | None = None) -> Supervisor:
    return Supervisor(parts, logs=tmp_path / "logs", progress=Progress(stream or io.StringIO()))


@asynccontextmanager
async def started(supervisor: Supervisor) -> AsyncIterator[Supervisor]:
    try:
        await supervisor.start()
        yield supervisor
    finally:
        await supervisor.stop()


def exists(pid: int) -> bool:
    """Whether the process runs; one that ended but was not collected yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_until(condition: Callable[[], bool], *, within_s: float = 15) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


async def eventually(condition: Callable[[], bool], *, within_s: float = 15) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_service_starts_after_what_it_needs_is_ready_and_stops_before_it(tmp_path: Path, port: int) -> None:
    journal = tmp_path / "journal"
    store = fake("store", "--journal", str(journal), port=port)
    broker = fake("broker", "--journal", str(journal), needs=("store",))
    async with started(supervise(tmp_path, broker, store)):
        await eventually(lambda: "broker:start" in journal.read_text())
    assert journal.read_text().split() == ["store:start", "broker:start", "broker:stop", "store:stop"]


async def test_services_without_needs_start_side_by_side(tmp_path: Path) -> None:
    meeting = asyncio.Barrier(2)

    async def meet() -> str:
        await meeting.wait()
        return "met"

    async with (
        asyncio.timeout(10),
        started(supervise(tmp_path, Step(name="one", run=meet), Step(name="two", run=meet))),
    ):
        assert meeting.n_waiting == 0


async def test_every_part_gets_one_plain_line_when_output_is_no_terminal(tmp_path: Path, port: int) -> None:
    stream = io.StringIO()

    async def seed() -> str:
        return "3 topics"

    parts = (fake("store", port=port), Step(name="seed", run=seed, needs=("store",)))
    async with started(supervise(tmp_path, *parts, stream=stream)):
        pass
    first, second = stream.getvalue().splitlines()
    assert first.split()[:2] == ["ready", "store"]
    assert first.endswith(f"http://127.0.0.1:{port}")
    assert second.split()[:2] == ["ready", "seed"]
    assert second.endswith("3 topics")
    assert "\x1b" not in stream.getvalue()


async def test_the_start_fails_in_one_sentence_with_the_last_log_lines_when_a_service_ends(
    tmp_path: Path, port: int
) -> None:
    broken = fake("broken", "--say", "cannot read the key file", port=port)
    with pytest.raises(StartFailed, match=r"broken ended \(exit status 3\)\.") as caught:
        async with started(supervise(tmp_path, broken)):
            pass
    assert "cannot read the key file" in str(caught.value)


async def test_log_lines_that_are_shown_hold_no_tokens(tmp_path: Path, port: int) -> None:
    token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
    with pytest.raises(StartFailed) as caught:
        async with started(supervise(tmp_path, fake("broken", "--say", f"token {token}", port=port))):
            pass
    assert "token [token]" in str(caught.value)
    assert token not in str(caught.value)


async def test_the_start_fails_when_a_port_is_taken(tmp_path: Path, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)), pytest.raises(StartFailed, match=f"needs port {port}"):
        async with started(supervise(tmp_path, fake("store", port=port))):
            pass


async def test_the_start_fails_when_a_command_is_missing(tmp_path: Path) -> None:
    service = Service(name="java", command=("/nowhere/java",), environment={})
    with pytest.raises(StartFailed, match=r"java cannot start: /nowhere/java: No such file or directory\."):
        async with started(supervise(tmp_path, service)):
            pass


async def test_the_start_fails_when_a_service_does_not_answer_in_time(tmp_path: Path, port: int) -> None:
    silent = Service(
        name="silent",
        command=(sys.executable, str(FAKE)),
        environment=inherited_environment(),
        ready=f"http://127.0.0.1:{port}",
        ready_within_s=0.3,
    )
    with pytest.raises(StartFailed, match="silent did not answer"):
        async with started(supervise(tmp_path, silent)):
            pass


async def test_the_start_fails_when_a_ready_service_dies_before_the_others_are_ready(tmp_path: Path, port: int) -> None:
    never = asyncio.Event()

    async def wait_for_ever() -> str:
        os.kill(supervisor.pids()["store"], signal.SIGKILL)
        await never.wait()
        return ""

    supervisor = supervise(tmp_path, fake("store", port=port), Step(name="seed", run=wait_for_ever, needs=("store",)))
    with pytest.raises(StartFailed, match=r"store ended \(killed by SIGKILL\)"):
        async with started(supervisor):
            pass


async def test_a_failed_step_stops_the_services_that_already_run(tmp_path: Path, port: int) -> None:
    seen: list[int] = []

    async def refuse() -> str:
        seen.extend(supervisor.pids().values())
        raise StartFailed("The dataset cannot be created: free some disk space.")

    supervisor = supervise(tmp_path, fake("store", port=port), Step(name="seed", run=refuse, needs=("store",)))
    with pytest.raises(StartFailed, match="free some disk space"):
        async with started(supervisor):
            pass
    assert len(seen) == 1
    assert not exists(seen[0])


async def test_an_unexpected_failure_of_a_step_is_one_sentence_too(tmp_path: Path) -> None:
    async def refuse() -> str:
        raise OSError("no space left on device")

    with pytest.raises(StartFailed, match=r"seed failed: no space left on device\."):
        async with started(supervise(tmp_path, Step(name="seed", run=refuse))):
            pass


async def test_stopping_takes_the_children_of_a_service_too(tmp_path: Path, port: int) -> None:
    child_file = tmp_path / "child"
    async with started(supervise(tmp_path, fake("parent", "--with-child", str(child_file), port=port))):
        await eventually(lambda: child_file.exists() and child_file.read_text() != "")
        child = int(child_file.read_text())
        assert exists(child)
    await eventually(lambda: not exists(child))


async def test_a_service_that_ignores_sigterm_is_killed_after_the_grace_period(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "STOP_GRACE_S", 0.2)
    async with started(supervise(tmp_path, fake("stubborn", "--ignore-sigterm", port=port))) as supervisor:
        pid = supervisor.pids()["stubborn"]
    assert not exists(pid)


async def test_a_service_that_dies_later_is_told_and_the_rest_keeps_running(tmp_path: Path) -> None:
    stream = io.StringIO()
    with PortLeases() as leases:
        parts = (fake("store", port=leases.take_free()), fake("crm", port=leases.take_free()))
        async with started(supervise(tmp_path, *parts, stream=stream)) as supervisor:
            os.kill(supervisor.pids()["crm"], signal.SIGKILL)
            await eventually(lambda: "crm" not in supervisor.pids())
            assert list(supervisor.pids()) == ["store"]
    assert "crm died (killed by SIGKILL); `cab dev restart crm` starts it again." in stream.getvalue()


async def test_a_restarted_service_gets_a_new_process_and_the_steps_that_filled_it_run_again(
    tmp_path: Path, port: int
) -> None:
    runs: list[str] = []

    def step(name: str, *needs: str, redo_after: tuple[str, ...] = ()) -> Step:
        async def run() -> str:
            runs.append(name)
            return ""

        return Step(name=name, run=run, needs=needs, redo_after=redo_after)

    parts = (
        fake("pubsub", port=port),
        step("subscriptions", "topics", redo_after=("pubsub",)),
        step("topics", "pubsub", redo_after=("pubsub",)),
        step("connect", "pubsub"),
    )
    async with started(supervise(tmp_path, *parts)) as supervisor:
        before = supervisor.pids()["pubsub"]
        runs.clear()
        await supervisor.restart("pubsub")
        assert supervisor.pids()["pubsub"] != before
        assert runs == ["topics", "subscriptions"]


async def test_the_exit_status_of_a_service_is_handed_to_its_callback(tmp_path: Path, port: int) -> None:
    statuses: list[int] = []
    service = replace(fake("store", port=port), on_end=statuses.append)
    async with started(supervise(tmp_path, service)):
        pass
    assert statuses == [0]


async def test_a_halted_service_stays_away_until_it_is_restarted(tmp_path: Path, port: int) -> None:
    async with started(supervise(tmp_path, fake("crm", port=port))) as supervisor:
        await supervisor.halt("crm", kill=True)
        assert supervisor.pids() == {}
        await supervisor.restart("crm")
        assert list(supervisor.pids()) == ["crm"]


async def test_only_services_can_be_restarted(tmp_path: Path) -> None:
    async def seed() -> str:
        return ""

    async with started(supervise(tmp_path, Step(name="seed", run=seed))) as supervisor:
        with pytest.raises(KeyError):
            await supervisor.restart("seed")


@pytest.mark.parametrize(
    ("needs", "problem"), [({"a": "b", "b": "a"}, "wait for each other"), ({"a": "c"}, "needs unknown parts: c")]
)
def test_a_table_that_cannot_be_ordered_is_refused(tmp_path: Path, needs: dict[str, str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        supervise(tmp_path, *(fake(name, needs=(need,)) for name, need in needs.items()))


def test_services_see_nothing_that_leads_to_a_real_cloud_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/home/someone/key.json")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert not {"GOOGLE_APPLICATION_CREDENTIALS", "HTTPS_PROXY", "HOME"} & inherited_environment().keys()


def test_nothing_survives_a_supervisor_that_is_killed(tmp_path: Path, port: int) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import asyncio, sys
        from pathlib import Path
        from cab_dev.processes.progress import Progress
        from cab_dev.processes.supervisor import Service, Supervisor, inherited_environment

        async def main():
            service = Service(name="store", command=(sys.executable, {str(FAKE)!r}, "--port", "{port}"),
                              environment=inherited_environment(), ready="http://127.0.0.1:{port}")
            supervisor = Supervisor([service], logs=Path({str(tmp_path)!r}), progress=Progress(sys.stderr))
            await supervisor.start()
            print(supervisor.pids()["store"], flush=True)
            await asyncio.Event().wait()

        asyncio.run(main())
        """)
    )
    environment = {**inherited_environment(), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        store = int(process.stdout.readline())
        assert exists(store)
        process.kill()
    wait_until(lambda: not exists(store))
