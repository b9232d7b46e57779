"""Start emulators for tests and tools: `with running() as emulators: ...`.

They run as processes of their own, so a test can kill and restart one, and clients meet real sockets.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from cab_dev.processes.ports import PortLeases
from gcp_emulators.control_client import ControlClient
from gcp_emulators.faults import Service
from gcp_emulators.official import CACHE
from gcp_emulators.processes import EmbeddedProcess, EmulatorProcess, OfficialProcess
from gcp_emulators.storage import MEMORY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

Kind = Literal["embedded", "official"]
ALL_SERVICES: tuple[Service, ...] = get_args(Service)
VARIABLES: Mapping[Service, str] = {
    "firestore": "FIRESTORE_EMULATOR_HOST",
    "pubsub": "PUBSUB_EMULATOR_HOST",
    "secret_manager": "SECRET_MANAGER_EMULATOR_HOST",
}


@dataclass(frozen=True)
class Emulators:
    """Running emulators: where they are, and how to control the embedded ones."""

    kind: Kind
    processes: Mapping[Service, EmulatorProcess]

    def address(self, service: Service) -> str:
        """host:port of a service."""
        return self.processes[service].address(service)

    def environment(self) -> dict[str, str]:
        """The variables that lead clients here."""
        return {VARIABLES[service]: self.address(service) for service in self.processes}

    def control(self, service: Service) -> ControlClient:
        """Faults, call log and reset of the process of an embedded service. Raises: KeyError for an official one."""
        return ControlClient(self.processes[service].address("control"))

    def process(self, service: Service) -> EmulatorProcess:
        """To kill and restart it."""
        return self.processes[service]


@contextmanager
def running(
    kind: Kind = "embedded",
    services: Sequence[Service] = ALL_SERVICES,
    *,
    data_dir: Path | None = None,
    identity_url: str | None = None,
    separately: bool = False,
    cache: Path = CACHE,
) -> Iterator[Emulators]:
    """Emulators on free ports until the block ends.

    `official` runs Google's Firestore and Pub/Sub beside the embedded Secret Manager, which has no official emulator;
    `cache` keeps what makes them start faster. The embedded ones share one process unless told to run `separately`;
    without `data_dir` they keep everything in memory; `identity_url` is where pushes get their OIDC tokens.

    Raises: EmulatorFailed; NotInstalled when the official ones are wanted and missing.
    """
    folder = MEMORY if data_dir is None else str(data_dir)
    with PortLeases() as ports, ExitStack() as stack:
        processes: dict[Service, EmulatorProcess] = {}
        embedded: list[Service] = []
        for service in services:
            if kind == "official" and service != "secret_manager":
                processes[service] = OfficialProcess({service: ports.take_free()}, service, cache)
            else:
                embedded.append(service)
        groups = [[service] for service in embedded] if separately else [embedded] if embedded else []
        for group in groups:
            chosen = {name: ports.take_free() for name in [*group, "control"]}
            processes |= dict.fromkeys(group, EmbeddedProcess(chosen, folder, identity_url))
        for process in {id(process): process for process in processes.values()}.values():
            stack.callback(_stop_if_running, process)
            process.start()
        yield Emulators(kind, processes)


def _stop_if_running(process: EmulatorProcess) -> None:
    if process.is_running():
        process.stop()
