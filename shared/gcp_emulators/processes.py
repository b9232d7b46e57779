"""Emulator processes that can be started, stopped, killed, and started again at the same address.

Each leads a session of its own and has a watchdog, so that none outlives a test run that was killed.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cab_dev.processes import watchdog
from cab_dev.processes.ports import HOST
from gcp_emulators.official import CACHE, official_emulator
from gcp_emulators.storage import MEMORY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gcp_emulators.official import OfficialEmulator, OfficialService

STOP_TIMEOUT_S = 8.0
START_TIMEOUT_S = 60.0
_SOURCE_ROOT = Path(__file__).resolve().parents[1]


class EmulatorFailed(Exception):
    """An emulator did not start."""


@dataclass
class EmulatorProcess(ABC):
    """A child process with one port for each name, such as `firestore` or `control`."""

    ports: Mapping[str, int]
    _process: subprocess.Popen[str] | None = field(default=None, init=False)
    _watchdog: subprocess.Popen[str] | None = field(default=None, init=False)

    @abstractmethod
    def start(self) -> None:
        """Start, or start again on the same ports, and wait until it answers.

        Raises: EmulatorFailed; NotInstalled for an official emulator.
        """

    def address(self, name: str) -> str:
        """host:port of one of the services, or of `control`."""
        return f"{HOST}:{self.ports[name]}"

    def stop(self) -> int:
        """End with SIGTERM. Returns the exit status."""
        self._started().terminate()
        return self.wait()

    def wait(self) -> int:
        """Wait for the end of a process that was told to stop; kill it when that takes too long."""
        return self._reap(self._started())

    def kill(self) -> None:
        """End with SIGKILL, as a crash would."""
        process = self._started()
        process.kill()
        self._reap(process)

    @property
    def pid(self) -> int:
        return self._started().pid

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _launch(self, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, text=True, start_new_session=True, **options)
        self._process = process
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", watchdog.__file__], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        self._tell_watchdog(f"+{process.pid}\n")
        return process

    def _tell_watchdog(self, line: str) -> None:
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.write(line)
            self._watchdog.stdin.flush()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise EmulatorFailed("The emulator was not started.")
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
            if self._watchdog is not None:
                self._watchdog.communicate(f"-{process.pid}\n")
                self._watchdog = None


@dataclass
class EmbeddedProcess(EmulatorProcess):
    """`python -m gcp_emulators`. With a data folder, data survive a restart."""

    data_dir: str = MEMORY
    identity_url: str | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "gcp_emulators", "--data-dir", self.data_dir]
        for name, port in self.ports.items():
            command += [f"--{name.replace('_', '-')}-port", str(port)]
        if self.identity_url:
            command += ["--identity-url", self.identity_url]
        search_path = os.pathsep.join(filter(None, (str(_SOURCE_ROOT), os.environ.get("PYTHONPATH"))))
        process = self._launch(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": search_path})
        # Its one line on standard output says that all ports answer; what goes wrong is on standard error.
        if process.stdout is None or not process.stdout.readline():
            raise EmulatorFailed(f"The embedded emulators ended with status {self._reap(process)}.")


@dataclass
class OfficialProcess(EmulatorProcess):
    """One of Google's emulators, on the port named like the service. Nothing survives a restart."""

    service: OfficialService
    cache: Path = CACHE
    _emulator: OfficialEmulator | None = field(default=None, init=False)

    def start(self) -> None:
        emulator = official_emulator(self.service, self.ports[self.service], cache=self.cache)
        self._emulator = emulator
        with tempfile.TemporaryFile("w+") as log:
            process = self._launch(emulator.command, stdout=log, stderr=log)
            give_up_at = time.monotonic() + START_TIMEOUT_S
            while not _answers(emulator.ready_url):
                if process.poll() is not None or time.monotonic() > give_up_at:
                    process.kill()
                    self._reap(process)
                    log.seek(0)
                    last_words = log.read()[-800:]
                    raise EmulatorFailed(f"The official {self.service} emulator did not start: {last_words}")
                time.sleep(0.05)

    def _reap(self, process: subprocess.Popen[str]) -> int:
        status = super()._reap(process)
        if self._emulator is not None:
            self._emulator.keep_archive(status)
        return status


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=2)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
