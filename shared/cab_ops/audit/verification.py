"""Is the record whole and unchanged? Makes every hash again and follows every chain, in BigQuery; findings come back, not rows.

`chain_gaps` compares the hashes that the rows state. Here each hash is made again from the published event, the
columns are compared with that event, and heads noted at an earlier time must still be there: whoever rewrites a chain to
its end, hashes included, cannot rewrite a note that was kept elsewhere.

`CHAINS` reads the table once. Rows that it cannot vouch for are read by a second query and judged here, which finds what
is wrong with them, or that nothing is: rows from before 2026-11-27 keep their event in another order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Protocol

from pydantic import ValidationError

from cab.adapters.google_cloud.bigquery.audit_schema import CONTENT, COPIES, Column, columns, row_of
from cab.domain.audit import AuditEvent, EventType, event_hash, read
from cab.encoding import strict_json
from cab.encoding.records import as_json
from cab_ops.audit.questions import Parameter, Question, Row
from cab_ops.audit.remade import remade_sql, vouched_sql

QUIET_FOR: Final = timedelta(hours=1)
MAX_JUDGED: Final = 50_000  # rows that are judged here, of some 2 KB each
_PLACES_AT_ONCE: Final = 50_000  # noted heads in one query: BigQuery takes 10 MB
_TIMEOUT_S: Final = 600.0

# Chains are read from their start, which for a process that lives longer than 30 days is not reached.
_READ: Final = "occurred_at >= TIMESTAMP_SUB(@since, INTERVAL 30 DAY)"
_ASKED: Final = "occurred_at >= @since AND occurred_at < @until"
_CHAINED: Final = "(chain.id IS NOT NULL AND chain.seq IS NOT NULL AND chain.`hash` IS NOT NULL)"
_CONTENT_REMADE: Final = CONTENT.replace("event_json", "remade")

# One row for each thing found and for the last event of each chain. Every CTE is named once: BigQuery runs one that is
# named twice twice. Two rows of one event must be the same, but for their delivery: `said` is all that a row says.
CHAINS: Final = Question(
    f"""
    WITH
    written AS (
      SELECT *, {remade_sql()} AS remade
      FROM events_raw
      WHERE {_READ}
    ),
    compared AS (
      SELECT *, {vouched_sql("remade")} AS vouched
      FROM written
    ),
    judged AS (
      SELECT
        event_id, event_type, occurred_at, received_at, message_id, vouched,
        service.function AS function_name,
        IF({_CHAINED}, chain.id, NULL) AS chain_id,
        chain.seq AS seq,
        COALESCE(chain.prev_hash, '') AS prev_hash,
        chain.`hash` AS stated_hash,
        {_CONTENT_REMADE} AS content,
        IF(
          vouched,
          chain.`hash`,
          TO_HEX(SHA256(TO_JSON_STRING(STRUCT(remade AS a, event_json AS b, {", ".join(COPIES)}))))
        ) AS said
      FROM compared
    ),
    places AS (
      SELECT
        *,
        FIRST_VALUE(content) OVER (PARTITION BY event_id ORDER BY received_at, message_id) AS first_content,
        LOGICAL_OR({_ASKED}) OVER (PARTITION BY chain_id) AS touched
      FROM judged
      QUALIFY ROW_NUMBER() OVER (PARTITION BY chain_id, seq, said ORDER BY received_at, message_id) = 1
    ),
    links AS (
      SELECT
        *,
        COALESCE(LAG(seq) OVER chain_order, 0) AS seq_before,
        COALESCE(LAG(stated_hash) OVER chain_order, '') AS hash_before,
        LEAD(seq) OVER chain_order IS NULL AS is_last,
        COUNT(*) OVER (PARTITION BY chain_id) AS events,
        COUNTIF(vouched) OVER (PARTITION BY chain_id) AS vouched_events
      FROM places
      WHERE touched OR chain_id IS NULL
      WINDOW chain_order AS (PARTITION BY chain_id ORDER BY seq, received_at, message_id)
    ),
    found AS (
      SELECT
        *,
        CASE
          WHEN chain_id IS NULL THEN 'unchained'
          WHEN seq > seq_before + 1 THEN 'missing'
          WHEN seq = seq_before THEN 'forked'
          WHEN prev_hash != hash_before THEN 'broken'
        END AS gap,
        content != first_content AS is_other_content
      FROM links
    )
    SELECT
      chain_id, seq, event_id, event_type, occurred_at, function_name, stated_hash, gap, seq_before, is_other_content,
      is_last, events, vouched_events
    FROM found
    WHERE gap IS NOT NULL OR is_other_content OR is_last
    """,  # noqa: S608 - made of our own columns
    ("since", "until"),
    timeout_s=_TIMEOUT_S,
)

# Raw rows, duplicates included.
UNVOUCHED: Final = Question(
    f"""
    WITH written AS (
      SELECT *, {remade_sql()} AS remade
      FROM events_raw
      WHERE {_READ}
    )
    SELECT * EXCEPT (remade)
    FROM written
    WHERE {_CHAINED}
      AND NOT {vouched_sql("remade")}
      AND chain.id IN (SELECT chain.id FROM events_raw WHERE {_ASKED})
    ORDER BY chain.id, chain.seq, received_at, message_id
    LIMIT @limit
    """,  # noqa: S608 - made of our own columns
    ("since", "until", "limit"),
    timeout_s=_TIMEOUT_S,
)

# What is there where other heads were noted than the chains have now. `places` are `id seq`.
PLACES: Final = Question(
    f"""
    SELECT chain.id AS chain_id, chain.seq AS seq, chain.`hash` AS stated_hash, event_id, occurred_at
    FROM events_raw
    WHERE {_READ} AND CONCAT(chain.id, ' ', CAST(chain.seq AS STRING)) IN UNNEST(@places)
    """,  # noqa: S608 - made of our own columns
    ("since", "places"),
    timeout_s=_TIMEOUT_S,
)


class Tables(Protocol):
    def ask(self, question: Question, **values: Parameter) -> Iterator[Row]: ...


class Kind(StrEnum):
    MISSING = "missing"  # a number of the chain has no event
    FORKED = "forked"  # two different events have one number
    BROKEN = "broken"  # an event does not continue the one before it
    EDITED = "edited"  # the published event no longer has its hash
    COLUMNS_DIFFER = "columns_differ"  # the columns say something else than the published event
    UNREADABLE = "unreadable"  # what is kept as the published event is none
    UNCHAINED = "unchained"  # a row that no function of the broker wrote
    NOT_KEPT = "not_kept"  # a row from before published events were kept: nothing to recompute
    OTHER_CONTENT = "other_content"  # an event that was received before has the same id and says something else
    NOT_JUDGED = "not_judged"  # more rows than are judged here could not be vouched for by BigQuery
    HEAD_CHANGED = "head_changed"  # at the place of a noted head there is another event, or none
    CHAIN_REMOVED = "chain_removed"  # a chain that was noted has no event at all
    DAY_REMOVED = "day_removed"  # all chains that were noted for a day are gone
    NOT_NOTED = "not_noted"  # no note can tell whether something was removed, or whether this was there


@dataclass(frozen=True, slots=True)
class Finding:
    kind: Kind
    chain_id: str | None
    seq: int | None
    event_id: str | None
    occurred_at: datetime | None
    detail: str


@dataclass(frozen=True, slots=True)
class Head:
    """The last event of a chain. `closed` chains say themselves that nothing follows."""

    chain_id: str
    function: str
    seq: int
    hash: str
    closed: bool
    occurred_at: datetime | None = None


@dataclass
class Verdict:
    events: int = 0
    recomputed: int = 0
    findings: list[Finding] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)

    def ended_without_close(self, *, now: datetime, noted: Sequence[Head] = ()) -> list[Head]:
        """Chains that said nothing for an hour and did not close: their last events may have been removed.

        Not those whose head is the one that was noted an hour after it or later: nothing was removed from them since.
        """
        quiet = [
            head
            for head in self.heads
            if not head.closed and head.occurred_at is not None and head.occurred_at < now - QUIET_FOR
        ]
        known = {(head.chain_id, head.seq, head.hash) for head in noted}
        return [head for head in quiet if (head.chain_id, head.seq, head.hash) not in known]


def verify(tables: Tables, *, since: datetime, until: datetime, noted: Sequence[Head] = ()) -> Verdict:
    """Judge the chains that have an event in this period, each from its start.

    `noted` are heads of an earlier verdict, kept where the table's writers cannot write. Raises: as `AuditTables.ask`.
    """
    verdict = Verdict()
    unvouched = 0
    for row in tables.ask(CHAINS, since=since, until=until):
        verdict.findings += _findings(row)
        if row["is_last"] and row["chain_id"] is not None:
            verdict.heads.append(_head(row))
            verdict.events += row["events"]
            verdict.recomputed += row["vouched_events"]
            unvouched += row["events"] - row["vouched_events"]
    if unvouched:
        rows = tables.ask(UNVOUCHED, since=since, until=until, limit=MAX_JUDGED)
        _judge_unvouched(rows, unvouched, verdict)
    verdict.findings += _changed_heads(tables, since, noted, verdict.heads)
    verdict.findings.sort(key=lambda finding: (finding.chain_id or "", finding.seq or 0))
    verdict.heads.sort(key=lambda head: head.chain_id)
    return verdict


def _findings(row: Row) -> Iterator[Finding]:
    """In the words of the view `chain_gaps`."""
    if row["gap"] is not None:
        yield _finding(Kind(row["gap"]), row, _detail(row))
    if row["is_other_content"]:
        yield _finding(Kind.OTHER_CONTENT, row, "an event received before has the same id and says something else")


def _detail(row: Row) -> str:
    if row["gap"] == Kind.MISSING:
        missing = row["seq"] - row["seq_before"] - 1
        return f"{missing} event{'' if missing == 1 else 's'} before this one not there"
    return _DETAILS[row["gap"]]


_DETAILS: Final[Mapping[str, str]] = {
    Kind.UNCHAINED: "the row has no place in any chain",
    Kind.FORKED: "another event has the same number",
    Kind.BROKEN: "does not continue the event before it",
}


def _head(row: Row) -> Head:
    closed = row["event_type"] == EventType.CHAIN_CLOSED
    function = row["function_name"] or "unknown"
    return Head(row["chain_id"], function, row["seq"], row["stated_hash"], closed, row["occurred_at"])


def _judge_unvouched(rows: Iterable[Row], expected: int, verdict: Verdict) -> None:
    before: Row | None = None
    judged = 0
    for row in rows:
        if before is not None and _stated(row) == _stated(before):
            continue  # delivered twice: the same event to the byte, written a second time
        content = list(_judge_content(row))
        verdict.findings += content
        verdict.recomputed += not any(finding.kind in (Kind.NOT_KEPT, Kind.UNREADABLE) for finding in content)
        judged += 1
        before = row
    if judged < expected:
        detail = f"{expected - judged} rows that BigQuery cannot vouch for were not judged: ask for a shorter period"
        verdict.findings.append(Finding(Kind.NOT_JUDGED, None, None, None, None, detail))


def _stated(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("received_at", "message_id")}


def _changed_heads(tables: Tables, since: datetime, noted: Sequence[Head], heads: Sequence[Head]) -> Iterator[Finding]:
    """What was noted and is not the head of its chain now: the chain went on, or was changed."""
    now = {(head.chain_id, head.seq, head.hash) for head in heads}
    passed = [head for head in noted if (head.chain_id, head.seq, head.hash) not in now]
    there = {head.chain_id for head in heads}
    gone = [head for head in passed if head.chain_id not in there]
    yield from _removed(tables, since, gone, noted)
    passed = [head for head in passed if head.chain_id in there]
    for start in range(0, len(passed), _PLACES_AT_ONCE):
        some = passed[start : start + _PLACES_AT_ONCE]
        found: dict[tuple[str, int], list[Row]] = {}
        for row in tables.ask(PLACES, since=since, places=[f"{head.chain_id} {head.seq}" for head in some]):
            found.setdefault((row["chain_id"], row["seq"]), []).append(row)
        for head in some:
            rows = found.get((head.chain_id, head.seq), [])
            if not rows:
                detail = "the event that was noted as head is not there"
                yield Finding(Kind.HEAD_CHANGED, head.chain_id, head.seq, None, None, detail)
            elif all(row["stated_hash"] != head.hash for row in rows):
                yield _finding(Kind.HEAD_CHANGED, rows[0], "another event was noted as head here")


def _removed(tables: Tables, since: datetime, gone: Sequence[Head], noted: Sequence[Head]) -> Iterator[Finding]:
    """Chains that were noted and have no event in the period. One that is read now only because it went on is none."""
    if not gone:
        return
    asked = [f"{head.chain_id} {head.seq}" for head in gone]
    found = {
        (row["chain_id"], row["stated_hash"])
        for start in range(0, len(asked), _PLACES_AT_ONCE)
        for row in tables.ask(PLACES, since=since, places=asked[start : start + _PLACES_AT_ONCE])
    }
    gone = [head for head in gone if (head.chain_id, head.hash) not in found]
    by_day: dict[date, list[Head]] = {}
    noted_by_day: dict[date, int] = {}
    for head in noted:
        if head.occurred_at is not None:
            day = head.occurred_at.astimezone(UTC).date()
            noted_by_day[day] = noted_by_day.get(day, 0) + 1
    for head in gone:
        at = head.occurred_at
        if at is not None:
            by_day.setdefault(at.astimezone(UTC).date(), []).append(head)
        detail = f"{head.seq} events of {head.function} were noted, and none is there"
        yield Finding(Kind.CHAIN_REMOVED, head.chain_id, head.seq, None, at, detail)
    for day, heads in sorted(by_day.items()):
        if len(heads) == noted_by_day[day] and len(heads) > 1:
            events = sum(head.seq for head in heads)
            detail = f"{day}: all {len(heads)} chains that were noted, {events} events, are gone"
            yield Finding(Kind.DAY_REMOVED, None, None, None, heads[0].occurred_at, detail)


def _judge_content(row: Row) -> Iterator[Finding]:
    text = row.get("event_json")
    if text is None:
        yield _finding(Kind.NOT_KEPT, row, "written before published events were kept")
        return
    try:
        document = strict_json.load_object(text)
        event = read(document)
    except (strict_json.InvalidJson, ValidationError):
        yield _finding(Kind.UNREADABLE, row, "event_json holds no event of this version")
        return
    if event.chain is None or not _has_its_hash(document, event.chain.hash):
        yield _finding(Kind.EDITED, row, "event_json does not have its hash")
    differing = _differing_columns(row, event, text)
    if differing:
        yield _finding(Kind.COLUMNS_DIFFER, row, f"event_json says something else in: {', '.join(differing)}")


def _has_its_hash(document: dict[str, Any], stated: str) -> bool:
    try:
        return event_hash(document) == stated
    except ValueError:  # a number RFC 8785 cannot write: no event of ours has one
        return False


def _differing_columns(row: Row, event: AuditEvent, text: str) -> list[str]:
    own = ("received_at", "message_id")  # of the delivery, not of the event
    document = as_json(event)
    made = row_of(document, data=json.dumps(document).encode(), received_at=datetime.now(UTC), message_id="")
    written = json.loads(made.text) | {"event_json": text}
    return [
        column["name"]
        for column in columns()
        if column["name"] not in own
        and _canonical(row.get(column["name"]), column) != _canonical(written.get(column["name"]), column)
    ]


def _canonical(value: Any, column: Column) -> Any:
    """One form for what is written (JSON values) and what is read (BigQuery's): absent, null and empty are the same."""
    if value is None or value == []:
        return None
    if column["mode"] == "REPEATED":
        return [_canonical(item, {**column, "mode": "NULLABLE"}) for item in value]
    if column["type"] == "RECORD":
        members = {inner["name"]: _canonical(value.get(inner["name"]), inner) for inner in column["fields"]}
        return {name: member for name, member in members.items() if member is not None} or None
    if column["type"] == "TIMESTAMP":
        instant = datetime.fromisoformat(value) if isinstance(value, str) else value
        return instant.astimezone(UTC)
    return float(value) if column["type"] == "FLOAT" else value


def _finding(kind: Kind, row: Row, detail: str) -> Finding:
    """`row` is one of the table, or one of an answer."""
    chain: Mapping[str, Any] = row.get("chain") or {"id": row.get("chain_id"), "seq": row.get("seq")}
    return Finding(kind, chain.get("id"), chain.get("seq"), row.get("event_id"), row.get("occurred_at"), detail)
