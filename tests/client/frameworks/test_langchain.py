"""LangChain and LangGraph: interrupted for the user, resumed by trying again, and never by the framework's own word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

import pytest

pytest.importorskip("langchain")

from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command
from tests.client.frameworks.conftest import Broken, Tools

from cab_client import Agent, AuthorizedClient, ClientSecret, acting_for
from cab_client.langchain import CabContext, CabMiddleware, langgraph_pause
from cab_client.testing import FakeBroker


class Scripted(GenericFakeChatModel):  # type: ignore[misc]
    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


def calling(name: str, **arguments: str) -> AIMessage:
    return AIMessage(content="", tool_calls=[{"name": name, "args": arguments, "id": f"call-{name}"}])


def agent_with(tools: Tools, *messages: AIMessage, saver: InMemorySaver | None = None) -> Any:
    return create_agent(
        Scripted(messages=iter([*messages, AIMessage(content="Done.")])),
        tools=[tool(tools.read_deal), tool(tools.delete_deal), tool(tools.move_deal)],
        middleware=[CabMiddleware()],
        context_schema=CabContext,
        checkpointer=saver or InMemorySaver(),
    )


CONFIG = {"configurable": {"thread_id": "t"}}
ASK = {"messages": [("user", "please")]}


async def test_a_read_and_a_confirmed_delete(fake: FakeBroker, tools: Tools, no_leak: Callable[..., None]) -> None:
    saver = InMemorySaver()
    agent = agent_with(tools, calling("read_deal", deal_id="0061"), calling("delete_deal", deal_id="0061"), saver=saver)
    result = await agent.ainvoke(ASK, CONFIG, context=CabContext(fake.user("alice")))
    (asked,) = result["__interrupt__"]
    assert asked.value["kind"] == "confirmation"
    assert tools.ran == ["read 0061"]

    still = await agent.ainvoke(Command(resume={"approved": True}), CONFIG, context=CabContext(fake.user("alice")))
    assert still["__interrupt__"]  # the framework's yes is not the user's
    assert tools.ran == ["read 0061"]

    fake.approve(asked.value["auth_url"], user="alice")
    result = await agent.ainvoke(Command(resume=True), CONFIG, context=CabContext(fake.user("alice")))
    assert tools.ran == ["read 0061", "delete 0061"]
    assert result["messages"][-1].content == "Done."
    no_leak(result, list(saver.list(CONFIG)), saver.storage, saver.blobs, saver.writes)


async def test_a_tool_that_fails_leaks_nothing(fake: FakeBroker, tools: Tools, no_leak: Callable[..., None]) -> None:
    saver, traced = InMemorySaver(), RunCollectorCallbackHandler()
    agent = create_agent(
        Scripted(messages=iter([calling("break_deal", deal_id="0061")])),
        tools=[made := tool(tools.break_deal)],
        middleware=[CabMiddleware()],
        context_schema=CabContext,
        checkpointer=saver,
    )
    with pytest.raises(Broken) as broken:
        await agent.ainvoke(ASK, {**CONFIG, "callbacks": [traced]}, context=CabContext(fake.user("alice")))
    runs = [run.model_dump_json() for run in traced.traced_runs]
    assert runs
    no_leak(broken.value, runs, list(saver.list(CONFIG)), saver.storage, saver.blobs, saver.writes, made.args, made)


async def test_a_refusal_is_told_in_fixed_words(fake: FakeBroker, tools: Tools) -> None:
    fake.refuse("crm.opportunity.update")
    agent = agent_with(tools, calling("move_deal", deal_id="0061", stage="won"))
    result = await agent.ainvoke(ASK, CONFIG, context=CabContext(fake.user("alice")))
    message = next(one for one in result["messages"] if one.type == "tool")
    assert (message.status, message.content) == (
        "error",
        "This is not allowed. Do not try again, and do not try another way.",
    )


def test_no_schema_shows_the_client(tools: Tools) -> None:
    assert list(tool(tools.read_deal).args) == ["deal_id"]
    assert list(tool(tools.move_deal).args) == ["deal_id", "stage"]


def test_a_bare_graph_pauses_too(fake: FakeBroker) -> None:
    agent = Agent("https://cab.acme.example", ClientSecret("a", "s"), connections={"crm": "https://crm.acme.example"})

    class State(TypedDict):
        done: bool

    @agent.tool("crm.opportunity.delete", on="crm", identifier="opportunity/{deal_id}", pause=langgraph_pause)
    def delete(deal_id: str, *, http: AuthorizedClient) -> int:
        return http.delete(f"/opportunities/{deal_id}").status_code

    def node(_: State) -> State:
        with acting_for(fake.user("alice")):
            return {"done": delete("0061") == 200}

    graph = StateGraph(State)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    running = graph.compile(checkpointer=InMemorySaver())
    asked = running.invoke({"done": False}, CONFIG)["__interrupt__"][0].value
    fake.approve(asked["auth_url"], user="alice")
    assert running.invoke(Command(resume=1), CONFIG)["done"] is True
