"""Google ADK 2: a tool that needs the user requests a confirmation, whose answer there only means "look again".

    agent = LlmAgent(model=..., name=..., tools=[for_adk(add_note)])

The hint of the confirmation has the link for the user; whatever is answered to it, the tool asks the broker again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.adk.tools.function_tool import FunctionTool
from google.adk.tools.tool_context import ToolContext

from cab_client.errors import CabError, NeedsUser
from cab_client.following import follow, result_of, told


def for_adk(tool: Callable[..., Any]) -> FunctionTool:
    """The tool, for `tools=[...]`."""

    async def wrapper(*args: Any, tool_context: ToolContext, **kwargs: Any) -> Any:
        try:
            return await result_of(tool, *args, **kwargs)
        except NeedsUser as needed:
            tool_context.request_confirmation(hint=needed.for_user(), payload=needed.public())
            return told(needed)
        except CabError as error:
            return told(error)

    return FunctionTool(follow(wrapper, tool, tool_context=ToolContext))
