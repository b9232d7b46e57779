"""`AuditRows` in BigQuery, through streaming inserts.

Concurrent callers share one insert: BigQuery bills and limits by call, and a call takes a hundred milliseconds
whatever it carries. BigQuery is told the rows' ids, so a redelivered message is usually not even written twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from cab.adapters import spans
from cab.adapters.google_cloud.rest import GoogleApi, Status
from cab.ports import AuditRow, Unavailable

_WHAT = "audit rows"
_COLLECT_S = 0.05
_MAX_ROWS = 500  # Google's advice for one insert
_MAX_BYTES = 5_000_000  # of rows in one insert: BigQuery refuses a request of over 10 MB as a whole
_BUDGET_S = 7.0
_MAY_PASS: Final = frozenset({Status.UNAVAILABLE, Status.INTERNAL, Status.RESOURCE_EXHAUSTED})
# BigQuery's reasons for one row that no retry mends. Its messages quote the row and are not passed on.
_PERMANENT = frozenset({"invalid", "invalidQuery", "badRequest", "rowTooLarge", "rowSizeTooLarge", "notFound"})


class _Waiting:
    """One caller's rows, and where it waits for their fate."""

    def __init__(self, rows: Sequence[AuditRow]) -> None:
        self.rows = rows
        self.size = sum(len(row.text) for row in rows)
        self.errors: asyncio.Future[dict[int, str]] = asyncio.get_running_loop().create_future()


class BigQueryAuditRows:
    """One table. Honours BIGQUERY_EMULATOR_HOST. Belongs to the event loop of its first call.

    A caller that gives up leaves its rows to be written.
    """

    def __init__(self, project: str, dataset: str, table: str) -> None:
        self._path = f"/bigquery/v2/projects/{project}/datasets/{dataset}/tables/{table}/insertAll"
        self._api = GoogleApi(_WHAT, host="bigquery.googleapis.com", emulator_variable="BIGQUERY_EMULATOR_HOST")
        self._waiting: list[_Waiting] = []
        self._writing: set[asyncio.Task[None]] = set()

    @spans.a_wait("bigquery insert")
    async def insert(self, rows: Sequence[AuditRow]) -> dict[int, str]:
        """Waits 50 ms for company, then at most 7 s for BigQuery."""
        if not rows:
            return {}
        waiting = _Waiting(rows)
        self._waiting.append(waiting)
        if len(self._waiting) == 1:
            self._start(self._write_soon())
        return await waiting.errors

    async def close(self) -> None:
        """Wait for the inserts under way, and let go of the connections."""
        while self._writing:
            await asyncio.wait(self._writing)
        await self._api.close()

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write_soon(self) -> None:
        await asyncio.sleep(_COLLECT_S)
        gathered, self._waiting = self._waiting, []
        for batch in _batches(gathered):
            self._start(self._write(batch))

    async def _write(self, batch: list[_Waiting]) -> None:
        rows = [row for waiting in batch for row in waiting.rows]
        errors: dict[int, str] | None = None
        try:
            errors = await self._insert(rows)
        except Unavailable:
            pass
        finally:
            _answer(batch, errors)

    async def _insert(self, rows: list[AuditRow]) -> dict[int, str]:
        """One insert, tried again where that may help: what is written twice has the same row id. Raises: Unavailable."""
        document = {
            "skipInvalidRows": True,
            "rows": [{"insertId": row.id, "json": orjson.Fragment(row.text)} for row in rows],
        }
        return await self._api.call(
            "insertAll", self._path, document, read=_refused, budget_s=_BUDGET_S, retry_on=_MAY_PASS
        )


def _refused(answer: Any) -> dict[int, str]:
    """Why rows were refused, by their positions."""
    return {int(error["index"]): _cause(error["errors"]) for error in answer.get("insertErrors", [])}


def _batches(gathered: list[_Waiting]) -> list[list[_Waiting]]:
    """Callers in groups that one insert takes; one caller's rows stay together."""
    batches: list[list[_Waiting]] = [[]]
    rows = size = 0
    for waiting in gathered:
        rows += len(waiting.rows)
        size += waiting.size
        if batches[-1] and (rows > _MAX_ROWS or size > _MAX_BYTES):
            batches.append([])
            rows, size = len(waiting.rows), waiting.size
        batches[-1].append(waiting)
    return batches


def _answer(batch: list[_Waiting], errors: dict[int, str] | None) -> None:
    """Give every caller the errors of its own rows, by their positions in its own list."""
    start = 0
    for waiting in batch:
        mine = {
            index - start: cause for index, cause in (errors or {}).items() if 0 <= index - start < len(waiting.rows)
        }
        start += len(waiting.rows)
        if waiting.errors.done():
            continue
        if errors is None or "stopped" in mine.values():
            waiting.errors.set_exception(Unavailable(_WHAT))
        else:
            waiting.errors.set_result(mine)


def _cause(errors: list[Mapping[str, Any]]) -> str:
    """A fixed word. `stopped`: nothing is wrong with this row, but it was not written either."""
    reasons = {error.get("reason") for error in errors}
    return "invalid" if reasons & _PERMANENT else "stopped"
