"""OpenAI Agents: a tool that needs the user says so to the model in fixed words, and the link goes to the user out of band.

    agent = Agent(name=..., tools=[for_openai_agents(add_note)])       # and on_user=... on the cab agent
    with acting_for(assertion):
        await Runner.run(agent, "...")

Nothing is kept in `RunState`: after the user has answered at the broker, the same call in a later turn goes through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agents import FunctionTool, function_tool

from cab_client.errors import CabError
from cab_client.following import follow, result_of, told


def for_openai_agents(tool: Callable[..., Any], **options: Any) -> FunctionTool:
    """The tool, for `tools=[...]`; `options` are those of `function_tool`."""

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return await result_of(tool, *args, **kwargs)
        except CabError as error:
            return told(error)

    made: FunctionTool = function_tool(follow(wrapper, tool), **options)
    return made
