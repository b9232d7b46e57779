"""OpenAI Agents: the model hears fixed words, the user gets the link, and the same call later goes through."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("agents")

from agents import Agent, Runner, UserError, set_trace_processors
from agents.testing import ScriptedModel
from agents.tracing import TracingProcessor
from openai.types.responses import ResponseFunctionToolCall
from tests.client.frameworks.conftest import Broken, Tools

from cab_client import acting_for
from cab_client.openai_agents import for_openai_agents
from cab_client.testing import FakeBroker


def test_no_schema_shows_the_client(tools: Tools) -> None:
    made = for_openai_agents(tools.move_deal)
    assert set(made.params_json_schema["properties"]) == {"deal_id", "stage"}


async def called(tool: Any, **arguments: str) -> Any:
    from agents.tool_context import ToolContext

    text = json.dumps(arguments)
    context = ToolContext(context=None, tool_name=tool.name, tool_call_id="c", tool_arguments=text)
    return await tool.on_invoke_tool(context, text)


async def test_a_read_and_a_confirmed_delete(fake: FakeBroker, tools: Tools, no_leak: Callable[..., None]) -> None:
    read, delete = for_openai_agents(tools.read_deal), for_openai_agents(tools.delete_deal)
    with acting_for(fake.user("alice")):
        assert (await called(read, deal_id="0061"))["id"] == "0061"
        told = await called(delete, deal_id="0061")
        assert told["status"] == "not_done"
        assert "http" not in str(told)
        (link,) = tools.links
        assert link is not None
        fake.approve(link, user="alice")
        assert await called(delete, deal_id="0061") == {"deleted": "0061"}
    assert tools.ran == ["read 0061", "delete 0061"]
    no_leak(read, delete, told)


class Traced(TracingProcessor):  # type: ignore[misc]
    """Keeps everything that the framework would send to its vendor."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def on_trace_start(self, trace: Any) -> None:
        self.sent.append(trace.export())

    def on_trace_end(self, trace: Any) -> None:
        self.sent.append(trace.export())

    def on_span_start(self, span: Any) -> None:
        self.sent.append(span.export())

    def on_span_end(self, span: Any) -> None:
        self.sent.append(span.export())

    def shutdown(self) -> None: ...

    def force_flush(self) -> None: ...


async def test_a_tool_that_fails_leaks_nothing(fake: FakeBroker, tools: Tools, no_leak: Callable[..., None]) -> None:
    traced = Traced()
    set_trace_processors([traced])
    call = ResponseFunctionToolCall(
        type="function_call", call_id="c", name="break_deal", arguments='{"deal_id": "0061"}'
    )
    made = for_openai_agents(tools.break_deal, failure_error_function=None)
    agent = Agent(name="sales", tools=[made], model=ScriptedModel([[call]], emit_traces=True))
    with acting_for(fake.user("alice")), pytest.raises(UserError) as broken:
        await Runner.run(agent, "please")
    assert isinstance(broken.value.__cause__, Broken)
    assert any("break_deal" in str(one) for one in traced.sent)
    no_leak(broken.value, broken.value.__cause__, traced.sent, made, made.params_json_schema)


def test_an_agent_takes_them(tools: Tools) -> None:
    agent = Agent(name="sales", tools=[for_openai_agents(tools.read_deal)])
    assert [one.name for one in agent.tools] == ["read_deal"]
