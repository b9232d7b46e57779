"""LangChain 1 and LangGraph 1: a tool that needs the user interrupts the run, and is tried again when it is resumed.

    agent = create_agent(model, tools=[tool(add_note)], middleware=[CabMiddleware()], context_schema=CabContext, checkpointer=...)
    agent.invoke({"messages": [...]}, config, context=CabContext(assertion))

The value that resumes carries no decision: the broker asks the user, and only their answer there counts. The assertion is in
`context`, which is neither traced nor kept by checkpointers; a run that is resumed later is given a fresh one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import ToolMessage
from langgraph.types import interrupt

from cab_client.current import acting_for
from cab_client.errors import CabError, NeedsUser
from cab_client.following import words_for_model
from cab_client.values import Assertion

_TRIES = 5  # connecting, connecting again, confirming


@dataclass
class CabContext:
    """`context=` of a run: for whom."""

    assertion: Assertion = field(repr=False)


def langgraph_pause(needed: NeedsUser) -> None:
    """For `@agent.tool(..., pause=langgraph_pause)` in a bare graph. One such tool for each node: a node runs again whole."""
    interrupt(needed.public())


class CabMiddleware(AgentMiddleware):  # type: ignore[misc]
    """Around every tool: acts for the run's user, interrupts for them, and tells the model of a refusal in fixed words."""

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        with _user_of(request):
            for _ in range(_TRIES):
                try:
                    return handler(request)
                except NeedsUser as needed:
                    asked = needed.public()
                except CabError as error:
                    return _not_done(request, words_for_model(error))
                interrupt(asked)
        return _not_done(request, NeedsUser.model_text)

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        with _user_of(request):
            for _ in range(_TRIES):
                try:
                    return await handler(request)
                except NeedsUser as needed:
                    asked = needed.public()
                except CabError as error:
                    return _not_done(request, words_for_model(error))
                interrupt(asked)
        return _not_done(request, NeedsUser.model_text)


@contextmanager
def _user_of(request: Any) -> Iterator[None]:
    context = getattr(request.runtime, "context", None)
    if not isinstance(context, CabContext):
        yield
        return
    with acting_for(context.assertion):
        yield


def _not_done(request: Any, text: str) -> ToolMessage:
    call = request.tool_call
    return ToolMessage(content=text, tool_call_id=call["id"], name=call["name"], status="error")
