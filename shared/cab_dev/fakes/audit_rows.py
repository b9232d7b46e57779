"""`AuditRows` in a list, with the table's schema enforced as BigQuery does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from cab.adapters.google_cloud.bigquery.audit_schema import Column, columns
from cab.ports import AuditRow, Unavailable
from cab_dev.fakes.warning import warn_of_fake

_TYPES: Mapping[str, tuple[type, ...]] = {
    "STRING": (str,),
    "INTEGER": (int,),
    "FLOAT": (int, float),
    "BOOLEAN": (bool,),
}


class InMemoryAuditRows:
    """`rows` holds what was written, duplicates included. `is_down` makes every call fail, `calls` counts them."""

    def __init__(self, *, delay_s: float = 0.0) -> None:
        warn_of_fake(self)
        self.delay_s = delay_s
        self.is_down = False
        self.calls = 0
        self.rows: list[Mapping[str, Any]] = []
        self._columns = columns()

    async def insert(self, rows: Sequence[AuditRow]) -> dict[int, str]:
        self.calls += 1
        await asyncio.sleep(self.delay_s)
        if self.is_down:
            raise Unavailable("audit rows")
        errors: dict[int, str] = {}
        for index, sent in enumerate(rows):
            row = orjson.loads(sent.text)
            if _fits(row, self._columns):
                self.rows.append(row)
            else:
                errors[index] = "invalid"
        return errors

    async def close(self) -> None:
        """Nothing to let go of."""


def _fits(row: Mapping[str, Any], schema: Sequence[Column]) -> bool:
    known = {column["name"] for column in schema}
    return row.keys() <= known and all(_value_fits(row.get(column["name"]), column) for column in schema)


def _value_fits(value: Any, column: Column) -> bool:
    if column["mode"] == "REPEATED":
        item = {**column, "mode": "REQUIRED"}
        return value is None or (isinstance(value, list) and all(_value_fits(member, item) for member in value))
    if value is None:
        return bool(column["mode"] == "NULLABLE")
    if column["type"] == "TIMESTAMP":
        return _is_instant(value)
    if column["type"] != "BOOLEAN" and isinstance(value, bool):
        return False
    if isinstance(value, dict) and column["type"] == "RECORD":
        return _fits(value, column["fields"])
    return isinstance(value, _TYPES.get(column["type"], ()))


def _is_instant(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False
