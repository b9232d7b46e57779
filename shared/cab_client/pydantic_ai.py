"""pydantic-ai 2: a tool that needs the user defers its call; approving it there only means "look again".

    agent = Agent(model, tools=[for_pydantic_ai(add_note)], output_type=[str, DeferredToolRequests])
    with acting_for(assertion):
        result = await agent.run("...")

The run ends with `DeferredToolRequests`, whose `metadata` has the link; `ToolApproved()` for the call makes the tool try again,
and the broker decides. Other arguments (`override_args`) are another intent, hence another question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic_ai.exceptions import ApprovalRequired

from cab_client.errors import CabError, NeedsUser
from cab_client.following import follow, result_of, told


def for_pydantic_ai(tool: Callable[..., Any]) -> Callable[..., Any]:
    """The tool, for `tools=[...]`. A refusal is its result, in fixed words: the model is not asked to try again."""

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return await result_of(tool, *args, **kwargs)
        except NeedsUser as needed:
            asked = needed.public()
        except CabError as error:
            return told(error)
        raise ApprovalRequired(metadata=asked)

    return follow(wrapper, tool)
