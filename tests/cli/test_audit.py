"""`cab audit` on rows as the broker writes them: every question, as a table and as JSON."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.contracts.audit_story import ALICE, BOB, DELETE, START, UPDATE, Story
from tests.contracts.bigquery import Record

from cab.adapters.google_cloud.bigquery.audit_schema import Column, columns
from cab.domain.audit import (
    Actor,
    EventType,
    IntentFacts,
    Outcome,
    PolicyFacts,
    Scopes,
    TaskFacts,
    TokenFacts,
    Tool,
)
from cab_ops.cli import main
from cab_ops.cli.audit import trace

HOSTILE = "\x1b\x07\u202e"
INJECTED = "note\x1b[2J says \u202eso"
TABLES = ("events", "actions", "refusals", "mismatches", "confirmations", "grants", "unused", "gaps", "freshness")


@pytest.fixture(scope="module")
def story() -> Story:
    story = Story()
    story.grant(EventType.GRANT_CONNECTED, "grant-alice")
    story.grant(EventType.GRANT_CONNECTED, "grant-bob", user=BOB)
    story.tell(
        EventType.ASSERTION_MINTED,
        Outcome.ISSUED,
        txn="txn-alice-1",
        actor=Actor(agent_id="sales-assistant", client_id="acme-web"),
        intent=IntentFacts(task_id="t-81", trigger="user_turn"),
    )
    story.exchange(
        Outcome.REFUSED,
        action=DELETE,
        decision="confirm",
        reason_code="confirmation_required",
        confirmation_id="c1",
        txn="txn-alice-1",
        intent=IntentFacts(identifier="opportunity/0061", parameters="{}"),
        policy=PolicyFacts(version="v", determining_rules=["sales-opportunity-delete"]),
        task=TaskFacts(within=True, comparison="within"),
    )
    story.tell(
        EventType.CONFIRMATION_DECIDED,
        Outcome.EXECUTED,
        decision="permit",
        confirmation_id="c1",
        txn="txn-browser",
        tool=Tool(connection="crm", action=DELETE),
        by="b",
    )
    story.exchange(
        Outcome.ISSUED,
        action=DELETE,
        decision="permit",
        confirmation_id="c1",
        txn="txn-alice-1",
        token=TokenFacts(kind="downstream", sha256="00", expires_at=START + timedelta(minutes=5)),
        scopes=Scopes(requested=[], granted=["opportunity.delete"], narrowed=True),
        intent=IntentFacts(identifier="opportunity/0061", parameters='{"x":1}'),
    )
    story.tell(EventType.TOOL_EXECUTED, Outcome.EXECUTED, txn="txn-alice-1", tool=Tool(connection="crm", action=DELETE))
    story.exchange(
        Outcome.REFUSED,
        decision="deny",
        reason_code="intent_outside_task",
        txn="txn-bob-1",
        intent=IntentFacts(identifier="opportunity/0062", reason=INJECTED),
        task=TaskFacts(within=False, comparison="action_outside"),
        user=BOB,
    )
    story.exchange(Outcome.ISSUED, agent="ops-bot", decision="permit", txn="txn-bob-2", user=BOB)
    story.tell(EventType.CHAIN_CLOSED, by="b")
    return story


@pytest.fixture(scope="module", autouse=True)
def rows(record: Record, story: Story) -> Iterator[None]:
    """The story in a dataset, but for one event that was lost; the environment leads the commands there."""
    with record.of([row for row in story.rows if row["event_type"] != "tool.executed"]):
        yield


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["audit", *arguments])
    assert result.exit_code == status, result.output
    return result


def answer(*arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(*arguments, "--json").stdout)
    return found


def test_events_come_newest_first_and_each_filter_narrows_them(story: Story) -> None:
    everything = answer("events")
    assert len(everything) == len(story.rows) - 1
    assert [row["occurred_at"] for row in everything] == sorted(
        (row["occurred_at"] for row in everything), reverse=True
    )
    assert {row["subject_key"] for row in answer("events", "--user", BOB)} == {BOB}
    assert len(answer("events", "--txn", "txn-alice-1")) == 3
    assert [row["txn"] for row in answer("events", "--agent", "ops-bot")] == ["txn-bob-2"]
    assert {row["decision"] for row in answer("events", "--decision", "deny")} == {"deny"}
    assert len(answer("events", "--type", "grant.connected")) == 2
    assert answer("events", "--tenant", "globex") == []
    assert len(answer("events", "--limit", "2")) == 2


def test_since_takes_durations_and_instants() -> None:
    assert answer("events", "--since", "5m") == []
    assert answer("events", "--since", "2w")
    assert len(answer("events", "--since", (START + timedelta(seconds=9)).isoformat())) == 2
    assert "Give a duration such as" in run("events", "--since", "lately", status=2).stderr


def test_what_people_type_is_a_value_and_never_sql() -> None:
    for hostile in ("' OR '1'='1", "x'; DROP TABLE events_raw; --", "\\"):
        assert answer("events", "--user", hostile) == []
        assert answer("refusals", "--reason", hostile) == []


def test_the_beginning_of_a_key_is_enough_also_as_copied_from_a_table() -> None:
    assert len(answer("events", "--user", "subject-b")) == len(answer("events", "--user", "subject-b…")) == 3
    assert "Give at least one character" in run("events", "--user", "…", status=2).stderr


def test_refusals_say_why_and_by_which_rule() -> None:
    assert [(row["reason_code"], row["determining_rules"], row["agent_id"]) for row in answer("refusals")] == [
        ("intent_outside_task", [], "sales-assistant"),
        ("confirmation_required", ["sales-opportunity-delete"], "sales-assistant"),
    ]
    assert len(answer("refusals", "--reason", "intent_outside_task")) == 1


def test_mismatches_show_what_the_agent_said_without_letting_it_act() -> None:
    (mismatch,) = answer("mismatches")
    assert (mismatch["stated_reason"], mismatch["comparison"]) == (INJECTED, "action_outside")
    shown = run("mismatches").stdout
    assert "\x1b" not in shown
    assert "\u202e" not in shown


@pytest.mark.parametrize("event_type", [*EventType, HOSTILE])
def test_nothing_that_a_row_says_acts_on_the_terminal_of_who_reads_the_story(event_type: str) -> None:
    """Whoever may write the table writes into any column."""
    row = hostile(columns()) | {"event_type": event_type, "outcome": "issued", "occurred_at": START}
    for outcome in ("issued", "refused", HOSTILE):
        told = trace.story(HOSTILE, [row | {"outcome": outcome}])
        assert "U+001B" in told
        assert not set(told) & set(HOSTILE)


def hostile(fields: list[Column]) -> dict[str, Any]:
    of_type: dict[str, Any] = {"STRING": HOSTILE, "TIMESTAMP": START, "RECORD": None}
    row: dict[str, Any] = {}
    for field in fields:
        value = hostile(field["fields"]) if field["type"] == "RECORD" else of_type.get(field["type"], 1)
        row[field["name"]] = [value] if field["mode"] == "REPEATED" else value
    return row


def test_actions_confirmations_grants_and_unused_answer_from_their_views() -> None:
    assert {(row["agent_id"], row["action"]): row["requests"] for row in answer("actions")} == {
        ("sales-assistant", DELETE): 2,
        ("sales-assistant", UPDATE): 1,
        ("ops-bot", UPDATE): 1,
    }
    assert [(row["confirmation_id"], row["status"], row["seconds_to_answer"]) for row in answer("confirmations")] == [
        ("c1", "approved", 1)
    ]
    assert [(row["connection"], row["grants"]) for row in answer("grants", "--connection", "crm")] == [("crm", 2)]
    assert answer("grants", "--connection", "tracker") == []
    assert [row["txn"] for row in answer("unused")] == ["txn-bob-2", "txn-alice-1"]  # whose report was lost


def test_gaps_freshness_and_who_could_have_answer_from_their_views() -> None:
    assert [(row["gap"], row["chain_id"], row["missing_events"]) for row in answer("gaps")] == [
        ("missing", "chain-a", 1),
        ("ended_without_close", "chain-a", None),
    ]
    assert [row["median_ms"] for row in answer("freshness")] == [250]
    assert [(row["subject_key"], row["agent_id"], row["tokens"]) for row in answer("who-could-have")] == [
        (ALICE, "sales-assistant", 1),
        (BOB, "ops-bot", 1),
    ]
    assert answer("who-could-have", "--connection", "tracker") == []


@pytest.mark.parametrize("name", [*TABLES, "who-could-have"])
def test_every_table_fits_120_columns(name: str) -> None:
    lines = run(name).stdout.splitlines()
    assert max(len(line) for line in lines) <= 120
    assert lines[-1].split()[1].startswith("row")


def test_an_answer_that_was_cut_says_so_and_an_empty_one_says_how_to_look_further() -> None:
    assert run("events", "--limit", "1").stdout.endswith("1 row; there may be more: --limit\n")
    assert run("refusals", "--since", "1m").stdout == "nothing found; --since 30d looks further back\n"
    assert run("who-could-have", "--connection", "x").stdout == "nothing found\n"
    assert "--user takes a key" in run("events", "--user", "alice").stdout


def test_a_trace_tells_a_transaction_from_login_to_call_with_the_users_answer() -> None:
    told = run("trace", "txn-alice").stdout
    sentences = [
        "acme-web logged the user in; sales-assistant may act, for task t-81 (user_turn): issued",
        f"sales-assistant asked for {DELETE} on opportunity/0061 at crm: refused, confirmation_required",
        "decision confirm by sales-opportunity-delete; compared with the task: within",
        f"the user approved {DELETE}: executed (in transaction txn-browser)",
        f"sales-assistant asked for {DELETE} on opportunity/0061 at crm: issued",
        'parameters {"x":1}',
        "scopes opportunity.delete",
    ]
    unwrapped = " ".join(told.split())
    places = [unwrapped.index(sentence) for sentence in sentences]
    assert places == sorted(places)
    assert told.startswith("transaction txn-alice-1, ")
    assert f"user {ALICE}" in told
    assert max(len(line) for line in told.splitlines()) <= 120


def test_a_trace_names_a_call_token_as_one_and_tells_of_no_decision_that_there_was_not() -> None:
    row: dict[str, Any] = defaultdict(lambda: None)
    row |= {"occurred_at": datetime.now(UTC), "event_type": "exchange.decided", "txn": "t", "outcome": "issued"}
    row |= {"actor": {"agent_id": "sales-assistant"}, "token": {"kind": "call"}, "decision": "permit"}
    told = trace.story("t", [row])
    assert "sales-assistant asked for a call token, to have tools called: issued" in " ".join(told.split())
    assert "decision" not in told


def test_a_trace_quotes_the_agent_and_asks_back_when_a_beginning_is_not_enough() -> None:
    assert "the agent says (untrusted): note[U+001B][2J says [U+202E]so" in run("trace", "txn-bob-1").stdout
    assert "Several transactions begin so: txn-bob-1, txn-bob-2" in run("trace", "txn-bob", status=1).stderr
    assert "No event has this txn" in run("trace", "nothing", status=1).stderr
    assert len(json.loads(run("trace", "txn-bob-1", "--json").stdout)) == 1


def test_verify_chain_finds_the_lost_event_and_exits_with_1(tmp_path: Path) -> None:
    result = run("verify-chain", status=1)
    assert "missing" in result.stdout
    assert "1 event before this one not there" in result.stdout
    assert "1 finding; 1 chain is open, of which 1 ended without closing" in result.stdout
    assert "ended_without_close" in result.stdout
    verdict = json.loads(run("verify-chain", "--json", status=1).stdout)
    assert (verdict["whole"], [finding["kind"] for finding in verdict["findings"]]) == (False, ["missing"])
    assert verdict["recomputed"] == verdict["events"]


def test_verify_chain_calls_no_period_whole_that_ends_before_it_begins() -> None:
    assert "--since must be before --until" in run("verify-chain", "--since", "1d", "--until", "2d", status=2).stderr


def test_verify_chain_compares_with_heads_that_were_noted_earlier(tmp_path: Path) -> None:
    note = json.loads(run("verify-chain", "--json", status=1).stdout)
    file = tmp_path / "heads.json"
    file.write_text(json.dumps(note))
    assert "1 finding;" in run("verify-chain", "--against", str(file), "--since", "5m", status=1).stdout
    note["heads"][0]["hash"] = "0" * 64
    file.write_text(json.dumps(note))
    assert "head_changed" in run("verify-chain", "--against", str(file), status=1).stdout
    file.write_text("{}")
    assert (
        "wants the JSON output of an earlier verify-chain"
        in run("verify-chain", "--against", str(file), status=2).stderr
    )


def test_a_query_of_ones_own_reads_the_views_by_bare_name() -> None:
    count = "SELECT event_type, COUNT(*) AS n FROM events GROUP BY event_type ORDER BY n DESC LIMIT 1"
    assert answer("query", count) == [{"event_type": "exchange.decided", "n": 4}]
    result = CliRunner().invoke(main, ["audit", "query", "-"], input="SELECT 7 AS n")
    assert result.stdout.splitlines()[2].strip() == "7"


@pytest.mark.parametrize(
    "sql",
    ["DELETE FROM events_raw WHERE TRUE", "SELECT 1; DELETE FROM events_raw WHERE TRUE", "CREATE TABLE x (n INT64)"],
)
def test_a_query_that_would_write_is_not_run(sql: str, story: Story) -> None:
    assert "Only one SELECT statement is run here" in run("query", sql, status=1).stderr
    assert len(answer("events")) == len(story.rows) - 1


def test_a_mistake_in_ones_own_query_is_told_in_bigquerys_words() -> None:
    assert "Syntax error" in run("query", "SELEC 1", status=1).stderr
    assert "nowhere" in run("query", "SELECT * FROM nowhere", status=1).stderr


def test_a_row_with_too_many_columns_is_shown_as_lines() -> None:
    lines = run("query", "SELECT * FROM events LIMIT 2").stdout.splitlines()
    assert max(len(line) for line in lines) <= 120
    assert sum(line.startswith("event_id ") for line in lines) == 2


def test_a_dataset_that_is_not_there_is_one_sentence() -> None:
    assert "nowhere has no such table, view or function" in run("events", "--dataset", "nowhere", status=1).stderr


def test_without_a_project_nothing_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT")
    assert "--project" in run("events", status=2).stderr


def test_an_outage_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:1")
    assert "The audit tables cannot be reached" in run("events", status=1).stderr


@pytest.fixture(scope="module")
def page(rows: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report over the story, as written."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    result = CliRunner().invoke(main, ["audit", "report", "--out", str(file)])
    assert (result.exit_code, result.stdout) == (0, f"wrote {file}\n"), result.output
    return file.read_text("utf-8")


def test_the_report_holds_everything_it_shows(page: str) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert policy is not None
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()
    assert policy.group(1).startswith(f"default-src 'none'; style-src 'sha256-{digest}'")
    assert not re.search(r'(src|href)="(?!#)|url\(|@import|<script|<link', page)


def test_the_report_shows_each_views_answer(page: str) -> None:
    titles = re.findall(r"<h2[^>]*>([^<]+)</h2>", page)
    assert titles == [
        "Agents that asked for too much",  # attacks first
        "Decisions over time",
        "Who did what through whom",
        "Refusals",
        "Confirmations",
        "Grants",
        "Is the record whole?",
        "How soon events arrive",
    ]
    assert {title: value for value, title in re.findall(r"<b>([\d,]+)</b><span>([^<]+)</span>", page)} == {
        "decisions": "4",
        "tokens issued": "2",
        "questions to users": "1",
        "refused": "1",
        "asked for too much": "1",
        "gaps in the record": "1",
    }
    assert "1 gap: events are missing, were changed, or nobody noted them." in page
    assert "1 event before this one not there" in page
    assert "Transactions, the likeliest attack first" in page


def test_a_question_to_a_user_is_no_refusal_in_the_report(page: str) -> None:
    refusals = page[page.index('id="refusals"') : page.index('id="confirmations"')]
    assert "confirmation_required" not in refusals
    assert "sales-opportunity-delete" not in refusals  # the rule asked, and refused nothing
    assert "intent_outside_task" in refusals


def test_text_of_agents_is_quoted_in_the_report(page: str) -> None:
    assert "note[U+001B][2J says [U+202E]so" in page
    assert "\u202e" not in page


def test_the_report_has_a_name_for_every_chart_and_a_header_for_every_column(page: str) -> None:
    charts = re.findall(r"<svg [^>]*>", page)
    assert charts
    assert all('role="img"' in chart and 'aria-label="' in chart for chart in charts)
    assert page.count("<table>") == page.count("<caption>") > 0
    assert "<th>" not in page.replace('<th scope="col"', "")
    assert '<html lang="en">' in page


def test_the_report_of_a_quiet_period_says_so(tmp_path: Path) -> None:
    file = tmp_path / "quiet.html"
    run("report", "--out", str(file), "--tenant", "globex", "--since", "40d")
    text = file.read_text("utf-8")
    assert "No agent asked for more than its user did." in text
    assert ", tenant globex." in text


def test_the_reports_numbers_come_as_json_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    numbers = json.loads(run("report", "--json").stdout)
    assert (numbers["mismatch_count"], numbers["people"]["agents"]) == (1, 2)
    verdict = json.loads(run("verify-chain", "--json", status=1).stdout)
    assert (numbers["gaps"], numbers["gap_count"]) == (verdict["findings"], len(verdict["findings"]))
    assert (numbers["verified"], numbers["open_chains"]) == (verdict["recomputed"], 1)
    assert list(tmp_path.iterdir()) == []
    assert "must be before" in run("report", "--since", "1h", "--until", "2h", status=2).stderr
