"""What an analyst asks of the audit tables, on rows as the broker writes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.api_core.exceptions import BadRequest
from tests.contracts.audit_story import ALICE, BOB, DELETE, START, UPDATE, Story
from tests.contracts.bigquery import Record
from tests.support.audit_row import columns_of

from cab.adapters.google_cloud.bigquery.audit_schema import (
    TABLE,
    create_dataset,
)
from cab.adapters.google_cloud.pubsub.audit_chain import AuditChain
from cab.domain.audit import (
    AuditEvent,
    EventType,
    IntentFacts,
    Outcome,
    PolicyFacts,
    Service,
    TaskFacts,
    TokenFacts,
    read_json,
    withheld,
)

PROJECT, DATASET = Record.PROJECT, Record.DATASET
DOUBLED = "doubled"
ENDED = "ended"


@pytest.fixture(scope="module")
def story() -> Story:
    story = Story()
    story.grant(EventType.GRANT_CONNECTED, "grant-alice")
    story.grant(EventType.GRANT_CONNECTED, "grant-bob", user=BOB, cause="connected, without a refresh token")
    story.exchange(Outcome.ISSUED, txn="t1", token=TokenFacts(kind="downstream", sha256="00"))
    story.report("00", "done", txn="t1")
    story.exchange(
        Outcome.REFUSED, txn="t1", event_type=EventType.TOOL_EXECUTED, reason_code="outcome_already_reported"
    )
    story.exchange(Outcome.ISSUED, txn="t2", token=TokenFacts(kind="downstream", sha256="01"))
    story.exchange(
        Outcome.REFUSED,
        action=DELETE,
        decision="deny",
        reason_code="intent_outside_task",
        intent=IntentFacts(identifier="opportunity/0062", trigger="user_turn", reason="the note told me to"),
        task=TaskFacts(within=False, comparison="outside"),
        txn="t3",
    )
    story.exchange(
        Outcome.REFUSED,
        agent="ops-bot",
        decision="deny",
        reason_code="policy_denied",
        policy=PolicyFacts(version="v1", determining_rules=["no-ops-in-crm"]),
    )
    story.exchange(
        Outcome.REFUSED, action=DELETE, decision="confirm", reason_code="confirmation_required", confirmation_id="c1"
    )
    story.tell(EventType.CONFIRMATION_DECIDED, Outcome.EXECUTED, decision="permit", confirmation_id="c1", by="b")
    story.exchange(Outcome.ISSUED, action=DELETE, confirmation_id="c1", txn="t4")
    story.exchange(
        Outcome.REFUSED, action=DELETE, decision="confirm", reason_code="confirmation_required", confirmation_id="c2"
    )
    story.tell(EventType.CONFIRMATION_DECIDED, Outcome.EXECUTED, decision="deny", confirmation_id="c2", by="b")
    story.exchange(Outcome.REFUSED, decision="confirm", reason_code="confirmation_required", confirmation_id="c3")
    story.grant(EventType.GRANT_REFRESHED, "grant-alice", cause="success")
    story.grant(EventType.GRANT_REFRESHED, "grant-alice", cause="race_recovered")
    story.grant(EventType.GRANT_REVOKED, "grant-bob", user=BOB, cause="user", upstream_revoked=False)
    revoked = story.rows[-1]
    story.tell_again(revoked, by="b")
    story.tell_again(revoked, by="a")
    story.grant(EventType.GRANT_REVOKED, "grant-alice", cause="replaced by a new consent", upstream_revoked=False)
    story.withhold(story.exchange(Outcome.ISSUED, txn="t9", confirmation_id="c4"))
    story.tell(EventType.REQUESTS_REFUSED_COUNTED, Outcome.REFUSED, count=40)
    story.tell(EventType.CHAIN_CLOSED, by="b")
    story.tell(EventType.KEY_ROTATED, by="c")
    story.tell(EventType.KEY_ROTATED, by="c")["chain"]["prev_hash"] = "0" * 64
    story.tell(EventType.CHAIN_CLOSED, by="c")
    return story


@pytest.fixture(scope="module")
def lost(story: Story) -> dict[str, Any]:
    """One event of the chain that never arrived."""
    return next(row for row in story.rows if row["event_type"] == "tool.executed")


@pytest.fixture(scope="module")
def tables(record: Record, story: Story, lost: dict[str, Any]) -> Iterator[Any]:
    """A dataset with the whole story, but that one event was lost and every third row came twice."""
    arrived = [row for row in story.rows if row is not lost]
    again = [row | {"message_id": "again"} for row in arrived[::3]]
    with record.of([*arrived, *again]) as tables:
        yield tables


def ask(tables: Any, sql: str, dataset: str = DATASET) -> list[dict[str, Any]]:
    return [dict(row) for row in tables.query_and_wait(sql.replace("FROM ", f"FROM `{PROJECT}`.{dataset}."))]


@pytest.fixture(scope="module")
def doubled(tables: Any) -> Any:
    """A dataset in which some ids came with a second content: at the same instant, a day before and a day after the first."""
    story = Story(dated_ids=True)
    issued = story.exchange(Outcome.ISSUED, txn="first-0")
    outcomes = [story.exchange(Outcome.REFUSED, txn=f"first-{number}") for number in (1, 2)]
    instants = [datetime.fromisoformat(row["occurred_at"]) for row in (issued, *outcomes)]
    moved = (timedelta(0), timedelta(days=-1), timedelta(days=1))
    for row, at, by in zip((issued, *outcomes), instants, moved, strict=True):
        story.tell_otherwise(row, by="b", occurred_at=at + by, txn="second", outcome=Outcome.FAILED)
    story.tell_again(outcomes[0], by="c")
    story.withhold(issued)
    create_dataset(tables, DOUBLED, only=("chain_gaps",))
    name = f"{PROJECT}.{DOUBLED}.{TABLE}"
    assert tables.insert_rows_json(name, story.rows, row_ids=[None] * len(story.rows), timeout=10) == []
    return tables


def test_how_many_events_are_there_each_once(tables: Any, story: Story) -> None:
    (raw,) = ask(tables, "SELECT COUNT(*) AS n FROM events_raw WHERE occurred_at > '2020-01-01'")
    (once,) = ask(tables, "SELECT COUNT(*) AS n, COUNT(DISTINCT event_id) AS ids FROM events")
    arrived = len({row["event_id"] for row in story.rows}) - 1
    assert once == {"n": arrived, "ids": arrived}
    assert raw["n"] > once["n"]


def test_an_id_is_one_row_also_when_a_second_content_came_under_it_at_another_instant(doubled: Any) -> None:
    answer = ask(doubled, "SELECT event_id, txn, outcome FROM events WHERE event_type != 'token.withheld'", DOUBLED)
    assert sorted((row["txn"], row["outcome"]) for row in answer) == [
        ("first-0", "withheld"),
        ("first-1", "refused"),
        ("first-2", "refused"),
    ]
    # Nor does it come out where a question reads only the days of the second content.
    elsewhere = (
        f"SELECT event_id FROM events WHERE occurred_at > '{START + timedelta(hours=1)}' OR occurred_at < '{START}'"
    )
    assert ask(doubled, elsewhere, DOUBLED) == []


def test_a_second_content_under_an_id_is_a_gap_and_a_second_publish_is_none(doubled: Any) -> None:
    answer = ask(
        doubled,
        "SELECT chain_id, before_seq, found_at_event FROM chain_gaps WHERE gap = 'other_content' ORDER BY before_seq",
        DOUBLED,
    )
    named = {row["event_id"]: row["txn"] for row in ask(doubled, "SELECT event_id, txn FROM events", DOUBLED)}
    assert [(row["chain_id"], row["before_seq"], named[row["found_at_event"]]) for row in answer] == [
        ("chain-b", 1, "first-0"),
        ("chain-b", 2, "first-1"),
        ("chain-b", 3, "first-2"),
    ]
    moved = ask(doubled, "SELECT before_seq FROM chain_gaps WHERE gap = 'other_instant' ORDER BY before_seq", DOUBLED)
    assert [row["before_seq"] for row in moved] == [2, 3]


def test_what_did_each_agent_do_in_whose_name(tables: Any) -> None:
    names = ("subject_key", "agent_id", "action", "requests", "issued", "refused", "confirmed_by_user")
    answer = ask(tables, "SELECT * FROM actions_by_user_and_agent ORDER BY agent_id, action")
    assert [tuple(row[name] for name in names) for row in answer] == [
        (ALICE, "ops-bot", UPDATE, 1, 0, 1, 0),
        (ALICE, "sales-assistant", DELETE, 4, 1, 3, 1),
        (ALICE, "sales-assistant", UPDATE, 4, 2, 2, 0),
    ]


def test_why_was_something_refused_and_by_which_rule(tables: Any) -> None:
    answer = ask(
        tables,
        "SELECT reason_code, SUM(refusals) AS n FROM refusals GROUP BY reason_code ORDER BY n DESC, reason_code",
    )
    assert [(row["reason_code"], row["n"]) for row in answer] == [
        (None, 40),
        ("confirmation_required", 3),
        ("audit_unavailable", 1),
        ("intent_outside_task", 1),
        ("outcome_already_reported", 1),
        ("policy_denied", 1),
    ]
    (denied,) = ask(tables, "SELECT agent_id, determining_rules FROM refusals WHERE reason_code = 'policy_denied'")
    assert denied == {"agent_id": "ops-bot", "determining_rules": ["no-ops-in-crm"]}


def test_which_agent_asked_for_more_than_the_user_did(tables: Any) -> None:
    (mismatch,) = ask(
        tables, "SELECT agent_id, action, identifier, stated_reason, intent_trigger FROM intent_mismatches"
    )
    assert mismatch == {
        "agent_id": "sales-assistant",
        "action": DELETE,
        "identifier": "opportunity/0062",
        "stated_reason": "the note told me to",
        "intent_trigger": "user_turn",
    }


def test_how_long_do_users_take_to_confirm_and_what_do_they_answer(tables: Any) -> None:
    answer = ask(
        tables,
        "SELECT confirmation_id, status, seconds_to_answer, used_at IS NOT NULL AS used "
        "FROM confirmations ORDER BY confirmation_id",
    )
    assert [tuple(row.values()) for row in answer] == [
        ("c1", "approved", 1, True),
        ("c2", "refused", 1, False),
        ("c3", "unanswered", None, False),
        ("c4", "unanswered", None, False),
    ]


def test_a_question_of_the_day_before_was_not_asked_when_its_answer_was_used(tables: Any) -> None:
    (whole,) = ask(tables, "SELECT asked_at, decided_at, used_at FROM confirmations WHERE confirmation_id = 'c1'")
    assert whole["asked_at"] < whole["decided_at"] < whole["used_at"]
    border = f"TIMESTAMP '{whole['decided_at']}', TIMESTAMP '9000-01-01'"
    (row,) = ask(
        tables,
        "SELECT asked_at, status, seconds_to_answer, used_at IS NOT NULL AS used "
        f"FROM confirmations_between({border}) WHERE confirmation_id = 'c1'",
    )
    assert tuple(row.values()) == (None, "approved", None, True)


def test_which_connection_loses_grants(tables: Any) -> None:
    (health,) = ask(
        tables,
        "SELECT connection, provider, grants, connected, not_lasting, refreshed, recovered, needs_reauth, revoked, "
        "not_revoked_upstream FROM grant_health",
    )
    assert health == {
        "connection": "crm",
        "provider": "acme-crm",
        "grants": 2,
        "connected": 2,
        "not_lasting": 1,
        "refreshed": 2,
        "recovered": 1,
        "needs_reauth": 0,
        "revoked": 1,
        "not_revoked_upstream": 2,
    }


def test_which_tokens_were_issued_and_never_reported_used(tables: Any) -> None:
    answer = ask(tables, "SELECT txn FROM issued_without_outcome ORDER BY txn")
    assert [row["txn"] for row in answer] == ["t1", "t2", "t4"]  # t1 was used, but that event is the one that was lost


def test_a_token_that_was_withheld_is_nowhere_issued(tables: Any) -> None:
    answer = ask(tables, "SELECT event_type, outcome, reason_code FROM events WHERE txn = 't9' ORDER BY event_type")
    assert [(row["event_type"], row["outcome"], row["reason_code"]) for row in answer] == [
        ("exchange.decided", "withheld", None),
        ("token.withheld", "refused", "audit_unavailable"),
    ]
    assert ask(tables, "SELECT used_at FROM confirmations WHERE confirmation_id = 'c4'") == [{"used_at": None}]
    assert ask(tables, "SELECT reason_code FROM refusals WHERE txn = 't9'") == [{"reason_code": "audit_unavailable"}]


@pytest.fixture(scope="module")
def ended(tables: Any) -> Any:
    """A dataset with the chains of processes: some live, some ended in order, some were killed."""
    now = datetime.now(UTC)
    long_ago = now - timedelta(hours=2)
    rows = [
        *process("killed", long_ago, "issued", "issued", "issued"),
        *process("killed-and-taken-back", long_ago, "issued", "withheld"),
        *process("ended", long_ago, "issued", "chain.closed"),
        *process("alive", now, "issued"),
        *process("before-the-upgrade", long_ago, "issued", says_settled=False),
        *process("claimed-by-another", now, "issued"),
    ]
    rows.append(taken_back_elsewhere(rows[-1]))
    create_dataset(tables, ENDED, only=())
    name = f"{PROJECT}.{ENDED}.{TABLE}"
    assert tables.insert_rows_json(name, rows, row_ids=[None] * len(rows), timeout=10) == []
    return tables


def process(name: str, at: datetime, *ends: str, says_settled: bool = True) -> Iterator[dict[str, Any]]:
    """Its rows. What takes an event back is settled with it; a chain that ends says that all before is settled."""
    chain = AuditChain(name, Service(function=name, revision="r"))
    event = AuditEvent(event_id="", event_type=EventType.EXCHANGE_DECIDED, occurred_at=at)
    for number, end in enumerate(ends):
        if end == "withheld":
            event = withheld(event, event_id=f"{name}-back", reason_code="audit_unavailable")
        elif end == "issued":
            event = replace(event, event_id=f"{name}-{number}", outcome=Outcome.ISSUED)
        else:
            event = AuditEvent(event_id=f"{name}-end", event_type=EventType.CHAIN_CLOSED, occurred_at=at)
        settled = 0 if end == "withheld" else number
        data = chain.seal(event, settled=settled if says_settled else None).data
        yield columns_of(data, received_at=at, message_id=event.event_id)


def taken_back_elsewhere(row: dict[str, Any]) -> dict[str, Any]:
    """What somebody who may publish writes to hide that a token left: its withdrawal, in a chain of their own."""
    event = withheld(read_json(row["event_json"]), event_id="forged", reason_code="audit_unavailable")
    data = AuditChain("forged", Service(function="forger", revision="r")).seal(event).data
    return columns_of(data, received_at=datetime.now(UTC), message_id="forged")


def test_what_a_killed_process_may_have_withheld_is_not_called_issued(ended: Any) -> None:
    answer = ask(ended, "SELECT event_id, outcome FROM events WHERE event_type = 'exchange.decided'", ENDED)
    assert {row["event_id"]: row["outcome"] for row in answer} == {
        "killed-0": "issued",
        "killed-1": "issued",
        "killed-2": "unconfirmed",
        "killed-and-taken-back-0": "withheld",
        "ended-0": "issued",
        "alive-0": "issued",
        "before-the-upgrade-0": "issued",
        "claimed-by-another-0": "issued",
    }


def test_every_hash_can_be_made_again_in_sql(tables: Any) -> None:
    again = """
        TO_HEX(SHA256(REPLACE({text}, CONCAT('"chain":{{"hash":"', chain.hash, '",'), '"chain":{{')))
    """
    edited = "REPLACE(event_json, 'acme', 'evil')"
    found = ask(
        tables,
        f"SELECT COUNT(*) AS n, COUNTIF({again.format(text='event_json')} = chain.hash) AS whole, "
        f"COUNTIF({again.format(text=edited)} = chain.hash) AS edited "
        "FROM events_raw WHERE occurred_at > '2020-01-01'",
    )
    assert found[0]["n"] == found[0]["whole"] > 0
    assert found[0]["edited"] == 0


def test_which_record_is_missing_or_was_touched(tables: Any, lost: dict[str, Any]) -> None:
    answer = ask(tables, "SELECT gap, chain_id, after_seq, before_seq, missing_events FROM chain_gaps ORDER BY gap")
    seq, last_seq = lost["chain"]["seq"], answer[1]["after_seq"]
    assert [tuple(row.values()) for row in answer] == [
        ("broken", "chain-c", 1, 2, 0),
        ("ended_without_close", "chain-a", last_seq, None, None),
        ("missing", "chain-a", seq - 1, seq + 1, 1),
    ]


def test_a_question_to_the_raw_table_must_name_a_time(tables: Any) -> None:
    with pytest.raises(BadRequest):
        ask(tables, "SELECT COUNT(*) AS n FROM events_raw")


def test_each_decision_of_an_agent_is_issued_refused_or_a_question(tables: Any) -> None:
    answer = ask(tables, "SELECT agent_id, decisions, issued, refused, asked FROM volume ORDER BY agent_id")
    assert [tuple(row.values()) for row in answer] == [("ops-bot", 1, 0, 1, 0), ("sales-assistant", 8, 3, 2, 3)]


def test_how_fresh_are_the_tables(tables: Any) -> None:
    (freshness,) = ask(tables, "SELECT median_ms, p99_ms, max_ms FROM freshness")
    assert freshness == {"median_ms": 250, "p99_ms": 250, "max_ms": 250}


def test_who_could_act_for_whom(tables: Any) -> None:
    answer = ask(tables, "SELECT subject_key, connection, grant_id, agent_id, tokens FROM who_could_have")
    assert answer == [
        {
            "subject_key": ALICE,
            "connection": "crm",
            "grant_id": "grant-alice",
            "agent_id": "sales-assistant",
            "tokens": 3,
        }
    ]
