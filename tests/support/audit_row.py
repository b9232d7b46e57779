"""Rows of the audit table as columns, for who writes some down or looks into one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cab.adapters.google_cloud.bigquery.audit_schema import row_of
from cab.domain.audit import read_json
from cab.encoding.records import as_json
from cab.ports import AuditRow


def row(columns: Mapping[str, Any]) -> AuditRow:
    return AuditRow(columns.get("chain", {}).get("hash") or columns["event_id"], json.dumps(columns).encode())


def columns_of(data: bytes, *, received_at: datetime, message_id: str) -> dict[str, Any]:
    """Of the row of an event that was published."""
    made = row_of(as_json(read_json(data)), data=data, received_at=received_at, message_id=message_id)
    columns: dict[str, Any] = json.loads(made.text)
    return columns
