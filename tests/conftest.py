"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from tests.contracts.bigquery import Record, client, running_bigquery
from tests.running_stack import Stack, emulators, running_stack

from gcp_emulators import Emulators
from gcp_emulators.testing import running_for_tests

# A run never depends on luck. To look for what no run has tried yet: make test TESTS="--hypothesis-profile=exploring".
settings.register_profile("exploring", print_blob=True)
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack for the whole run, accounts connected. A test that stops a service brings it back."""
    with running_stack(tmp_path_factory.mktemp("stack"), "--emulators", emulators()) as running:
        yield running


@pytest.fixture(scope="session")
def official() -> Iterator[Emulators]:
    """Google's emulators, once for the whole run. Where they are not installed: a skip on a laptop, a failure in CI."""
    with running_for_tests("official", ("firestore", "pubsub")) as running:
        yield running


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requirement(id): the test proves this entry of tests/requirements.yaml")


@pytest.fixture(scope="module")
def bigquery_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the local BigQuery keeps its files: set up for many rows, PROJECT/DATASET/TABLE/*.parquet, one for each insert."""
    return tmp_path_factory.mktemp("bigquery")


@pytest.fixture(scope="module")
def bigquery_url(bigquery_data: Path) -> Iterator[str]:
    """A local BigQuery for each file: it starts within a second, with the audit dataset."""
    with running_bigquery(bigquery_data) as url:
        yield url


@pytest.fixture(scope="module")
def record(bigquery_url: str) -> Iterator[Record]:
    """The audit dataset of a file of tests, with the views that it asks for."""
    with client(bigquery_url, Record.PROJECT) as tables:
        yield Record(bigquery_url, tables)
