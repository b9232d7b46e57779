"""Every port on every adapter: the twin, and the real adapter on the embedded and on the official emulators."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest
from tests.contracts.official import OfficialMissing, official_firestore, official_pubsub

from cab_dev.emulators import Emulators, running


@pytest.fixture(scope="session")
def embedded() -> Iterator[Emulators]:
    with running() as emulators:
        yield emulators


@pytest.fixture(scope="session")
def official_firestore_address() -> Iterator[str]:
    with _required(), official_firestore() as address:
        yield address


@pytest.fixture(scope="session")
def official_pubsub_address() -> Iterator[str]:
    with _required(), official_pubsub() as address:
        yield address


@pytest.fixture
def project() -> str:
    """A project of the test's own: tests share emulators, never data."""
    return f"demo-{uuid.uuid4().hex[:12]}"


class _required:  # noqa: N801
    """Turns a missing emulator into a skip on a laptop, and into a failure where it must be there."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OfficialMissing) and not (os.environ.get("CI") or os.environ.get("CAB_REQUIRE_OFFICIAL")):
            pytest.skip(str(error))
