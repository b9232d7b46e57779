"""Keycloak itself, from Maven Central: fetched and built once into `.cab`, and its realms made over its admin API.

python -m tests.real.keycloak      fetches it (needs `mvn` and Java 17 or later)
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import requests

VERSION = "26.7.3"
SHA256 = "77657f30b7e90d70f727712ce1c967f430fd6a5e9f458d32d8c6df0635345f47"
ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".cab" / "keycloak"
HOME = FOLDER / f"keycloak-{VERSION}"
ADMIN = "admin"  # of a server that only this machine can reach and that keeps nothing
TIMEOUT_S = 30.0


class NotInstallable(Exception):
    """What is missing, in a sentence."""


def install() -> Path:
    """The folder of the built server, fetched the first time."""
    if (HOME / ".built").exists():
        return HOME
    if missing := [program for program in ("mvn", "java") if shutil.which(program) is None]:
        raise NotInstallable(
            f"Keycloak needs {' and '.join(missing)}. On Debian and Ubuntu: apt-get install maven openjdk-17-jre-headless"
        )
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    artifact = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:tar.gz"
    subprocess.run(
        ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={FOLDER}"], check=True
    )
    archive = FOLDER / f"keycloak-quarkus-dist-{VERSION}.tar.gz"
    if (found := hashlib.sha256(archive.read_bytes()).hexdigest()) != SHA256:
        raise NotInstallable(f"{archive.name} is not the file that was tried: its SHA-256 is {found}.")
    with tarfile.open(archive) as packed:
        packed.extractall(FOLDER, filter="data")
    archive.unlink()
    subprocess.run(
        [HOME / "bin" / "kc.sh", "build", "--db=dev-mem"], check=True, stdout=subprocess.DEVNULL, env=environment()
    )
    (HOME / ".built").touch()
    return HOME


def environment() -> dict[str, str]:
    """What its process needs, the first administrator included."""
    return {
        **{name: os.environ[name] for name in ("PATH", "JAVA_HOME") if name in os.environ},
        "JAVA_OPTS_KC_HEAP": "-Xms64m -Xmx512m",
        "KC_BOOTSTRAP_ADMIN_USERNAME": ADMIN,
        "KC_BOOTSTRAP_ADMIN_PASSWORD": ADMIN,
    }


def command(port: int) -> tuple[str, ...]:
    return (
        *(str(HOME / "bin" / "kc.sh"), "start", "--optimized", "--http-enabled=true", "--http-host=127.0.0.1"),
        *(f"--http-port={port}", f"--hostname=http://127.0.0.1:{port}", "--cache=local", "--http-management-port=0"),
    )


class Admin:
    """What an administrator does. Paths are below `/admin/realms`."""

    def __init__(self, origin: str) -> None:
        self._origin = origin

    def __call__(self, method: str, path: str, document: Any = None) -> Any:
        form = {"grant_type": "password", "client_id": "admin-cli", "username": ADMIN, "password": ADMIN}
        token = requests.post(
            f"{self._origin}/realms/master/protocol/openid-connect/token", data=form, timeout=TIMEOUT_S
        ).json()["access_token"]
        answer = requests.request(
            method,
            f"{self._origin}/admin/realms{path}",
            json=document,
            headers={"Authorization": f"Bearer {token}"},
            timeout=TIMEOUT_S,
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def user_id(self, realm: str, username: str) -> str:
        (found,) = self("GET", f"/{realm}/users?exact=true&username={username}")
        return str(found["id"])

    def log_out(self, realm: str, username: str) -> None:
        """End every session of a user, and what applications may do offline."""
        user = self.user_id(realm, username)
        self("POST", f"/{realm}/users/{user}/logout")
        for consent in self("GET", f"/{realm}/users/{user}/consents"):
            self("DELETE", f"/{realm}/users/{user}/consents/{consent['clientId']}")


if __name__ == "__main__":
    try:
        install()
    except NotInstallable as exc:
        sys.exit(str(exc))
