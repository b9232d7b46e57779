"""Every port on every adapter: the double, and the real adapter on the embedded and on the official emulators."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from gcp_emulators import Emulators
from gcp_emulators.testing import running_for_tests


@pytest.fixture(scope="session")
def embedded() -> Iterator[Emulators]:
    with running_for_tests("embedded") as emulators:
        yield emulators


@pytest.fixture
def project() -> str:
    """A project of the test's own: tests share emulators, never data."""
    return f"demo-{uuid.uuid4().hex[:12]}"
