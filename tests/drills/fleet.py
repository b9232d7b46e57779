"""More instances of the stack's functions, and who of them is sent requests: what the platform does when a revision is rolled out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import requests
from tests.running_stack import ROOT, Stack

from cab_dev.processes.ports import PortLeases
from cab_dev.stack import INSTANCES_NAME
from cab_dev.stack_file import write_private

READY_WITHIN_S = 60.0
GONE_WITHIN_S = 10.0
"""Cloud Run kills ten seconds after SIGTERM."""


@dataclass
class Instance:
    """One process of one function."""

    function: str
    url: str
    process: subprocess.Popen[bytes]

    def end(self) -> float:
        """SIGTERM, as the platform sends it to an instance that serves no more. Returns how many seconds it took.

        Raises: subprocess.TimeoutExpired when the platform would have killed it.
        """
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(GONE_WITHIN_S)
        return time.monotonic() - begun


@dataclass
class Fleet:
    """The instances that a test has started beside those of the stack."""

    stack: Stack
    _leases: PortLeases
    _serving: dict[str, list[str]] = field(default_factory=dict)
    _started: list[Instance] = field(default_factory=list)

    def own(self, function: str) -> str:
        """Where the stack's own instance listens."""
        url = self.stack.file.services[function].url
        assert url is not None
        return url

    def start(self, function: str, *, source: Path = ROOT, variables: Mapping[str, str] | None = None) -> Instance:
        """One more instance, ready, to which nobody is sent yet.

        `source`: the tree that it runs; another is an earlier release. `variables` stand above those of the stack's own instance,
        such as CAB_CONFIG_DIR.
        """
        pid = self.stack.file.services[function].pid
        assert pid is not None
        environment = psutil.Process(pid).environ() | dict(variables or {})
        if source != ROOT:
            environment["PYTHONPATH"] = str(source / "shared")
        port = self._leases.take_free()
        command = [
            *(sys.executable, "-m", "functions_framework", "--source", f"functions/{function}/main.py"),
            *("--target", function, "--host", "127.0.0.1", "--port", str(port)),
        ]
        log = self.stack.state_dir / "logs" / f"{function}-{len(self._started)}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command, cwd=source, env=environment, stdout=stream, stderr=stream, start_new_session=True
            )
        instance = Instance(function, f"http://127.0.0.1:{port}", process)
        self._started.append(instance)
        _wait_until_ready(instance, log)
        return instance

    def serve(self, function: str, *urls: str) -> None:
        """From now on only these are sent requests to the function; nobody when there is none."""
        self._serving[self.own(function)] = list(urls)
        self._write()

    def serve_own(self, function: str) -> None:
        self._serving.pop(self.own(function), None)
        self._write()

    def _write(self) -> None:
        path = self.stack.state_dir / INSTANCES_NAME
        write_private(path.with_suffix(".new"), json.dumps(self._serving))
        path.with_suffix(".new").rename(path)

    def close(self) -> None:
        self._serving = {}
        self._write()
        for instance in self._started:
            if instance.process.poll() is None:
                os.killpg(instance.process.pid, signal.SIGTERM)
        for instance in self._started:
            instance.process.wait(GONE_WITHIN_S)


def _wait_until_ready(instance: Instance, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            if requests.get(f"{instance.url}/health", timeout=2).status_code == 200:
                return
        except requests.RequestException:
            pass
        assert instance.process.poll() is None, log.read_text("utf-8")[-2000:]
        assert time.monotonic() < deadline, f"an instance of {instance.function} did not start"
        time.sleep(0.05)


@contextmanager
def fleet(stack: Stack) -> Iterator[Fleet]:
    """Afterwards the stack's own instances serve again, and no other runs."""
    with ExitStack() as ending:
        leases = ending.enter_context(PortLeases())
        running = Fleet(stack, leases)
        ending.callback(running.close)
        yield running
