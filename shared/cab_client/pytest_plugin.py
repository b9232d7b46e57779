"""The fixtures `cab_fake` and `cab_stack`, which pytest finds by itself where `cab-client` is installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # loaded by every run of pytest: cheap until a fixture is used
    from cab_client.testing import FakeBroker, LocalStack


@pytest.fixture
def cab_fake() -> Iterator[FakeBroker]:
    """A broker in this process: everything of `cab_client` that is used in the test reaches it."""
    from cab_client.testing import FakeBroker

    with FakeBroker().installed() as fake:
        yield fake


@pytest.fixture(scope="session")
def cab_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """The stack in the folder CAB_STATE_DIR where one runs, else one of our own for the whole run (one for each worker)."""
    from cab_client.testing import LocalStack, running_stack

    running = os.environ.get("CAB_STATE_DIR")
    if running:
        yield LocalStack(running)
        return
    with running_stack(tmp_path_factory.mktemp("cab") / "dev") as stack:
        yield stack
