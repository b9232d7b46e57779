"""pydantic-ai: deferred for the user, and `ToolApproved` only makes the tool look again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic_ai import Agent, DeferredToolRequests, DeferredToolResults, ToolApproved
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from tests.client.frameworks.conftest import Broken, Tools

from cab_client import acting_for
from cab_client.pydantic_ai import for_pydantic_ai
from cab_client.testing import FakeBroker


def scripted(*parts: Any) -> FunctionModel:
    script = iter([*parts, TextPart("Done.")])

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[next(script)])

    return FunctionModel(answer)


def agent_with(tools: Tools, *parts: Any) -> Agent[None, Any]:
    wrapped = [for_pydantic_ai(one) for one in (tools.read_deal, tools.delete_deal, tools.move_deal)]
    return Agent(scripted(*parts), tools=wrapped, output_type=[str, DeferredToolRequests])


async def test_a_read_and_a_confirmed_delete(fake: FakeBroker, tools: Tools, no_leak: Callable[..., None]) -> None:
    agent = agent_with(
        tools, ToolCallPart("read_deal", {"deal_id": "0061"}), ToolCallPart("delete_deal", {"deal_id": "0061"}, "c2")
    )
    with acting_for(fake.user("alice")):
        result = await agent.run("please")
        assert isinstance(result.output, DeferredToolRequests)
        link = result.output.metadata["c2"]["auth_url"]
        assert tools.ran == ["read 0061"]

        yes = DeferredToolResults(approvals={"c2": ToolApproved()})
        again = await agent.run(message_history=result.all_messages(), deferred_tool_results=yes)
        assert isinstance(again.output, DeferredToolRequests)  # the framework's yes is not the user's
        assert tools.ran == ["read 0061"]

        fake.approve(link, user="alice")
        done = await agent.run(message_history=result.all_messages(), deferred_tool_results=yes)
    assert done.output == "Done."
    assert tools.ran == ["read 0061", "delete 0061"]
    no_leak(result, done, done.all_messages_json(), result.output)


async def test_a_tool_that_fails_leaks_nothing(
    fake: FakeBroker, tools: Tools, no_leak: Callable[..., None], exporter: InMemorySpanExporter
) -> None:
    call = ToolCallPart("break_deal", {"deal_id": "0061"})
    agent = Agent(scripted(call), tools=[made := for_pydantic_ai(tools.break_deal)])
    Agent.instrument_all()
    try:
        with acting_for(fake.user("alice")), pytest.raises(Broken) as broken:
            await agent.run("please")
    finally:
        Agent.instrument_all(False)
    assert exporter.get_finished_spans()
    no_leak(broken.value, made, agent)


async def test_a_refusal_is_told_in_fixed_words(fake: FakeBroker, tools: Tools) -> None:
    fake.refuse("crm.opportunity.update")
    agent = agent_with(tools, ToolCallPart("move_deal", {"deal_id": "0061", "stage": "won"}))
    with acting_for(fake.user("alice")):
        result = await agent.run("please")
    assert b"This is not allowed." in result.all_messages_json()
    assert tools.ran == []
