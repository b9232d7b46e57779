"""`.cab/dev/stack.json`: where everything of a running stack is. The public contract names its members."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DEFAULT_STATE_DIR = Path(".cab/dev")
FILE_NAME = "stack.json"
ENVIRONMENT_NAME = "environment.json"
DOCTOR_ENVIRONMENT_NAME = "doctor.environment.json"


class NoStack(Exception):
    """No stack runs there. The text is a sentence with the remedy."""


@dataclass(frozen=True, kw_only=True)
class IdpEntry:
    issuer: str
    client_id: str


@dataclass(frozen=True, kw_only=True)
class ClientEntry:
    """A front end or an agent. `private_key_file` is a JWK file, None for a client that uses a secret."""

    client_id: str
    private_key_file: str | None


@dataclass(frozen=True, kw_only=True)
class FrontEndEntry:
    """A front end and where its users log in."""

    client_id: str
    private_key_file: str | None
    idp: IdpEntry


@dataclass(frozen=True, kw_only=True)
class ConnectionEntry:
    resource: str
    audience: str
    api_base: str


@dataclass(frozen=True, kw_only=True)
class EmulatorEntry:
    """host:port of each emulator; BigQuery is a URL, or None where it is not available."""

    firestore: str
    pubsub: str
    secret_manager: str
    bigquery: str | None


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    dataset: str
    events_view: str


@dataclass(frozen=True, kw_only=True)
class ServiceEntry:
    """`pid` is None while the service is stopped. `called_at`: where other services call a function that they call, and
    the audience of their tokens; at `url` nobody is asked whether they may."""

    url: str | None
    pid: int | None
    log: str
    called_at: str | None = None


@dataclass(frozen=True, kw_only=True)
class StackFile:
    """The whole file. Paths are absolute. `idp` and `front_end` are those of the first front end of `front_ends`."""

    origin: str
    issuer: str
    edge_issuer: str
    project_id: str
    idp: IdpEntry
    front_end: ClientEntry
    front_ends: dict[str, FrontEndEntry]
    agents: dict[str, ClientEntry]
    connections: dict[str, ConnectionEntry]
    emulators: EmulatorEntry
    audit: AuditEntry
    services: dict[str, ServiceEntry]

    def write(self, state_dir: Path) -> None:
        """Replace the file in one step: readers see the old or the new one, whole."""
        part = state_dir / f"{FILE_NAME}.part"
        part.write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")
        part.replace(state_dir / FILE_NAME)

    @classmethod
    def read(cls, state_dir: Path = DEFAULT_STATE_DIR) -> StackFile:
        """The stack that runs with this state folder. Raises: NoStack."""
        try:
            value: dict[str, Any] = json.loads((state_dir / FILE_NAME).read_text("utf-8"))
        except (OSError, ValueError) as exc:
            raise NoStack(f"No stack is running in {state_dir}. Start one with `cab dev up`.") from exc
        return cls(
            origin=value["origin"],
            issuer=value["issuer"],
            edge_issuer=value["edge_issuer"],
            project_id=value["project_id"],
            idp=IdpEntry(**value["idp"]),
            front_end=ClientEntry(**value["front_end"]),
            front_ends={
                name: FrontEndEntry(**(entry | {"idp": IdpEntry(**entry["idp"])}))
                for name, entry in value["front_ends"].items()
            },
            agents={name: ClientEntry(**entry) for name, entry in value["agents"].items()},
            connections={name: ConnectionEntry(**entry) for name, entry in value["connections"].items()},
            emulators=EmulatorEntry(**value["emulators"]),
            audit=AuditEntry(**value["audit"]),
            services={name: ServiceEntry(**entry) for name, entry in value["services"].items()},
        )


def remove(state_dir: Path) -> None:
    """Take back what says that a stack runs."""
    for name in (FILE_NAME, ENVIRONMENT_NAME, DOCTOR_ENVIRONMENT_NAME):
        (state_dir / name).unlink(missing_ok=True)


def read_environment(state_dir: Path = DEFAULT_STATE_DIR, *, name: str = ENVIRONMENT_NAME) -> dict[str, str]:
    """The variables that lead Google's clients and the commands of `cab` to the running stack. Raises: NoStack."""
    StackFile.read(state_dir)
    environment: dict[str, str] = json.loads((state_dir / name).read_text("utf-8"))
    return environment


def write_private(path: Path, content: str) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(content)
