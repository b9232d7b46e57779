"""The local BigQuery for tests: a server with the audit dataset."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from cab.adapters.google_cloud.bigquery import configuration_table
from cab.adapters.google_cloud.bigquery.audit_schema import TABLE
from cab_dev.services import audit_dataset
from cab_dev.services import bigquery as local
from cab_dev.stack import AUDIT_DATASET, PROJECT
from gcp_emulators.testing import official_is_required


@contextmanager
def running_bigquery(data_dir: Path, *, rows: local.Rows = "few") -> Iterator[str]:
    """The server's URL, until the block ends: with the audit dataset, where `data_dir` is empty. Installs it the first time.

    Without Python 3.13 the test is skipped, or fails where official emulators are required.
    """
    try:
        local.install()
    except local.NotInstallable as exc:
        if official_is_required(os.environ):
            pytest.fail(str(exc))
        pytest.skip(str(exc))
    if not any(data_dir.iterdir()):
        audit_dataset.lay(data_dir, project=PROJECT, dataset=AUDIT_DATASET, rows=rows)
    with local.running(data_dir, rows=rows) as url:
        yield url


@contextmanager
def client(url: str, project: str) -> Iterator[Any]:
    """A client of its own, whatever the environment says."""
    made = bigquery.Client(project, credentials=AnonymousCredentials(), client_options={"api_endpoint": url})
    try:
        yield made
    finally:
        made.close()


class Record:
    """The audit dataset that the local BigQuery began with."""

    PROJECT, DATASET = PROJECT, AUDIT_DATASET

    def __init__(self, url: str, tables: Any) -> None:
        self.url = url
        self.client = tables

    @contextmanager
    def of(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
        """Its client, while the table holds these rows alone and the environment leads commands there."""
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("BIGQUERY_EMULATOR_HOST", self.url)
            environment.setenv("GOOGLE_CLOUD_PROJECT", self.PROJECT)
            for table in (TABLE, configuration_table.TABLE):
                self.client.query_and_wait(f"TRUNCATE TABLE `{self.PROJECT}.{self.DATASET}.{table}`")
            self.insert(rows)
            yield self.client

    def insert(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """As they are: without the ids by which a streaming insert would know the same row."""
        for start in range(0, len(rows), 5_000):
            some = rows[start : start + 5_000]
            name = f"{self.PROJECT}.{self.DATASET}.{TABLE}"
            assert self.client.insert_rows_json(name, some, row_ids=[None] * len(some), timeout=60) == []

    def ask(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a query that names views and functions alone."""
        named = re.sub(r"\b(FROM|JOIN) (?=\w)", rf"\1 `{self.PROJECT}`.{self.DATASET}.", sql)
        return [dict(row) for row in self.client.query_and_wait(named)]


def replace_rows(tables: Any, table: str, rows: list[dict[str, Any]]) -> None:
    """From now on the table `PROJECT.DATASET.TABLE` holds these rows and no others: far cheaper than a dataset for each test."""
    tables.query_and_wait(f"TRUNCATE TABLE `{table}`")
    if rows:
        assert tables.insert_rows_json(table, rows, row_ids=[None] * len(rows), timeout=10) == []
