"""A BigQuery that runs on this machine, in a Python environment of its own.

The emulator (local-bigquery on DuckDB) needs Python 3.13 and pins packages that have no place among ours, so it lives
in `.cab/venv-bigquery`, is started as a process and reached over HTTP like the real one. DuckDB looks for its
extensions below the home folder; installation and server share a private one, so nothing outside the checkout is read
or written.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from cab_dev.processes import pythons
from cab_dev.processes.ports import PortLeases

HOST = "127.0.0.1"
_ROOT = Path(__file__).resolve().parents[3]
_REQUIREMENTS = "requirements/bigquery.txt"
_EXTENSIONS = ("icu", "ducklake", "spatial")
_VERSION = "3.13"
Rows = Literal["few", "many"]

_PROGRAM = Path(__file__).with_name("bigquery_process.py")
_READY_WITHIN_S = 60.0
_IMPORT_EXTENSIONS = (
    f"from duckdb_extensions import import_extension\nfor name in {_EXTENSIONS!r}: import_extension(name)"
)


class NotInstallable(Exception):
    """The emulator cannot be installed here. The message is one sentence with the remedy."""


@dataclass(frozen=True)
class BigQueryServer:
    """How to run the emulator: for whoever supervises processes. It stops on SIGTERM.

    `ready_url` answers 200 when it serves; `url` is what BIGQUERY_EMULATOR_HOST is set to.
    """

    command: tuple[str, ...]
    environment: dict[str, str]
    url: str
    ready_url: str


def install(root: Path = _ROOT) -> Path:
    """Create the environment, unless it is complete and its requirements are unchanged. Returns its folder.

    Needs half a minute and a package index the first time. Raises: NotInstallable.
    """
    folder = _folder(root)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with only_one_at_a_time(folder.with_suffix(".lock")):
        if is_installed(root):
            return folder
        python = find_python()
        shutil.rmtree(folder, ignore_errors=True)
        _run([python, "-m", "venv", str(folder)])
        own_python = str(folder / "bin" / "python")
        _run(["sh", str(root / "requirements" / "install"), own_python, str(root / _REQUIREMENTS)])
        _home(root).mkdir(exist_ok=True)
        _run([own_python, "-c", _IMPORT_EXTENSIONS], environment=_environment(root))
        _stamp(root).write_text(_fingerprint(root), encoding="ascii")
    return folder


def is_installed(root: Path = _ROOT) -> bool:
    """Whether the environment is complete and was made from the requirements as they are now."""
    stamp = _stamp(root)
    return stamp.exists() and stamp.read_text(encoding="ascii") == _fingerprint(root)


def server(*, port: int, grpc_port: int, data_dir: Path, rows: Rows = "few", root: Path = _ROOT) -> BigQueryServer:
    """The emulator on 127.0.0.1; it keeps its data in `data_dir`, across restarts and kills, and when that is moved.

    `rows`: for what it is set up, some thousand rows or a million. It answers the same.

    Raises: NotInstallable, when `install` has not been run.
    """
    if not is_installed(root):
        raise NotInstallable(
            "The BigQuery emulator is not installed: run `python -m cab_dev.services.bigquery install`."
        )
    python = str(_folder(root) / "bin" / "python")
    options = ("--host", HOST, "--port", str(port), "--grpc-port", str(grpc_port), "--data-dir", str(data_dir))
    url = f"http://{HOST}:{port}"
    # Not /openapi.json: rendering it takes seconds.
    ready_url = f"{url}/discovery/v1/apis/bigquery/v2/rest"
    return BigQueryServer((python, "-P", str(_PROGRAM), rows, *options, "serve"), _environment(root), url, ready_url)


@contextmanager
def running(data_dir: Path, *, rows: Rows = "few") -> Iterator[str]:
    """The emulator's URL until the block ends, on ports of its own; its log is `data_dir/log`. Blocking.

    Raises: NotInstallable.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with PortLeases() as ports, (data_dir / "log").open("wb") as log:
        started = server(port=ports.take_free(), grpc_port=ports.take_free(), data_dir=data_dir, rows=rows)
        process = subprocess.Popen(started.command, env=started.environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_until_ready(process, started.ready_url)
            yield started.url
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def fingerprint(root: Path = _ROOT) -> str:
    """Changes with the emulator, and with how it is run."""
    return hashlib.sha256(f"{_fingerprint(root)} {_PROGRAM.read_text(encoding='utf-8')}".encode()).hexdigest()


def kept(root: Path = _ROOT) -> Path:
    """The folder for what is made with the emulator once and used again; it goes when the emulator is installed anew."""
    return _folder(root) / "kept"


def find_python() -> str:
    """A Python 3.13 interpreter. Raises: NotInstallable."""
    found = pythons.find(_VERSION)
    if found is None:
        raise NotInstallable(
            f"The BigQuery emulator needs Python {_VERSION}, which was not found: install it, so that `python{_VERSION}` "
            "is on the PATH, or go without the audit tables."
        )
    return found


def main(arguments: list[str]) -> int:
    """`python -m cab_dev.services.bigquery install`. Exit 1 with one sentence when it cannot be done."""
    if arguments != ["install"]:
        print("usage: python -m cab_dev.services.bigquery install", file=sys.stderr)
        return 2
    try:
        folder = install()
    except NotInstallable as reason:
        print(reason, file=sys.stderr)
        return 1
    print(f"BigQuery emulator: {folder}")
    return 0


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last_words = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise NotInstallable(f"The BigQuery emulator could not be installed: {last_words[0]}")


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    parts = urlsplit(url)
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError("the local BigQuery ended")
        connection = http.client.HTTPConnection(parts.netloc, timeout=5)
        with suppress(OSError):
            connection.request("GET", parts.path)
            if connection.getresponse().status == 200:
                connection.close()
                return
        connection.close()
        time.sleep(0.1)
    raise RuntimeError("the local BigQuery did not get ready")


@contextmanager
def only_one_at_a_time(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _environment(root: Path) -> dict[str, str]:
    return {"HOME": str(_home(root)), "PATH": os.defpath, "LANG": "C.UTF-8", "TZ": "UTC"}


def _fingerprint(root: Path) -> str:
    return hashlib.sha256((root / _REQUIREMENTS).read_bytes()).hexdigest()


def _folder(root: Path) -> Path:
    return root / ".cab" / "venv-bigquery"


def _home(root: Path) -> Path:
    return _folder(root) / "home"


def _stamp(root: Path) -> Path:
    return _folder(root) / "installed"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
