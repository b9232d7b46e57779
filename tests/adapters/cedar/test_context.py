"""Rules get of the context what they read: the engine leaves nothing out that could change a decision."""

from __future__ import annotations

import orjson
import pytest
from tests.adapters.cedar.policy_cases import UPDATE

from cab.adapters.cedar.context import context_of, context_reads
from cab.adapters.cedar.rules import read_rules

ALL = {"agent", "chain", "parameters", "task", "trigger", "auth", "time"}


def seen(condition: str) -> dict[str, object]:
    """The context that a single rule with this condition gets."""
    rules, problems = read_rules([("p.cedar", f'@id("r") permit (principal, action, resource) {condition};')])
    assert not problems
    context: dict[str, object] = orjson.loads(context_of(UPDATE, context_reads(rules)))
    return context


PARAMETERS = {"parameters": {"stage": "open", "amount": 5}}


@pytest.mark.parametrize(
    ("condition", "beside_parameters"),
    [
        ("", {}),
        ("when { principal.tenant == resource.connection }", {}),
        ('when { context.task.comparison == "within" }', {"task": {"comparison": "within"}}),
        ('unless { context.trigger == "event" }', {"trigger": "user_turn"}),
        ("when { context.auth has age_s && context.auth.age_s < 9 }", {"auth": {"age_s": 100}}),
        ("when { context.auth has nothing }", {"auth": {}}),
        ("when { context has auth }", {"auth": {"amr": ["pwd"], "age_s": 100, "acr": "silver"}}),
        ('when { context.chain.contains("helper") }', {"chain": ["helper"]}),
        (
            'when { context.agent.id == "helper" || context.agent.mode == "call" }',
            {"agent": {"id": "helper", "mode": "token"}},
        ),
        (
            'when { context["agent"]["id"] == "helper" && context.agent == {"id": "x"} }',
            {"agent": {"id": "helper", "trust_zone": "internal", "mode": "token"}},
        ),
        (
            'when { (if context.task.present then context.trigger else "event") like "e*" }',
            {"task": {"present": True}, "trigger": "user_turn"},
        ),
    ],
)
def test_a_rule_gets_what_it_reads_and_every_parameter(condition: str, beside_parameters: dict[str, object]) -> None:
    assert seen(condition) == PARAMETERS | beside_parameters


@pytest.mark.parametrize(
    "condition",
    [
        "when { context == context }",
        'when { context.trigger == "event" } unless { [context].contains({"a": 1}) }',
        "when { (if principal.tenant == resource.connection then context else context).task.present }",
    ],
)
def test_a_rule_that_takes_the_context_as_a_whole_gets_all_of_it(condition: str) -> None:
    assert set(seen(condition)) == ALL
