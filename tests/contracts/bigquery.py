"""The local BigQuery for tests: one server per session, and one dataset with all views, which test files use in turn."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from cab.adapters.google_cloud.bigquery import configuration_table
from cab.adapters.google_cloud.bigquery.audit_schema import READ_BY_OTHERS, TABLE, VIEWS, create_table, create_views
from cab_dev.processes.ports import PortLeases
from cab_dev.services import bigquery as local
from gcp_emulators.testing import official_is_required

_READY_WITHIN_S = 60.0


@contextmanager
def running_bigquery(data_dir: Path) -> Iterator[str]:
    """The server's URL, until the block ends. Installs it the first time.

    Without Python 3.13 the test is skipped, or fails where official emulators are required.
    """
    try:
        local.install()
    except local.NotInstallable as exc:
        if official_is_required(os.environ):
            pytest.fail(str(exc))
        pytest.skip(str(exc))
    with PortLeases() as ports, (data_dir / "log").open("wb") as log:
        server = local.server(port=ports.take_free(), grpc_port=ports.take_free(), data_dir=data_dir)
        process = subprocess.Popen(server.command, env=server.environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_until_ready(process, server.ready_url)
            yield server.url
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def client(url: str, project: str) -> Iterator[Any]:
    """A client of its own, whatever the environment says."""
    made = bigquery.Client(project, credentials=AnonymousCredentials(), client_options={"api_endpoint": url})
    try:
        yield made
    finally:
        made.close()


class Record:
    """A dataset with the audit table, and with views as they are asked for: making them costs more than asking them."""

    PROJECT, DATASET = "demo-record", "cab_audit"

    def __init__(self, url: str, tables: Any) -> None:
        self.url = url
        self.client = tables
        self._has: set[str] = set()
        create_table(tables, self.DATASET)

    @contextmanager
    def of(self, rows: Sequence[Mapping[str, Any]], views: Sequence[str] = VIEWS) -> Iterator[Any]:
        """Its client, while the table holds these rows alone and the environment leads commands there."""
        if missing := set(views) - self._has or {"events"} - self._has:
            create_views(self.client, self.DATASET, only=sorted(missing))
            self._has |= {*missing, *READ_BY_OTHERS}
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


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    parts = urlsplit(url)
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "the local BigQuery ended"
        connection = http.client.HTTPConnection(parts.netloc, timeout=5)
        with suppress(OSError):
            connection.request("GET", parts.path)
            if connection.getresponse().status == 200:
                connection.close()
                return
        connection.close()
        time.sleep(0.1)
    raise AssertionError("the local BigQuery did not get ready")


def replace_rows(tables: Any, table: str, rows: list[dict[str, Any]]) -> None:
    """From now on the table `PROJECT.DATASET.TABLE` holds these rows and no others: far cheaper than a dataset for each test."""
    tables.query_and_wait(f"TRUNCATE TABLE `{table}`")
    assert tables.insert_rows_json(table, rows, row_ids=[None] * len(rows), timeout=10) == []
