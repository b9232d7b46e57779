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

# What the published schema wants of what we use: see its `source`.
OCSF = json.loads((Path(__file__).resolve().parents[1] / "data" / "ocsf-1.3.0.json").read_text("utf-8"))
KINDS = {"integer_t": int, "long_t": int, "timestamp_t": int, "string_t": str, "object": dict}
STATUS = {0: "Unknown", 1: "Success", 2: "Failure"}


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
    with record.of(story.rows) as tables:
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


def faults(value: dict[str, Any], of: dict[str, Any], where: str = "") -> Iterator[str]:
    """What the schema does not allow, each with its path. A name that is not in our part of the schema is a fault."""
    yield from (f"{where}{name} is missing" for name in of["required"] if name not in value)
    if (choices := of.get("at_least_one")) and not set(choices) & value.keys():
        yield f"{where} has none of {choices}"
    for name, member in value.items():
        kind = of["members"].get(name)
        if kind is None:
            yield f"{where}{name} is unknown"
        elif kind.endswith("[]"):
            for item in member:
                yield from faults(item, OCSF["objects"][kind[:-2]], f"{where}{name}[].")
        elif kind in KINDS:
            if not isinstance(member, KINDS[kind]) or isinstance(member, bool):
                yield f"{where}{name} is no {kind}"
        else:
            yield from faults(member, OCSF["objects"][kind], f"{where}{name}.")
        if name in of.get("values", {}) and member not in of["values"][name]:
            yield f"{where}{name} is not one of {of['values'][name]}"


def faults_of(event: dict[str, Any]) -> list[str]:
    of = OCSF["classes"].get(str(event["class_uid"]))
    if of is None:
        return [f"class_uid {event['class_uid']} is unknown"]
    found = list(faults(event, of))
    if event["category_uid"] != event["class_uid"] // 1000:
        found.append("category_uid is of another class")
    if event["type_uid"] != event["class_uid"] * 100 + event["activity_id"]:
        found.append("type_uid is of another activity")
    if event["activity_id"] == 99 and not event.get("activity_name"):
        found.append("activity_name is missing")
    if STATUS.get(event["status_id"], event.get("status")) != event.get("status"):
        found.append("status is not the caption of status_id")
    if event["metadata"]["version"] != OCSF["version"]:
        found.append("metadata.version is another one")
    return found


def test_what_the_published_schema_does_not_allow_is_seen() -> None:
    event = json.loads(run("--format", "ocsf").splitlines()[0])
    assert faults_of(event) == []
    metadata = event["metadata"] | {"product": {"name": "CAB"}}
    assert faults_of(event | {"metadata": metadata}) == ["metadata.product.vendor_name is missing"]
    assert faults_of(event | {"feature_name": "x"}) == ["feature_name is unknown"]
    assert faults_of(event | {"severity_id": 9}) != []
    assert faults_of(event | {"status": "issued"}) == ["status is not the caption of status_id"]


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


def test_every_kind_of_event_however_it_ended_is_what_the_published_schema_wants(record: Record, story: Story) -> None:
    every = Story()
    for event_type in EventType:
        for outcome in (None, *Outcome):
            every.tell(event_type, outcome)  # with nothing that it need not have
            every.tell(event_type, outcome, subject=None)
    told = [row | {"event_id": f"{number}-{row['event_id']}"} for number, row in enumerate((*story.rows, *every.rows))]
    with record.of(told):
        exported = list(map(json.loads, run("--format", "ocsf").splitlines()))
    assert {(event["message"], fault) for event in exported for fault in faults_of(event)} == set()
    assert {event["message"] for event in exported} == set(EventType)
    assert len(exported) == len(told)
    assert {str(event["class_uid"]) for event in exported} == OCSF["classes"].keys()
