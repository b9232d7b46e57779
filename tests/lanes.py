"""How several processes share a run of the tests: a plugin, `pytest -p tests.lanes --processes 3`.

The tests are collected once. Then the processes are forked, so each has everything imported, and they take one lane after
another. What came of each test is told by the process that collected: for the rest of pytest it has run them itself.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from types import SimpleNamespace
from typing import Any

import pytest
from _pytest.config import create_terminal_writer

LANES = {
    "stack": (
        "tests/browser/",
        "tests/client/test_newcomer.py",
        "tests/client/test_one_suite_on_both_brokers.py",
        "tests/e2e/test_api_document.py",
        "tests/e2e/test_audit_pipeline.py",
        "tests/e2e/test_bad_input.py",
        "tests/e2e/test_call_mode.py",
        "tests/e2e/test_demo.py",
        "tests/e2e/test_drills.py",
        "tests/e2e/test_killed_calls.py",
        "tests/e2e/test_narrowing.py",
        "tests/e2e/test_notes.py",
        "tests/e2e/test_openapi.py",
        "tests/e2e/test_single_use_across_processes.py",
        "tests/e2e/test_stack.py",
        "tests/e2e/test_trusted_connections.py",
        "tests/e2e/test_zz_canary.py",
        "tests/e2e/test_zz_permissions.py",
        "tests/e2e/test_zz_second_stack.py",
    ),
    "guests": ("tests/e2e/test_failure_times.py", "tests/e2e/test_public_clients.py"),
    "official": (
        "tests/dev/emulators/",
        "tests/contracts/test_audit_log.py",
        "tests/contracts/test_documents.py",
        "tests/contracts/test_quarantine.py",
        "tests/contracts/test_secret_vault.py",
    ),
    "google_cloud": ("tests/adapters/google_cloud/",),
    "terraform": ("tests/terraform/",),
}
"""The files, or folders, whose tests stay on one process, one after another. The first lanes are named after
the fixtures that they use, of which there is one for the whole run. The tests of any other file are a lane too."""

LONG = (
    "stack",
    "official",
    "guests",
    "tests/cli/test_doctor.py",
    "google_cloud",
    "terraform",
)
"""What is begun with, since a run cannot end before its longest lane has."""


def lane(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    return next((name for name, paths in LANES.items() if file.startswith(paths)), file)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--processes", type=int, default=1, help="how many processes share the tests (default: 1)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(name) if (name := lane(item.nodeid)) in LONG else len(LONG))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    option = session.config.option
    if option.processes < 2 or option.collectonly or option.usepdb or session.testsfailed:
        return None  # pytest's own loop
    Run(session).on(option.processes)
    return True


class Run:
    """In the process that collected: hands lanes out to the others, and passes on what they tell."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        lanes: dict[str, list[int]] = {}
        for position, item in enumerate(session.items):
            lanes.setdefault(lane(item.nodeid), []).append(position)
        self._waiting = deque(lanes.values())
        self._processes: dict[Connection, Any] = {}
        self._handed_out: dict[Connection, deque[int]] = {}

    def on(self, processes: int) -> None:
        config = self._session.config
        config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined] # made now, it is one for all of them
        if terminal := config.pluginmanager.get_plugin("terminalreporter"):
            terminal.showfspath = False  # files take turns, so a name would be written for each test
        gc.freeze()  # what is collected stays for the whole run: no process need look through it for garbage
        try:
            for _ in range(min(processes, len(self._waiting))):
                self._start()
            while self._processes:
                for connection in wait(list(self._processes)):
                    self._hear(connection)  # type: ignore[arg-type]
        finally:
            while running := [process for process in self._processes.values() if process.is_alive()]:
                for process in running:  # again each second: whatever a test runs may swallow an interrupt
                    os.kill(process.pid, signal.SIGINT)
                running[0].join(1)

    def _start(self) -> None:
        ours, theirs = get_context("fork").Pipe()
        process = get_context("fork").Process(target=self._work, args=(theirs, ours))
        process.start()
        theirs.close()
        self._processes[ours], self._handed_out[ours] = process, deque()
        self._hand_out(ours)  # unasked, so that none takes a second lane before each has one

    def _work(self, connection: Connection, *others: Connection) -> None:
        for other in (*others, *self._processes):
            other.close()  # or nobody would notice the end of the process that collected
        Worker(self._session, connection).run()

    def _hear(self, connection: Connection) -> None:
        """None asks for another lane. Anything else is what came of the next test of those handed out."""
        handed_out = self._handed_out[connection]
        try:
            told: Told | None = connection.recv()
        except EOFError:
            self._replace(connection)
            return
        if told is None:
            self._hand_out(connection)
        else:
            self._pass_on(handed_out.popleft(), *told)

    def _hand_out(self, connection: Connection) -> None:
        tests = self._waiting.popleft() if self._waiting else []
        self._handed_out[connection].extend(tests)
        connection.send(tests)

    def _replace(self, connection: Connection) -> None:
        """A process ends when it has run all that it was handed. Else it died of a test, and another takes the rest."""
        process, rest = self._processes.pop(connection), self._handed_out.pop(connection)
        process.join()
        if not rest:
            return
        item = self._session.items[rest[0]]
        died = f"The process that ran this test has ended with exit code {process.exitcode}."
        report = pytest.TestReport(item.nodeid, item.location, {}, "failed", died, "call")
        self._pass_on(rest.popleft(), [report._to_json() | {"$report_type": "TestReport"}], [])
        if rest:
            self._waiting.appendleft(list(rest))
            self._start()

    def _pass_on(self, test: int, reports: list[dict[str, Any]], warned: list[dict[str, Any]]) -> None:
        item, config = self._session.items[test], self._session.config
        config.hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for one in warned:
            config.hook.pytest_warning_recorded.call_historic(kwargs=one)
        for data in reports:
            report = config.hook.pytest_report_from_serializable(config=config, data=data)
            config.hook.pytest_runtest_logreport(report=report)
        config.hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)


Told = tuple[list[dict[str, Any]], list[dict[str, Any]]]
"""What pytest's hooks were given while a test ran: its reports and its warnings."""


class Worker:
    """In a forked process: runs what it is handed, and tells instead of writing."""

    def __init__(self, session: pytest.Session, connection: Connection) -> None:
        self._session, self._connection = session, connection
        self._told: Told = [], []
        plugins = session.config.pluginmanager
        plugins.unregister(name="terminalreporter")
        writer = create_terminal_writer(session.config, sys.stderr)  # where pytest-timeout writes what hangs
        plugins.register(SimpleNamespace(_tw=writer), "terminalreporter")
        if capture := plugins.get_plugin("capturemanager"):  # a file of its own: its place in the old one is shared
            capture.stop_global_capturing()
            capture.start_global_capturing()
            capture.suspend_global_capture()
        plugins.register(self)
        self._told = [], []  # what the tests' collection has warned of is told again to whoever registers

    def run(self) -> None:
        # A shell has it ignored by what it runs in the background.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tests = self._handed_out()
        try:
            test = next(tests, None)
            while test is not None:
                following = next(tests, None)
                self._session.config.hook.pytest_runtest_protocol(item=test, nextitem=following)
                self._connection.send(self._told)
                self._told = [], []
                test = following
        except (KeyboardInterrupt, pytest.exit.Exception, ConnectionError, EOFError):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        finally:
            self._session._setupstate.teardown_exact(None)  # what the tests have started ends with them

    def _handed_out(self) -> Iterator[pytest.Item]:
        while tests := self._connection.recv():
            yield from (self._session.items[test] for test in tests)
            self._connection.send(None)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        config = self._session.config
        self._told[0].append(config.hook.pytest_report_to_serializable(config=config, report=report))

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: Any
    ) -> None:
        one = warning_message  # as text: what it holds besides need not be known outside of this process
        text = warnings.WarningMessage(str(one.message), one.category, one.filename, one.lineno)
        self._told[1].append({"warning_message": text, "when": when, "nodeid": nodeid, "location": location})
