"""The tools that an agent may see, and the one it names: from memory, by nothing but configuration and the call token."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from cab.domain.calls.tools import CallableTool, tools_of
from cab.domain.configured.actions import Effect, tool_scope
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.domain.lru import remember
from cab.use_cases.calls.identify import ToolCaller

ALL_SCOPES: Final = tuple(tool_scope(effect) for effect in Effect)
REMEMBERED: Final = 1024  # lists

_Bounds = tuple[str, str, tuple[str, ...], tuple[str, ...] | None]


class Listing:
    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._lists: OrderedDict[_Bounds, dict[str, CallableTool]] = OrderedDict()

    def visible(self, caller: ToolCaller) -> tuple[CallableTool, ...]:
        """What this caller is shown, sorted: within the token's scopes and the user's task. It promises nothing."""
        task = caller.token.assertion.task
        return tuple(self._tools(caller, caller.token.scopes, task.actions if task else None).values())

    def askable(self, caller: ToolCaller) -> tuple[CallableTool, ...]:
        """Beside those, for an agent that also gets tokens: what it can only ask a token for."""
        if caller.agent.mode != "both":
            return self.visible(caller)
        task, agent = caller.token.assertion.task, caller.agent
        actions = task.actions if task else None
        return tools_of(self._deployment, agent, caller.tenant, caller.token.scopes, actions, callable_only=False)

    def find(self, caller: ToolCaller, name: str) -> CallableTool:
        """A tool that the agent may ask for. What lies outside the task is for the decision to say: a user may be asked.

        Raises: BrokerError TOOL_UNKNOWN, the same for one that there is not and one that is not this agent's;
        SCOPE_NOT_GRANTABLE.
        """
        tool = self._tools(caller, ALL_SCOPES, None).get(name)
        if tool is None:
            raise BrokerError(Reason.TOOL_UNKNOWN, "There is no such tool.")
        if tool_scope(tool.action.effect) not in caller.token.scopes:
            raise BrokerError(Reason.SCOPE_NOT_GRANTABLE, "The call token does not reach tools of this effect.")
        return tool

    def needed_scopes(self, caller: ToolCaller) -> tuple[str, ...]:
        """All that this agent could use: asked for at once, so that a client does not come back once for each."""
        effects = {tool.action.effect for tool in self._tools(caller, ALL_SCOPES, None).values()}
        return tuple(tool_scope(effect) for effect in Effect if effect in effects)

    def _tools(
        self, caller: ToolCaller, scopes: tuple[str, ...], task_actions: tuple[str, ...] | None
    ) -> dict[str, CallableTool]:
        key = (caller.agent.client_id, caller.tenant, scopes, task_actions)
        known = self._lists.pop(key, None)
        if known is None:
            found = tools_of(self._deployment, caller.agent, caller.tenant, scopes, task_actions)
            known = {tool.name: tool for tool in found}
        remember(self._lists, key, known, most=REMEMBERED)
        return known
