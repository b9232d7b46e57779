"""The audit table is made of the audit event."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from importlib.resources import files
from string import Template

import pytest

from cab.adapters.google_cloud.bigquery.audit_schema import (
    CLUSTERING,
    CONTENT,
    MOVED,
    PARTITION_COLUMN,
    VIEWS,
    columns,
    configuration_columns,
    row_of,
    schema_json,
    view_sql,
)
from cab.domain.audit import SCHEMA_VERSION, AuditEvent, EventType, Subject
from cab.encoding.canonical_json import canonical
from cab.encoding.records import as_json

# What a view reads, where that is not `events` alone.
SOURCES = {
    **dict.fromkeys(("events", "chain_gaps"), ("events_raw",)),
    **dict.fromkeys(("agents", "connections", "catalog", "policy_versions"), ("configuration",)),
    **dict.fromkeys(("refusals", "least_privilege", "volume"), ("events", "agents")),
}
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def test_the_committed_schema_is_the_one_that_the_event_model_gives() -> None:
    run = "Run: python -m cab.adapters.google_cloud.bigquery.audit_schema shared/cab/data"
    for name, text in (("audit_events", schema_json()), ("configuration", schema_json(configuration_columns()))):
        committed = files("cab").joinpath("data", f"{name}.schema.json").read_text(encoding="utf-8")
        assert committed == text, run


def test_every_member_of_the_event_has_a_column_of_its_kind() -> None:
    by_name = {column["name"]: column for column in columns()}
    assert by_name.keys() >= set(AuditEvent.__slots__)
    assert by_name["event_id"] == {"name": "event_id", "type": "STRING", "mode": "REQUIRED"}
    assert by_name["occurred_at"] == {"name": "occurred_at", "type": "TIMESTAMP", "mode": "REQUIRED"}
    assert by_name["decision"] == {"name": "decision", "type": "STRING", "mode": "NULLABLE"}
    assert by_name["scopes"]["fields"] == [
        {"name": "requested", "type": "STRING", "mode": "REPEATED"},
        {"name": "granted", "type": "STRING", "mode": "REPEATED"},
        {"name": "narrowed", "type": "BOOLEAN", "mode": "NULLABLE"},
    ]
    assert by_name["latency_ms"]["fields"][0] == {"name": "total", "type": "FLOAT", "mode": "NULLABLE"}


def test_the_table_is_partitioned_and_clustered_by_columns_at_the_top() -> None:
    by_name = {column["name"]: column for column in columns()}
    assert by_name[PARTITION_COLUMN]["type"] == "TIMESTAMP"
    assert [by_name[name]["type"] for name in CLUSTERING] == ["STRING"] * 4


def test_no_column_that_is_not_new_is_nested_and_required() -> None:
    nested = [inner for column in columns() for inner in column.get("fields", [])]
    assert {inner["mode"] for inner in nested} == {"NULLABLE", "REPEATED"}


def test_a_row_repeats_what_the_table_is_clustered_by_and_leaves_out_what_is_absent() -> None:
    event = AuditEvent(
        event_id="e", event_type=EventType.TOKEN_REVOKED, occurred_at=NOON, tenant="acme", subject=Subject(key="k")
    )
    data = canonical(as_json(event))
    row = row_of(as_json(event), data=data + b"\n", received_at=NOON, message_id="m")
    assert row.id == "e"
    assert (
        row_of(as_json(event) | {"chain": {"hash": "00ff"}}, data=data, received_at=NOON, message_id="m").id == "00ff"
    )
    assert json.loads(row.text) == {
        "event_id": "e",
        "event_type": "token.revoked",
        "occurred_at": "2026-11-21T12:00:00Z",
        "schema_version": SCHEMA_VERSION,
        "tenant": "acme",
        "subject": {"key": "k", "groups": []},
        "subject_key": "k",
        "received_at": "2026-11-21T12:00:00+00:00",
        "message_id": "m",
        "event_json": data.decode() + "\n",
    }


def test_the_view_of_gaps_takes_the_same_for_an_events_content_as_the_code() -> None:
    assert f"{CONTENT} AS content" in view_sql("chain_gaps", project="p", dataset="d")


def test_the_views_know_an_id_that_was_given_again_as_the_code_does() -> None:
    for name in ("events", "chain_gaps"):
        assert MOVED in view_sql(name, project="p", dataset="d")


def test_there_is_one_file_per_view_and_it_reads_only_from_this_dataset() -> None:
    folder = files("cab").joinpath("data", "views")
    assert {file.name for file in folder.iterdir()} == {f"{name}.sql" for name in VIEWS}
    for name in VIEWS:
        sql = view_sql(name, project="p", dataset="d")
        tables = set(re.findall(r"`(p\.d\.\w+)`", sql))
        assert tables == {f"p.d.{source}" for source in SOURCES.get(name, ("events",))}
        assert "${" not in sql


def test_terraform_can_fill_the_same_placeholders() -> None:
    folder = files("cab").joinpath("data", "views")
    placeholders = {name for file in folder.iterdir() for name in Template(file.read_text()).get_identifiers()}
    assert placeholders == {"project", "dataset", "events", "events_later", "since", "until"}


@pytest.mark.parametrize("name", ["chain_gaps", "orphans"])
def test_whether_the_record_is_whole_takes_one_scan(name: str) -> None:
    """BigQuery runs an expression that is named twice twice."""
    text = view_sql(name, project="p", dataset="d")
    assert len(re.findall(r"`p\.d\.\w+`", text)) == 1
    for expression in re.findall(r"^(?:WITH )?(\w+) AS \($", text, flags=re.MULTILINE):
        assert len(re.findall(rf"(?:FROM|JOIN)\s+{expression}\b", text)) == 1
