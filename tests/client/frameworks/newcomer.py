"""What a newcomer writes: a read and a confirmed write against the local stack, in LangGraph and in pydantic-ai.

Run by tests/client/test_newcomer.py with the installed wheel. Scripted models; the user is played by `cab dev approve`.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic_ai import Agent as Assistant
from pydantic_ai import DeferredToolRequests, DeferredToolResults, ToolApproved
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import FunctionModel

from cab_client import Assertion, AuthorizedClient, Task, acting_for
from cab_client.langchain import CabContext, CabMiddleware
from cab_client.pydantic_ai import for_pydantic_ai
from cab_client.testing import LocalStack

stack = LocalStack(os.environ["CAB_STATE_DIR"])
cab = stack.agent("sales-assistant")
started = time.monotonic()


def step(text: str) -> None:
    sys.stdout.write(f"{time.monotonic() - started:.1f} s: {text}\n")


@cab.tool("crm.opportunity.read", on="crm", identifier="opportunity/{deal_id}")
def read_deal(deal_id: str, *, http: AuthorizedClient) -> dict[str, Any]:
    """Read a deal."""
    deal: dict[str, Any] = http.get(f"/opportunities/{deal_id}").raise_for_status().json()
    return deal


@cab.tool("tracker.task.create", on="tracker", identifier="task/*", parameters=("title", "priority"))
def create_task(title: str, priority: str, *, http: AuthorizedClient) -> dict[str, Any]:
    """Create a task."""
    task: dict[str, Any] = http.post("/tasks", json={"title": title, "priority": priority}).raise_for_status().json()
    return task


task = Task.for_turn(
    "Follow up on the Acme deal",
    actions=["crm.opportunity.read", "tracker.task.create"],
    identifiers=["opportunity/*", "task/*"],
)


def minted() -> Assertion:
    """Going on after a question needs the same task: a yes is for it."""
    return stack.mint("alice", agent="sales-assistant", task=task)


# --- LangGraph ---


class Scripted(GenericFakeChatModel):  # type: ignore[misc]
    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


def calling(name: str, **arguments: str) -> AIMessage:
    return AIMessage(content="", tool_calls=[{"name": name, "args": arguments, "id": name}])


script = [
    calling("read_deal", deal_id="0061"),
    calling("create_task", title="Call by graph", priority="high"),
    AIMessage(content="Done."),
]
assistant = create_agent(
    Scripted(messages=iter(script)),
    tools=[tool(read_deal), tool(create_task)],
    middleware=[CabMiddleware()],
    context_schema=CabContext,
    checkpointer=InMemorySaver(),
)
thread = {"configurable": {"thread_id": "1"}}
said = assistant.invoke({"messages": [("user", "please")]}, thread, context=CabContext(minted()))
step("LangGraph has read and asks")
stack.approve(said["__interrupt__"][0].value["auth_url"], user="alice")
said = assistant.invoke(Command(resume=True), thread, context=CabContext(minted()))
assert "Call by graph" in said["messages"][-2].content
step("LangGraph has written")

# --- pydantic-ai ---

parts = iter(
    [
        ToolCallPart("read_deal", {"deal_id": "0061"}),
        ToolCallPart("create_task", {"title": "Call by pydantic", "priority": "high"}, "c2"),
        TextPart("Done."),
    ]
)
other = Assistant(
    FunctionModel(lambda *_: ModelResponse(parts=[next(parts)])),
    tools=[for_pydantic_ai(read_deal), for_pydantic_ai(create_task)],
    output_type=[str, DeferredToolRequests],
)
with acting_for(minted()):
    run = other.run_sync("please")
step("pydantic-ai has read and asks")
stack.approve(run.output.metadata["c2"]["auth_url"], user="alice")
with acting_for(minted()):
    yes = DeferredToolResults(approvals={"c2": ToolApproved()})
    done = other.run_sync(message_history=run.all_messages(), deferred_tool_results=yes)
assert done.output == "Done."
assert b"Call by pydantic" in done.all_messages_json()
step("pydantic-ai has written")
