"""Events for another system, in the order in which they came, from where the last export ended.

The cursor is a place in `received_at`, with the events that had that very instant: nothing twice, nothing left out. What came
in the last minute waits for the next time: rows of one instant may be seen one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from cab_ops.audit.questions import AuditTables, Question, Row

SETTLED_AFTER: Final = timedelta(minutes=1)
LATEST: Final = timedelta(days=35)  # what Pub/Sub may still deliver, and what is replayed from it

_QUERY: Final = """
    SELECT {columns}
    FROM {view}_between(@since, TIMESTAMP '9000-01-01 00:00:00+00')
    WHERE received_at >= @after AND received_at < @until
      AND (@tenant IS NULL OR tenant = @tenant)
      AND event_id NOT IN UNNEST(@seen)
    ORDER BY received_at, event_id
    LIMIT @limit
"""
_PARAMETERS: Final = ("since", "after", "until", "tenant", "seen", "limit")
FORMATS: Final = {
    "jsonl": Question(_QUERY.format(columns="event_id, received_at, event_json", view="events"), _PARAMETERS, 600),
    "ocsf": Question(_QUERY.format(columns="* EXCEPT (occurred_at, tenant)", view="events_ocsf"), _PARAMETERS, 600),
}


class Cursor(BaseModel):
    model_config = ConfigDict(extra="forbid")

    received_at: datetime
    seen: list[str] = Field(default_factory=list, description="Events of exactly that instant that were exported.")

    def after(self, row: Row) -> Cursor:
        same = self.seen if row["received_at"] == self.received_at else []
        return Cursor(received_at=row["received_at"], seen=[*same, row["event_id"]])


def export(
    tables: AuditTables,
    format_: Literal["jsonl", "ocsf"],
    cursor: Cursor,
    *,
    now: datetime,
    tenant: str | None,
    limit: int,
) -> Iterator[tuple[Any, Cursor]]:
    """Each event as text (jsonl: as it was published, to the byte) or as an OCSF object, and the cursor after it."""
    rows = tables.ask(
        FORMATS[format_],
        since=cursor.received_at - LATEST,
        after=cursor.received_at,
        until=now - SETTLED_AFTER,
        tenant=tenant,
        seen=cursor.seen,
        limit=limit,
    )
    for row in rows:
        cursor = cursor.after(row)
        yield row["event_json"] if format_ == "jsonl" else ocsf(row), cursor


def ocsf(row: Row) -> dict[str, Any]:
    """Without what is absent: OCSF has no nulls."""
    own = ("event_id", "received_at")
    found = {name: _present(value) for name, value in row.items() if name not in own}
    return {name: value for name, value in found.items() if value not in (None, [], {})}


def _present(value: Any) -> Any:
    if isinstance(value, dict):
        members = {name: _present(member) for name, member in value.items()}
        return {name: member for name, member in members.items() if member not in (None, [], {})} or None
    if isinstance(value, list):
        return [_present(item) for item in value]
    return value
