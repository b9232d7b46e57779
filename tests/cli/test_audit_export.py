"""`cab audit export`: the record for another system, each event once, in OCSF as its schema has it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.contracts.audit_story import DELETE, Story
from tests.contracts.bigquery import Record

from cab.adapters.google_cloud.bigquery.audit_schema import TABLE
from cab.domain.audit import Actor, EventType, IntentFacts, LoginFacts, Outcome, TaskFacts, TokenFacts, Tool
from cab_ops.cli import main

PROJECT, DATASET = Record.PROJECT, Record.DATASET

# What the published schema wants (ocsf/ocsf-schema: events/base_event, events/iam/authentication, events/iam/entity_management,
# events/application/api_activity and application_lifecycle, objects/metadata): required members, and the activities there are.
EVERY = {"activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid"}
REQUIRED = {
    3002: EVERY | {"user"},
    3004: EVERY | {"entity"},
    6002: EVERY | {"app"},
    6003: EVERY | {"actor", "api", "src_endpoint"},
}
ACTIVITIES = {3002: {1, 2, 3, 4, 5}, 3004: {1, 2, 3, 4}, 6002: {1, 2, 3, 4}, 6003: {1, 2, 3, 4}}


@pytest.fixture(scope="module")
def story() -> Story:
    story = Story()
    story.grant(EventType.GRANT_CONNECTED, "grant-alice")
    story.tell(
        EventType.ASSERTION_MINTED,
        Outcome.ISSUED,
        txn="t1",
        actor=Actor(agent_id="sales-assistant", client_id="acme-web"),
        login=LoginFacts(session="s"),
        token=TokenFacts(kind="assertion", jti="j"),
        caller_ip_prefix="192.0.2.0/24",
    )
    story.exchange(Outcome.ISSUED, txn="t1", token=TokenFacts(kind="downstream", sha256="0a"))
    story.tell(
        EventType.EXCHANGE_DECIDED,
        Outcome.REFUSED,
        actor=Actor(agent_id="sales-assistant", client_id="acme-web"),
        tool=Tool(connection="crm", action=DELETE, effect="destructive"),
        txn="t1",
        reason_code="intent_outside_task",
        decided_by="task",
        intent=IntentFacts(identifier="opportunity/0062"),
        task=TaskFacts(within=False, comparison="action_outside"),
    )
    story.attempt("call-1", txn="t1")
    story.outcome("call-1", "unknown", txn="t1", cause="interrupted")
    story.grant(EventType.GRANT_REVOKED, "grant-alice", cause="user")
    story.tell(EventType.KEY_ROTATED)
    story.tell(EventType.REQUESTS_REFUSED_COUNTED, Outcome.REFUSED, count=40)
    story.tell(EventType.CHAIN_CLOSED)
    for row in story.rows[2:5]:  # one batch: the same instant
        row["received_at"] = story.rows[2]["received_at"]
    return story


@pytest.fixture(scope="module", autouse=True)
def tables(record: Record, story: Story) -> Iterator[Any]:
    with record.of(story.rows, ("events_ocsf",)) as tables:
        yield tables


def insert(tables: Any, rows: list[dict[str, Any]]) -> None:
    name = f"{PROJECT}.{DATASET}.{TABLE}"
    assert tables.insert_rows_json(name, rows, row_ids=[None] * len(rows), timeout=10) == []


def run(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(main, ["audit", "export", *arguments])
    assert result.exit_code == status, result.output
    return result.stdout if status == 0 else result.output


def test_jsonl_is_each_event_as_it_was_published_in_the_order_of_arrival(story: Story) -> None:
    lines = run("--format", "jsonl").splitlines()
    assert lines == [
        row["event_json"] for row in sorted(story.rows, key=lambda row: (row["received_at"], row["event_id"]))
    ]


def test_an_export_goes_on_where_the_last_one_ended_also_within_one_instant(tmp_path: Path, story: Story) -> None:
    cursor = str(tmp_path / "cursor")
    seen: list[str] = []
    for _ in range(6):
        seen += run("--cursor", cursor, "--limit", "2").splitlines()
    assert seen == run().splitlines()
    assert len(seen) == len(story.rows)


def test_an_event_that_comes_late_is_exported_when_it_comes(tmp_path: Path, tables: Any) -> None:
    cursor = str(tmp_path / "cursor")
    run("--cursor", cursor)
    assert run("--cursor", cursor) == ""
    late = Story()
    row = late.exchange(Outcome.ISSUED, txn="late")
    row |= {"event_id": "event-late"}
    row["received_at"] = (datetime.now(UTC) - timedelta(minutes=2)).isoformat()
    insert(tables, [row])
    assert json.loads(run("--cursor", cursor))["txn"] == "late"
    fresh = dict(row, event_id="event-fresh", received_at=datetime.now(UTC).isoformat())
    insert(tables, [fresh])
    assert run("--cursor", cursor) == ""  # its neighbours of the same instant may not be seen yet


def test_every_event_is_of_a_class_of_the_published_schema_with_all_that_it_requires(story: Story) -> None:
    events = {event["metadata"]["uid"]: event for event in map(json.loads, run("--format", "ocsf").splitlines())}
    for row in story.rows:
        event = events[row["event_id"]]
        kind = event["class_uid"]
        assert REQUIRED[kind] <= event.keys(), row["event_type"]
        assert event["activity_id"] in ACTIVITIES[kind] or (event["activity_id"] == 99 and event["activity_name"])
        assert event["category_uid"] == kind // 1000
        assert event["type_uid"] == kind * 100 + event["activity_id"]
        assert event["severity_id"] in range(7)
        assert event["metadata"]["version"] == "1.3.0"
        assert event["metadata"]["product"]["vendor_name"] == "CAB"
        assert "null" not in json.dumps(event)
        if kind == 3002:
            assert event["service"]["name"]  # at least one of service and dst_endpoint
        if kind == 6003:
            assert event["actor"]["app_uid"]
            assert event["api"]["operation"]
    assert {event["class_uid"] for event in events.values()} == set(REQUIRED)


def test_a_destructive_act_beyond_the_ask_is_of_high_severity_and_a_login_says_whose(story: Story) -> None:
    events = [json.loads(line) for line in run("--format", "ocsf").splitlines()]
    (high,) = [event for event in events if event["severity_id"] == 4]
    assert (high["api"]["operation"], high["status_id"], high["status_code"]) == (DELETE, 2, "intent_outside_task")
    assert high["resources"] == [{"name": "opportunity/0062", "namespace": "crm"}]
    (login,) = [event for event in events if event["class_uid"] == 3002]
    assert (login["user"]["uid"], login["session"]["uid"], login["service"]["name"]) == (
        "subject-alice",
        "s",
        "acme-web",
    )
    assert login["src_endpoint"] == {"name": "192.0.2.0/24"}


def test_a_file_that_is_no_cursor_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "cursor").write_text("{}")
    assert "holds no cursor" in run("--cursor", str(tmp_path / "cursor"), status=1)
