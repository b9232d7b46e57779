"""docs/capacity.md says what the model says today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks.capacity import (
    BY_INSTANCES,
    CPU_MS,
    HOT_CPU_MS,
    Day,
    limits,
    prices,
    replay_us_dollars,
    retention_us_dollars,
    table,
)
from benchmarks.operations import DEFLATED, FIRESTORE_DELETE, FIRESTORE_WRITE, INGEST_CPU_MS, ROW_BYTES

DOCUMENTS = Path(__file__).resolve().parents[1] / "docs"
DOCUMENT = (DOCUMENTS / "capacity.md").read_text("utf-8")
PERFORMANCE = (DOCUMENTS / "performance.md").read_text("utf-8")


def test_the_document_holds_the_tables_of_the_model() -> None:
    assert prices() in DOCUMENT, "run: python -m benchmarks.capacity"
    assert table() in DOCUMENT, "run: python -m benchmarks.capacity"
    assert limits() in DOCUMENT, "run: python -m benchmarks.capacity"


def test_the_record_of_ten_million_users_is_as_large_as_the_document_says() -> None:
    events, deflated, rows = (10_000_000 * Day().record_bytes(of_each) / 1e6 for of_each in (1.0, DEFLATED, ROW_BYTES))
    assert (
        f"{events:.0f} MB a second of events, {deflated:.0f} when messages are deflated, and {rows:.0f} MB of rows"
        in DOCUMENT
    )


def test_what_is_kept_of_the_audit_costs_what_stands_beside_the_settings() -> None:
    week, month = (f"{replay_us_dollars(days):.2f}" for days in (7, 31))
    retention = f"{retention_us_dollars(400):.2f}"
    variables = (DOCUMENTS.parent / "terraform" / "variables.tf").read_text("utf-8")
    deploying = (DOCUMENTS / "deploying.md").read_text("utf-8")
    assert f"{week} for a week, {month} for 31 days" in variables
    assert f"US$ {week} per million events for a week, {month} for 31 days" in deploying
    assert f"{retention} for 400 days" in variables
    assert f"US$ {retention} per million events for 400 days" in deploying


def test_single_use_costs_what_stands_where_it_is_chosen() -> None:
    price = f"US$ {(FIRESTORE_WRITE + FIRESTORE_DELETE) * 1e6:.2f} a million"
    assert price in (DOCUMENTS / "configuration.md").read_text("utf-8")
    assert price in (DOCUMENTS / "security.md").read_text("utf-8")


def test_twice_as_many_exchanges_cost_less_than_twice_as_much_and_more_than_once() -> None:
    once, twice = Day(), Day(exchanges=120)
    assert once.us_dollars_a_month < twice.us_dollars_a_month < 2 * once.us_dollars_a_month
    assert once.busiest("writes") < twice.busiest("writes")


def test_what_instances_share_is_what_the_simulation_measured() -> None:
    for instances, shared in BY_INSTANCES.items():
        assert f"| {instances} | {shared.asks:.2f} | {shared.counters:.2f} |" in DOCUMENT


def test_the_more_instances_the_less_they_share_and_the_more_an_exchange_costs() -> None:
    few, many = Day(), Day().for_users(10_000_000)
    assert Day().for_users(1_000) == few
    assert many.shared == BY_INSTANCES[100]
    assert many.us_dollars_a_month > few.us_dollars_a_month
    for of in ("requests", "reads", "writes"):
        assert many.busiest(of) > few.busiest(of)


@pytest.mark.parametrize(
    ("row", "ms"),
    [
        (r"hot exchange, µs \(x floor\) \| (\d+)", HOT_CPU_MS),
        (r"mint-key, µs \(x floor\) \| (\d+)", CPU_MS["mint with a key"]),
        (r"ingest_audit, CPU of an event [^|]*\| [\d.]+ \((\d+) µs\)", INGEST_CPU_MS),
    ],
)
def test_the_model_computes_with_the_cpu_that_was_measured(row: str, ms: float) -> None:
    measured = re.search(rf"^\| {row}", PERFORMANCE, re.MULTILINE)
    assert measured is not None
    assert ms * 1000 == pytest.approx(int(measured[1]), rel=0.15)
