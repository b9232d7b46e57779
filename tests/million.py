"""How long each question takes on a large record, and how much it reads: `python -m tests.million [--rows N] [--only QUESTION ...]`, not in the suite.

Two weeks of the organisation of tests/contracts/driven.py, and as many organisations like it beside as make a million rows: other
users, logins, transactions, tokens and processes, the same agents. All in a BigQuery of its own on this machine. Each function
is asked for one day and for all of them. Bytes are what the emulator's process read from its files for the answer,
which are compressed and kept by column, as BigQuery's are; what BigQuery itself would charge is not said by any emulator.
`--data FOLDER` keeps what was loaded, and asks it again the next time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from google.cloud import bigquery
from tests.contracts import driven
from tests.contracts.bigquery import Record, client, running_bigquery

from cab.adapters.google_cloud.bigquery.audit_schema import (
    TABLE,
    VIEWS,
    columns,
    function_name,
    has_period,
)
from cab_dev.fakes.warning import FakeInUse
from cab_ops.audit.questions import AuditTables, Parameter, Question, Row
from cab_ops.audit.verification import verify

PLACE = f"`{Record.PROJECT}`.{Record.DATASET}"
DECISIONS = 2_000
PATIENCE_S = 3_600.0
WORD = re.compile(r"[A-Za-z0-9_:.-]{10,}")
# What is one organisation's own, by its place in an event.
IDS = (
    *("event_id", "corrects", "txn", "trace_id", "confirmation_id", "assertion_jti", "subject.key", "login.session"),
    *("token.jti", "token.sha256", "call.id", "grant.id", "chain.id"),
)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Copies:
    """An organisation's events as those of many: every chain sealed anew, every id another, but for agents and what they may.

    As text: an event in its canonical form is hashed without the member `hash`, which stands first in its chain.
    """

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._by_day: dict[str, list[dict[str, Any]]] = {}
        for row in sorted(rows, key=lambda row: (row["occurred_at"][:10], row["chain"]["seq"])):
            self._by_day.setdefault(row["occurred_at"][:10], []).append(row)
        self._ids = {value for row in rows for value in _ids(row)}

    @property
    def days(self) -> list[str]:
        return list(self._by_day)

    def of_day(self, day: str, number: int) -> Iterator[bytes]:
        """Lines of JSON."""
        heads: dict[str, str] = {}
        for row in self._by_day[day]:
            chain = row["chain"]
            before, stated = heads.get(chain["id"], ""), chain["hash"]
            event = self._renamed(row["event_json"], number)
            if before:
                event = event.replace(chain["prev_hash"], before, 1)
            now = hashlib.sha256(event.replace(f'"hash":"{stated}",', "", 1).encode()).hexdigest()
            heads[chain["id"]] = now
            columns = self._renamed(json.dumps({name: row[name] for name in row if name != "event_json"}), number)
            columns = columns.replace(stated, now)
            if before:
                columns = columns.replace(chain["prev_hash"], before)
            yield f'{columns[:-1]}, "event_json": {json.dumps(event.replace(stated, now, 1))}}}'.encode()

    def _renamed(self, text: str, number: int) -> str:
        return WORD.sub(lambda found: f"{found[0]}-{number}" if found[0] in self._ids else found[0], text)


def _ids(row: dict[str, Any]) -> Iterator[str]:
    for place in IDS:
        value: Any = row
        for name in place.split("."):
            value = (value or {}).get(name)
        if value is not None:
            yield value


def load(tables: Any, lines: list[bytes]) -> int:
    """One file in a day's partition. Returns the bytes of its JSON."""
    data = b"\n".join(lines)
    # The columns, for the emulator would else guess them from the first 20,000 rows.
    config = bigquery.LoadJobConfig(
        source_format="NEWLINE_DELIMITED_JSON",
        write_disposition="WRITE_APPEND",
        schema=[bigquery.SchemaField.from_api_repr(column) for column in columns()],
    )
    name = f"{Record.PROJECT}.{Record.DATASET}.{TABLE}"
    tables.load_table_from_file(BytesIO(data), name, job_config=config).result(timeout=PATIENCE_S)
    return len(data)


def fill(tables: Any, wanted: int) -> None:
    logging.getLogger().addHandler(logging.NullHandler())  # what the broker logs of two weeks is not meant here
    with TemporaryDirectory() as scratch, warnings.catch_warnings(action="ignore", category=FakeInUse):
        organisation = driven.Organisation(datetime.now(UTC), Path(scratch), decisions=DECISIONS)
    copies = Copies(organisation.rows)
    count = max(round(wanted / len(organisation.rows)), 1)
    rows = size = 0
    for day in copies.days:
        of_day = [row for number in range(count) for row in copies.of_day(day, number)]
        size += load(tables, of_day)
        rows += len(of_day)
        say(f"  {day}: {rows:,} rows")
    say(f"{rows:,} rows of {count} organisations, {size / rows / 1e3:.1f} KB each as JSON")


class Emulator:
    """The process that this one has started to serve the files."""

    def __init__(self) -> None:
        ours = Path(f"/proc/self/task/{os.getpid()}/children").read_text("ascii").split()
        processes = [Path("/proc") / number for number in ours]
        self._process = next(folder for folder in processes if b"bigquery_process" in (folder / "cmdline").read_bytes())

    def spent(self) -> tuple[float, int]:
        """Seconds of CPU and bytes read, since its start."""
        fields = (self._process / "stat").read_text("ascii").rpartition(")")[2].split()
        read = (self._process / "io").read_text("ascii").splitlines()[0].split()[1]
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(read)


def measured(emulator: Emulator, what: str, ask: Callable[[], object]) -> None:
    cpu, read = emulator.spent()
    started = time.monotonic()
    answer = ask()
    took = time.monotonic() - started
    cpu_after, read_after = emulator.spent()
    say(
        f"{what:<42} {took:>7.2f} s {cpu_after - cpu:>7.2f} s CPU {(read_after - read) / 1e6:>9.1f} MB  {answer}",
    )


class Patient(AuditTables):
    """Waits longer than people do: this machine has other things to do too."""

    def ask(self, question: Question, **values: Parameter) -> Iterator[Row]:
        return super().ask(replace(question, timeout_s=PATIENCE_S), **values)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.million", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(
        "--only", nargs="+", default=[*filter(has_period, VIEWS), "verify-chain"], help="these questions"
    )
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    with ExitStack() as opened:
        folder = arguments.data or Path(opened.enter_context(TemporaryDirectory()))
        is_filled = folder.exists() and any(folder.iterdir())
        folder.mkdir(exist_ok=True)
        if not is_filled:
            with started(folder) as tables:
                fill(tables, arguments.rows)
        ask_all(folder, arguments.only)


@contextmanager
def started(folder: Path) -> Iterator[Any]:
    with running_bigquery(folder, rows="many") as url, client(url, Record.PROJECT) as tables:
        yield tables


def ask_all(folder: Path, questions: list[str]) -> None:
    """Each question of a process of its own: what was read for another is not in its memory."""
    with started(folder) as tables:
        ((first, last),) = tables.query_and_wait(
            f"SELECT MIN(occurred_at), MAX(occurred_at) FROM {PLACE}.{TABLE} WHERE occurred_at > '2000-01-01'"
        )
    begin = first.replace(hour=0, minute=0, second=0, microsecond=0)
    midnight = begin + timedelta(days=driven.INJECTION_DAY)
    for words, since, until in (("one day", midnight, midnight + timedelta(days=1)), ("all days", begin, last)):
        asks: dict[str, Callable[[Any], str]] = {
            name: partial(_first, sql=_reads_all(name, since, until)) for name in VIEWS if has_period(name)
        }
        asks["verify-chain"] = partial(_verified, since=since, until=until)
        for name in questions:
            with started(folder) as tables:
                tables.query_and_wait("SELECT 1")
                measured(Emulator(), f"{name}, {words}", partial(asks[name], tables))


def _reads_all(view: str, since: datetime, until: datetime) -> str:
    """Every column of every row: an answer that is only counted would not be made."""
    period = f"TIMESTAMP '{since.isoformat()}', TIMESTAMP '{until.isoformat()}'"
    return (
        f"SELECT COUNT(*), SUM(LENGTH(TO_JSON_STRING(answer))) FROM {PLACE}.{function_name(view)}({period}) AS answer"
    )


def _first(tables: Any, *, sql: str) -> str:
    (row,) = tables.query_and_wait(sql, wait_timeout=PATIENCE_S)
    return f"{row[0]:,} rows"


def _verified(tables: Any, *, since: datetime, until: datetime) -> str:
    verdict = verify(Patient(tables, Record.DATASET), since=since, until=until)
    return f"{verdict.events:,} events, {len(verdict.findings)} findings"


if __name__ == "__main__":
    main()
