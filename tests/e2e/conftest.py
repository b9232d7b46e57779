"""More stacks of these tests, each for several files. `second_stack`: Acme with connections on trust, the notes, and narrowing by exchange instead of at a refresh.
Nobody is connected at its start. `guests_stack`: Acme with the agents that public libraries need.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.running_stack import Stack, running_stack
from tests.support import trusted_acme
from tests.support.guests import deployment as guests
from tests.support.narrowing_acme import narrowing_by_exchange


@pytest.fixture(scope="package")
def second_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("second")
    configuration = trusted_acme.write_configuration(folder / "configuration")
    connections = configuration / "connections.yaml"
    connections.write_text(narrowing_by_exchange(connections.read_text("utf-8")), "utf-8")
    options = ("--config", str(configuration), "--no-connect", "--no-bigquery")
    with running_stack(folder / "state", *options) as running:
        yield running


@pytest.fixture(scope="package")
def guests_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Its services are killed too. It has our own emulators always: their data survive a kill."""
    folder = tmp_path_factory.mktemp("guests")
    configuration = guests.write_configuration(folder / "configuration")
    with running_stack(folder / "state", "--config", str(configuration), "--no-bigquery") as running:
        yield running
