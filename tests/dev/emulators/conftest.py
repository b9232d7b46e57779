"""Emulators of both kinds, started once per session; a project of its own for every test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import grpc
import pytest
from google.cloud import secretmanager
from google.cloud.secretmanager_v1.services.secret_manager_service import transports
from tests.dev.emulators.receiver import Receiver, receiving

from gcp_emulators import Emulators, running

BOTH = [pytest.param("embedded"), pytest.param("official", marks=pytest.mark.emulators)]


@pytest.fixture
def project() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def embedded() -> Iterator[Emulators]:
    with running() as emulators:
        yield emulators


@pytest.fixture(scope="session", params=BOTH)
def emulators(request: pytest.FixtureRequest) -> Emulators:
    """Firestore and Pub/Sub of either kind. Tests that use it must hold on both."""
    emulators: Emulators = request.getfixturevalue(request.param)
    return emulators


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def secrets(embedded: Emulators) -> Iterator[secretmanager.SecretManagerServiceClient]:
    with grpc.insecure_channel(embedded.address("secret_manager")) as channel:
        transport = transports.SecretManagerServiceGrpcTransport(channel=channel)
        yield secretmanager.SecretManagerServiceClient(transport=transport)
