"""Google's own Firestore and Pub/Sub emulators: where they are and how to start them quickly and small.

They are Java programs that come with the Cloud SDK. A class-data archive, which Java writes when such a process ends,
makes the next start two to three times faster; it fits one JDK and one jar only, so both are part of its name.
Both emulators keep everything in memory. What they do differently from production is in docs/emulators.md.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cab_dev.processes.ports import HOST

OfficialService = Literal["firestore", "pubsub"]

CACHE = Path(".cab/cache")
_FIRESTORE_JAR = "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"
_FIRESTORE_MAIN = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
_PUBSUB_JARS = "platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar"
# Asked until it is answered with 200: a call of the API, because Java takes longer than any client waits to learn the first.
_READY = {
    "firestore": "v1/projects/cab/databases/(default)/documents/ready",
    "pubsub": "v1/projects/cab/topics",
}
_SMALL = ("-Xms16m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss512k")
_QUIET = ("-Xshare:auto", "-Xlog:disable", "-Xlog:all=error:stderr")  # a stale archive is no news
_ENDED_BY_SIGTERM = 128 + 15  # Java's exit status after an orderly shutdown
_REMEDY = "run `gcloud components install cloud-firestore-emulator pubsub-emulator` (it needs Java on the PATH)"


class NotInstalled(Exception):
    """The official emulators cannot run here. The message is one sentence with the remedy."""


@dataclass(frozen=True)
class OfficialEmulator:
    """One emulator, ready to be started by whoever supervises processes.

    `ready_url` answers 200 when it serves. It stops on SIGTERM, and takes two seconds longer for that when it writes
    an archive. Call `keep_archive` after it has ended; leaving that out costs only time at the next start.
    """

    service: OfficialService
    command: tuple[str, ...]
    ready_url: str
    archive: Path
    fresh_archive: Path | None

    def keep_archive(self, exit_status: int) -> None:
        """Adopt the archive that this run has written, unless it was cut short."""
        if self.fresh_archive is None or not self.fresh_archive.exists():
            return
        if exit_status == _ENDED_BY_SIGTERM:
            self.fresh_archive.replace(self.archive)
        else:
            self.fresh_archive.unlink()


def official_emulator(service: OfficialService, port: int, *, cache: Path = CACHE) -> OfficialEmulator:
    """How to run an official emulator on 127.0.0.1. `cache` is the folder of the class-data archives.

    Raises: NotInstalled.
    """
    java, jar = find_java(), find_jar(service)
    program = ("-cp", str(jar), _FIRESTORE_MAIN, "start") if service == "firestore" else ("-jar", str(jar))
    archive = cache / f"{service}-{_fingerprint(java, jar)}.jsa"
    fresh_archive = None
    if archive.exists():
        for abandoned in cache.glob(f"{archive.stem}-*.jsa.part"):
            abandoned.unlink(missing_ok=True)
        class_data = f"-XX:SharedArchiveFile={archive}"
    else:
        cache.mkdir(parents=True, exist_ok=True)
        # Written under a name of its own and adopted when complete: another start must never read half an archive.
        fresh_archive = cache / f"{archive.stem}-{os.getpid()}-{port}.jsa.part"
        class_data = f"-XX:ArchiveClassesAtExit={fresh_archive}"
    options = (class_data, *_QUIET, *_SMALL, "-Duser.language=en")
    address = (f"--host={HOST}", f"--port={port}")
    return OfficialEmulator(
        service, (java, *options, *program, *address), f"http://{HOST}:{port}/{_READY[service]}", archive, fresh_archive
    )


def find_java() -> str:
    """The java of JAVA_HOME, or of the PATH.

    Raises: NotInstalled.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if java is None:
        raise NotInstalled(f"The official emulators need Java, which was not found: {_REMEDY}.")
    return java


def find_jar(service: OfficialService) -> Path:
    """The emulator's jar in the installed Cloud SDK.

    Raises: NotInstalled.
    """
    for root in _sdk_roots():
        jars = sorted(root.glob(_FIRESTORE_JAR if service == "firestore" else _PUBSUB_JARS))
        if jars:
            return jars[-1]
    raise NotInstalled(f"The official {service} emulator is not part of the Cloud SDK here: {_REMEDY}.")


def _sdk_roots() -> list[Path]:
    """Where the Cloud SDK may be: next to the gcloud of the PATH, else where that gcloud says it is."""
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        raise NotInstalled(f"The official emulators need the Cloud SDK, which was not found: {_REMEDY}.")
    beside = Path(gcloud).resolve().parents[1]
    if (beside / "platform").is_dir():
        return [beside]
    asked = subprocess.run(
        [gcloud, "info", "--format=value(installation.sdk_root)"], capture_output=True, text=True, check=False
    )
    return [Path(asked.stdout.strip())] if asked.returncode == 0 and asked.stdout.strip() else []


def _fingerprint(java: str, jar: Path) -> str:
    parts = list(_READY.values())  # the archive holds the classes that answer these
    for path in (Path(java).resolve(), jar.resolve()):
        facts = path.stat()
        parts.append(f"{path}|{facts.st_size}|{facts.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
