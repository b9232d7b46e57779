"""`cab explain` and the exchange never disagree: each request is explained before it is made, and its event after."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from tests.support.jose import ABSENT, claims_of, present
from tests.support.world import DROP, WAREHOUSE, WRITE, World, deployment, intent, task, unique

from cab.adapters.cedar.engine import CedarPolicyEngine
from cab.protocol.oauth_errors import error_body
from cab.use_cases.exchange.request import Asked
from cab_ops.explain.event import explain_event
from cab_ops.explain.exchange import Explanation, Question, explain

CASES: dict[str, dict[str, Any]] = {
    "a read without a task": {},
    "a read within a task": {"task": task("warehouse.*")},
    "a narrower scope": {"scope": "query.run"},
    "a write within a task": {"declared": WRITE, "task": task("warehouse.*")},
    "a write without a task": {"declared": WRITE},
    "another identifier": {"declared": WRITE, "task": task(identifiers=["query/*"])},
    "another action": {"declared": WRITE, "task": task("warehouse.query.*")},
    "another task": {"declared": intent(task_id="t-else"), "task": task()},
    "a task id without a task": {"declared": intent(task_id="t-else")},
    "a question": {"declared": DROP, "task": task("warehouse.*")},
    "a question outside the task": {
        "declared": intent("warehouse.table.share", "table/t1"),
        "task": task("warehouse.query.*"),
    },
    "a forbid": {"declared": intent("warehouse.table.write", "table/locked"), "task": task()},
    "no permit": {"declared": intent("warehouse.salary.read", "salary/1")},
    "a group that has nothing": {"groups": ["G-OTHER"]},
    "a policy that fails": {"declared": intent("warehouse.report.sum", "report/1", parameters={"offset": 2**52})},
    "a login too weak": {"declared": intent("warehouse.report.open", "report/1")},
    "a login strong enough": {"declared": intent("warehouse.report.open", "report/1"), "acr": "gold"},
    "not on the agent's list": {"agent": "researcher", "declared": intent("crm.deal.list", "deal/*")},
    "an effect the agent has not": {"agent": "reader", "declared": WRITE, "task": task()},
    "an agent that needs a task": {"agent": "careful"},
    "an agent that gets no tokens": {"agent": "caller"},
    "an unknown target": {"resource": "https://evil.test"},
    "a target of another tenant": {"resource": ABSENT, "audience": "ledger"},
    "no target": {"resource": ABSENT},
    "two targets": {"audience": "warehouse"},
    "no intent": {"authorization_details": ABSENT},
    "two intents": {"authorization_details": [intent(), intent()]},
    "an action of another target": {"declared": intent("crm.deal.list", "deal/*", locations=[WAREHOUSE])},
    "another location": {"declared": intent(locations=["https://evil.test"]), "resource": WAREHOUSE},
    "a member nobody knows": {"declared": intent(purpose="x")},
    "an identifier of another form": {"declared": intent(identifier="table/x")},
    "a scope beyond the action": {"scope": "query.run table.write"},
}


@cache
def engine() -> CedarPolicyEngine:
    return CedarPolicyEngine(deployment())


def answer_of(explanation: Explanation) -> dict[str, str | None]:
    """The members of the answer that say what was decided."""
    if explanation.refusal is None:
        return {"error": None, "reason_code": None, "parameter": None}
    body = error_body(explanation.refusal, txn="")
    return {name: body.get(name) for name in ("error", "reason_code", "parameter")}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_what_is_explained_before_is_answered_and_recorded(case: dict[str, Any], shared_world: World) -> None:
    world, case = shared_world, dict(case)
    agent = case.pop("agent", "assistant")
    declared = case.pop("declared", None) or intent()
    login = {name: case.pop(name) for name in ("groups", "acr") if name in case}
    assertion = await world.assertion(agent, unique("explained"), case.pop("task", None), **login)
    form = await world.exchange_form(declared, agent=agent, subject_token=assertion, **case)
    sent = present({name: form.get(name, ABSENT) for name in ("resource", "audience", "scope")})
    details = form.get("authorization_details", ABSENT)
    written = None if details is ABSENT else details if isinstance(details, str) else json.dumps(details)
    question = Question(agent, claims_of(assertion), Asked(**sent, details=written), world.clock.now())
    explanation = explain(question, deployment(), engine())

    answer = await world.post("/oauth2/token", form)

    assert answer_of(explanation) == {name: answer.json.get(name) for name in ("error", "reason_code", "parameter")}
    if answer.status == 200:
        assert explanation.granted is not None
        assert " ".join(explanation.granted.scopes) == answer.json["scope"]
        assert explanation.granted.authorization_details == answer.json["authorization_details"]
    event = world.events()[-1]
    explained = explain_event(event, deployment(), engine())
    refusal = explained.explanation.refusal
    assert (refusal and refusal.reason.value) == event.reason_code
    assert explained.agrees in (True, None)
    assert (explained.agrees is None) == (event.decision is None)  # also by the login's acr, which is on record
