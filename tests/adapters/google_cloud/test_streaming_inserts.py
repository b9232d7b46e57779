"""What the audit's rows do with each answer of BigQuery, which here is told what to answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from cab.adapters.google_cloud.bigquery.audit_rows import BigQueryAuditRows
from cab.ports import AuditRow, Unavailable
from cab_dev import loopback

TAKEN: dict[str, Any] = {"kind": "bigquery#tableDataInsertAllResponse"}
ROW = AuditRow("00ff", b'{"event_id":"e"}')


@dataclass
class Told:
    """Gives its answers in turn, the last one for ever."""

    answers: list[tuple[int, Any]]
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, await request.json()))
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.Response(status=status, text=body if isinstance(body, str) else json.dumps(body))


@pytest.fixture
async def told(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Told]:
    told = Told([(200, TAKEN)])
    application = web.Application(client_max_size=10_000_000)  # as BigQuery's
    application.router.add_post("/{path:.*}", told.answer)
    runner, port = await loopback.serve(application, 0)
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    yield told
    await runner.cleanup()


@pytest.fixture
async def rows(told: Told) -> AsyncIterator[BigQueryAuditRows]:
    adapter = BigQueryAuditRows("demo-p", "cab_audit", "events_raw")
    yield adapter
    await adapter.close()


async def test_rows_go_to_the_table_each_under_its_id_so_that_a_second_time_is_known(
    told: Told, rows: BigQueryAuditRows
) -> None:
    assert await rows.insert([ROW, AuditRow("e2", b'{"event_id":"e2"}')]) == {}
    assert told.asked == [
        (
            "/bigquery/v2/projects/demo-p/datasets/cab_audit/tables/events_raw/insertAll",
            {
                "skipInvalidRows": True,
                "rows": [
                    {"insertId": "00ff", "json": {"event_id": "e"}},
                    {"insertId": "e2", "json": {"event_id": "e2"}},
                ],
            },
        )
    ]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, ""),
        (429, ""),
        (500, {"error": {"status": "INTERNAL"}}),
        (200, "<html>"),
        (200, {"insertErrors": [{"index": 0}]}),
    ],
)
async def test_what_may_pass_is_tried_again_with_the_same_rows(
    told: Told, rows: BigQueryAuditRows, status: int, body: Any
) -> None:
    told.answers[:0] = [(status, body)]
    assert await rows.insert([ROW]) == {}
    first, second = told.asked
    assert first == second


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, {"error": {"status": "UNAUTHENTICATED"}}),
        (404, {"error": {"status": "NOT_FOUND", "message": "Not found: Table"}}),
        (413, ""),
    ],
)
async def test_any_other_answer_has_the_message_delivered_again_at_once(
    told: Told, rows: BigQueryAuditRows, status: int, body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    told.answers[:] = [(status, body)]
    with pytest.raises(Unavailable):
        await rows.insert([ROW])
    assert len(told.asked) == 1
    assert "Not found" not in caplog.text


async def test_each_caller_learns_of_its_own_rows_and_one_that_was_only_stopped_is_delivered_again(
    told: Told, rows: BigQueryAuditRows
) -> None:
    def refused(index: int, reason: str) -> dict[str, Any]:
        return {"index": index, "errors": [{"reason": reason, "message": "canary-7f3a"}]}

    told.answers[:] = [(200, TAKEN | {"insertErrors": [refused(1, "invalid"), refused(3, "stopped")]})]
    answers = await asyncio.gather(*(rows.insert([ROW, ROW]) for _ in range(3)), return_exceptions=True)
    assert answers[0] == {1: "invalid"}
    assert isinstance(answers[1], Unavailable)
    assert answers[2] == {}
    assert len(told.asked) == 1


async def test_large_rows_of_many_callers_are_not_one_request_that_bigquery_would_refuse(
    told: Told, rows: BigQueryAuditRows
) -> None:
    large = AuditRow("00ff", json.dumps({"event_json": "x" * 900_000}).encode())
    assert await asyncio.gather(*(rows.insert([large]) for _ in range(12))) == [{}] * 12
    assert sorted(len(document["rows"]) for _, document in told.asked) == [2, 5, 5]
