"""Google's own emulators of Firestore and Pub/Sub, as the Cloud SDK ships them. They need Java."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_SMALL = ("-Xms16m", "-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss512k", "-Duser.language=en")
_READY_WITHIN_S = 60.0


class OfficialMissing(Exception):
    """Java or the emulator is not installed."""


@contextmanager
def official_firestore() -> Iterator[str]:
    """host:port of a fresh Firestore emulator."""
    jar = _jar("cloud-firestore-emulator/cloud-firestore-emulator.jar")
    main = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
    with _running("-cp", jar, main, "start") as address:
        yield address


@contextmanager
def official_pubsub() -> Iterator[str]:
    """host:port of a fresh Pub/Sub emulator."""
    with _running("-jar", _jar("pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar")) as address:
        yield address


def _jar(pattern: str) -> str:
    gcloud = shutil.which("gcloud")
    if gcloud is None or shutil.which("java") is None:
        raise OfficialMissing("The official emulators need Java and the Google Cloud SDK.")
    command = [gcloud, "info", "--format=value(installation.sdk_root)"]
    root = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    jars = sorted(Path(root, "platform").glob(pattern))
    if not jars:
        raise OfficialMissing(f"The Google Cloud SDK has no {pattern.partition('/')[0]} component.")
    return str(jars[-1])


@contextmanager
def _running(*arguments: str) -> Iterator[str]:
    port = _free_port()
    command: Sequence[str] = ["java", *_SMALL, *arguments, "--host=127.0.0.1", f"--port={port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    try:
        _wait_until_ready(process, port)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"The emulator ended with status {process.returncode}.")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", "/")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()
    raise RuntimeError("The emulator did not get ready.")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
