"""The audit table in BigQuery: its columns, generated from `AuditEvent`, and its views.

The table takes rows twice when a message is delivered twice; the view `events` shows each event once, and every other
view is made of `events`. The SQL of the views is in `cab/data/views`, one file each.
"""

from __future__ import annotations

import json
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Final, Literal

import orjson

from cab.adapters.google_cloud.bigquery import configuration_table
from cab.domain.audit import AuditEvent
from cab.encoding.records import RecordMember, members, unwrapped
from cab.ports import AuditRow

TABLE: Final = "events_raw"
PARTITION_COLUMN: Final = "occurred_at"
# BigQuery clusters by top-level columns only, so these repeat what is inside the records.
CLUSTERING: Final = ("tenant", "subject_key", "connection", "action")
# The arguments of the table functions: from when, until before when.
PERIOD: Final = ("period_start", "period_end")
# In the order in which they must be created.
VIEWS: Final = (
    "events",
    "agents",
    "connections",
    "catalog",
    "policy_versions",
    "actions_by_user_and_agent",
    "refusals",
    "intent_mismatches",
    "injection_suspects",
    "confirmations",
    "grant_health",
    "calls",
    "reported_outcomes",
    "issued_without_outcome",
    "chain_gaps",
    "orphans",
    "freshness",
    "who_could_have",
    "reach",
    "least_privilege",
    "volume",
    "first_seen",
    "transaction_features",
    "events_ocsf",
)
READ_BY_OTHERS: Final = ("events", "agents")
# What an event says: all of it as published, but for its place. A second publish of it has another place. In `chain_gaps`
# as it is here.
CONTENT: Final = """SHA256(REGEXP_REPLACE(event_json, r'"(chain|service)":[{][^{}]*[}],?', ''))"""

# What the columns of a row say, but for its place. In `events` and `chain_gaps` as it is here.
SAID: Final = "TO_JSON_STRING(STRUCT({}))".format(
    ", ".join(
        (
            *(f"raw.`{it.name}`" for it in members(AuditEvent) if it.name not in ("event_id", "chain", "service")),
            "raw.subject_key, raw.connection, raw.action",
        )
    )
)

# Whether a row says another time than that at which its id was made: an id of another event, given again. In `events` and
# `chain_gaps` as it is here. What is said later of an earlier moment is not meant.
MOVED: Final = (
    "COALESCE(REGEXP_CONTAINS(raw.event_id, r'^[0-9a-f]{8}-[0-9a-f]{4}-7') "
    "AND raw.event_type NOT IN ('token.withheld', 'requests.refused.counted') "
    "AND ABS(TIMESTAMP_DIFF(raw.occurred_at, TIMESTAMP_MILLIS(SAFE_CAST("
    "CONCAT('0x', SUBSTR(raw.event_id, 1, 8), SUBSTR(raw.event_id, 10, 4)) AS INT64)), SECOND)) > 3600, FALSE)"
)

_CALL: Final[Mapping[str, Any]] = {"retry": None, "timeout": 30}  # the library's default retries for ten minutes

Column = dict[str, Any]  # as in BigQuery's REST API and in Terraform: name, type, mode, description, fields

_SCALARS: Final[Mapping[type, str]] = {
    bool: "BOOLEAN",
    int: "INTEGER",
    float: "FLOAT",
    str: "STRING",
    datetime: "TIMESTAMP",
}
# What the table is clustered by, and where it is in the event.
COPIES: Final[Mapping[str, str]] = {
    "subject_key": "subject.key",
    "connection": "tool.connection",
    "action": "tool.action",
}
_ADDED: Final[tuple[tuple[str, str, str], ...]] = (
    *((name, "STRING", f"{source}, for clustering.") for name, source in COPIES.items()),
    ("received_at", "TIMESTAMP", "When ingest_audit wrote the row."),
    ("message_id", "STRING", "Pub/Sub's id of the delivery; one event may come in several."),
    ("event_json", "STRING", "The event as it was published, to the byte: what its chain.hash was made of."),
)


def columns() -> list[Column]:
    """All columns of the table, in order."""
    added = [
        {"name": name, "type": kind, "mode": "NULLABLE", "description": description}
        for name, kind, description in _ADDED
    ]
    return [_column(member, top_level=True) for member in members(AuditEvent)] + added


def configuration_columns() -> list[Column]:
    """All columns of the table `configuration`."""
    return [_column(member, top_level=True) for member in members(configuration_table.ConfigurationRow)]


def row_of(event: Mapping[str, Any], *, data: bytes, received_at: datetime, message_id: str) -> AuditRow:
    """The event as one row. `data` is its JSON, as published: the row begins with it, so that nobody writes all of it again."""
    subject, tool = event.get("subject") or {}, event.get("tool") or {}
    copies = {"subject_key": subject.get("key"), "connection": tool.get("connection"), "action": tool.get("action")}
    added = {name: value for name, value in copies.items() if value is not None}
    added["received_at"] = _instant(received_at)
    added["message_id"] = message_id
    added["event_json"] = data.decode()
    # An event that was published again has another place in a chain, which must not seem empty: so its id does not name its row.
    chain = event.get("chain") or {}
    text = b"%s,%s" % (data.rstrip().removesuffix(b"}"), orjson.dumps(added).removeprefix(b"{"))
    return AuditRow(chain.get("hash") or event["event_id"], text)


@lru_cache(maxsize=16)
def _instant(moment: datetime) -> str:
    """One for all events of a message."""
    return moment.isoformat()


def view_sql(name: str, *, project: str, dataset: str, retention_days: int = 400) -> str:
    """The query of one view, over the whole retention. Terraform fills the same placeholders with `templatefile`."""
    return _template(name).substitute(
        project=project,
        dataset=dataset,
        events=f"`{project}.{dataset}.events`",
        events_later=f"`{project}.{dataset}.events`",
        since=f"TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL {retention_days} DAY)",
        until="TIMESTAMP '9000-01-01 00:00:00+00'",
    )


def function_sql(name: str, *, project: str, dataset: str) -> str:
    """The same query over the days between two instants, for the table function `function_name(name)`."""
    begin, end = PERIOD
    events = f"`{project}.{dataset}`.{function_name('events')}"
    query = _template(name).substitute(
        project=project,
        dataset=dataset,
        events=f"{events}({begin}, {end})",
        events_later=f"{events}({begin}, TIMESTAMP_ADD({end}, INTERVAL 2 DAY))",
        since=begin,
        until=end,
    )
    # The emulator reads no body that begins with WITH.
    return f"SELECT * FROM (\n{query})\n"  # noqa: S608 - our own text


def function_name(view: str) -> str:
    return f"{view}_between"


def has_period(name: str) -> bool:
    """Whether it is a view of events, which has a function beside it, or of what is configured."""
    return not {"since", "until", "events"}.isdisjoint(_template(name).get_identifiers())


def _template(name: str) -> Template:
    return Template(files("cab").joinpath("data", "views", f"{name}.sql").read_text(encoding="utf-8"))


def create_table(client: Any, dataset: str) -> None:
    """Create dataset and table where they are missing, as Terraform does in a real project. Blocking.

    `client` is a `google.cloud.bigquery.Client`. An existing table stays as it is.
    """
    from google.cloud import bigquery  # noqa: PLC0415 - only the local stack and the tests create tables

    client.create_dataset(bigquery.Dataset(f"{client.project}.{dataset}"), exists_ok=True, **_CALL)
    schema = [bigquery.SchemaField.from_api_repr(column) for column in columns()]
    table = bigquery.Table(f"{client.project}.{dataset}.{TABLE}", schema=schema)
    table.time_partitioning = bigquery.TimePartitioning(type_="DAY", field=PARTITION_COLUMN)
    table.require_partition_filter = True
    table.clustering_fields = list(CLUSTERING)
    client.create_table(table, exists_ok=True, **_CALL)
    schema = [bigquery.SchemaField.from_api_repr(column) for column in configuration_columns()]
    beside = bigquery.Table(f"{client.project}.{dataset}.{configuration_table.TABLE}", schema=schema)
    client.create_table(beside, exists_ok=True, **_CALL)


def create_views(client: Any, dataset: str, *, retention_days: int = 400, only: Sequence[str] = VIEWS) -> None:
    """Create the views and their functions, and bring existing ones up to date. The table must be there. Blocking."""
    from google.cloud import bigquery  # noqa: PLC0415 - as above

    for name in VIEWS:
        if name not in (*only, *READ_BY_OTHERS):
            continue
        view = bigquery.Table(f"{client.project}.{dataset}.{name}")
        view.view_query = view_sql(name, project=client.project, dataset=dataset, retention_days=retention_days)
        found = client.create_table(view, exists_ok=True, **_CALL)
        if found.view_query != view.view_query:
            client.update_table(view, ["view_query"], **_CALL)
        if has_period(name):
            _create_function(client, dataset, name)


def _create_function(client: Any, dataset: str, view: str) -> None:
    from google.cloud import bigquery  # noqa: PLC0415 - as above

    instant = bigquery.StandardSqlDataType(type_kind=bigquery.StandardSqlTypeNames.TIMESTAMP)
    function = bigquery.Routine(
        f"{client.project}.{dataset}.{function_name(view)}",
        type_="TABLE_VALUED_FUNCTION",
        language="SQL",
        body=function_sql(view, project=client.project, dataset=dataset),
        arguments=[bigquery.RoutineArgument(name=name, data_type=instant) for name in PERIOD],
    )
    found = client.create_routine(function, exists_ok=True, **_CALL)
    if found.body != function.body:
        client.update_routine(function, ["type_", "language", "arguments", "body"], **_CALL)


def create_dataset(client: Any, dataset: str, *, retention_days: int = 400, only: Sequence[str] = VIEWS) -> None:
    """Everything that audit needs in BigQuery, or what `only` some views need. Idempotent. Blocking."""
    create_table(client, dataset)
    create_views(client, dataset, retention_days=retention_days, only=only)


def schema_json(of: list[Column] | None = None) -> str:
    """The text of `cab/data/audit_events.schema.json`, or of another table's, which Terraform creates the table from."""
    return json.dumps(of or columns(), indent=2) + "\n"


def _column(member: RecordMember, *, top_level: bool = False) -> Column:
    kind, repeated = unwrapped(member.annotation)
    # A nested member is never REQUIRED: BigQuery can relax a column later, but never tighten one.
    mode = "REPEATED" if repeated else "REQUIRED" if top_level and member.is_required else "NULLABLE"
    column: Column = {"name": member.name, "type": type_name(kind), "mode": mode}
    if member.description:
        column["description"] = member.description
    if column["type"] == "RECORD":
        column["fields"] = [_column(inner) for inner in members(kind)]
    return column


def type_name(kind: Any) -> str:
    """The BigQuery type of a member of this type, which is unwrapped."""
    if typing.get_origin(kind) is Literal or issubclass(kind, StrEnum):
        return "STRING"
    return "RECORD" if is_dataclass(kind) else _SCALARS[kind]


if __name__ == "__main__":  # python -m cab.adapters.google_cloud.bigquery.audit_schema FOLDER
    folder = Path(sys.argv[1])
    (folder / "audit_events.schema.json").write_text(schema_json(), encoding="utf-8")
    (folder / "configuration.schema.json").write_text(schema_json(configuration_columns()), encoding="utf-8")
