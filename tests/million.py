"""How long each question takes on a large record, and how much it reads: `python -m tests.million [--rows N]`, not in the suite.

Two weeks of the organisation of tests/contracts/driven.py, as large as asked, in a BigQuery of its own on this machine. Each
function is asked for one day and for all of them. Bytes are what the emulator's process read from its files for the answer,
which are compressed and kept by column, as BigQuery's are; what BigQuery itself would charge is not said by any emulator.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from google.cloud import bigquery
from tests.contracts import driven
from tests.contracts.bigquery import Record, client, running_bigquery

from cab.adapters.google_cloud.bigquery.audit_schema import TABLE, VIEWS, columns, function_name, has_period
from cab_ops.audit.questions import AuditTables
from cab_ops.audit.verification import verify

ROWS_OF_A_DECISION = 2.2
PLACE = f"`{Record.PROJECT}`.{Record.DATASET}"


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Filling:
    """Rows by day: each day is a file of its own, as it is a partition of its own in BigQuery."""

    def __init__(self, tables: Any) -> None:
        self._tables = tables
        self._day = ""
        self._lines: list[bytes] = []
        self.rows = 0
        self.bytes = 0

    def take(self, row: dict[str, Any]) -> None:
        day = row["occurred_at"][:10]
        if day != self._day or len(self._lines) >= 100_000:
            self.flush()
            self._day = day
        self._lines.append(json.dumps(row).encode())

    def flush(self) -> None:
        if not self._lines:
            return
        data = b"\n".join(self._lines)
        self.rows += len(self._lines)
        self.bytes += len(data)
        self._lines = []
        # The columns, for the emulator would else guess them from the first 20,000 rows.
        config = bigquery.LoadJobConfig(
            source_format="NEWLINE_DELIMITED_JSON",
            write_disposition="WRITE_APPEND",
            schema=[bigquery.SchemaField.from_api_repr(column) for column in columns()],
        )
        self._tables.load_table_from_file(
            BytesIO(data), f"{Record.PROJECT}.{Record.DATASET}.{TABLE}", job_config=config
        ).result(timeout=600)
        say(f"  {self._day}: {self.rows:,} rows")


class Emulator:
    """The process that serves the files in a folder."""

    def __init__(self, data: Path) -> None:
        processes = (folder for folder in Path("/proc").iterdir() if folder.name.isdigit())
        self._process = next(folder for folder in processes if _reads(folder / "cmdline", data))

    def spent(self) -> tuple[float, int]:
        """Seconds of CPU and bytes read, since its start."""
        fields = (self._process / "stat").read_text("ascii").rpartition(")")[2].split()
        read = (self._process / "io").read_text("ascii").splitlines()[0].split()[1]
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(read)


def _reads(command: Path, data: Path) -> bool:
    try:
        return str(data).encode() in command.read_bytes()
    except OSError:  # ended meanwhile
        return False


def measured(emulator: Emulator, what: str, ask: Callable[[], object]) -> None:
    cpu, read = emulator.spent()
    started = time.monotonic()
    answer = ask()
    took = time.monotonic() - started
    cpu_after, read_after = emulator.spent()
    say(
        f"{what:<42} {took:>7.2f} s {cpu_after - cpu:>7.2f} s CPU {(read_after - read) / 1e6:>9.1f} MB  {answer}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.million", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    wanted = parser.parse_args().rows
    with TemporaryDirectory() as folder, running_bigquery(Path(folder)) as url, client(url, Record.PROJECT) as tables:
        record = Record(url, tables)
        with record.of([]):
            filling = Filling(tables)
            organisation = driven.Organisation(
                datetime.now(UTC), decisions=int(wanted / ROWS_OF_A_DECISION), write=filling.take
            )
            filling.flush()
            say(f"{filling.rows:,} rows, {filling.bytes / filling.rows / 1e3:.1f} KB each as JSON")
            emulator = Emulator(Path(folder))
            begin, end = organisation.start, organisation.start + timedelta(days=driven.DAYS)
            midnight = begin + timedelta(days=driven.INJECTION_DAY)
            asked = AuditTables(tables, Record.DATASET)
            for words, since, until in (("one day", midnight, midnight + timedelta(days=1)), ("all days", begin, end)):
                for name in filter(has_period, VIEWS):
                    sql = _reads_all(name, since, until)
                    measured(emulator, f"{name}, {words}", partial(_first, tables, sql))
                measured(emulator, f"verify-chain, {words}", partial(_verified, asked, since, until))


def _reads_all(view: str, since: datetime, until: datetime) -> str:
    """Every column of every row: an answer that is only counted would not be made."""
    period = f"TIMESTAMP '{since.isoformat()}', TIMESTAMP '{until.isoformat()}'"
    return (
        f"SELECT COUNT(*), SUM(LENGTH(TO_JSON_STRING(answer))) FROM {PLACE}.{function_name(view)}({period}) AS answer"
    )


def _first(tables: Any, sql: str) -> str:
    (row,) = tables.query_and_wait(sql, wait_timeout=600)
    return f"{row[0]:,} rows"


def _verified(tables: AuditTables, since: datetime, until: datetime) -> str:
    verdict = verify(tables, since=since, until=until)
    return f"{verdict.events:,} events, {len(verdict.findings)} findings"


if __name__ == "__main__":
    main()
