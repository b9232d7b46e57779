"""No question reads a day it was not asked for: the rows of other days are not even there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import BadRequest
from tests.contracts.audit_story import Story
from tests.contracts.bigquery import Record, running_bigquery

from cab.adapters.google_cloud.bigquery.audit_schema import (
    TABLE,
    VIEWS,
    create_views,
    function_name,
    has_period,
)
from cab.domain.audit import EventType, Outcome, TokenFacts
from cab_ops.audit import questions, report
from cab_ops.audit.questions import open_tables

PROJECT, DATASET = Record.PROJECT, Record.DATASET
START = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=11)
DAYS, ASKED = 9, 3
FUNCTIONS = [name for name in VIEWS if has_period(name)]
# What else is read, in days after the last one that was asked for: whether a process was heard of again, and what came of
# a call, a question, a token.
LATER = dict.fromkeys(FUNCTIONS, 2) | {"chain_gaps": 0}
LATER |= dict.fromkeys(("calls", "confirmations", "issued_without_outcome"), 4)
DOCS = Path(__file__).resolve().parents[2] / "docs"
DOCUMENTED = [
    sql
    for page in ("audit.md", "policies.md")
    for sql in re.findall(r"```sql\n(.*?)\n```", (DOCS / page).read_text("utf-8"), flags=re.DOTALL)
]


@pytest.fixture(scope="module")
def bigquery_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this BigQuery keeps its files: PROJECT/DATASET/TABLE/*.parquet."""
    return tmp_path_factory.mktemp("bigquery-of-days")


@pytest.fixture(scope="module")
def bigquery_url(bigquery_data: Path) -> Iterator[str]:
    """One of its own: set up for many rows, so that each insert is a file, and which of them are read shows."""
    with running_bigquery(bigquery_data, rows="many") as url:
        yield url


@pytest.fixture(scope="module")
def days(record: Record, bigquery_data: Path) -> Iterator[tuple[Any, list[Path]]]:
    """A week of events, each day in a file of its own. Files that a test puts away are brought back."""
    folder = bigquery_data / PROJECT / DATASET / TABLE
    files: list[Path] = []
    with record.of([]) as tables:
        for number in range(DAYS):
            before = set(folder.glob("*.parquet"))
            story = Story(start=START + timedelta(days=number), dated_ids=True)
            story.exchange(Outcome.ISSUED, token=TokenFacts(kind="downstream", sha256=f"{number}"), txn=f"t{number}")
            story.report(f"{number}", "done", txn=f"t{number}")
            story.grant(EventType.GRANT_CONNECTED, "grant")
            record.insert(story.rows)
            (file,) = set(folder.glob("*.parquet")) - before
            files.append(file)
        yield tables, files
        for file in files:
            put_away(file, back=True)


def put_away(file: Path, *, back: bool = False) -> None:
    away = file.with_suffix(".away")
    if back and away.exists():
        away.rename(file)
    elif not back and file.exists():
        file.rename(away)


@contextmanager
def only(files: list[Path], numbers: range) -> Iterator[None]:
    """While the rows of all other days are not there."""
    for number, file in enumerate(files):
        put_away(file, back=number in numbers)
    yield
    for file in files:
        put_away(file, back=True)


def period(day: int = ASKED) -> tuple[str, str]:
    midnight = (START + timedelta(days=day)).replace(hour=0)
    return f"TIMESTAMP '{midnight.isoformat()}'", f"TIMESTAMP '{(midnight + timedelta(days=1)).isoformat()}'"


def ask(tables: Any, source: str, where: str = "TRUE") -> int:
    (row,) = tables.query_and_wait(
        f"SELECT COUNT(*), ANY_VALUE(TO_JSON_STRING(t)) FROM `{PROJECT}`.{DATASET}.{source} AS t WHERE {where}"
    )
    return int(row[0])


def test_no_question_reads_a_day_it_was_not_asked_for(days: tuple[Any, list[Path]]) -> None:
    tables, files = days
    begin, end = period()
    kept = {name: list(range(ASKED, ASKED + LATER[name] + 1)) for name in FUNCTIONS}
    answered = {}
    for name in sorted(FUNCTIONS, key=lambda name: -len(kept[name])):
        for number, file in enumerate(files):
            if number not in kept[name]:
                put_away(file)
        answered[name] = ask(tables, f"{function_name(name)}({begin}, {end})")
    assert sum(file.exists() for file in files) == 1
    assert answered["events"] == 3
    assert answered["who_could_have"] == answered["volume"] == answered["freshness"] == 1
    # And what does read another day is found so.
    for name in FUNCTIONS:
        with pytest.raises(BadRequest, match="No such file"):
            ask(tables, name)


@pytest.mark.parametrize("sql", DOCUMENTED)
def test_no_documented_query_reads_a_day_it_was_not_asked_for(sql: str, days: tuple[Any, list[Path]]) -> None:
    _, files = days
    named = re.findall(r"cab_audit\.(\w+)", sql)
    assert not {*named} & {*FUNCTIONS}, "a view that reads everything"
    begin, end = period()
    sql = re.sub(
        r"TIMESTAMP_SUB\(CURRENT_TIMESTAMP\(\), INTERVAL \d+ (DAY|HOUR)\), CURRENT_TIMESTAMP\(\)",
        f"{begin}, {end}",
        sql,
    )
    later = max((LATER.get(name.removesuffix("_between"), 0) for name in named), default=0)
    with only(files, range(ASKED, ASKED + later + 1)), open_tables(PROJECT, DATASET) as asked:
        list(asked.select(sql.replace("cab_audit.", f"{DATASET}."), limit=10))


def test_commands_and_report_ask_functions_but_for_grants_as_old_as_the_record() -> None:
    asked = [
        (name, value)
        for module in (questions, report)
        for name, value in vars(module).items()
        if isinstance(value, questions.Question)
    ]
    assert len(asked) > 20
    everything = {
        name for name, question in asked if {*re.findall(r"(?:FROM|JOIN) (\w+)\b(?!\()", question.sql)} & {*FUNCTIONS}
    }
    assert everything == {"REACH"}


def test_every_view_of_events_can_be_asked_for_days() -> None:
    of_configuration = {"agents", "connections", "catalog", "policy_versions"}
    assert {*FUNCTIONS} == set(VIEWS) - of_configuration


def test_creating_the_views_again_changes_nothing(days: tuple[Any, list[Path]]) -> None:
    tables, _ = days
    create_views(tables, DATASET)
    functions = {function_name(name) for name in VIEWS if has_period(name)}
    listed = {table.table_id for table in tables.list_tables(DATASET)}  # the emulator lists functions too
    assert listed - functions == {TABLE, "configuration", *VIEWS}
    assert {routine.routine_id for routine in tables.list_routines(DATASET)} == functions
