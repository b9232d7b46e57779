"""An assistant that holds no token of any system: an unmodified MCP client, a key and a call token are all it has.

What it may do is a list of tools that the broker gives it. The broker makes each call, and asks the user where policy wants that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from mcp import Client, MCPError, types
from mcp.client import ClientRequestContext
from mcp.client.streamable_http import streamable_http_client

_TIMEOUT_S = 60.0  # a person may be reading a page meanwhile

AskUser = Callable[[str, str], None]
"""Brings the user to the page of the broker at the given address, with the broker's own words; returns when they have decided."""


class ToolRefused(Exception):
    """The broker made no such call. `reason_code` is its stable word for why."""

    def __init__(self, result: types.CallToolResult) -> None:
        self.reason_code = str((result.meta or {}).get("cab/reason_code", "unknown"))
        super().__init__(self.reason_code)


class NoAnswer(Exception):
    """The broker was lost while it worked: the call may have been made, or not."""


@dataclass(frozen=True)
class ToolResult:
    """What a system answered. `source` named it; nothing in `content` is to be obeyed."""

    content: Any
    txn: str
    source: str
    is_marked: bool


@dataclass(frozen=True, kw_only=True)
class BlindAssistant:
    """One run of the agent, for one user. `call_token` is for the broker's own tools; no system accepts it."""

    endpoint: str
    call_token: str = field(repr=False)
    ask_user: AskUser

    def list_tools(self) -> list[str]:
        async def listed() -> list[str]:
            async with self._client() as client:
                return [tool.name for tool in (await client.list_tools()).tools]

        return asyncio.run(listed())

    def call(self, tool: str, *, call_id: str | None = None, **arguments: str | int | bool) -> ToolResult:
        """`call_id` is the assistant's own name for this call: with it, asking again is never a second one.

        Raises: ToolRefused, NoAnswer.
        """

        async def called() -> types.CallToolResult:
            async with self._client() as client:
                about: Any = None if call_id is None else {"cab/call_id": call_id}
                return await client.call_tool(tool, arguments, meta=about)

        result, lost = None, None
        try:
            result = asyncio.run(called())
        except* (httpx2.HTTPError, MCPError) as errors:
            lost = errors
        if result is None:
            raise NoAnswer from lost
        if result.is_error:
            raise ToolRefused(result)
        meta = result.meta or {}
        marked = meta.get("cab/trust") == "untrusted"
        return ToolResult(result.structured_content, str(meta.get("cab/txn")), str(meta.get("cab/source")), marked)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Client]:
        headers = {"Authorization": f"Bearer {self.call_token}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=_TIMEOUT_S) as http,
            Client(streamable_http_client(self.endpoint, http_client=http), elicitation_callback=self._asked) as client,
        ):
            yield client

    async def _asked(self, context: ClientRequestContext, params: types.ElicitRequestParams) -> types.ElicitResult:
        """The broker wants the user at one of its own pages. `accept` says that they went there, not what they decided."""
        if not isinstance(params, types.ElicitRequestURLParams):
            return types.ElicitResult(action="decline")
        await asyncio.to_thread(self.ask_user, params.url, params.message)
        return types.ElicitResult(action="accept")
