"""Is the record whole and unchanged? Recomputes every hash and follows every chain, from the rows as they are in the table.

`chain_gaps` compares the hashes that the rows state, in SQL. Here each hash is made again from the published event, the
columns are compared with that event, and heads noted at an earlier time must still be there: whoever rewrites a chain to
its end, hashes included, cannot rewrite a note that was kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import groupby
from typing import Any, Final

from pydantic import ValidationError

from cab.adapters.google_cloud.audit_questions import Question, Row
from cab.adapters.google_cloud.audit_schema import Column, columns, row_of
from cab.domain.audit import AuditEvent, EventType, event_hash
from cab.protocol import strict_json

# Raw rows, duplicates included: two rows of one event must be the same. Chains are read from their start, which for a
# process that lives longer than 30 days is not reached.
CHAINS: Final = Question(
    """
    SELECT *
    FROM events_raw
    WHERE occurred_at >= TIMESTAMP_SUB(@since, INTERVAL 30 DAY)
      AND (
        chain.id IS NULL
        OR chain.id IN (SELECT chain.id FROM events_raw WHERE occurred_at >= @since AND occurred_at < @until)
      )
    ORDER BY chain.id, chain.seq, received_at, message_id
    """,
    ("since", "until"),
)


class Kind(StrEnum):
    MISSING = "missing"  # a number of the chain has no event
    FORKED = "forked"  # two different events have one number
    BROKEN = "broken"  # an event does not continue the one before it
    EDITED = "edited"  # the published event no longer has its hash
    COLUMNS_DIFFER = "columns_differ"  # the columns say something else than the published event
    UNREADABLE = "unreadable"  # what is kept as the published event is none
    UNCHAINED = "unchained"  # a row that no function of the broker wrote
    NOT_KEPT = "not_kept"  # a row from before published events were kept: nothing to recompute
    HEAD_CHANGED = "head_changed"  # at the place of a noted head stands another event, or none


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


@dataclass
class Verdict:
    events: int = 0
    recomputed: int = 0
    findings: list[Finding] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)


def verify(rows: Iterable[Row], *, noted: Sequence[Head] = ()) -> Verdict:
    """Judge the rows of `CHAINS`, in their order. `noted` are heads of an earlier verdict, kept where the table's writers cannot write."""
    verdict = Verdict()
    expected = {(head.chain_id, head.seq): head.hash for head in noted}
    for chain_id, links in groupby(rows, key=lambda row: (row.get("chain") or {}).get("id")):
        if chain_id is None:
            verdict.findings += [_finding(Kind.UNCHAINED, row, "the row has no place in any chain") for row in links]
            continue
        _follow(chain_id, links, verdict, expected)
    verdict.findings += [
        Finding(Kind.HEAD_CHANGED, chain_id, seq, None, None, "the event that was noted as head is not there")
        for chain_id, seq in expected
    ]
    return verdict


def _follow(chain_id: str, links: Iterable[Row], verdict: Verdict, expected: dict[tuple[str, int], str]) -> None:
    before: Row | None = None
    for row in links:
        if before is not None and _is_again(row, before):
            continue
        verdict.events += 1
        verdict.findings += _judge_place(row, before)
        content = list(_judge_content(row))
        verdict.findings += content
        verdict.recomputed += not any(finding.kind in (Kind.NOT_KEPT, Kind.UNREADABLE) for finding in content)
        noted = expected.pop((chain_id, row["chain"]["seq"]), None)
        if noted is not None and noted != row["chain"]["hash"]:
            verdict.findings.append(_finding(Kind.HEAD_CHANGED, row, "another event was noted as head here"))
        before = row
    if before is not None:
        chain = before["chain"]
        function = (before.get("service") or {}).get("function") or "unknown"
        closed = before["event_type"] == EventType.CHAIN_CLOSED
        verdict.heads.append(Head(chain_id, function, chain["seq"], chain["hash"], closed))


def _is_again(row: Row, before: Row) -> bool:
    """Delivered twice: the same event to the byte, written a second time."""
    return _stated(row) == _stated(before)


def _stated(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("received_at", "message_id")}


def _judge_place(row: Row, before: Row | None) -> Iterator[Finding]:
    """The same words as the view `chain_gaps`."""
    chain = row["chain"]
    seq_before = before["chain"]["seq"] if before else 0
    hash_before = before["chain"]["hash"] if before else ""
    if chain["seq"] > seq_before + 1:
        missing = chain["seq"] - seq_before - 1
        yield _finding(Kind.MISSING, row, f"{missing} event{'' if missing == 1 else 's'} before this one not there")
    elif chain["seq"] == seq_before:
        yield _finding(Kind.FORKED, row, "another event has the same number")
    elif (chain["prev_hash"] or "") != hash_before:
        yield _finding(Kind.BROKEN, row, "does not continue the event before it")


def _judge_content(row: Row) -> Iterator[Finding]:
    text = row.get("event_json")
    if text is None:
        yield _finding(Kind.NOT_KEPT, row, "written before published events were kept")
        return
    try:
        document = strict_json.load_object(text)
        event = AuditEvent.model_validate(document)
    except (strict_json.InvalidJson, ValidationError):
        yield _finding(Kind.UNREADABLE, row, "event_json holds no event of this version")
        return
    if event.chain is None or event_hash(document) != event.chain.hash:
        yield _finding(Kind.EDITED, row, "event_json does not have its hash")
    differing = _differing_columns(row, event, text)
    if differing:
        yield _finding(Kind.COLUMNS_DIFFER, row, f"event_json says something else in: {', '.join(differing)}")


def _differing_columns(row: Row, event: AuditEvent, text: str) -> list[str]:
    own = ("received_at", "message_id")  # of the delivery, not of the event
    written = row_of(event, data=text.encode(), received_at=datetime.now(UTC), message_id="")
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
    chain: Mapping[str, Any] = row.get("chain") or {}
    return Finding(kind, chain.get("id"), chain.get("seq"), row.get("event_id"), row.get("occurred_at"), detail)
