"""Functions as real processes on a core of their own, and what the kernel has counted for them."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 8.0

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE = CORES[0]
OTHER_CORES = CORES[1:] or CORES


@contextmanager
def on_core_of_servers() -> Iterator[None]:
    """What runs or is started inside the block stays on the servers' core."""
    os.sched_setaffinity(0, {SERVER_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, OTHER_CORES)


@dataclass(frozen=True)
class Function:
    """What to start: the entry file's folder below the repository, the target in it, its environment, on which Python, and under
    which other program.
    """

    source: str
    target: str
    environment: Mapping[str, str]
    python: str = sys.executable
    under: tuple[str, ...] = ()


class ServerFailed(Exception):
    """A function did not start."""


class Server:
    """One running function: the framework's own process and its worker."""

    _starts_within_s = _START_TIMEOUT_S
    _process: subprocess.Popen[bytes]

    def __init__(self, function: Function, port: int) -> None:
        self.port = port
        command = [*function.under, function.python, "-m", "functions_framework"]
        command += ["--source", f"{function.source}/main.py"]
        command += ["--target", function.target, "--host", HOST, "--port", str(port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "shared"), **function.environment}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what is deployed is compiled: here the first start does it
        with on_core_of_servers():
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + self._starts_within_s
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise ServerFailed("A function did not start; what it wrote stands above.")
            time.sleep(0.01)

    def cpu_ns(self) -> int:
        """CPU time of all its processes so far, their ended threads included, to the nanosecond."""
        return sum(time.clock_gettime_ns(_process_clock(process.pid)) for process in self._tree())

    def pss_bytes(self) -> int:
        """Memory of all its processes, shared pages divided among those who share them."""
        return sum(process.memory_full_info().pss for process in self._tree())

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _tree(self) -> list[psutil.Process]:
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status < 500
        except OSError:
            return False
        finally:
            connection.close()


def _process_clock(pid: int) -> int:
    """The id of another process's CPU clock, as clock_getcpuclockid(3) computes it on Linux."""
    return (~pid << 3) | 2
