"""What came of each access: calls that the broker made, and tokens of which an agent says what became."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from google.cloud import bigquery
from tests.contracts.audit_story import ALICE, BOB, UPDATE, Story
from tests.contracts.bigquery import Record, client
from tests.support.audit_row import columns_of, row

from cab.adapters.google_cloud.bigquery.audit_rows import BigQueryAuditRows
from cab.adapters.google_cloud.bigquery.audit_schema import TABLE, create_table, create_views
from cab.domain.audit import CallFacts, Outcome, TokenFacts, read_json
from cab.encoding.canonical_json import canonical
from cab.encoding.records import as_json

PROJECT, DATASET = Record.PROJECT, Record.DATASET


def tell() -> list[dict[str, Any]]:
    story = Story()
    story.attempt("done", txn="t1")
    story.outcome("done", "done", txn="t1")
    story.attempt("no", txn="t1")
    story.outcome("no", "rejected")
    story.attempt("killed", txn="t1")
    story.attempt("stopped")
    story.outcome("stopped", "unknown", cause="interrupted")
    story.attempt("lost")
    story.outcome("lost", "unknown", cause="answer_lost")
    story.withhold(story.attempt("never-left"))
    # One fresh token after a 401: the same call, attempted twice, one outcome.
    story.attempt("fresh")
    story.attempt("fresh")
    story.outcome("fresh", "done")
    story.attempt("changed")
    story.outcome("changed", "done", digest="sha-256:other")
    # Ids are chosen by clients: another user's or agent's call of the same name is another call.
    story.attempt("same")
    story.outcome("same", "done", user=BOB)
    story.outcome("same", "done", agent="ops-bot")
    # What an agent says is no outcome of a call that the broker makes.
    story.attempt("reported", token=TokenFacts(kind="downstream", sha256="0f"))
    story.report("0f", "done", call=CallFacts(id="reported", outcome="done"))
    # Refused before any token moved: no attempt.
    story.attempt("refused", outcome=Outcome.REFUSED)

    for token in ("01", "02", "03", "04", "05"):
        story.exchange(Outcome.ISSUED, txn=f"token-{token}", token=TokenFacts(kind="downstream", sha256=token))
    story.report("01", "done", txn="token-01")
    story.report("02", "not_used", txn="token-02")
    story.report("03", "done", txn="token-03", agent="ops-bot")  # somebody else's word
    story.report("04", "done", txn="token-04", ended=Outcome.REFUSED)  # a report that was not taken
    # The same token, handed out once more: each hand-out has its own report.
    story.exchange(Outcome.ISSUED, txn="again", token=TokenFacts(kind="downstream", sha256="01"))
    # What a resource server says of them, in the words of another agent so that the counts above stay as they are.
    for token in ("11", "12", "13", "14"):
        issued = TokenFacts(kind="broker_jwt", sha256=token)
        story.exchange(Outcome.ISSUED, agent="ops-bot", txn=f"token-{token}", token=issued)
    story.report("11", "done", agent="ops-bot", by="crm-api", txn="token-11")
    story.report("12", "not_used", agent="ops-bot", txn="token-12")  # a lie
    story.report("12", "failed", agent="ops-bot", by="crm-api", txn="token-12")
    story.report("12", "done", agent="ops-bot", by="crm-api", txn="token-12")
    story.report("13", "done", agent="ops-bot", txn="token-13")
    story.report("13", "rejected", agent="ops-bot", by="crm-api", txn="token-13")
    story.report("14", "done", agent="ops-bot", by="crm-api", txn="token-14", ended=Outcome.REFUSED)
    # One token of the user's, given in one transaction to an agent and to the one that it delegates to, for the same.
    story.report("15", "rejected", agent="planner", txn="token-15")
    story.report("15", "done", agent="helper", txn="token-15")
    story.exchange(Outcome.ISSUED, txn="delegation", token=TokenFacts(kind="assertion", sha256="06"))
    story.exchange(Outcome.ISSUED, txn="call-token", token=TokenFacts(kind="call", sha256="07"))
    return story.rows


@pytest.fixture(scope="module")
def tables(record: Record) -> Iterator[Any]:
    rows = tell()
    just_now = Story()
    just_now.attempt("under-way")
    moved = replace(read_json(just_now.rows[0]["event_json"]), event_id="now", occurred_at=datetime.now(UTC))
    data = canonical(as_json(moved))
    rows.append(columns_of(data, received_at=datetime.now(UTC), message_id="m"))
    with record.of(rows) as tables:
        yield tables


def ask(tables: Any, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in tables.query_and_wait(sql.replace("FROM ", f"FROM `{PROJECT}`.{DATASET}."))]


def test_every_attempt_has_the_outcome_that_is_on_record_or_reads_unknown(tables: Any) -> None:
    answer = ask(tables, "SELECT call_id, attempts, outcome, cause FROM calls ORDER BY call_id")
    assert answer == [
        ("changed", 1, "done", None),
        ("done", 1, "done", None),
        ("fresh", 2, "done", None),
        ("killed", 1, "unknown", "no_outcome"),
        ("lost", 1, "unknown", "answer_lost"),
        ("never-left", 1, "not_sent", "withheld"),
        ("no", 1, "rejected", None),
        ("reported", 1, "unknown", "no_outcome"),
        ("same", 1, "unknown", "no_outcome"),
        ("stopped", 1, "unknown", "interrupted"),
        ("under-way", 1, "pending", None),
    ]


def test_what_was_sent_is_what_was_decided_or_the_row_says_that_it_was_not(tables: Any) -> None:
    answer = ask(tables, "SELECT call_id, sent_as_decided FROM calls WHERE outcome = 'done' ORDER BY call_id")
    assert answer == [("changed", False), ("done", True), ("fresh", True)]


def test_only_a_report_on_this_token_by_its_own_agent_or_the_outcome_of_this_call_clears_a_token(tables: Any) -> None:
    answer = ask(
        tables, "SELECT COALESCE(call_id, txn) AS which FROM issued_without_outcome WHERE event_id != 'now' ORDER BY 1"
    )
    assert [which for (which,) in answer] == [
        *("again", "killed", "reported", "same", "token-03", "token-04", "token-05", "token-14")
    ]


def test_the_word_of_a_resource_goes_before_the_agents_and_shows_where_they_disagree(tables: Any) -> None:
    answer = ask(
        tables,
        "SELECT txn, agent_said, resource_said, resource_server, outcome, disagree FROM reported_outcomes "
        "WHERE agent_id = 'ops-bot' AND txn != 'token-03' ORDER BY txn",
    )
    assert answer == [
        ("token-11", None, "done", "crm-api", "done", False),
        ("token-12", "not_used", "done", "crm-api", "done", True),
        ("token-13", "done", "rejected", "crm-api", "rejected", True),
    ]
    assert ask(tables, "SELECT COUNT(*) AS n FROM reported_outcomes WHERE disagree") == [(2,)]


def test_what_agent_and_resource_say_of_one_token_is_counted_once_by_the_resources_word(tables: Any) -> None:
    answer = ask(
        tables,
        "SELECT issued, executed, failed FROM actions_by_user_and_agent "
        f"WHERE subject_key = '{ALICE}' AND agent_id = 'ops-bot' AND action = '{UPDATE}'",
    )
    assert answer == [(4, 4, 1)]  # 11, 12, and of others' tokens "same" and 03; 13
    features = ask(
        tables,
        "SELECT txn, done, failed FROM transaction_features WHERE txn IN ('token-11', 'token-12', 'token-13') ORDER BY 1",
    )
    assert features == [("token-11", 1, 0), ("token-12", 1, 0), ("token-13", 0, 1)]


def test_no_agents_word_stands_for_what_another_says_of_the_same_token(tables: Any) -> None:
    """Else whoever shares a user's token could hide what came of it at somebody else's hands."""
    answer = ask(
        tables,
        "SELECT agent_id, executed, failed FROM actions_by_user_and_agent "
        "WHERE agent_id IN ('planner', 'helper') ORDER BY agent_id",
    )
    assert answer == [("helper", 1, 0), ("planner", 0, 1)]
    assert ask(tables, "SELECT done, failed FROM transaction_features WHERE txn = 'token-15'") == [(1, 1)]


def test_executed_counts_what_was_done_and_what_nobody_knows_apart(tables: Any) -> None:
    answer = ask(
        tables,
        "SELECT executed, failed, unknown_outcome FROM actions_by_user_and_agent "
        f"WHERE subject_key = '{ALICE}' AND agent_id = 'sales-assistant' AND action = '{UPDATE}' AND executed > 0",
    )
    # done, fresh, changed, and the reports of 01 and of "reported"; the platform's no; stopped and lost
    assert answer == [(5, 1, 2)]


def test_old_events_fit_the_new_table_and_new_events_the_table_after_its_new_columns_are_added(
    bigquery_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old table gets its new columns while rows stand in it; the rows of both versions are then one record."""
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", bigquery_url)
    dataset = "upgraded"
    with client(bigquery_url, PROJECT) as tables:
        create_table(tables, dataset)
        name = f"{PROJECT}.{dataset}.{TABLE}"
        schema = tables.get_table(name).schema
        tables.delete_table(name)
        old = bigquery.Table(name, schema=[column for column in schema if column.name not in ("call", "observed_by")])
        old.time_partitioning = bigquery.TimePartitioning(type_="DAY", field="occurred_at")
        old.require_partition_filter = True
        tables.create_table(old)

        story = Story()
        before = story.exchange(Outcome.ISSUED, txn="old", token=TokenFacts(kind="downstream", sha256="01"))
        attempt = story.attempt("new", txn="new")
        outcome = story.outcome("new", "done")

        async def insert(rows: list[dict[str, Any]]) -> dict[int, str]:
            adapter = BigQueryAuditRows(PROJECT, dataset, TABLE)
            refused = await adapter.insert([row(columns) for columns in rows])
            await adapter.close()
            return refused

        # Before the table is upgraded nothing of a new function is lost: it is refused, and kept in quarantine.
        assert asyncio.run(insert([before, attempt])) == {1: "invalid"}

        table = tables.get_table(name)
        table.schema = schema
        tables.update_table(table, ["schema"])
        create_views(tables, dataset, only=("calls",))
        assert asyncio.run(insert([attempt, outcome])) == {}
        found = tables.query_and_wait(
            f"SELECT txn FROM `{PROJECT}`.{dataset}.events WHERE event_type = 'exchange.decided'"
        )
        assert sorted(row["txn"] for row in found) == ["new", "old"]
        (call,) = tables.query_and_wait(f"SELECT outcome FROM `{PROJECT}`.{dataset}.calls")
        assert call["outcome"] == "done"
