"""Whoever changes the record is found: each way to do so, and what is no change."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any

import pytest
import rfc8785
from tests.contracts.audit_story import START, UPDATE, Story
from tests.contracts.bigquery import client, replace_rows

from cab.adapters.google_cloud.bigquery.audit_schema import TABLE, columns, create_table, row_of
from cab.adapters.google_cloud.pubsub.audit_chain import AuditChain
from cab.domain.audit import (
    Actor,
    AuditEvent,
    CallFacts,
    EventType,
    GrantFacts,
    IntentFacts,
    Latency,
    LoginFacts,
    Outcome,
    PolicyFacts,
    Scopes,
    Service,
    Subject,
    TaskFacts,
    TokenFacts,
    Tool,
    Unverified,
    event_hash,
)
from cab_ops.audit import verification as audit_verification
from cab_ops.audit.questions import AuditTables, Parameter, Question, Row
from cab_ops.audit.verification import CHAINS, PLACES, UNVOUCHED, Head, Kind, Verdict, verify

PROJECT, DATASET = "demo-verification", "cab_audit"
PERIOD = {"since": START - timedelta(hours=1), "until": START + timedelta(hours=1)}

Rows = list[dict[str, Any]]


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


class Record:
    """Verifies rows; each time there are no others."""

    def __init__(self, bigquery: Any) -> None:
        self._bigquery = bigquery
        self.tables: CountedTables
        create_table(bigquery, DATASET)

    def verify(self, rows: Rows, *noted: Head) -> Verdict:
        replace_rows(self._bigquery, f"{PROJECT}.{DATASET}.{TABLE}", rows)
        self.tables = CountedTables(self._bigquery, DATASET)
        return verify(self.tables, noted=noted, **PERIOD)

    def findings(self, rows: Rows, *noted: Head) -> list[tuple[Kind, int | None]]:
        return [(finding.kind, finding.seq) for finding in self.verify(rows, *noted).findings]


@pytest.fixture(scope="module")
def record(bigquery_url: str) -> Iterator[Record]:
    with client(bigquery_url, PROJECT) as bigquery:
        yield Record(bigquery)


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


def test_an_untouched_record_is_whole(record: Record, rows: Rows) -> None:
    verdict = record.verify(rows)
    assert (verdict.events, verdict.recomputed, verdict.findings) == (5, 5, [])
    assert [(head.chain_id, head.function, head.seq, head.closed) for head in verdict.heads] == [
        ("chain-a", "a", 3, False),
        ("chain-b", "b", 2, True),
    ]


def test_of_an_untouched_record_only_the_heads_are_read_and_the_table_once(record: Record, rows: Rows) -> None:
    verdict = record.verify(rows)
    assert (record.tables.asked, record.tables.read) == ([CHAINS], 2)
    assert CHAINS.sql.count("events_raw") == 1
    assert [CHAINS.sql.count(f"FROM {step}\n") for step in re.findall(r"(\w+) AS \(\n", CHAINS.sql)] == [1] * 6
    record.verify(rows, *verdict.heads)
    assert (record.tables.asked, record.tables.read) == ([CHAINS], 2)
    record.verify(rows, Head("chain-a", "a", 1, rows[0]["chain"]["hash"], closed=False))
    assert (record.tables.asked, record.tables.read) == ([CHAINS, PLACES], 3)


def every_member(name: str) -> AuditEvent:
    """An event that has all there is to say, in texts and numbers that are easily written otherwise."""
    text = 'quo"ted \\ /slash\n\t\x01\x7f <&> é 漢 \U0001f600 "chain":{"hash":"x", {} [] ,}'
    return AuditEvent(
        event_id=name,
        event_type=EventType.EXCHANGE_DECIDED,
        occurred_at=START + timedelta(microseconds=120),
        tenant="acme",
        subject=Subject(key="k", idp_issuer="https://idp", groups=["b", "a", text], groups_unknown="missing"),
        actor=Actor(
            agent_id="agent", chain=["one", "two"], client_id="client", trust_zone="inner", delegates_to="next", depth=2
        ),
        login=LoginFacts(session="s", auth_time=START, acr="gold"),
        assertion_jti="aj",
        tool=Tool(connection="crm", provider="p", action=UPDATE, effect="write", mode="m"),
        intent=IntentFacts(
            identifier="opportunity/1",
            parameters_digest="d",
            parameters='{"a":[{}],"b":"\\u00e9"}',
            reason=text,
            trigger="user_turn",
            task_id="t",
            intent_hash="h",
        ),
        task=TaskFacts(bounds_digest="d", within=False, comparison="outside"),
        decision="permit",
        reason_code="policy_denied",
        why="a fixed phrase",
        unverified=Unverified(client_id="c", issuer="i"),
        policy=PolicyFacts(
            version="v",
            determining_rules=["r"],
            shadow_decision="deny",
            shadow_version="sha-256:w",
            shadow_differs=True,
        ),
        decided_by="policy",
        scopes=Scopes(requested=["x"], granted=["y", "x"], narrowed=True),
        token=TokenFacts(kind="downstream", jti="j", sha256="00", expires_at=START),
        grant=GrantFacts(
            id="g", seq=0, secret_version=7, cause="user", upstream_revoked=True, provider_error="http 400"
        ),
        call=CallFacts(
            id="call",
            method="GET",
            host="crm.example",
            path_template="/a/{id}",
            request_digest="sha-256:x",
            request_bytes=3,
            attempts=2,
            outcome="unknown",
            cause="interrupted",
            upstream_status=504,
            upstream_request_id=text,
            response_bytes=0,
            response_commitment="sha-256:y",
            items=0,
            content_type="application/json",
            marked_characters=1,
        ),
        observed_by="broker",
        confirmation_id="c1",
        outcome=Outcome.ISSUED,
        corrects="another",
        count=12,
        latency_ms=Latency(
            total=1234567.5, policy=0.001, grant=0.0, refresh=9.5, upstream=12.0, provider=7.25, publish=3.0
        ),
        txn="t",
        trace_id="tr",
        caller_ip_prefix="192.0.2.0/24",
    )


def row_alone(event: AuditEvent) -> dict[str, Any]:
    """The event as the only one of its chain, which is named for it."""
    data = AuditChain(event.event_id, Service(function="f", revision="r")).seal(event, settled=0).data
    sealed = AuditEvent.model_validate_json(data)
    return row_of(sealed, data=data, received_at=START, message_id="m")


def leaves() -> list[tuple[str, ...]]:
    names: list[tuple[str, ...]] = []
    for column in columns():
        inner = column.get("fields", [])
        names += [(column["name"], member["name"]) for member in inner] if inner else [(column["name"],)]
    of_the_delivery = {("received_at",), ("message_id",), ("event_json",)}
    return [name for name in names if name not in of_the_delivery]


def test_bigquery_vouches_for_an_event_whatever_it_says(record: Record) -> None:
    full, bare = every_member("full"), AuditEvent(event_id="b", event_type=EventType.KEY_ROTATED, occurred_at=START)
    empty = bare.model_copy(update={"event_id": "empty", "task": TaskFacts(), "policy": PolicyFacts()})
    verdict = record.verify([row_alone(event) for event in (full, bare, empty)])
    assert (verdict.recomputed, verdict.findings, record.tables.asked) == (3, [], [CHAINS])
    row = row_alone(full)
    assert [name for name in leaves() if _value(row, name) in (None, [])] == []  # every member is said


def _value(row: dict[str, Any], name: tuple[str, ...]) -> Any:
    value: Any = row
    for part in name:
        value = value[part]
    return value


def _another(value: Any) -> Any:
    """As little else as the column takes."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [*value, "more"]
    if isinstance(value, str) and value.startswith("20"):
        return (datetime.fromisoformat(value) + timedelta(microseconds=1)).isoformat()
    return value + 1 if isinstance(value, int | float) else f"{value} "


@pytest.mark.parametrize("change", ["another", "none"])
def test_no_column_can_be_changed_or_emptied_without_being_named(record: Record, change: str) -> None:
    rows = []
    for name in leaves():
        row = deepcopy(row_alone(every_member(".".join(name))))
        *outer, last = name
        place = row[outer[0]] if outer else row
        required = (name[0] == "chain" and name[1] != "settled") or name in (
            ("event_id",),
            ("event_type",),
            ("occurred_at",),
            ("schema_version",),
        )
        if change == "none" and required:
            continue  # the table takes no row without it, or the row is in no chain then
        place[last] = _another(place[last]) if change == "another" else [] if isinstance(place[last], list) else None
        rows.append((name, row))
    verdict = record.verify([row for _, row in rows])
    found = {
        finding.event_id.strip(): finding.detail
        for finding in verdict.findings
        if finding.kind is Kind.COLUMNS_DIFFER and finding.event_id
    }
    assert found == {".".join(name): f"event_json says something else in: {name[0]}" for name, _ in rows}


def _sealed_by_hand(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """A row of somebody who may write the table and knows how hashes are made: text, columns and hash agree."""
    row = row_alone(
        AuditEvent(event_id="e", event_type=EventType.KEY_ROTATED, occurred_at=START, subject=Subject(key="k"))
    )
    document = json.loads(row["event_json"])
    change(document)
    document["chain"]["hash"] = event_hash(document)
    text = rfc8785.dumps(document).decode()
    columns = {name: document.get(name, value) for name, value in row.items()}
    changed: dict[str, Any] = columns | document | {"event_json": text}
    return changed


@pytest.mark.parametrize(
    "members",
    [
        {"event_type": "key.forged"},
        {"decision": "maybe"},
        {"outcome": "withheld"},
        {"token": {"kind": "other"}},
        {"subject": {"groups": ["g"]}, "subject_key": None},
    ],
)
def test_what_is_no_event_of_ours_is_unreadable_also_with_the_right_hash(
    record: Record, members: dict[str, Any]
) -> None:
    copies = {name: members.pop(name) for name in ("subject_key",) if name in members}
    row = _sealed_by_hand(lambda document: document.update(members)) | copies
    assert record.findings([row]) == [(Kind.UNREADABLE, 1)]


def test_a_number_that_has_no_one_form_is_no_reason_to_fail(record: Record, rows: Rows) -> None:
    document = json.loads(rows[0]["event_json"]) | {"count": 2**60}
    rows[0] |= {"count": 2**60, "event_json": json.dumps(document, sort_keys=True, separators=(",", ":"))}
    assert record.findings(rows) == [(Kind.EDITED, 1)]


def test_a_member_that_stands_twice_is_unreadable(record: Record, rows: Rows) -> None:
    rows[1]["event_json"] = rows[1]["event_json"].replace('"outcome":', '"outcome":"refused","outcome":')
    assert record.findings(rows) == [(Kind.UNREADABLE, 2)]


def in_the_order_of_before(row: dict[str, Any]) -> dict[str, Any]:
    """As functions published before 2026-11-27: the same event and hash, its members in the order of the model."""
    document = AuditEvent.model_validate_json(row["event_json"]).model_dump(mode="json", exclude_none=True)
    return row | {"event_json": json.dumps(document, ensure_ascii=False, separators=(",", ":"))}


def test_rows_of_before_are_read_and_judged_and_only_they(record: Record, rows: Rows) -> None:
    verdict = record.verify([rows[0], in_the_order_of_before(rows[1]), *rows[2:]])
    assert (verdict.events, verdict.recomputed, verdict.findings) == (5, 5, [])
    assert (record.tables.asked, record.tables.read) == ([CHAINS, UNVOUCHED], 3)


def test_rows_of_before_beyond_what_is_judged_are_said_and_are_no_whole_record(
    record: Record, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_verification, "MAX_JUDGED", 2)
    verdict = record.verify([in_the_order_of_before(row) for row in rows])
    (finding,) = verdict.findings
    assert (finding.kind, finding.detail.split()[0], verdict.recomputed) == (Kind.NOT_JUDGED, "3", 2)


def test_a_second_content_under_an_id_is_found_and_a_second_publish_is_none(record: Record) -> None:
    story = Story()
    first = story.exchange(Outcome.ISSUED, txn="t")
    story.tell_again(first, by="b")
    assert record.findings(story.rows) == []
    story.rows[-1] = in_the_order_of_before(story.rows[-1])
    assert record.findings(story.rows) == []
    story.tell_otherwise(first, by="c", txn="other")
    verdict = record.verify(story.rows)
    assert [(found.kind, found.chain_id, found.event_id) for found in verdict.findings] == [
        (Kind.OTHER_CONTENT, "chain-c", "event-000")
    ]


def test_a_chain_outside_the_period_is_not_judged_and_one_that_touches_it_is_from_its_start(record: Record) -> None:
    story = Story()
    story.tell(EventType.KEY_ROTATED)
    early = story.tell(EventType.KEY_ROTATED, by="b")
    for row, text in [(early, '{"chain":'), (story.rows[0], "")]:
        before = START - timedelta(days=2)
        row |= {"occurred_at": before.isoformat(), "event_json": text}
    story.tell(EventType.KEY_ROTATED)
    verdict = record.verify(story.rows)
    assert [(found.kind, found.chain_id, found.seq) for found in verdict.findings] == [(Kind.UNREADABLE, "chain-a", 1)]
    assert [head.chain_id for head in verdict.heads] == ["chain-a"]


def test_an_event_that_came_twice_is_one(record: Record, rows: Rows) -> None:
    again = rows[1] | {"message_id": "again", "received_at": rows[2]["received_at"]}
    verdict = record.verify([*rows[:2], again, *rows[2:]])
    assert (verdict.events, verdict.findings) == (5, [])


def test_a_removed_event_is_missing(record: Record, rows: Rows) -> None:
    assert record.findings(rows[1:]) == [(Kind.MISSING, 2)]
    assert record.findings([rows[0], *rows[2:]]) == [(Kind.MISSING, 3)]


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
    record: Record, rows: Rows, change: Callable[[dict[str, Any]], None]
) -> None:
    change(rows[1])
    assert record.findings(rows) == [(Kind.COLUMNS_DIFFER, 2)]


def test_a_published_event_that_was_changed_has_another_hash(record: Record, rows: Rows) -> None:
    document = json.loads(rows[1]["event_json"])
    document["outcome"] = rows[1]["outcome"] = "refused"
    rows[1]["event_json"] = json.dumps(document)
    assert record.findings(rows) == [(Kind.EDITED, 2)]


def test_an_event_that_was_changed_in_text_and_columns_alike_has_another_hash(record: Record, rows: Rows) -> None:
    document = json.loads(rows[1]["event_json"]) | {"outcome": "refused"}
    rows[1] |= {"outcome": "refused", "event_json": rfc8785.dumps(document).decode()}
    assert record.findings(rows) == [(Kind.EDITED, 2)]


def _rewrite(row: dict[str, Any], prev_hash: str, **changes: Any) -> str:
    """Change an event as somebody would who knows how hashes are made. Returns the new hash."""
    document = json.loads(row["event_json"]) | changes
    document["chain"]["prev_hash"] = prev_hash
    document["chain"]["hash"] = event_hash(document)
    row.update(changes, chain=document["chain"], event_json=json.dumps(document))
    made: str = document["chain"]["hash"]
    return made


def test_an_event_that_was_rewritten_with_its_hash_breaks_the_chain_after_it(record: Record, rows: Rows) -> None:
    _rewrite(rows[1], rows[0]["chain"]["hash"], outcome="refused")
    assert record.findings(rows) == [(Kind.BROKEN, 3)]


def test_a_chain_that_was_rewritten_to_its_end_is_found_by_the_note_of_its_head(record: Record, rows: Rows) -> None:
    note = deepcopy(record.verify(rows).heads)
    made = _rewrite(rows[1], rows[0]["chain"]["hash"], outcome="refused")
    _rewrite(rows[2], made)
    assert record.findings(rows) == []
    assert record.findings(rows, *note) == [(Kind.HEAD_CHANGED, 3)]


def test_a_chain_that_was_cut_off_is_found_by_the_note_of_its_head(record: Record, rows: Rows) -> None:
    note = record.verify(rows).heads
    shorter = [rows[0], *rows[3:]]
    assert record.findings(shorter) == []
    assert record.findings(shorter, *note) == [(Kind.HEAD_CHANGED, 3)]


def test_a_chain_that_went_on_still_has_its_noted_head(record: Record, rows: Rows) -> None:
    note = record.verify([rows[0], *rows[3:]]).heads
    assert record.findings(rows, *note) == []


def test_two_events_with_one_number_are_a_fork(record: Record, rows: Rows) -> None:
    other = deepcopy(rows[1])
    _rewrite(other, rows[0]["chain"]["hash"], outcome="refused")
    found = record.findings([*rows[:2], other, *rows[2:]])
    assert (Kind.FORKED, 2) in found


def test_a_row_without_a_chain_was_not_written_by_the_broker(record: Record, rows: Rows) -> None:
    stranger = {name: value for name, value in rows[0].items() if name != "chain"}
    assert record.findings([stranger, *rows]) == [(Kind.UNCHAINED, None)]


@pytest.mark.parametrize("text", ["", "{", "{}", '{"event_id": 1}'])
def test_what_is_no_event_is_unreadable(record: Record, rows: Rows, text: str) -> None:
    rows[1]["event_json"] = text
    assert record.findings(rows) == [(Kind.UNREADABLE, 2)]


def test_a_row_from_before_events_were_kept_is_said_not_to_be_recomputed(record: Record, rows: Rows) -> None:
    del rows[1]["event_json"]
    verdict = record.verify(rows)
    assert [finding.kind for finding in verdict.findings] == [Kind.NOT_KEPT]
    assert (verdict.events, verdict.recomputed) == (5, 4)
