"""`cab policy replay`: what a proposed configuration would have decided on what is on record."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pydantic import ValidationError
from tests.contracts.audit_story import Story
from tests.contracts.bigquery import Record

from cab.adapters.cedar.engine import CedarPolicyEngine
from cab.adapters.configuration.loader import inspect_folder
from cab.domain.audit import Actor, EventType, IntentFacts, Outcome, PolicyFacts, Subject, TaskFacts, Tool, read_json
from cab_ops.audit.replay import replay
from cab_ops.cli import main
from cab_ops.explain.event import NotExplainable, explain_event

ACME = Path(__file__).resolve().parents[2] / "examples" / "acme"
SALES = Subject(key="alice", groups=["sales"])


def decided(
    story: Story, action: str, *, outcome: Outcome = Outcome.ISSUED, decision: str = "permit", **members: Any
) -> dict[str, Any]:
    effect = "read" if action.endswith(("list", "read")) else "destructive" if action.endswith("delete") else "write"
    connection = action.partition(".")[0]
    facts: dict[str, Any] = {
        "actor": Actor(agent_id="sales-assistant", client_id="acme-web", trust_zone="internal"),
        "intent": IntentFacts(identifier=members.pop("identifier", "opportunity/*"), trigger="user_turn", task_id="t"),
        "task": TaskFacts(within=True, comparison="within"),
        "policy": PolicyFacts(version="v1", determining_rules=["sales-read"]),
        "subject": SALES,
    } | members
    return story.tell(
        EventType.EXCHANGE_DECIDED,
        outcome,
        tool=Tool(connection=connection, provider=connection, action=action, effect=effect, mode="token"),
        decision=decision,
        **facts,
    )


@pytest.fixture(scope="module")
def story() -> Story:
    story = Story()
    for _ in range(3):
        decided(story, "crm.opportunity.list")
    decided(story, "crm.opportunity.delete", identifier="opportunity/0061", confirmation_id="c1")
    refused: dict[str, Any] = {"outcome": Outcome.REFUSED, "reason_code": "policy_denied", "decision": "deny"}
    decided(story, "crm.opportunity.list", subject=Subject(key="dave", groups=["guests"]), **refused)
    # An outage is no decision: the rules had said yes.
    decided(story, "crm.opportunity.list", outcome=Outcome.REFUSED, reason_code="provider_unavailable")
    return story


@pytest.fixture(scope="module", autouse=True)
def tables(record: Record, story: Story) -> Iterator[None]:
    with record.of(story.rows):
        yield


def run(folder: Path, *arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["policy", "replay", "--config", str(folder), *arguments])
    assert result.exit_code == status, result.output
    return result


def proposed(tmp_path: Path, *more: str) -> Path:
    """The demo's configuration with some rules more."""
    folder = tmp_path / "proposed"
    copytree(ACME, folder)
    (folder / "policies" / "proposed.cedar").write_text("\n".join(more))
    return folder


def test_the_configuration_that_decided_flips_nothing() -> None:
    told = run(ACME).stdout
    assert told == "6 decisions judged again: 0 would flip, 0 may\n"


def test_a_replay_that_did_not_read_all_says_so() -> None:
    assert "later ones may not have been read: --limit" in run(ACME, "--limit", "5").stdout
    assert json.loads(run(ACME, "--limit", "5", "--json").stdout)["cut"] is True
    assert json.loads(run(ACME, "--json").stdout)["cut"] is False


def test_a_stricter_rule_says_what_it_would_flip_and_fails_a_pull_request(tmp_path: Path, story: Story) -> None:
    rule = '@id("no-lists") forbid (principal, action == CAB::Action::"crm.opportunity.list", resource);'
    folder = proposed(tmp_path, rule)
    answer = json.loads(run(folder, "--json", status=1).stdout)
    assert (answer["decisions"], answer["flips"], answer["unsure"]) == (6, 4, 0)
    (change,) = answer["changes"]
    assert (change["before"], change["after"]) == ("permit", "deny: policy_denied")
    assert change["rules"] == ["no-lists"]
    assert change["events"] == [row["event_id"] for row in story.rows[:3]]
    run(folder, "--fail-above", "70")
    run(folder, "--fail-above", "60", status=1)


def test_what_is_configured_no_more_is_gone_and_not_guessed() -> None:
    deployment = inspect_folder(ACME, {}, unset="warning").deployment
    assert deployment is not None
    told = Story()
    rows = [
        decided(told, "crm.opportunity.list", actor=Actor(agent_id="former-agent", client_id="acme-web")),
        decided(told, "crm.opportunity.melt"),
        decided(told, "cellar.wine.read"),
    ]
    answer = replay([row["event_json"] for row in rows], deployment, CedarPolicyEngine(deployment))
    assert {change.action: change.after for change in answer.changes} == {
        "crm.opportunity.list": "gone: client_authentication_failed",
        "crm.opportunity.melt": "gone: intent_malformed",
        "cellar.wine.read": "gone: target_unknown",
    }
    assert answer.flips == 3


def test_where_the_record_is_redacted_a_flip_is_unsure(story: Story) -> None:
    deployment = inspect_folder(ACME, {}, unset="warning").deployment
    assert deployment is not None
    told = Story()
    hidden = IntentFacts(
        identifier="opportunity/*", trigger="user_turn", task_id="t", parameters='{"account":"[redacted]"}'
    )
    refused: dict[str, Any] = {"outcome": Outcome.REFUSED, "reason_code": "policy_denied", "decision": "deny"}
    row = decided(told, "crm.opportunity.list", intent=hidden, **refused)
    answer = replay([row["event_json"]], deployment, CedarPolicyEngine(deployment))
    assert (answer.flips, answer.unsure) == (0, 1)
    (found,) = answer.changes.values()
    assert found.why_unsure == {"parameters are redacted in the record"}


def test_a_hundred_thousand_decisions_take_less_than_two_minutes_of_one_core(story: Story) -> None:
    deployment = inspect_folder(ACME, {}, unset="warning").deployment
    assert deployment is not None
    engine, text = CedarPolicyEngine(deployment), story.rows[0]["event_json"]
    started = time.process_time()
    answer = replay((text for _ in range(2_000)), deployment, engine)
    spent_s = time.process_time() - started
    assert answer.decisions == 2_000
    assert spent_s * 50 < 120


@pytest.mark.parametrize(
    "members",
    [
        {"task": TaskFacts(comparison="of a later version")},
        {"intent": IntentFacts(identifier="opportunity/*", trigger="of a later version", task_id="t")},
        {"intent": IntentFacts(identifier="opportunity/*", parameters="[1]")},
        {"subject": Subject(key="alice", groups_unknown="of a later version")},
    ],
)
def test_an_event_with_values_of_another_version_is_counted_and_stops_no_replay_and_no_explanation(
    members: dict[str, Any],
) -> None:
    story = Story()
    texts = [decided(story, "crm.opportunity.list", **more)["event_json"] for more in (members, {})]
    deployed = inspect_folder(ACME, {}).deployment
    assert deployed is not None
    engine = CedarPolicyEngine(deployed)
    answer = replay(texts, deployed, engine)
    assert (answer.decisions, answer.unreadable) == (1, 1)
    with pytest.raises((NotExplainable, ValidationError)):
        explain_event(read_json(texts[0]), deployed, engine)
