"""Whoever changes the record is found: each way to do so, and what is no change.

All of it stands in one table, told in chains of its own, and is verified at once: a change of one is no finding of another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import rfc8785
from tests.contracts.audit_story import START, UPDATE, Story
from tests.contracts.bigquery import Record as BigQueryRecord
from tests.contracts.bigquery import client, replace_rows
from tests.support.audit_row import columns_of

from cab.adapters.google_cloud.bigquery.audit_schema import TABLE, columns
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
    read_json,
)
from cab.encoding.records import as_json
from cab_ops.audit import verification as audit_verification
from cab_ops.audit.questions import AuditTables, Parameter, Question, Row
from cab_ops.audit.verification import CHAINS, PLACES, UNVOUCHED, Finding, Head, Kind, Verdict, verify

PROJECT, DATASET = BigQueryRecord.PROJECT, BigQueryRecord.DATASET
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

    def verify(self, rows: Rows, *noted: Head) -> Verdict:
        replace_rows(self._bigquery, f"{PROJECT}.{DATASET}.{TABLE}", rows)
        self.tables = CountedTables(self._bigquery, DATASET)
        return verify(self.tables, noted=noted, **PERIOD)


@pytest.fixture(scope="module")
def record(bigquery_url: str) -> Iterator[Record]:
    with client(bigquery_url, PROJECT) as bigquery:
        yield Record(bigquery)


def told(title: str = "") -> Story:
    """Two chains of three and two events; the second has ended."""
    story = Story(title=title)
    for number in range(3):
        story.exchange(
            Outcome.ISSUED,
            txn=f"t{number}",
            scopes=Scopes(requested=[], granted=["read"]),
            latency_ms=Latency(total=12.0, policy=0.25),
        )
    story.tell(EventType.KEY_ROTATED, by="b")
    story.tell(EventType.CHAIN_CLOSED, by="b")
    return story


def heads(rows: Rows) -> tuple[Head, ...]:
    """The last event of each chain, as somebody notes it who trusts the table."""
    last = {row["chain"]["id"]: row for row in rows}
    return tuple(
        Head(
            chain_id,
            row["service"]["function"],
            row["chain"]["seq"],
            row["chain"]["hash"],
            closed=row["event_type"] == EventType.CHAIN_CLOSED,
        )
        for chain_id, row in last.items()
    )


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
    return columns_of(data, received_at=START, message_id="m")


def leaves() -> list[tuple[str, ...]]:
    names: list[tuple[str, ...]] = []
    for column in columns():
        inner = column.get("fields", [])
        names += [(column["name"], member["name"]) for member in inner] if inner else [(column["name"],)]
    of_the_delivery = {("received_at",), ("message_id",), ("event_json",)}
    return [name for name in names if name not in of_the_delivery]


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


def sealed_by_hand(name: str, said: dict[str, Any]) -> dict[str, Any]:
    """A row of somebody who may write the table and knows how hashes are made: text, columns and hash agree."""
    row = row_alone(
        AuditEvent(event_id=name, event_type=EventType.KEY_ROTATED, occurred_at=START, subject=Subject(key="k"))
    )
    document = json.loads(row["event_json"]) | said
    document["chain"]["hash"] = event_hash(document)
    text = rfc8785.dumps(document).decode()
    columns = {name: document.get(name, value) for name, value in row.items()}
    changed: dict[str, Any] = columns | document | {"event_json": text}
    return changed


def in_the_order_of_before(row: dict[str, Any]) -> dict[str, Any]:
    """As functions published before 2026-11-27: the same event and hash, its members in the order of the model."""
    document = as_json(read_json(row["event_json"]))
    return row | {"event_json": json.dumps(document, ensure_ascii=False, separators=(",", ":"))}


def rewrite(row: dict[str, Any], prev_hash: str, **changes: Any) -> str:
    """Change an event as somebody would who knows how hashes are made. Returns the new hash."""
    document = json.loads(row["event_json"]) | changes
    document["chain"]["prev_hash"] = prev_hash
    document["chain"]["hash"] = event_hash(document)
    row.update(changes, chain=document["chain"], event_json=json.dumps(document))
    made: str = document["chain"]["hash"]
    return made


Change = Callable[[Story], Rows]
Found = list[tuple[Kind, int | None]]


@dataclass(frozen=True)
class Planted:
    """What somebody did to rows that were told, and what is to be found. `noted` are the rows there when heads were noted."""

    change: Change
    found: Found
    noted: slice


PLANTED: list[Planted] = []


def planted(*found: tuple[Kind, int | None], noted: slice = slice(0)) -> Callable[[Change], Change]:
    def plant(change: Change) -> Change:
        PLANTED.append(Planted(change, list(found), noted))
        return change

    return plant


ALL = slice(None)


@planted()
def an_untouched_story_is_whole(story: Story) -> Rows:
    return story.rows


@planted((Kind.MISSING, 2))
def a_removed_first_event_is_missing(story: Story) -> Rows:
    return story.rows[1:]


@planted((Kind.MISSING, 3))
def a_removed_event_is_missing(story: Story) -> Rows:
    return [story.rows[0], *story.rows[2:]]


@planted()
def an_event_that_came_twice_is_one(story: Story) -> Rows:
    again = story.rows[1] | {"message_id": "again", "received_at": story.rows[2]["received_at"]}
    return [*story.rows, again]


@planted((Kind.COLUMNS_DIFFER, 2))
def a_changed_column_differs_from_the_published_event(story: Story) -> Rows:
    story.rows[1]["outcome"] = "refused"
    return story.rows


@planted((Kind.COLUMNS_DIFFER, 2))
def a_changed_nested_column_differs(story: Story) -> Rows:
    story.rows[1]["scopes"]["granted"] = ["read", "write"]
    return story.rows


@planted((Kind.COLUMNS_DIFFER, 2))
def a_removed_member_differs(story: Story) -> Rows:
    del story.rows[1]["latency_ms"]["policy"]
    return story.rows


@planted((Kind.COLUMNS_DIFFER, 2))
def an_added_member_differs(story: Story) -> Rows:
    story.rows[1]["reason_code"] = "policy_denied"
    return story.rows


@planted((Kind.EDITED, 2))
def a_published_event_that_was_changed_has_another_hash(story: Story) -> Rows:
    document = json.loads(story.rows[1]["event_json"])
    document["outcome"] = story.rows[1]["outcome"] = "refused"
    story.rows[1]["event_json"] = json.dumps(document)
    return story.rows


@planted((Kind.EDITED, 2))
def an_event_that_was_changed_in_text_and_columns_alike_has_another_hash(story: Story) -> Rows:
    document = json.loads(story.rows[1]["event_json"]) | {"outcome": "refused"}
    story.rows[1] |= {"outcome": "refused", "event_json": rfc8785.dumps(document).decode()}
    return story.rows


@planted((Kind.EDITED, 1))
def a_number_that_has_no_one_form_is_no_reason_to_fail(story: Story) -> Rows:
    document = json.loads(story.rows[0]["event_json"]) | {"count": 2**60}
    story.rows[0] |= {"count": 2**60, "event_json": json.dumps(document, sort_keys=True, separators=(",", ":"))}
    return story.rows


@planted((Kind.BROKEN, 3))
def an_event_that_was_rewritten_with_its_hash_breaks_the_chain_after_it(story: Story) -> Rows:
    rewrite(story.rows[1], story.rows[0]["chain"]["hash"], outcome="refused")
    return story.rows


def rewritten_to_its_end(story: Story) -> Rows:
    made = rewrite(story.rows[1], story.rows[0]["chain"]["hash"], outcome="refused")
    rewrite(story.rows[2], made)
    return story.rows


@planted()
def a_chain_that_was_rewritten_to_its_end_looks_whole(story: Story) -> Rows:
    return rewritten_to_its_end(story)


@planted((Kind.HEAD_CHANGED, 3), noted=ALL)
def a_chain_that_was_rewritten_to_its_end_is_found_by_the_note_of_its_head(story: Story) -> Rows:
    return rewritten_to_its_end(story)


@planted()
def a_chain_that_was_cut_off_looks_whole(story: Story) -> Rows:
    return [story.rows[0], *story.rows[3:]]


@planted((Kind.HEAD_CHANGED, 3), noted=ALL)
def a_chain_that_was_cut_off_is_found_by_the_note_of_its_head(story: Story) -> Rows:
    return [story.rows[0], *story.rows[3:]]


@planted(noted=slice(1))
def a_chain_that_went_on_still_has_its_noted_head(story: Story) -> Rows:
    return story.rows


@planted((Kind.FORKED, 2), (Kind.OTHER_CONTENT, 2), (Kind.BROKEN, 3))
def two_events_with_one_number_are_a_fork(story: Story) -> Rows:
    other = deepcopy(story.rows[1]) | {"received_at": story.rows[4]["received_at"]}
    rewrite(other, story.rows[0]["chain"]["hash"], outcome="refused")
    return [*story.rows, other]


@planted((Kind.UNCHAINED, None))
def a_row_without_a_chain_was_not_written_by_the_broker(story: Story) -> Rows:
    return [{name: value for name, value in story.rows[0].items() if name != "chain"}, *story.rows]


@planted()
def a_second_publish_is_no_second_content(story: Story) -> Rows:
    story.tell_again(story.rows[0], by="c")
    return story.rows


@planted()
def a_second_publish_of_before_is_no_second_content(story: Story) -> Rows:
    again = story.tell_again(story.rows[0], by="c")
    return [*story.rows[:-1], in_the_order_of_before(again)]


@planted((Kind.OTHER_CONTENT, 1))
def a_second_content_under_an_id_is_found(story: Story) -> Rows:
    story.tell_otherwise(story.rows[0], by="c", txn="other")
    return story.rows


@planted((Kind.NOT_KEPT, 2))
def a_row_from_before_events_were_kept_is_said_not_to_be_recomputed(story: Story) -> Rows:
    del story.rows[1]["event_json"]
    return story.rows


@planted((Kind.UNREADABLE, 2))
def a_member_that_stands_twice_is_unreadable(story: Story) -> Rows:
    story.rows[1]["event_json"] = story.rows[1]["event_json"].replace('"outcome":', '"outcome":"refused","outcome":')
    return story.rows


@planted((Kind.UNREADABLE, 1))
def a_chain_outside_the_period_is_not_judged_and_one_that_touches_it_is_from_its_start(story: Story) -> Rows:
    before = (START - timedelta(days=2)).isoformat()
    story.rows[0] |= {"occurred_at": before, "event_json": ""}
    for row in story.rows[3:]:
        row |= {"occurred_at": before, "event_json": '{"chain":'}
    return story.rows


for text in ("", "{", "{}", '{"event_id": 1}'):

    @planted((Kind.UNREADABLE, 2))
    def what_is_no_event_is_unreadable(story: Story, text: str = text) -> Rows:
        story.rows[1]["event_json"] = text
        return story.rows


for members in (
    {"event_type": "key.forged"},
    {"decision": "maybe"},
    {"outcome": "withheld"},
    {"token": {"kind": "other"}},
    {"subject": {"groups": ["g"]}, "subject_key": None},
):

    @planted((Kind.UNREADABLE, 1))
    def what_is_no_event_of_ours_is_unreadable_also_with_the_right_hash(
        story: Story, members: dict[str, Any] = members
    ) -> Rows:
        copies = {name: value for name, value in members.items() if name == "subject_key"}
        said = {name: value for name, value in members.items() if name not in copies}
        return [sealed_by_hand(f"{story.title}alone", said) | copies]


def title(number: int) -> str:
    return f"{number:02}-"


@pytest.fixture(scope="module")
def verdict(record: Record) -> Verdict:
    """All that was planted, verified at once."""
    rows: Rows = []
    noted: tuple[Head, ...] = ()
    for number, it in enumerate(PLANTED):
        story = told(title(number))
        noted += heads(deepcopy(story.rows[it.noted]))
        rows += it.change(story)
    for change in ("another", "none"):
        rows += changed_columns(change).values()
    return record.verify(rows, *noted)


def of(title: str, verdict: Verdict) -> list[Finding]:
    return [it for it in verdict.findings if (it.chain_id or it.event_id or "").startswith(title)]


@pytest.mark.parametrize(
    ("number", "found"),
    [pytest.param(number, it.found, id=it.change.__name__) for number, it in enumerate(PLANTED)],
)
def test_each_change_is_found_and_named(verdict: Verdict, number: int, found: Found) -> None:
    assert sorted((it.kind, it.seq) for it in of(title(number), verdict)) == sorted(found)


def test_a_second_content_names_the_later_chain_and_the_event(verdict: Verdict) -> None:
    (number,) = [number for number, it in enumerate(PLANTED) if it.change is a_second_content_under_an_id_is_found]
    assert [(it.chain_id, it.event_id) for it in of(title(number), verdict)] == [
        (f"{title(number)}chain-c", f"{title(number)}event-000")
    ]


def test_nothing_else_is_found(verdict: Verdict) -> None:
    known = ("another.", "none.", *map(title, range(len(PLANTED))))
    assert [it for it in verdict.findings if not (it.chain_id or it.event_id or "").startswith(known)] == []


def test_a_chain_outside_the_period_has_no_head_in_the_verdict(verdict: Verdict) -> None:
    early = a_chain_outside_the_period_is_not_judged_and_one_that_touches_it_is_from_its_start
    (number,) = [number for number, it in enumerate(PLANTED) if it.change is early]
    assert [it.chain_id for it in verdict.heads if it.chain_id.startswith(title(number))] == [f"{title(number)}chain-a"]


def changed_columns(change: str) -> dict[str, dict[str, Any]]:
    """Rows of which one column each says another thing, or nothing, by the column's name."""
    rows = {}
    for name in leaves():
        row = deepcopy(row_alone(every_member(f"{change}.{'.'.join(name)}")))
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
        rows[".".join(name)] = row
    return rows


@pytest.mark.parametrize("change", ["another", "none"])
def test_no_column_can_be_changed_or_emptied_without_being_named(verdict: Verdict, change: str) -> None:
    found = {
        it.event_id.strip(): it.detail
        for it in verdict.findings
        if it.kind is Kind.COLUMNS_DIFFER and it.event_id and it.event_id.startswith(f"{change}.")
    }
    assert found == {
        f"{change}.{name}": f"event_json says something else in: {name.partition('.')[0]}"
        for name in changed_columns(change)
    }


def test_of_an_untouched_record_only_the_heads_are_read_and_the_table_once(record: Record) -> None:
    full, bare = every_member("full"), AuditEvent(event_id="b", event_type=EventType.KEY_ROTATED, occurred_at=START)
    empty = replace(bare, event_id="empty", task=TaskFacts(), policy=PolicyFacts())
    alone = [row_alone(event) for event in (full, bare, empty)]
    assert [name for name in leaves() if _value(alone[0], name) in (None, [])] == []  # every member is said
    rows = told().rows
    verdict = record.verify([*alone, *rows])
    assert (verdict.events, verdict.recomputed, verdict.findings) == (8, 8, [])
    assert (record.tables.asked, record.tables.read) == ([CHAINS], 5)
    assert [(head.chain_id, head.function, head.seq, head.closed) for head in verdict.heads] == [
        ("b", "f", 1, False),
        ("chain-a", "a", 3, False),
        ("chain-b", "b", 2, True),
        ("empty", "f", 1, False),
        ("full", "f", 1, False),
    ]
    assert heads(rows) == tuple(replace(head, occurred_at=None) for head in verdict.heads[1:3])
    assert CHAINS.sql.count("events_raw") == 1
    assert [CHAINS.sql.count(f"FROM {step}\n") for step in re.findall(r"(\w+) AS \(\n", CHAINS.sql)] == [1] * 6


def test_only_where_another_head_was_noted_is_its_place_read(record: Record) -> None:
    rows = told().rows
    verdict = record.verify(rows, *heads(rows[:1]), *heads(rows[3:]))
    assert (verdict.events, verdict.recomputed, verdict.findings) == (5, 5, [])
    assert (record.tables.asked, record.tables.read) == ([CHAINS, PLACES], 3)


def test_rows_of_before_are_read_and_judged_and_only_they(record: Record) -> None:
    rows = told().rows
    verdict = record.verify([rows[0], in_the_order_of_before(rows[1]), *rows[2:]])
    assert (verdict.events, verdict.recomputed, verdict.findings) == (5, 5, [])
    assert (record.tables.asked, record.tables.read) == ([CHAINS, UNVOUCHED], 3)


def test_rows_of_before_beyond_what_is_judged_are_said_and_are_no_whole_record(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_verification, "MAX_JUDGED", 2)
    verdict = record.verify([in_the_order_of_before(row) for row in told().rows])
    (finding,) = verdict.findings
    assert (finding.kind, finding.detail.split()[0], verdict.recomputed) == (Kind.NOT_JUDGED, "3", 2)
