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
CALLS_SQL = """
SELECT action, outcome, upstream_status, sent_as_decided
FROM `{view}`
WHERE day >= TIMESTAMP_TRUNC(@since, DAY) AND txn = @txn
ORDER BY occurred_at, call_id
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


class CallRow(NamedTuple):
    """One call that the broker made: what came of it, and whether the request that was sent is the one that was decided on."""

    action: str
    outcome: str
    status: str
    sent_as_decided: bool


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

    def calls(self, txn: str, *, count: int, since: datetime, within_s: float) -> list[CallRow]:
        """The calls of a transaction, as soon as the outcomes of `count` of them are there, or what there is in time."""
        deadline = time.monotonic() + within_s
        while True:
            rows = self._calls(txn, since)
            if sum(row.outcome != "pending" for row in rows) >= count or time.monotonic() > deadline:
                return rows
            time.sleep(_PAUSE_S)

    def _calls(self, txn: str, since: datetime) -> list[CallRow]:
        if self._stack.emulators.bigquery is None:
            return self._calls_of_file(txn)
        view = self._stack.audit.events_view.removesuffix(".events") + ".calls"
        rows = self._query(CALLS_SQL.format(view=view), since=since, txn=txn)
        return [
            CallRow(row["action"], row["outcome"], str(row["upstream_status"]), bool(row["sent_as_decided"]))
            for row in rows
        ]

    def _calls_of_file(self, txn: str) -> list[CallRow]:
        events = [event for event in self._events_of_file() if event.get("txn") == txn and event.get("call")]
        outcomes = {event["call"]["id"]: event["call"] for event in events if event["event_type"] == "tool.executed"}
        rows = []
        for event in events:
            attempt = event["call"]
            if event["event_type"] != "exchange.decided" or event["outcome"] != "issued":
                continue
            outcome = outcomes.get(attempt["id"], {"outcome": "pending"})
            same = outcome.get("request_digest") == attempt["request_digest"]
            rows.append(CallRow(event["tool"]["action"], outcome["outcome"], str(outcome.get("upstream_status")), same))
        return rows

    def _rows(self, since: datetime) -> list[AuditRow]:
        if self._stack.emulators.bigquery is None:
            return self._rows_of_file(since)
        return self._rows_by_sql(since)

    def _rows_by_sql(self, since: datetime) -> list[AuditRow]:
        return [_row(fields) for fields in self._query(SQL.format(view=self._stack.audit.events_view), since=since)]

    def _query(self, sql: str, *, since: datetime, **texts: str) -> list[dict[str, Any]]:
        from google.cloud import bigquery  # noqa: PLC0415 - only where there is BigQuery

        client = bigquery_client(self._stack.project_id, str(self._stack.emulators.bigquery))
        try:
            parameters = [bigquery.ScalarQueryParameter("since", "TIMESTAMP", since)]
            parameters += [bigquery.ScalarQueryParameter(name, "STRING", value) for name, value in texts.items()]
            config = bigquery.QueryJobConfig(query_parameters=parameters)
            job = client.query(sql, job_config=config, job_retry=None, timeout=15)
            return [dict(row.items()) for row in job.result(timeout=15)]
        finally:
            client.close()

    def _events_of_file(self) -> list[dict[str, Any]]:
        """One of each id."""
        path = (
            Path(os.path.commonpath([entry.log for entry in self._stack.services.values()])).parent / "audit_rows.jsonl"
        )
        if not path.exists():
            return []
        events = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        return list({event["event_id"]: event for event in events}.values())

    def _rows_of_file(self, since: datetime) -> list[AuditRow]:
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
            for event in self._events_of_file()
            if event["event_type"] == "exchange.decided"
        ]
        return sorted((row for row in rows if row.occurred_at >= since), key=lambda row: row.occurred_at)


def _row(fields: dict[str, Any]) -> AuditRow:
    texts = ("txn", "subject", "agent", "action", "identifier", "decision", "reason_code", "outcome", "rules")
    return AuditRow(occurred_at=fields["occurred_at"], **{name: fields.get(name) or "" for name in texts})
