"""Start emulators for tests and tools: `with running() as emulators: ...`.

Emulators run as processes of their own, so a test can kill and restart one, and clients meet real sockets.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from cab_dev.emulators.control_client import ControlClient
from cab_dev.emulators.faults import Service
from cab_dev.emulators.storage import MEMORY
from cab_dev.ports import HOST, PortLeases

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ALL_SERVICES: tuple[Service, ...] = get_args(Service)
STOP_TIMEOUT_S = 8.0
_SOURCE_ROOT = Path(__file__).resolve().parents[2]
_VARIABLES: dict[Service, str] = {
    "firestore": "FIRESTORE_EMULATOR_HOST",
    "pubsub": "PUBSUB_EMULATOR_HOST",
    "secret_manager": "SECRET_MANAGER_EMULATOR_HOST",
}


class EmulatorFailed(Exception):
    """An emulator did not start. The message ends with its last words."""


@dataclass
class EmbeddedProcess:
    """One process of `python -m cab_dev.emulators`. `ports` has one port per service, and one for `control`."""

    ports: Mapping[str, int]
    data_dir: str = MEMORY
    identity_url: str | None = None
    _process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start, or start again with the same ports and data folder, and wait until ready.

        Raises: EmulatorFailed.
        """
        command = [sys.executable, "-m", "cab_dev.emulators", "--data-dir", self.data_dir]
        for name, port in self.ports.items():
            command += [f"--{name.replace('_', '-')}-port", str(port)]
        if self.identity_url:
            command += ["--identity-url", self.identity_url]
        search_path = os.pathsep.join(filter(None, (str(_SOURCE_ROOT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": search_path}
        )
        assert self._process.stdout is not None  # noqa: S101  # stdout=PIPE
        if not self._process.stdout.readline():  # its one line says that all ports answer
            raise EmulatorFailed(f"The embedded emulators ended with status {self._reap(self._process)}.")

    def stop(self) -> int:
        """End with SIGTERM. Returns the exit status, 0 for a clean stop."""
        process = self._running()
        process.terminate()
        return self._reap(process)

    def kill(self) -> None:
        """End with SIGKILL, as a crash would. `start` brings it back on the same ports with the same data folder."""
        process = self._running()
        process.kill()
        self._reap(process)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def control(self) -> ControlClient:
        return ControlClient(self.address("control"))

    def address(self, name: str) -> str:
        """host:port of one of the services, or of `control`."""
        return f"{HOST}:{self.ports[name]}"

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise EmulatorFailed("The embedded emulators were not started.")
        return self._process

    def _reap(self, process: subprocess.Popen[str]) -> int:
        try:
            return process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            if process.stdout is not None:
                process.stdout.close()
            self._process = None


@dataclass(frozen=True)
class Emulators:
    """Running emulators: where they are, and how to control the embedded ones."""

    processes: dict[Service, EmbeddedProcess]

    def address(self, service: Service) -> str:
        """host:port of a service."""
        return self.processes[service].address(service)

    def environment(self) -> dict[str, str]:
        """The variables that lead clients here."""
        return {_VARIABLES[service]: self.address(service) for service in self.processes}

    def control(self, service: Service) -> ControlClient:
        """Faults, call log and reset of an embedded service."""
        return self.processes[service].control

    def process(self, service: Service) -> EmbeddedProcess:
        """To kill and restart it."""
        return self.processes[service]


@contextmanager
def running(
    services: Sequence[Service] = ALL_SERVICES,
    *,
    data_dir: Path | None = None,
    identity_url: str | None = None,
    separately: bool = False,
) -> Iterator[Emulators]:
    """Embedded emulators on free ports until the block ends; `separately` gives each a process of its own.

    Without `data_dir` everything is in memory. Raises: EmulatorFailed.
    """
    folder = MEMORY if data_dir is None else str(data_dir)
    groups = [[service] for service in services] if separately else [list(services)]
    with PortLeases() as ports, ExitStack() as stack:
        processes: dict[Service, EmbeddedProcess] = {}
        for group in groups:
            chosen = {name: ports.take_free() for name in [*group, "control"]}
            process = EmbeddedProcess(chosen, folder, identity_url)
            process.start()
            stack.callback(_stop_if_running, process)
            processes |= dict.fromkeys(group, process)
        yield Emulators(processes)


def _stop_if_running(process: EmbeddedProcess) -> None:
    if process.is_running():
        process.stop()
