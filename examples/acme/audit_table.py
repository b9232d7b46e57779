"""The demo's view of the audit: rows of the `events` view by SQL, or of the sink's file where there is no BigQuery."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from cab_dev.local_cloud import bigquery_client
from cab_dev.stack_file import StackFile

SQL = """
SELECT occurred_at, txn, event_type, subject.key AS subject, actor.agent_id AS agent, tool.action AS action,
       intent.identifier AS identifier, decision, reason_code, outcome,
       ARRAY_TO_STRING(policy.determining_rules, ', ') AS rules
FROM `{view}`
WHERE occurred_at >= @since AND event_type = 'exchange.decided'
ORDER BY occurred_at, event_id
"""
_PAUSE_S = 0.5


@dataclass(frozen=True, kw_only=True)
class AuditRow:
    """One decision; what does not apply is empty."""

    occurred_at: datetime
    txn: str
    subject: str
    agent: str
    action: str
    identifier: str
    decision: str
    reason_code: str
    outcome: str
    rules: str

    @property
    def answer(self) -> Answer:
        """What the broker answered to whom for what, to compare with what the agent was told."""
        return Answer(self.txn, self.action, self.identifier, self.reason_code or self.outcome)


class Answer(NamedTuple):
    """One answer of the broker: `result` is the reason of a refusal, or `issued`."""

    txn: str
    action: str
    identifier: str
    result: str


class AuditTable:
    """Where the audit rows of a running stack can be asked for."""

    def __init__(self, stack: StackFile) -> None:
        self._stack = stack

    @property
    def source(self) -> str:
        """One line on where the rows come from."""
        if self._stack.emulators.bigquery is None:
            return "No BigQuery here (it needs Python 3.13): these rows are from the sink's file, not from SQL."
        return f"SQL over the BigQuery view {self._stack.audit.events_view}"

    def wait_for(self, answers: Collection[Answer], *, since: datetime, within_s: float) -> list[AuditRow]:
        """The decisions since then, as soon as all of `answers` are among them, or what there is when the time is over."""
        deadline = time.monotonic() + within_s
        while True:
            rows = self._rows(since)
            if Counter(answers) <= Counter(row.answer for row in rows) or time.monotonic() > deadline:
                return rows
            time.sleep(_PAUSE_S)

    def _rows(self, since: datetime) -> list[AuditRow]:
        if self._stack.emulators.bigquery is None:
            return self._rows_of_file(since)
        return self._rows_by_sql(since)

    def _rows_by_sql(self, since: datetime) -> list[AuditRow]:
        from google.cloud import bigquery  # noqa: PLC0415 - only where there is BigQuery

        client = bigquery_client(self._stack.project_id, str(self._stack.emulators.bigquery))
        try:
            parameters = [bigquery.ScalarQueryParameter("since", "TIMESTAMP", since)]
            job = client.query(
                SQL.format(view=self._stack.audit.events_view),
                job_config=bigquery.QueryJobConfig(query_parameters=parameters),
                job_retry=None,
                timeout=15,
            )
            return [_row(dict(row.items())) for row in job.result(timeout=15)]
        finally:
            client.close()

    def _rows_of_file(self, since: datetime) -> list[AuditRow]:
        path = (
            Path(os.path.commonpath([entry.log for entry in self._stack.services.values()])).parent / "audit_rows.jsonl"
        )
        if not path.exists():
            return []
        events = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        rows = [
            _row(
                {
                    **event,
                    "occurred_at": datetime.fromisoformat(event["occurred_at"]),
                    "subject": (event.get("subject") or {}).get("key"),
                    "agent": (event.get("actor") or {}).get("agent_id"),
                    "action": (event.get("tool") or {}).get("action"),
                    "identifier": (event.get("intent") or {}).get("identifier"),
                    "rules": ", ".join((event.get("policy") or {}).get("determining_rules", ())),
                }
            )
            for event in {event["event_id"]: event for event in events}.values()
            if event["event_type"] == "exchange.decided"
        ]
        return sorted((row for row in rows if row.occurred_at >= since), key=lambda row: row.occurred_at)


def _row(fields: dict[str, Any]) -> AuditRow:
    texts = ("txn", "subject", "agent", "action", "identifier", "decision", "reason_code", "outcome", "rules")
    return AuditRow(occurred_at=fields["occurred_at"], **{name: fields.get(name) or "" for name in texts})
