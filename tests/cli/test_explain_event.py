"""`cab explain --event`: what the exchange really published, explained from the audit table."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.cli.test_explain import ACME, ENVIRONMENT
from tests.contracts.audit_story import Story
from tests.contracts.bigquery import Record
from tests.support.audit_row import row

from cab.adapters.google_cloud.bigquery.audit_rows import BigQueryAuditRows
from cab.adapters.google_cloud.bigquery.audit_schema import TABLE
from cab.domain.audit import (
    Actor,
    EventType,
    IntentFacts,
    Outcome,
    PolicyFacts,
    Subject,
    TaskFacts,
    TokenFacts,
    Tool,
    read_json,
)
from cab_ops.cli import main
from cab_ops.cli.explain.command import explain_command

PROJECT = Record.PROJECT
NUMBERS = itertools.count(1)
ASSISTANT = Actor(agent_id="sales-assistant", chain=["sales-assistant"], client_id="acme-web", trust_zone="internal")


def decided(story: Story, outcome: Outcome, action: str = "crm.opportunity.read", **members: Any) -> str:
    """One exchange by alice's assistant, within her task unless said otherwise. Returns the event's id."""
    comparison = members.pop("comparison", "within")
    intent = {
        "identifier": "opportunity/0061",
        "parameters": "{}",
        "trigger": "user_turn",
        "task_id": "t-81",
        "intent_hash": "sha-256:recorded",
    } | members.pop("intent", {})
    facts: dict[str, Any] = {
        "decision": "permit",
        "actor": ASSISTANT,
        "tool": Tool(connection=action.partition(".")[0], action=action, mode="token"),
        "intent": IntentFacts(**intent),
        "task": TaskFacts(within=comparison == "within", comparison=comparison),
        "policy": PolicyFacts(version="sha-256:of-then"),
        **members,
    }
    facts.setdefault("txn", f"txn-of-{next(NUMBERS)}-{secrets.token_urlsafe(8)}")
    row = story.tell(EventType.EXCHANGE_DECIDED, outcome, groups=["sales"], **facts)
    event_id: str = row["event_id"]
    return event_id


class SalesStory(Story):
    """Alice is in sales here."""

    def tell(self, event_type: EventType, outcome: Outcome | None = None, **members: Any) -> dict[str, Any]:
        groups = members.pop("groups", [])
        return super().tell(event_type, outcome, subject=Subject(key="subject-alice", groups=groups), **members)


@pytest.fixture(scope="module")
def events() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module", autouse=True)
def rows(record: Record, events: dict[str, str]) -> Iterator[None]:
    story = SalesStory()
    task = {"identifier": "task/*", "parameters": '{"title":"x","priority":"high"}'}
    events |= {
        "issued": decided(story, Outcome.ISSUED),
        "outside": decided(
            story,
            Outcome.REFUSED,
            "crm.opportunity.delete",
            decision="deny",
            reason_code="intent_outside_task",
            comparison="action_outside",
        ),
        "elsewhere": decided(
            story,
            Outcome.REFUSED,
            "tracker.task.create",
            decision="deny",
            reason_code="intent_outside_task",
            comparison="identifier_outside",
            intent=task,
        ),
        "other_task": decided(
            story,
            Outcome.REFUSED,
            decision="deny",
            reason_code="intent_outside_task",
            comparison="other_task",
        ),
        "no_task": decided(story, Outcome.ISSUED, comparison="no_task", intent={"trigger": None, "task_id": None}),
        "asked": decided(
            story,
            Outcome.REFUSED,
            "tracker.task.create",
            decision="confirm",
            reason_code="confirmation_required",
            confirmation_id="c1",
            intent=task,
        ),
        "agreed": decided(story, Outcome.ISSUED, "tracker.task.create", confirmation_id="c1", intent=task),
        "said_no": decided(
            story,
            Outcome.REFUSED,
            "tracker.task.create",
            decision="confirm",
            reason_code="confirmation_refused",
            confirmation_id="c2",
            intent=task,
        ),
        "no_grant": decided(story, Outcome.REFUSED, reason_code="grant_missing"),
        "limited": decided(story, Outcome.REFUSED, reason_code="rate_limited"),
        "outage": decided(story, Outcome.REFUSED, reason_code="audit_unavailable"),
        "redacted": decided(
            story,
            Outcome.ISSUED,
            "crm.note.create",
            intent={"parameters": '{"text":"[redacted]"}'},
        ),
        "fingerprinted": decided(
            story,
            Outcome.ISSUED,
            "crm.note.create",
            intent={"parameters": json.dumps({"text": f"the key is {'0a1b2c3d' * 5}"})},
        ),
        "permitted_then": decided(story, Outcome.ISSUED, "crm.opportunity.delete"),
        "expired": story.tell(
            EventType.EXCHANGE_DECIDED, Outcome.REFUSED, reason_code="subject_token_expired", actor=ASSISTANT
        )["event_id"],
        "gone": decided(story, Outcome.ISSUED, actor=replace(ASSISTANT, agent_id="retired")),
        "no_action": decided(story, Outcome.ISSUED, "crm.opportunity.merge"),
        "delegated": decided(story, Outcome.ISSUED, token=TokenFacts(kind="assertion", jti="j")),
        "minted": story.tell(EventType.ASSERTION_MINTED, Outcome.ISSUED)["event_id"],
    }
    events["withheld"] = decided(story, Outcome.ISSUED)
    story.withhold(story.rows[-1])
    with record.of([]):
        asyncio.run(_write(story.rows))
        yield


async def _write(rows: list[dict[str, Any]]) -> None:
    adapter = BigQueryAuditRows(PROJECT, Record.DATASET, TABLE)
    assert await adapter.insert([row(columns) for columns in rows]) == {}
    await adapter.close()


def run(event_id: str, *arguments: str, status: int = 0, folder: Path = ACME) -> Result:
    environment = ENVIRONMENT | {"GOOGLE_CLOUD_PROJECT": PROJECT}
    result = CliRunner(env=environment).invoke(
        explain_command, ["--event", event_id, "--config", str(folder), *arguments]
    )
    assert result.exit_code == status, result.output
    return result


def answer(event_id: str) -> dict[str, Any]:
    explained: dict[str, Any] = json.loads(run(event_id, "--json").stdout)
    return explained


@pytest.mark.parametrize(
    ("name", "decision", "reason_code"),
    [
        ("issued", "permit", None),
        ("no_task", "permit", None),
        ("outside", "deny", "intent_outside_task"),
        ("elsewhere", "deny", "intent_outside_task"),
        ("other_task", "deny", "intent_outside_task"),
        ("asked", "confirm", "confirmation_required"),
        ("agreed", "permit", None),
        ("said_no", "deny", "confirmation_refused"),
        ("no_grant", "deny", "grant_missing"),
        ("limited", "deny", "rate_limited"),
        ("outage", "permit", None),
        ("redacted", "permit", None),
    ],
)
def test_the_explanation_comes_to_what_was_recorded(
    events: dict[str, str], name: str, decision: str, reason_code: str | None
) -> None:
    explained = answer(events[name])
    assert (explained["decision"], explained["reason_code"]) == (decision, reason_code)
    assert explained["recorded"]["agrees"] is True


def test_a_token_that_was_withheld_is_explained_as_such(events: dict[str, str]) -> None:
    recorded = answer(events["withheld"])["recorded"]
    assert (recorded["outcome"], recorded["reason_code"], recorded["agrees"]) == ("refused", "audit_unavailable", True)


def results(explained: dict[str, Any]) -> dict[str, str]:
    return {check["check"]: check["result"] for check in explained["checks"]}


def test_of_a_long_transaction_it_is_said_that_only_its_newest_events_are_looked_at(
    events: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cab_ops.cli.explain.command.EVENTS_AT_MOST", 2)
    assert "Only the newest 2 events of txn-of- are looked at." in run("txn-of-").stderr
    assert "Only the newest" not in run(events["issued"]).stderr


def test_what_was_open_before_is_known_of_the_past(events: dict[str, str]) -> None:
    issued = results(answer(events["issued"]))
    assert (issued["rate limit"], issued["grant"]) == ("recorded", "recorded")
    missing = results(answer(events["no_grant"]))
    assert (missing["rate limit"], missing["grant"]) == ("recorded", "failed")
    limited = results(answer(events["limited"]))
    assert (limited["rate limit"], limited["grant"]) == ("failed", "open")
    agreed = next(check for check in answer(events["agreed"])["checks"] if check["check"] == "confirmation")
    assert (agreed["finding"], agreed["inputs"]["confirmation"]) == ("the user had agreed", "c1")
    assert results(answer(events["said_no"]))["confirmation"] == "failed"


def test_what_is_not_recorded_is_said_and_not_guessed(events: dict[str, str]) -> None:
    explained = answer(events["redacted"])
    bounds = next(check for check in explained["checks"] if check["check"] == "task bounds")["inputs"]["task"]
    assert bounds == {"trigger": "user_turn", "actions": "not recorded", "identifiers": "not recorded"}
    notes = " ".join(explained["notes"])
    assert "judged here under sha-256:" in notes
    assert "the bounds of the task are not recorded" in notes
    assert "rules that look at them cannot be judged: text" in notes
    assert "age and strength of the login" in notes
    assert explained["granted"]["intent_hash"] == "sha-256:recorded"


def test_what_is_judged_by_its_fingerprint_is_said(events: dict[str, str]) -> None:
    explained = answer(events["fingerprinted"])
    assert "0a1b2c3d" not in json.dumps(explained)
    notes = [note for note in explained["notes"] if "fingerprint" in note]
    assert notes == ["looked like a credential, so recorded and judged as its fingerprint: text"]
    assert not any("fingerprint" in note for note in answer(events["issued"])["notes"])


def test_an_exchange_that_was_refused_early_shows_how_far_it_came(events: dict[str, str]) -> None:
    explained = answer(events["expired"])
    assert (explained["decision"], explained["reason_code"]) == ("deny", "subject_token_expired")
    assert explained["recorded"]["agrees"] is None
    found = results(explained)
    assert (found["client authentication"], found["assertion"], found["policy"]) == (
        "recorded",
        "failed",
        "not reached",
    )


def test_a_decision_that_would_be_another_today_is_said_to_differ(events: dict[str, str]) -> None:
    text = run(events["permitted_then"]).stdout
    assert "the explanation DIFFERS" in " ".join(text.split())
    assert "decision: confirm" in text.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "sentence"), [("gone", "not registered any more"), ("no_action", "not in the catalog any")]
)
def test_what_is_no_longer_configured_is_said(events: dict[str, str], name: str, sentence: str) -> None:
    explained = answer(events[name])
    assert explained["recorded"]["agrees"] is False
    assert any(sentence in (check["finding"] or "") for check in explained["checks"])


@pytest.mark.parametrize("form", ["json", "table"])
def test_what_audit_events_prints_is_taken_from_a_pipe_and_from_a_file(
    events: dict[str, str], tmp_path: Path, form: str
) -> None:
    environment = ENVIRONMENT | {"GOOGLE_CLOUD_PROJECT": PROJECT}
    options = ["audit", "events", "--since", "30d", "--type", "exchange.decided"]
    options += ["--limit", "3", *(["--json"] if form == "json" else [])]
    printed = CliRunner(env=environment).invoke(main, options)
    assert printed.exit_code == 0, printed.output
    (tmp_path / "events.txt").write_text(printed.stdout)
    explaining = ["--config", str(ACME), "--event"]
    piped = CliRunner(env=environment).invoke(explain_command, [*explaining, "-"], input=printed.stdout)
    assert piped.exit_code == 0, piped.output
    assert "decision: " in piped.stdout
    from_file = CliRunner(env=environment).invoke(explain_command, [*explaining, str(tmp_path / "events.txt")])
    assert from_file.stdout == piped.stdout


def test_only_decisions_on_exchanges_can_be_explained(events: dict[str, str]) -> None:
    assert "of type assertion.minted, not a decision" in run(events["minted"], status=2).stderr
    assert "a delegation to another agent" in run(events["delegated"], status=2).stderr
    assert "is not in the table" in run("nothing", status=2).stderr


def test_a_request_and_an_event_at_once_or_neither_is_refused() -> None:
    runner = CliRunner(env=ENVIRONMENT)
    assert runner.invoke(explain_command, []).exit_code == 2
    assert runner.invoke(explain_command, ["-", "--event", "e"], input="{}").exit_code == 2
    assert (
        "needs --project" in runner.invoke(explain_command, ["--event", "e"], env={"GOOGLE_CLOUD_PROJECT": None}).stderr
    )


def test_every_reason_with_a_place_is_explained_at_that_place() -> None:
    """A refusal before the decision is explained from its reason alone, whatever else the event lacks."""
    from cab.adapters.cedar.engine import CedarPolicyEngine
    from cab.adapters.configuration.loader import inspect_folder
    from cab_ops.explain.event import STAGE_OF_REASON, explain_event

    deployment = inspect_folder(ACME, ENVIRONMENT).deployment
    assert deployment is not None
    engine = CedarPolicyEngine(deployment)
    story = Story()
    for reason, stage in STAGE_OF_REASON.items():
        row = story.tell(EventType.EXCHANGE_DECIDED, Outcome.REFUSED, reason_code=reason.value)
        event = read_json(row["event_json"])
        explained = explain_event(event, deployment, engine)
        failing = explained.explanation.failing
        assert failing is not None
        assert failing.check is stage
