"""docs/capacity.md says what the model says today."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import mean

import pytest
from benchmarks.capacity import (
    ANY,
    BY_INSTANCES,
    CONFIRMED,
    COUNTER,
    CPU_MS,
    HOT_CPU_MS,
    JOB_SECOND,
    LOOP,
    RECORD,
    REFRESH_CPU_MS,
    VISIT_CPU_MS,
    WORKING_DAYS,
    Day,
    alone,
    idle,
    kept_alive_us_dollars,
    limits,
    month,
    prices,
    replay_us_dollars,
    request_log_us_dollars,
    retention_us_dollars,
    table,
)
from benchmarks.operations import (
    CPU_SECOND,
    CPU_SHARE,
    DEFLATED,
    EVENTS_PER_MESSAGE,
    FIRESTORE_DELETE,
    FIRESTORE_WRITE,
    INGEST_CPU_MS,
    NARROWER,
    ONCE,
    REFRESH,
    REQUEST,
    ROW_BYTES,
    Operations,
    parts,
    us_dollars,
)
from benchmarks.simulation.memories import READS
from benchmarks.storage import STORAGES

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


def test_request_logs_cost_what_stands_beside_their_setting() -> None:
    outside, inside = (f"{request_log_us_dollars(lines):.2f}" for lines in (2, 1))
    variables = (DOCUMENTS.parent / "terraform" / "variables.tf").read_text("utf-8")
    assert f"US$ {outside} per million that come from outside" in variables
    assert f"{inside} of those that functions and Pub/Sub make" in variables
    told = f"US$ {outside} per million requests from outside, {inside} of those that functions and Pub/Sub make"
    assert told in (DOCUMENTS / "deploying.md").read_text("utf-8")


def test_a_write_costs_what_stands_where_it_is_chosen() -> None:
    price = f"US$ {(FIRESTORE_WRITE + FIRESTORE_DELETE) * 1e6:.2f} a million"
    configuration = (DOCUMENTS / "configuration.md").read_text("utf-8")
    for chosen in ("Each assertion works once", "| `records_each_write` |"):
        assert any(chosen in line and price in line for line in configuration.splitlines())
    assert price in (DOCUMENTS / "security.md").read_text("utf-8")


def test_what_replaces_a_document_is_priced_without_an_end() -> None:
    new, replaced = (parts(Operations(reads=0, writes=1, made=made), cpu_ms=0)["writes"] * 1e6 for made in (1, 0))
    assert f"A write is US$ {replaced:.2f}, and {new - replaced:.2f} more where the document is new" in DOCUMENT
    assert f"one that replaces another {replaced:.2f}" in PERFORMANCE
    assert NARROWER.made == REFRESH.made == 0, "all of a grant, which tests/functions/test_waits.py counts"


def test_a_loop_of_the_model_is_that_of_the_simulation() -> None:
    assert LOOP == READS
    records, counters = (next(it for it in Day().work(ANY) if it.operations == of) for of in (RECORD, COUNTER))
    assert (records.number, counters.number) == (60 * BY_INSTANCES[1].asks, 3), "of each loop one counter"


def test_twice_as_many_exchanges_cost_less_than_twice_as_much_and_more_than_once() -> None:
    once, twice = Day(), Day(exchanges=120)
    for storage in STORAGES.values():
        price = once.us_dollars_a_month(storage)
        assert price < twice.us_dollars_a_month(storage) < 2 * price
        assert once.busiest("writes", storage) < twice.busiest("writes", storage)


def test_what_instances_share_is_what_the_simulation_measured() -> None:
    for instances, shared in BY_INSTANCES.items():
        assert f"| {instances} | {shared.asks:.2f} | {shared.counters:.2f} |" in DOCUMENT


def test_the_more_instances_the_less_they_share_and_the_more_an_exchange_costs() -> None:
    few, many = Day(), Day().for_users(10_000_000)
    assert Day().for_users(1_000) == few
    assert many.shared == BY_INSTANCES[100]
    for storage in STORAGES.values():
        assert many.us_dollars_a_month(storage) > few.us_dollars_a_month(storage)
        for of in ("requests", "reads", "writes"):
            assert many.busiest(of, storage) > few.busiest(of, storage)


def test_each_renewal_has_a_visit_in_the_model_and_each_event_its_way() -> None:
    for storage in STORAGES.values():
        renewal, visit = Day().work(storage)[-2:]
        assert (visit.operations.visits, visit.number) == (1, renewal.number)
        assert storage.visited.reads > 1, "the query that finds it is one"
    assert Day().requests() > Day().busiest("requests", STORAGES["sealed_documents"])
    assert Day().instances(1) == 5, "ingest_audit is one of them"


def test_an_event_costs_what_the_document_says() -> None:
    event = Operations(reads=0, writes=0, requests=0)
    way = {name: price * 1e6 for name, price in parts(event, cpu_ms=0).items()}
    said = f"{way['Pub/Sub']:.2f} on its way, {way['ingest']:.2f} at `ingest_audit`, {way['rows']:.2f} in its row"
    assert f"An event in a full message costs US$ {sum(way.values()):.2f} per million" in DOCUMENT
    assert said in DOCUMENT
    assert f"One that comes alone, where little is done, costs {alone(event) * 1e6:.2f}," in DOCUMENT


def test_a_confirmed_action_costs_what_the_document_says() -> None:
    legs = sum(us_dollars(ONCE[name], cpu_ms=CPU_MS[name]) for name in CONFIRMED)
    assert f"the sum of three rows, US$ {legs * 1e6:.2f}." in DOCUMENT


def test_an_instance_that_is_kept_costs_what_as_many_exchanges_do_as_the_document_says() -> None:
    exchange = REQUEST + HOT_CPU_MS / 1000 / CPU_SHARE * CPU_SECOND
    assert round(JOB_SECOND / exchange) == 45, "a job's second has the price of one that is billed by instance"
    assert "An instance that is kept all day costs what 45 exchanges a second do" in DOCUMENT


def test_few_users_cost_what_the_document_says() -> None:
    seldom = month(1_000 * Day().exchanges * WORKING_DAYS, STORAGES["sealed_documents"])
    assert (
        f"they cost US$ {sum(seldom.values()):.0f} a month, and a project costs {sum(idle().values()):.0f}" in DOCUMENT
    )
    assert f"(of {EVENTS_PER_MESSAGE}, where" in DOCUMENT


def test_two_thirds_of_the_instances_of_ten_million_users_are_of_refresh_grants() -> None:
    day = Day().for_users(10_000_000)
    assert day.instances_of("refresh_grants", 10_000_000) / day.instances(10_000_000) == pytest.approx(2 / 3, abs=0.03)
    assert "Two thirds of all that ten million users need are of `refresh_grants`." in DOCUMENT


def test_sealed_documents_take_as_many_more_as_the_document_says() -> None:
    kept, sealed = ((it.renewed, it.visited) for it in STORAGES.values())
    more = [sum(getattr(it, of) for it in sealed) - sum(getattr(it, of) for it in kept) for of in ("writes", "reads")]
    assert more == [2, 3]
    assert "two more documents written and three read for each\nrenewal and its visit" in DOCUMENT


def test_keeping_an_unused_grant_alive_costs_what_the_document_says() -> None:
    kept, sealed = (f"{kept_alive_us_dollars(storage):.2f}" for storage in STORAGES.values())
    assert f"US$ {kept} per million times with `secret_per_grant`, {sealed} with `sealed_documents`" in DOCUMENT


@pytest.mark.parametrize(
    ("row", "ms"),
    [
        (r"hot exchange, µs \(x floor\) \| (\d+)", HOT_CPU_MS),
        (r"mint-key, µs \(x floor\) \| (\d+)", CPU_MS["mint with a key"]),
        (r"ingest_audit, CPU of an event [^|]*\| [\d.]+ \((\d+) µs\)", INGEST_CPU_MS),
    ],
)
def test_the_model_computes_with_the_cpu_that_was_measured(row: str, ms: float) -> None:
    assert ms * 1000 == pytest.approx(measured(rf"^\| {row}"), rel=0.15)


@pytest.mark.parametrize(
    ("row", "times_hot"),
    [
        (r"\| call, both functions / hot \| ([\d.]+)[^|]*\| ([\d.]+)", CPU_MS["call of the broker"] / HOT_CPU_MS),
        (r"\| a confirmed action, [^|]*\| ([\d.]+)[^|]*\| ([\d.]+)", 3 * CPU_MS["decide"] / HOT_CPU_MS),
        (r"\| a confirmed action, [^|]*\| [^;|]*; ([\d.]+)[^|]*\| [^;|]*; ([\d.]+)", 1 + REFRESH_CPU_MS / HOT_CPU_MS),
        (r"9 rounds at [^\n]*takes ([\d.]+)$", VISIT_CPU_MS / HOT_CPU_MS),
    ],
)
def test_the_model_computes_with_what_was_measured_beside_a_hot_exchange(row: str, times_hot: float) -> None:
    assert times_hot == pytest.approx(measured(row), rel=0.1)


def measured(row: str) -> float:
    """The mean, where the row is of two runs."""
    found = re.search(row, PERFORMANCE, re.MULTILINE)
    assert found is not None
    return mean(map(float, found.groups()))
