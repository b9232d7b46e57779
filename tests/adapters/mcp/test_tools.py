"""The client of MCP servers by itself. What it does behind the functions is in tests/functions/test_downstream_mcp.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import types
from tests.support.mcp_server import SEARCH, McpServerDouble
from tests.support.web import Sent

from cab.adapters.mcp.tools import McpTools, tools_as_json
from cab.adapters.system import SystemClock
from cab.domain.calls.pins import definition_pin
from cab.domain.configured.calls import McpCall
from cab.domain.configured.connections import Connection, McpServer
from cab.ports import HttpAnswer

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**53), 2**53),
        st.floats(allow_nan=False, allow_infinity=False, width=32),
        st.text("aß{", max_size=3),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.text("ab$", max_size=2), inner, max_size=3)
    ),
    max_leaves=6,
)
TOOLS = st.fixed_dictionaries(
    {"name": st.just("t"), "inputSchema": st.dictionaries(st.text("ab$", max_size=3), JSON, max_size=3)},
    optional={
        "title": st.one_of(st.none(), st.text(max_size=3)),
        "description": st.one_of(st.none(), st.text(max_size=3)),
        "outputSchema": st.one_of(st.none(), st.dictionaries(st.text("ab", max_size=2), JSON, max_size=2)),
        "annotations": st.one_of(
            st.none(),
            st.dictionaries(
                st.sampled_from(["readOnlyHint", "destructiveHint", "x-own"]), st.one_of(st.none(), st.booleans())
            ),
        ),
        "_meta": st.just({"a": 1}),
        "x-own": JSON,
    },
)


@settings(max_examples=100, deadline=None)
@given(TOOLS)
def test_the_pin_of_a_file_is_that_of_the_same_list_on_the_wire(tool: dict[str, Any]) -> None:
    """`cab config import-mcp` makes it of what the server answered, call_tool of what the SDK made of that."""
    listed = types.ListToolsResult.model_validate_json(
        json.dumps({"tools": [tool], "ttlMs": 0, "cacheScope": "private"})
    )
    assert definition_pin(tools_as_json(listed)[0]) == definition_pin(tool)


class Over:
    """`HttpSender` to the double, whatever the address."""

    def __init__(self, server: McpServerDouble, at: str) -> None:
        self.server = server
        self.at = at
        self.addresses: list[str] = []

    async def send(
        self, method: str, url: str, *, body: bytes | None, headers: Mapping[str, str], timeout_s: float, max_bytes: int
    ) -> HttpAnswer:
        self.addresses.append(url)
        return await self.server(Sent(method, self.at, dict(headers), body or b""))


@pytest.mark.parametrize(
    "endpoint",
    ["https://notes.test:443/mcp", "https://notes.test/größe", "https://notes.test", "https://notes.test/m?a=b"],
)
async def test_an_address_is_used_as_it_is_configured_however_the_sdk_would_write_it(endpoint: str) -> None:
    pin = definition_pin(SEARCH)
    assert pin is not None
    server = McpServer(endpoint=endpoint, protocol="2026-07-28")
    connection = Connection.model_construct(title="Notes", mcp=server)  # type: ignore[call-arg]
    async with McpServerDouble().running("https://notes.test") as double:
        http = Over(double, "https://notes.test/mcp")
        sender = McpTools(http, http, SystemClock()).sender(
            connection, McpCall(tool="search_notes", definition=pin), user="u", reads=True
        )
        body = json.dumps({"params": {"name": "search_notes", "arguments": {"query": "a"}}}).encode()
        answer = await sender.send("POST", endpoint, body=body, headers={}, timeout_s=5, max_bytes=10_000)
    assert json.loads(answer.body)["called"] == "search_notes"
    assert set(http.addresses) == {endpoint}
