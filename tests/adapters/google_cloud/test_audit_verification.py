"""Whoever changes the record is found: each way to do so, and what is no change."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from tests.contracts.audit_story import START, Story
from tests.contracts.bigquery import client

from cab.adapters.google_cloud import audit_verification
from cab.adapters.google_cloud.audit_questions import AuditTables, Parameter, Question, Row
from cab.adapters.google_cloud.audit_schema import TABLE, create_table
from cab.adapters.google_cloud.audit_verification import CHAINS, PLACES, UNVOUCHED, Head, Kind, Verdict
from cab.domain.audit import EventType, IntentFacts, Latency, Outcome, Scopes, event_hash

PROJECT = "demo-verification"
PERIOD = {"since": START - timedelta(hours=1), "until": START + timedelta(hours=1)}

Rows = list[dict[str, Any]]
_datasets = count()


class CountedTables(AuditTables):
    """Notes which questions were asked, and how many rows came back for each."""

    def __init__(self, client: Any, dataset: str) -> None:
        super().__init__(client, dataset)
        self.asked: list[Question] = []
        self.read = 0

    def ask(self, question: Question, **values: Parameter) -> Iterator[Row]:
        self.asked.append(question)
        for row in super().ask(question, **values):
            self.read += 1
            yield row


@pytest.fixture(scope="module", autouse=True)
def bigquery(bigquery_url: str) -> Iterator[Any]:
    global _bigquery
    with client(bigquery_url, PROJECT) as _bigquery:
        yield _bigquery


_bigquery: Any = None


def tables_with(rows: Rows) -> CountedTables:
    """A dataset of its own with these rows, as they are."""
    dataset = f"verified_{next(_datasets)}"
    create_table(_bigquery, dataset)
    table = f"{PROJECT}.{dataset}.{TABLE}"
    assert _bigquery.insert_rows_json(table, rows, row_ids=[None] * len(rows), timeout=10) == []
    return CountedTables(_bigquery, dataset)


def verify(rows: Rows, *, noted: tuple[Head, ...] | list[Head] = ()) -> Verdict:
    return audit_verification.verify(tables_with(rows), noted=noted, **PERIOD)


@pytest.fixture
def rows() -> Rows:
    """Two chains of three and two events, in the order in which the table is read; the second has ended."""
    story = Story()
    for number in range(3):
        story.exchange(
            Outcome.ISSUED,
            txn=f"t{number}",
            scopes=Scopes(requested=[], granted=["read"]),
            latency_ms=Latency(total=12.0, policy=0.25),
        )
    story.grant(EventType.GRANT_CONNECTED, "grant")["chain"]["id"] = "chain-a"
    story.rows.pop()
    story.tell(EventType.KEY_ROTATED, by="b")
    story.tell(EventType.CHAIN_CLOSED, by="b")
    return story.rows


def findings(rows: Rows, *noted: Head) -> list[tuple[Kind, int | None]]:
    return [(finding.kind, finding.seq) for finding in verify(rows, noted=noted).findings]


def test_an_untouched_record_is_whole(rows: Rows) -> None:
    verdict = verify(rows)
    assert (verdict.events, verdict.recomputed, verdict.findings) == (5, 5, [])
    assert [(head.chain_id, head.function, head.seq, head.closed) for head in verdict.heads] == [
        ("chain-a", "a", 3, False),
        ("chain-b", "b", 2, True),
    ]


def test_an_event_that_came_twice_is_one(rows: Rows) -> None:
    again = rows[1] | {"message_id": "again", "received_at": rows[2]["received_at"]}
    verdict = verify([*rows[:2], again, *rows[2:]])
    assert (verdict.events, verdict.findings) == (5, [])


def test_a_removed_event_is_missing(rows: Rows) -> None:
    assert findings(rows[1:]) == [(Kind.MISSING, 2)]
    assert findings([rows[0], *rows[2:]]) == [(Kind.MISSING, 3)]


def _change_column(row: dict[str, Any]) -> None:
    row["outcome"] = "refused"


def _change_nested(row: dict[str, Any]) -> None:
    row["scopes"]["granted"] = ["read", "write"]


def _remove_member(row: dict[str, Any]) -> None:
    del row["latency_ms"]["policy"]


def _add_member(row: dict[str, Any]) -> None:
    row["reason_code"] = "policy_denied"


@pytest.mark.parametrize("change", [_change_column, _change_nested, _remove_member, _add_member])
def test_columns_that_were_changed_differ_from_the_published_event(
    rows: Rows, change: Callable[[dict[str, Any]], None]
) -> None:
    change(rows[1])
    assert findings(rows) == [(Kind.COLUMNS_DIFFER, 2)]


def test_a_published_event_that_was_changed_has_another_hash(rows: Rows) -> None:
    document = json.loads(rows[1]["event_json"])
    document["outcome"] = rows[1]["outcome"] = "refused"
    rows[1]["event_json"] = json.dumps(document)
    assert findings(rows) == [(Kind.EDITED, 2)]


def _rewrite(row: dict[str, Any], prev_hash: str, **changes: Any) -> str:
    """Change an event as somebody would who knows how hashes are made. Returns the new hash."""
    document = json.loads(row["event_json"]) | changes
    document["chain"]["prev_hash"] = prev_hash
    document["chain"]["hash"] = event_hash(document)
    row.update(changes, chain=document["chain"], event_json=json.dumps(document))
    made: str = document["chain"]["hash"]
    return made


def test_an_event_that_was_rewritten_with_its_hash_breaks_the_chain_after_it(rows: Rows) -> None:
    _rewrite(rows[1], rows[0]["chain"]["hash"], outcome="refused")
    assert findings(rows) == [(Kind.BROKEN, 3)]


def test_a_chain_that_was_rewritten_to_its_end_is_found_by_the_note_of_its_head(rows: Rows) -> None:
    note = deepcopy(verify(rows).heads)
    made = _rewrite(rows[1], rows[0]["chain"]["hash"], outcome="refused")
    _rewrite(rows[2], made)
    assert findings(rows) == []
    assert findings(rows, *note) == [(Kind.HEAD_CHANGED, 3)]


def test_a_chain_that_was_cut_off_is_found_by_the_note_of_its_head(rows: Rows) -> None:
    note = verify(rows).heads
    shorter = [rows[0], *rows[3:]]
    assert findings(shorter) == []
    assert findings(shorter, *note) == [(Kind.HEAD_CHANGED, 3)]


def test_a_chain_that_went_on_still_has_its_noted_head(rows: Rows) -> None:
    note = verify([rows[0], *rows[3:]]).heads
    assert findings(rows, *note) == []


def test_two_events_with_one_number_are_a_fork(rows: Rows) -> None:
    other = deepcopy(rows[1])
    _rewrite(other, rows[0]["chain"]["hash"], outcome="refused")
    found = findings([*rows[:2], other, *rows[2:]])
    assert (Kind.FORKED, 2) in found


def test_a_row_without_a_chain_was_not_written_by_the_broker(rows: Rows) -> None:
    stranger = {name: value for name, value in rows[0].items() if name != "chain"}
    assert findings([stranger, *rows]) == [(Kind.UNCHAINED, None)]


@pytest.mark.parametrize("text", ["", "{", "{}", '{"event_id": 1}'])
def test_what_is_no_event_is_unreadable(rows: Rows, text: str) -> None:
    rows[1]["event_json"] = text
    assert findings(rows) == [(Kind.UNREADABLE, 2)]


def test_a_row_from_before_events_were_kept_is_said_not_to_be_recomputed(rows: Rows) -> None:
    del rows[1]["event_json"]
    verdict = verify(rows)
    assert [finding.kind for finding in verdict.findings] == [Kind.NOT_KEPT]
    assert (verdict.events, verdict.recomputed) == (5, 4)
