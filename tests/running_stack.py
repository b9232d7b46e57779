"""A local stack for tests: the same `cab dev up` that people run, on free ports, with a state folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cab_client import Agent
from cab_client.testing import LocalStack
from cab_dev import control
from cab_dev.front_end import FrontEndSession
from cab_dev.stack_file import StackFile

ROOT = Path(__file__).resolve().parents[1]
READY_WITHIN_S = 110.0
STOP_WITHIN_S = 15.0


@dataclass(frozen=True)
class Stack:
    """A running stack. Services can be killed and brought back by name, as in `stack.json`."""

    state_dir: Path
    process: subprocess.Popen[bytes]

    @property
    def file(self) -> StackFile:
        """stack.json as it is now: process ids change with restarts."""
        return StackFile.read(self.state_dir)

    @property
    def front_end(self) -> FrontEndSession:
        return FrontEndSession(self.file)

    def agent(self, client_id: str) -> Agent:
        """The agent, with its key."""
        return LocalStack(self.state_dir).agent(client_id)

    def kill(self, service: str) -> None:
        """SIGKILL, as a crash."""
        control.ask(self.state_dir, "kill", service)

    def stop(self, service: str) -> None:
        control.ask(self.state_dir, "stop", service)

    def restart(self, service: str) -> None:
        """Stop it if it runs, start it, wait until it answers."""
        control.ask(self.state_dir, "restart", service)


def emulators() -> str:
    """CAB_TEST_EMULATORS, or our own, which look at permissions. Google's are compared with them in tests/dev/emulators."""
    return os.environ.get("CAB_TEST_EMULATORS", "embedded")


def deployed_python() -> tuple[str, ...]:
    """The option that has functions run on the Python that is deployed, with what is deployed there, once `make test` has laid it."""
    folder = ROOT / ".cab" / "venv-deployed"
    return ("--python", str(folder / "bin" / "python")) if (folder / ".stamp").is_file() else ()


@contextmanager
def running_stack(state_dir: Path, *arguments: str) -> Iterator[Stack]:
    """Start a stack, wait until it is ready, stop it after the block. Fails the test with the stack's own words."""
    output = state_dir / "output.txt"
    state_dir.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "shared"), str(ROOT)))}
    command = [
        sys.executable,
        "-m",
        "cab_ops.cli",
        "dev",
        "up",
        "--port",
        "0",
        "--state-dir",
        str(state_dir),
        *deployed_python(),
        *arguments,
    ]
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [*command, "--stop-at-eof"],  # it stops even when this test run is killed
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
        )
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while not (state_dir / "stack.json").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"The stack did not start:\n{output.read_text()}")
            time.sleep(0.1)
        yield Stack(state_dir, process)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"The stack did not stop within {STOP_WITHIN_S:.0f} s.")
