"""Set up for few rows, the local BigQuery answers as it does by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import GoogleAPIError
from tests.contracts.audit_story import Story
from tests.contracts.bigquery import Record, client, replace_rows, running_bigquery

from cab.adapters.google_cloud.bigquery.audit_schema import TABLE
from cab.domain.audit import Outcome, Scopes, TokenFacts

PLACE = f"`{Record.PROJECT}`.{Record.DATASET}"
STATEMENTS = (
    f"SELECT * FROM {PLACE}.events ORDER BY event_id",
    f"SELECT scopes, token, latency_ms.total FROM {PLACE}.{TABLE} WHERE occurred_at > '2020-01-01' ORDER BY event_id DESC",
    f"SELECT * FROM {PLACE}.chain_gaps",
    f"SELECT * FROM {PLACE}.{TABLE}",  # without its partition filter
    f"SELECT no_such FROM {PLACE}.events",
    f"SELECT * FROM {PLACE}.no_such",
    "SELECT 1 AS a, 2 AS a, 3, 4, NULL AS nothing, CAST(NULL AS STRING) AS text, [] AS none, ARRAY<STRING>[] AS words",
    "SELECT STRUCT(NULL AS z, [STRUCT(1 AS b)] AS `x y`) AS s, JSON '{\"a\": [1]}' AS j, TO_JSON(STRUCT(1 AS b)) AS k",
    "SELECT DATE '2026-01-01' AS d, TIMESTAMP '2026-01-01 00:00:00+01' AS t, DATETIME '2026-01-01 00:00:00' AS dt, "
    "TIME '10:00:00' AS tm, NUMERIC '1.5' AS n, b'abc' AS b, -0.0 AS z, CAST('inf' AS FLOAT64) AS i, TRUE AS yes",
    "SELECT x, MAX(x) OVER () AS most FROM UNNEST([3, 1, 2]) AS x ORDER BY x DESC",
    "SELECT [1, NULL] AS n",
    "SELECT 1 / 0",
    "DECLARE x INT64 DEFAULT 3; CREATE TEMP TABLE q AS SELECT x AS a; SELECT a, 'of a script' AS b FROM q",
    f"CREATE OR REPLACE TABLE {PLACE}.other AS SELECT 1 AS a, [1, 2] AS b",
    f"INSERT INTO {PLACE}.other (a) VALUES (5)",
    f"UPDATE {PLACE}.other SET a = 6 WHERE a = 5",
    f"DELETE FROM {PLACE}.{TABLE} WHERE occurred_at > '2020-01-01' AND token.kind = 'assertion'",
    f"SELECT COUNT(*) AS n FROM {PLACE}.{TABLE} WHERE occurred_at > '2020-01-01'",
    f"SELECT * FROM {PLACE}.other ORDER BY a",
    f"DROP TABLE {PLACE}.other",
)


@pytest.fixture(scope="module")
def by_itself(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("bigquery-by-itself")
    with running_bigquery(folder, rows="many") as url:
        yield url


def answers(url: str, rows: list[dict[str, Any]]) -> list[object]:
    with client(url, Record.PROJECT) as tables:
        replace_rows(tables, f"{Record.PROJECT}.{Record.DATASET}.{TABLE}", rows)
        return [answer(tables, statement, url) for statement in STATEMENTS]


def answer(tables: Any, statement: str, url: str) -> object:
    try:
        found = tables.query_and_wait(statement)
    except GoogleAPIError as refused:
        return str(refused).replace(url, "").partition("\n")[0]
    return (
        [field.to_api_repr() for field in found.schema],
        [repr(row.values()) for row in found],
        found.num_dml_affected_rows,
    )


def test_set_up_for_few_rows_it_answers_as_by_itself(bigquery_url: str, by_itself: str) -> None:
    story = Story()
    story.exchange(Outcome.ISSUED, token=TokenFacts(kind="downstream", sha256="00"), scopes=Scopes(granted=["read"]))
    story.exchange(Outcome.ISSUED, token=TokenFacts(kind="assertion", jti="j"))
    story.exchange(Outcome.REFUSED, reason_code="intent_outside_task")
    expected = answers(by_itself, story.rows)
    assert answers(bigquery_url, story.rows) == expected
    refused = [said for said in expected if isinstance(said, str)]
    assert len(refused) == 5
