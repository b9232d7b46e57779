"""`cab audit` on calls that the broker makes itself, and on what agents say of their tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.test_audit import answer, run
from tests.contracts.audit_story import UPDATE, Story
from tests.contracts.bigquery import Record

from cab.domain.audit import CallFacts, IntentFacts, Outcome, TokenFacts


@pytest.fixture(scope="module", autouse=True)
def rows(record: Record) -> Iterator[None]:
    """The broker made three calls, and an agent and a resource say what came of a token."""
    story = Story()
    for call, outcome in (("call-1", "done"), ("call-2", None), ("call-3", "unknown")):
        story.attempt(call, txn="txn-calls", intent=IntentFacts(identifier="opportunity/0061"), decision="permit")
        if outcome == "done":
            story.outcome(call, "done", txn="txn-calls")
        elif outcome == "unknown":
            story.outcome(call, "unknown", txn="txn-calls", cause="interrupted")
    story.exchange(Outcome.ISSUED, txn="txn-calls", token=TokenFacts(kind="downstream", sha256="0a"))
    story.report("0a", "rejected", txn="txn-calls", call=CallFacts(outcome="rejected", upstream_status=404))
    story.report("0a", "done", by="crm-api", txn="txn-calls")
    with record.of(story.rows):
        yield


def test_calls_tell_what_came_of_each() -> None:
    rows = answer("calls")
    assert [(row["call_id"], row["outcome"], row["cause"]) for row in rows] == [
        ("call-3", "unknown", "interrupted"),
        ("call-2", "unknown", "no_outcome"),
        ("call-1", "done", None),
    ]
    assert [row["call_id"] for row in answer("calls", "--outcome", "done")] == ["call-1"]
    assert max(map(len, run("calls").stdout.splitlines())) <= 120


def test_a_trace_tells_attempt_and_outcome_and_whose_word_it_is() -> None:
    told = " ".join(run("trace", "txn-calls").stdout.split())
    sentences = [
        f"asked for {UPDATE} on opportunity/0061 at crm, to be called by the broker: issued",
        "call call-1",
        "PATCH crm /opportunities/{id}",
        "request digest sha-256:d",
        f"the broker called {UPDATE} for sales-assistant: executed",
        "outcome done",
        f"the broker called {UPDATE} for sales-assistant: unknown",
        "outcome unknown, because interrupted",
        f"sales-assistant says what came of its token for {UPDATE}: failed",
        "outcome rejected, status 404",
        f"crm-api says what it did of {UPDATE} for sales-assistant: executed",
        f"No outcome of call call-2 is on record: after 120 seconds it counts as unknown, and the platform may have done {UPDATE}.",
    ]
    places = [told.index(sentence) for sentence in sentences]
    assert places == sorted(places)
    assert told.count("No outcome of call") == 1


def test_a_trace_that_is_cut_says_so_and_claims_no_outcome_to_be_missing_that_it_did_not_read() -> None:
    told = run("trace", "txn-calls", "--limit", "1").stdout
    assert "Here the story is cut: --limit shows more events." in told
    assert "No outcome of call" not in told
    assert "Here the story is cut" not in run("trace", "txn-calls").stdout


def test_nothing_is_green_that_is_only_unknown(tmp_path: Path) -> None:
    """A record without a gap, but for chains that ended without closing and no signed heads to hold it against."""
    file = tmp_path / "report.html"
    run("report", "--out", str(file))
    text = " ".join(file.read_text("utf-8").split())
    assert re.search(r"<li><b>0</b><span>gaps in the record</span>", text)
    assert "1 ended without closing: what followed may have been removed." in text
    assert "Not held against signed heads" in text
