"""The fake broker and the running one give the client the same answers: one suite, run on both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.client.worlds import AGENT, fake_acme, running_acme

from cab_client import (
    Agent,
    Assertion,
    AuthorizedClient,
    CallResult,
    ConfirmationNeeded,
    Connection,
    Intent,
    Misconfigured,
    NoUser,
    Refused,
    Secret,
    Task,
    TaskExhausted,
    UserRefused,
    acting_for,
)
from cab_client.resource import Caller
from cab_client.testing import World

EVERYTHING = Task.for_turn("everything", actions=["*"], identifiers=["*"])
NOTE = Intent("crm.note.create", on="crm", identifier="opportunity/0061", parameters={"text": "hello"})
READ = Intent("crm.opportunity.read", on="crm", identifier="opportunity/0061")
DELETE = Intent("crm.opportunity.delete", on="crm", identifier="opportunity/0061")


@pytest.fixture(params=["fake", pytest.param("stack", marks=pytest.mark.stack)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "stack":
        yield running_acme(request.getfixturevalue("stack").state_dir)
        return
    with fake_acme().installed() as fake:
        yield fake


def minted(world: World, task: Task | None = EVERYTHING, *, agent: str = AGENT) -> Assertion:
    return world.front_end().mint(world.id_token("alice"), may_act=agent, task=task)


def test_a_read_needs_no_task_and_reaches_the_system(world: World) -> None:
    agent = world.agent(AGENT)
    with acting_for(minted(world, None)), agent.acting(READ.action, on="crm", identifier=READ.identifier) as http:
        assert http.get("/opportunities/0061").json()["id"] == "0061"


def test_a_write_without_a_task_is_refused(world: World) -> None:
    with pytest.raises(Refused) as refused:
        world.agent(AGENT).permit(NOTE, assertion=minted(world, None))
    assert refused.value.reason_code == "intent_outside_task"
    assert refused.value.txn


def test_a_write_inside_its_task_is_permitted(world: World) -> None:
    permit = world.agent(AGENT).permit(NOTE, assertion=minted(world))
    assert permit.authorization_details[0]["parameters"] == {"text": "hello"}
    assert permit.token_type == "Bearer"
    assert not permit.expired


def test_a_tool_is_called_with_its_own_arguments(world: World) -> None:
    agent = world.agent(AGENT)

    @agent.tool("crm.note.create", on="crm", identifier="opportunity/{deal_id}", parameters=("text",))
    def add_note(deal_id: str, text: str, *, http: AuthorizedClient) -> int:
        return http.post(f"/opportunities/{deal_id}/notes", json={"text": text}).status_code

    with acting_for(minted(world)):
        assert add_note("0061", "hello from the suite") == 201


def test_the_uses_of_a_task_end(world: World) -> None:
    task = Task.for_turn("one", actions=["crm.opportunity.read"], identifiers=["opportunity/*"], max_uses=1)
    assertion = minted(world, task)
    agent = world.agent(AGENT)
    agent.permit(READ, assertion=assertion)
    with pytest.raises(TaskExhausted):
        agent.permit(READ, assertion=assertion)


def test_repeating_the_call_resumes_it_after_the_user_agreed(world: World) -> None:
    agent, assertion = world.agent(AGENT), minted(world)
    with pytest.raises(ConfirmationNeeded) as asked:
        agent.permit(DELETE, assertion=assertion)
    assert asked.value.uri is not None
    assert asked.value.uri.startswith(f"{world.origin}/approvals/")
    world.approve(asked.value.uri, user="alice")
    assert agent.permit(DELETE, assertion=assertion).intent == DELETE
    with pytest.raises(ConfirmationNeeded):
        agent.permit(DELETE, assertion=assertion)  # a yes is good once


def test_two_askers_of_one_intent_share_one_question(world: World) -> None:
    agent, assertion = world.agent(AGENT), minted(world)
    intent = Intent("crm.opportunity.delete", on="crm", identifier="opportunity/0063")
    asked = []
    for deferred in (False, True):
        with pytest.raises(ConfirmationNeeded) as needed:
            agent.permit(intent, assertion=assertion, deferred=deferred)
        asked.append(needed.value)
    assert asked[0].uri == asked[1].uri
    assert asked[0].deferral_code is None
    assert asked[1].deferral_code


def test_a_waiter_gets_the_permit_once_the_user_agrees(world: World) -> None:
    agent, assertion = world.agent(AGENT), minted(world)
    intent = Intent("crm.opportunity.delete", on="crm", identifier="opportunity/0064")
    with pytest.raises(ConfirmationNeeded) as asked:
        agent.permit(intent, assertion=assertion)
    with pytest.raises(ConfirmationNeeded) as still:
        asked.value.wait(0.01)
    assert still.value.deferral_code
    kept = still.value.to_json()  # the process may end here
    assert asked.value.uri is not None
    world.approve(asked.value.uri, user="alice")
    permit = world.agent(AGENT).pending(kept).wait(10)
    assert permit.intent == intent


def test_waiting_for_a_call_makes_the_call_and_gives_no_token(world: World) -> None:
    agent, assertion = world.agent(AGENT), minted(world)
    intent = Intent(
        "tracker.task.create", on="tracker", identifier="task/*", parameters={"title": "Call", "priority": "high"}
    )
    with pytest.raises(ConfirmationNeeded) as asked:
        agent.call(intent, assertion=assertion)
    needed = asked.value
    for _ in range(2):
        with pytest.raises(ConfirmationNeeded) as still:
            needed.wait(0.01)
        needed = still.value
    assert needed.uri is not None
    world.approve(needed.uri, user="alice")
    called = world.agent(AGENT).pending(needed.to_json(), assertion=assertion).wait(20)
    assert isinstance(called, CallResult)
    assert called.done


def test_a_no_lasts(world: World) -> None:
    agent, assertion = world.agent(AGENT), minted(world)
    intent = Intent("crm.opportunity.delete", on="crm", identifier="opportunity/0065")
    with pytest.raises(ConfirmationNeeded) as asked:
        agent.permit(intent, assertion=assertion)
    assert asked.value.uri is not None
    world.approve(asked.value.uri, user="alice", refuse=True)
    for _ in range(2):
        with pytest.raises(UserRefused):
            agent.permit(intent, assertion=assertion)


def test_another_agent_cannot_use_the_assertion(world: World) -> None:
    with pytest.raises(Misconfigured) as wrong:
        world.agent("ops-bot").permit(READ, assertion=minted(world))
    assert wrong.value.reason_code == "may_act_violated"


def test_an_assertion_handed_on_is_good_for_the_next_agent(world: World) -> None:
    task = Task.for_turn("read", actions=["crm.opportunity.read"], identifiers=["opportunity/*"])
    assertion = minted(world, task)
    handed_on = world.agent(AGENT).delegate("ops-bot", assertion=assertion)
    assert world.agent("ops-bot").permit(READ, assertion=handed_on).intent == READ


def test_an_unknown_system_is_named(world: World) -> None:
    agent = world.agent(AGENT, connections={"crm": Connection("https://elsewhere.example")})
    with pytest.raises(Misconfigured) as wrong:
        agent.permit(READ, assertion=minted(world))
    assert wrong.value.reason_code == "target_unknown"


def test_nobody_acts_for_nobody(world: World) -> None:
    with pytest.raises(NoUser):
        world.agent(AGENT).permit(READ)


async def test_asyncio_does_the_same(world: World) -> None:
    agent = world.async_agent(AGENT)
    assertion = minted(world)
    async with agent.acting(READ.action, on="crm", identifier=READ.identifier, assertion=assertion) as http:
        assert (await http.get("/opportunities/0061")).json()["id"] == "0061"
    await agent.aclose()


def test_an_outcome_is_reported(world: World) -> None:
    agent = world.agent(AGENT, reports=True)
    assert isinstance(agent, Agent)
    failures: list[str] = []
    agent._driver.run, run = lambda flow: _noting(run, flow, failures), agent._driver.run  # type: ignore[method-assign]
    with agent.acting(READ.action, on="crm", identifier=READ.identifier, assertion=minted(world)) as http:
        http.get("/opportunities/0061")
    assert failures == []


def test_a_resource_reports_on_what_was_made_for_it_and_another_client_does_not(world: World) -> None:
    query = Intent("warehouse.query.run", on="warehouse", identifier="query/revenue_by_quarter")
    permit = world.agent(AGENT).permit(query, assertion=minted(world))
    caller = Caller({"jti": permit.sha256, "client_id": AGENT, "sub": "alice"})
    token = Secret(permit.reveal())
    for client, lost in (("warehouse", 0), ("ops-bot", 1)):
        reporter = world.reporter(client)
        reporter.tell(token, caller, 200)
        assert reporter.flush(20)
        assert reporter.lost == lost


def _noting(run: Callable[[Any], Any], flow: Any, failures: list[str]) -> Any:
    try:
        return run(flow)
    except Exception as error:
        failures.append(str(error))
        raise
