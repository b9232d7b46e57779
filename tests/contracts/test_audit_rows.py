"""The contract of `AuditRows`: one suite, every adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.cloud.bigquery import SchemaField, Table
from tests.contracts.bigquery import client
from tests.support.audit_row import columns_of, row

from cab.adapters.google_cloud.bigquery.audit_rows import BigQueryAuditRows
from cab.adapters.google_cloud.bigquery.audit_schema import TABLE, columns, create_table
from cab.domain.audit import (
    Actor,
    AuditEvent,
    Chain,
    EventType,
    Latency,
    Outcome,
    Scopes,
    Service,
    Subject,
    TokenFacts,
    Tool,
)
from cab.encoding.canonical_json import canonical
from cab.encoding.records import as_json
from cab.ports import AuditRow, AuditRows
from cab_dev.fakes.audit_rows import InMemoryAuditRows

NOW = datetime.now(UTC)


@dataclass
class Bench:
    rows: AuditRows
    written: Callable[[], list[dict[str, Any]]]


@pytest.fixture(params=["memory", "local"])
async def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, project: str) -> AsyncIterator[Bench]:
    if request.param == "memory":
        double = InMemoryAuditRows()
        yield Bench(double, lambda: [dict(row) for row in double.rows])
        return
    url = request.getfixturevalue("bigquery_url")
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", url)
    with client(url, project) as reader:
        create_table(reader, "cab_audit")

        def written() -> list[dict[str, Any]]:
            sql = f"SELECT * FROM `{project}.cab_audit.{TABLE}` WHERE occurred_at > '2020-01-01'"
            return [_without_nulls(dict(row)) for row in reader.query_and_wait(sql)]

        adapter = BigQueryAuditRows(project, "cab_audit", TABLE)
        yield Bench(adapter, written)
        await adapter.close()


def _without_nulls(value: Any) -> Any:
    """As the row was sent: instants as text, neither nulls nor empty lists."""
    if isinstance(value, dict):
        return {name: _without_nulls(member) for name, member in value.items() if member not in (None, [])}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return value


def event(number: int = 1, **members: Any) -> AuditEvent:
    return AuditEvent(
        event_id=f"event-{number:03}",
        event_type=EventType.EXCHANGE_DECIDED,
        occurred_at=NOW - timedelta(seconds=1, microseconds=number),
        **members,
    )


def columns_of_row(number: int = 1, **members: Any) -> dict[str, Any]:
    return columns_of(canonical(as_json(event(number, **members))), received_at=NOW, message_id=f"m-{number}")


def with_instants_in_utc(columns: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = _without_nulls(
        {
            name: datetime.fromisoformat(value) if name in {"occurred_at", "received_at"} else value
            for name, value in columns.items()
        }
    )
    return read


async def test_a_row_is_written_whole(bench: Bench) -> None:
    sent = columns_of_row(
        tenant="acme",
        subject=Subject(key="subject-1", idp_issuer="https://idp.example", groups=["sales", "emea"]),
        actor=Actor(agent_id="sales-assistant", chain=["a", "b"]),
        tool=Tool(connection="crm", action="crm.opportunity.update", effect="write"),
        scopes=Scopes(requested=["a"], granted=[], narrowed=True),
        outcome=Outcome.ISSUED,
        latency_ms=Latency(total=12.5, policy=0.25),
        token=TokenFacts(kind="downstream", sha256="00ff"),
        service=Service(function="exchange_token", revision="r1"),
        chain=Chain(id="c", seq=7, prev_hash="aa", hash="bb"),
        count=3,
    )
    assert await bench.rows.insert([row(sent)]) == {}
    (written,) = bench.written()
    assert with_instants_in_utc(written) == with_instants_in_utc(_without_nulls(sent))
    assert (written["subject_key"], written["connection"], written["action"]) == (
        "subject-1",
        "crm",
        "crm.opportunity.update",
    )


async def test_a_table_before_its_upgrade_refuses_a_row_with_a_new_member_and_takes_it_afterwards(
    bigquery_url: str, monkeypatch: pytest.MonkeyPatch, project: str
) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", bigquery_url)
    new = "why"
    sent = {"event_id": "e", "event_type": "request.refused", "occurred_at": NOW.isoformat(), "schema_version": 3}
    for dataset, known, refused in (
        ("before", [column for column in columns() if column["name"] != new], [0]),
        ("after", columns(), []),
    ):
        with client(bigquery_url, project) as owner:
            owner.create_dataset(dataset)
            schema = [SchemaField.from_api_repr(column) for column in known]
            owner.create_table(Table(f"{project}.{dataset}.{TABLE}", schema=schema))
        adapter = BigQueryAuditRows(project, dataset, TABLE)
        assert list(await adapter.insert([row(sent | {new: "expired"})])) == refused
        assert await adapter.insert([row(sent)]) == {}
        await adapter.close()


async def test_nothing_to_write_is_fine(bench: Bench) -> None:
    assert await bench.rows.insert([]) == {}


@pytest.mark.parametrize(
    "spoil",
    [
        {"no_such_column": 1},
        {"event_type": None},
        {"occurred_at": "yesterday"},
        {"count": "many"},
    ],
    ids=lambda spoil: next(iter(spoil)),
)
async def test_a_row_that_can_never_be_written_is_named_and_the_others_are_written(
    bench: Bench, spoil: dict[str, Any]
) -> None:
    sent = [columns_of_row(1), columns_of_row(2) | spoil, columns_of_row(3)]
    assert await bench.rows.insert([row(columns) for columns in sent]) == {1: "invalid"}
    assert sorted(written["event_id"] for written in bench.written()) == ["event-001", "event-003"]


async def test_each_of_many_concurrent_callers_learns_of_its_own_rows(bench: Bench) -> None:
    async def insert(number: int) -> dict[int, str]:
        spoilt = columns_of_row(number + 100) | ({"no_such_column": 1} if number % 3 == 0 else {})
        return await bench.rows.insert([row(columns_of_row(number)), row(spoilt)])

    errors = await asyncio.gather(*map(insert, range(30)))
    assert errors == [{1: "invalid"} if number % 3 == 0 else {} for number in range(30)]
    assert len(bench.written()) == 50


async def test_concurrent_callers_share_an_insert(
    monkeypatch: pytest.MonkeyPatch, bigquery_url: str, project: str
) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", bigquery_url)
    with client(bigquery_url, project) as reader:
        create_table(reader, "cab_audit")
    adapter = BigQueryAuditRows(project, "cab_audit", TABLE)
    sizes: list[int] = []
    insert = adapter._insert

    async def counting(rows: list[AuditRow]) -> Any:
        sizes.append(len(rows))
        return await insert(rows)

    monkeypatch.setattr(adapter, "_insert", counting)
    await asyncio.gather(*(adapter.insert([row(columns_of_row(number))]) for number in range(40)))
    assert sizes == [40]
    await asyncio.gather(*(adapter.insert([row(columns_of_row(number))]) for number in range(100, 701)))
    assert sorted(sizes) == [40, 101, 500]  # the last two go beside each other
    await adapter.close()


async def test_an_event_that_was_published_twice_is_written_twice_and_a_redelivered_message_need_not_be(
    bench: Bench,
) -> None:
    first = columns_of_row(1, chain=Chain(id="c", seq=1, prev_hash="", hash="aa"))
    again = columns_of_row(1, chain=Chain(id="c", seq=2, prev_hash="aa", hash="bb"))
    for sent in (first, again, first):
        assert await bench.rows.insert([row(sent)]) == {}
    assert {written["chain"]["seq"] for written in bench.written()} == {1, 2}
