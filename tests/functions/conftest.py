"""The broker in this process, anew for every test."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from tests.support.world import World


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    """Afterwards nothing secret that passed through may stand in an audit event or in a log line (security.md, A1)."""
    caplog.set_level(logging.DEBUG)
    world = World()
    yield world
    written = caplog.text + "".join(
        message.data.decode() for log in world.cloud.audit_logs.values() for message in log.messages
    )
    for secret in world.secrets_seen:
        assert secret not in written
        assert len(secret) < 20 or secret[-16:] not in written
