"""The broker in this process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.world import World


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> Iterator[World]:
    """A broker of the test's own."""
    world = World(scratch=tmp_path)
    yield from _watched(world, caplog)


@pytest.fixture(scope="session")
def one_world() -> World:
    return World()


@pytest.fixture
def shared_world(one_world: World, caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    """One broker for many tests that leave nothing behind: they bring users of their own and leave the clock alone."""
    yield from _watched(one_world, caplog)


def _watched(world: World, caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    """Nothing secret that passes through may stand in an audit event or in a log line (security.md, A1)."""
    caplog.set_level(logging.DEBUG)
    world.secrets_seen.clear()
    before = {name: len(log.messages) for name, log in world.cloud.audit_logs.items()}
    yield world
    events = [
        message.data.decode()
        for name, log in world.cloud.audit_logs.items()
        for message in log.messages[before.get(name, 0) :]
    ]
    written = "\n".join([caplog.text, *events])
    for secret in world.secrets_seen:
        assert secret not in written
        assert secret[-16:] not in written
