"""Rules that tokens beat: what `cab config validate` says of them, and that it says nothing where they hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.adapters.configuration.deployment_folder import AGENTS, BROKER, CONNECTIONS, check, replaced

ASKS = (
    '@id("asks") @confirm("Sure?") permit (principal, action == CAB::Action::"crm.deal.update", resource) when { %s };'
)
WITHIN = 'context.task.comparison == "within"'
SAME_SCOPES = """\
      - id: crm.deal.close
        title: Close a deal
        effect: write
        scopes: [deal.write]
        identifier: deal/{id}
"""
HELPER = '    actions: ["crm.*"]\n'


def warned(
    folder: Path, rule: str, *, agents: str = AGENTS, connections: str = CONNECTIONS, broker: str = BROKER
) -> list[str]:
    plain = '@id("plain") permit (principal, action, resource) when { context.task.comparison == "within" };\n'
    inspection = check(folder, broker=broker, agents=agents, connections=connections, policies__sales=plain + rule)
    return [problem.message for problem in inspection.problems if "can be sidestepped" in problem.message]


@pytest.mark.parametrize(
    "condition",
    [
        f"{WITHIN} && context.parameters has amount && context.parameters.amount > 5",
        f'{WITHIN} && resource.identifier == "deal/1"',
    ],
)
def test_a_question_about_values_is_beaten_by_the_token_for_other_values(tmp_path: Path, condition: str) -> None:
    [message] = warned(tmp_path, ASKS % condition)
    assert message.startswith("asks can be sidestepped: the token that ")
    assert message.endswith("for crm.deal.update does not carry the values that the rule looks at")


def test_a_question_about_an_action_is_beaten_by_another_action_with_its_scopes(tmp_path: Path) -> None:
    assert warned(tmp_path, ASKS % WITHIN) == []
    [message] = warned(tmp_path, ASKS % WITHIN, connections=CONNECTIONS + SAME_SCOPES)
    assert message.endswith("for crm.deal.close has the scopes of crm.deal.update too")


def test_a_forbid_is_beaten_likewise(tmp_path: Path) -> None:
    rule = '@id("never") forbid (principal, action == CAB::Action::"crm.deal.update", resource);'
    assert len(warned(tmp_path, rule, connections=CONNECTIONS + SAME_SCOPES)) == 1


ABOUT_VALUES = ASKS % f'{WITHIN} && context.parameters.stage == "won"'


@pytest.mark.parametrize(
    "agents",
    [
        replaced(AGENTS, HELPER, HELPER + "    mode: call\n"),
        replaced(AGENTS, HELPER, "    actions: [crm.deal.list]\n"),
        replaced(AGENTS, HELPER, HELPER + "    effects: [read]\n"),
    ],
    ids=["call mode", "no such action", "no such effect"],
)
def test_nothing_is_said_where_no_agent_gets_such_a_token(tmp_path: Path, agents: str) -> None:
    assert len(warned(tmp_path, ABOUT_VALUES)) == 1
    assert warned(tmp_path, ABOUT_VALUES, agents=agents) == []


def test_nothing_is_said_where_the_connections_trust_zone_gives_no_tokens(tmp_path: Path) -> None:
    broker = replaced(BROKER, "tenants:", "trust_zones: [internal, {id: calls, mode: call}]\ntenants:")
    connections = replaced(CONNECTIONS, "tenants: [acme]", "tenants: [acme]\n    trust_zone: calls")
    assert warned(tmp_path, ABOUT_VALUES, broker=broker, connections=connections) == []


def test_nothing_is_said_where_a_forbid_wants_call_mode(tmp_path: Path) -> None:
    wants = '\n@id("only-by-call") forbid (principal, action == CAB::Action::"crm.deal.update", resource) unless { context.agent.mode == "call" };'
    assert warned(tmp_path, ABOUT_VALUES + wants) == []
