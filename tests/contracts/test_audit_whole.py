"""What somebody who may write the table took away or put in: found, and named."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from tests.contracts.audit_story import Story
from tests.contracts.bigquery import Record

from cab.domain.audit import Actor, EventType, Outcome, TokenFacts

Rows = list[dict[str, Any]]


class Whole:
    def __init__(self, record: Record) -> None:
        self._record = record

    def holds(self, rows: Rows) -> None:
        """These rows, and none of the test before."""
        with self._record.of(rows):
            pass

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in self._record.ask(sql)]

    def gaps(self) -> list[tuple[Any, ...]]:
        return self.ask(
            "SELECT gap, chain_id, after_seq, before_seq FROM chain_gaps ORDER BY gap, chain_id, before_seq"
        )

    def orphans(self) -> list[tuple[Any, ...]]:
        return self.ask("SELECT orphan, event_id FROM orphans ORDER BY orphan, event_id")


@pytest.fixture(scope="module")
def whole(record: Record) -> Whole:
    return Whole(record)


@pytest.fixture
def story() -> Story:
    """A login, a question with its answer, a call, a report: by two processes that ended in order."""
    story = Story()
    acting = Actor(agent_id="sales-assistant", client_id="acme-web")
    story.tell(
        EventType.ASSERTION_MINTED, Outcome.ISSUED, actor=acting, token=TokenFacts(kind="assertion", jti="j1"), by="b"
    )
    story.exchange(Outcome.REFUSED, assertion_jti="j1", decision="confirm", confirmation_id="c1")
    story.tell(EventType.CONFIRMATION_DECIDED, Outcome.EXECUTED, decision="permit", confirmation_id="c1", by="b")
    story.exchange(
        Outcome.ISSUED, assertion_jti="j1", confirmation_id="c1", token=TokenFacts(kind="downstream", sha256="01")
    )
    story.report("01", "done")
    story.attempt("call", assertion_jti="j1")
    story.outcome("call", "done")
    story.exchange(Outcome.ISSUED, assertion_jti="j1", token=TokenFacts(kind="assertion", jti="j2"))
    story.exchange(Outcome.ISSUED, agent="ops-bot", assertion_jti="j2")
    story.exchange(Outcome.ISSUED)  # an ID-JAG: nothing was minted here
    for by in ("a", "b"):
        story.tell(EventType.CHAIN_CLOSED, by=by)
    return story


def test_a_whole_record_has_no_gap_and_no_orphan(whole: Whole, story: Story) -> None:
    whole.holds(story.rows)
    assert (whole.gaps(), whole.orphans()) == ([], [])


def test_a_chain_whose_last_events_were_removed_ended_without_close(whole: Whole, story: Story) -> None:
    whole.holds([row for row in story.rows if row["chain"]["id"] != "chain-a" or row["chain"]["seq"] <= 3])
    assert whole.gaps() == [("ended_without_close", "chain-a", 3, None)]


def test_of_a_chain_that_was_removed_whole_the_events_that_hung_on_it_are_orphans(whole: Whole, story: Story) -> None:
    whole.holds([row for row in story.rows if row["chain"]["id"] != "chain-b"])
    assert whole.gaps() == []
    assert [orphan for orphan, _ in whole.orphans()] == ["without_answer", *["without_mint"] * 4]

    whole.holds([row for row in story.rows if row["chain"]["id"] != "chain-a"])
    assert [orphan for orphan, _ in whole.orphans()] == ["without_question"]


@pytest.mark.parametrize(
    ("removed", "orphans"),
    [
        (5, [("without_attempt", "event-006")]),
        (3, [("without_token", "event-004")]),
        (7, [("without_mint", "event-008")]),
        (1, []),  # the question: the answer was used, so an event of it stands
    ],
)
def test_what_followed_from_a_removed_event_is_an_orphan(
    whole: Whole, story: Story, removed: int, orphans: list[tuple[str, str]]
) -> None:
    whole.holds([row for number, row in enumerate(story.rows) if number != removed])
    assert whole.orphans() == orphans
    (gap,) = whole.gaps()
    assert gap[0] == "missing"


def test_a_forged_copy_that_was_received_earlier_is_flagged(whole: Whole, story: Story) -> None:
    """Same id, same place, same hash, same text; other columns: `events` shows the first one received, and says so."""
    true = story.rows[3]
    forged = deepcopy(true) | {"outcome": "refused", "received_at": "2020-01-01T00:00:00+00:00", "message_id": "0"}
    twice = deepcopy(story.rows[4]) | {"message_id": "again"}
    whole.holds([*story.rows, forged, twice])
    assert whole.ask("SELECT event_id FROM events WHERE contested") == [(true["event_id"],)]
    assert whole.gaps() == [("copy_differs", "chain-a", None, true["chain"]["seq"])]


def test_an_event_that_was_published_twice_is_not_contested(whole: Whole, story: Story) -> None:
    story.tell_again(story.rows[3], by="c")
    whole.holds(story.rows)
    assert whole.ask("SELECT event_id FROM events WHERE contested") == []
