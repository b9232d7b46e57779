"""docs/capacity.md says what the model says today."""

from __future__ import annotations

from pathlib import Path

from benchmarks.capacity import BY_INSTANCES, Day, prices, table

DOCUMENT = (Path(__file__).resolve().parents[1] / "docs" / "capacity.md").read_text("utf-8")


def test_the_document_holds_the_tables_of_the_model() -> None:
    assert prices() in DOCUMENT, "run: python -m benchmarks.capacity"
    assert table() in DOCUMENT, "run: python -m benchmarks.capacity"


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
