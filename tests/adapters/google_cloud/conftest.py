"""The real adapters on emulators that can be made to fail."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator

import pytest

from gcp_emulators import Emulators, running
from gcp_emulators.control_client import ControlClient

VARIABLES = ("FIRESTORE_EMULATOR_HOST", "PUBSUB_EMULATOR_HOST", "SECRET_MANAGER_EMULATOR_HOST")


@pytest.fixture(scope="session")
def running_emulators() -> Iterator[Emulators]:
    with running() as emulators:
        yield emulators


@pytest.fixture
def emulators(running_emulators: Emulators, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulators]:
    """Emulators that this process's clients find, without faults."""
    for name, address in running_emulators.environment().items():
        monkeypatch.setenv(name, address)
    yield running_emulators
    running_emulators.control("firestore").clear_faults()


@pytest.fixture
def control(emulators: Emulators) -> ControlClient:
    """Faults and call counts of all three services: they share one process."""
    return emulators.control("firestore")


@pytest.fixture
def project() -> str:
    return f"demo-{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=["refuses connections", "accepts and never answers"])
def dead_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every Google service is at an address where nobody helps."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "accepts and never answers":
            listener.listen(16)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        for name in VARIABLES:
            monkeypatch.setenv(name, address)
        monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", f"http://{address}")
        yield address
