"""The second stack of these tests: Acme with connections on trust and the notes. Nobody is connected at its start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.running_stack import Stack, running_stack
from tests.support.trusted_acme import write_configuration


@pytest.fixture(scope="package")
def trusted_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("trusted")
    configuration = write_configuration(folder / "configuration")
    options = ("--config", str(configuration), "--no-connect", "--no-bigquery")
    with running_stack(folder / "state", *options) as running:
        yield running
