"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator

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


@pytest.fixture(scope="session")
def bigquery_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A local BigQuery for the whole run, with the audit dataset."""
    with running_bigquery(tmp_path_factory.mktemp("bigquery")) as url:
        yield url


@pytest.fixture(scope="module")
def record(bigquery_url: str) -> Iterator[Record]:
    """Its audit dataset, of which each file of tests writes and asks its own rows."""
    with client(bigquery_url, Record.PROJECT) as tables:
        yield Record(bigquery_url, tables)
