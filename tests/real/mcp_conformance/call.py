"""The broker as a client of MCP servers, for the conformance suite: every tool that the suite's server lists is called once.

    python -m tests.real.mcp_conformance.call URL

The suite starts this for each of its scenarios. What it calls is the sender that call_tool has, over real sockets, with pins of the
list as it was a moment before.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx2
from mcp.shared.exceptions import MCPError

from cab.adapters.http.platforms import Platforms
from cab.adapters.mcp.tools import McpTools, connected, list_tools, tools_as_json
from cab.adapters.mcp.wire import Wire
from cab.adapters.system import SystemClock
from cab.domain.calls.pins import definition_pin
from cab.domain.configured.actions import Action
from cab.domain.configured.calls import McpCall
from cab.domain.configured.connections import Connection, McpServer
from cab.ports import CallRefused, SendFailed

TIMEOUT_S = 10
MAX_BYTES = 1024 * 1024
_VALUES: dict[str, Any] = {"string": "x", "integer": 5, "number": 5, "boolean": True, "object": {}, "array": []}


async def main(url: str) -> None:
    parts = urlsplit(url)
    http = Platforms({f"{parts.scheme}://{parts.netloc}"}, what="provider", allow_loopback_http=True)
    protocol: Any = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "2026-07-28")
    server = McpServer(endpoint=url, protocol=protocol, elicitation_hosts=("pages.test",))
    tools = McpTools(http, http, SystemClock())
    try:
        listed = await _listed(server, http)
        for tool in listed:
            pin = definition_pin(tool)
            if pin is None:
                continue
            call = McpCall.model_construct(tool=tool["name"], definition=pin)
            action = Action.model_construct(call=call)  # type: ignore[call-arg]  # all that is read, here and in the next line
            connection = Connection.model_construct(title="Suite", mcp=server, actions=(action,))  # type: ignore[call-arg]
            body = json.dumps({"params": {"name": tool["name"], "arguments": _arguments(tool, listed)}}).encode()
            sender = tools.sender(connection, call, user="u", reads=True)
            with suppress(CallRefused, SendFailed):  # what was sent is all that the suite looks at
                await sender.send("POST", url, body=body, headers={}, timeout_s=TIMEOUT_S, max_bytes=MAX_BYTES)
    finally:
        await http.close()


async def _listed(server: McpServer, http: Platforms) -> list[dict[str, Any]]:
    wire = Wire(http, server.endpoint, {}, timeout_s=TIMEOUT_S, max_bytes=MAX_BYTES, elicits=True)
    async with (
        httpx2.AsyncClient(transport=wire, timeout=None) as client_http,
        connected(server, client_http) as client,
    ):
        try:
            return tools_as_json(await list_tools(client))
        except MCPError:  # one scenario refuses whatever comes first, and looks at what comes next
            return tools_as_json(await list_tools(client))


def _arguments(tool: dict[str, Any], listed: list[dict[str, Any]]) -> dict[str, Any]:
    """What the suite wants to see sent, where it says so; else something of each kind that is required."""
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    for wanted in context.get("toolCalls", []):
        if wanted["name"] == tool["name"]:
            return {name: value for name, value in wanted["arguments"].items() if value is not None}
    if tool["name"] == "json_schema_echo":  # wants the schema of the other tool back
        return {"schema": next(one["inputSchema"] for one in listed if one is not tool)}
    schema = tool["inputSchema"]
    kinds = {name: schema["properties"][name].get("type") for name in schema.get("required", [])}
    return {name: _VALUES.get(kind) for name, kind in kinds.items()}


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
