"""The client of MCP servers by itself. What it does behind the functions is in tests/functions/test_downstream_mcp.py."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
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
from cab.domain.configured.actions import Action
from cab.domain.configured.calls import McpCall
from cab.domain.configured.connections import Connection, McpServer
from cab.ports import AnswerTooLarge, HttpAnswer, SendFailed
from cab.transport.logs import configure_logging

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


async def search(tools: McpTools, endpoint: str = "https://notes.test/mcp") -> HttpAnswer:
    pin = definition_pin(SEARCH)
    assert pin is not None
    call = McpCall(tool="search_notes", definition=pin)
    connection = Connection.model_construct(  # type: ignore[call-arg]
        title="Notes",
        mcp=McpServer(endpoint=endpoint, protocol="2026-07-28"),
        actions=(Action.model_construct(call=call),),  # type: ignore[call-arg]
    )
    body = json.dumps({"params": {"name": "search_notes", "arguments": {"query": "a"}}}).encode()
    sender = tools.sender(connection, call, user="u", reads=True)
    return await sender.send("POST", endpoint, body=body, headers={}, timeout_s=5, max_bytes=10_000)


class Paged:
    """A server whose list has `pages` of so many bytes each before it ends; then it answers any call."""

    def __init__(self, pages: int, size: int) -> None:
        self.pages, self.size = pages, size
        self.asked: list[str] = []

    async def send(
        self, method: str, url: str, *, body: bytes | None, headers: Mapping[str, str], timeout_s: float, max_bytes: int
    ) -> HttpAnswer:
        message = json.loads(body or b"{}")
        self.asked.append(message["method"])
        page = self.asked.count("tools/list")
        result: dict[str, Any] = {"resultType": "complete", "content": [], "structuredContent": {"called": True}}
        if message["method"] == "tools/list":
            other = {"name": f"other{page}", "inputSchema": {"type": "object"}, "description": "x" * self.size}
            result = {"tools": [SEARCH, other] if page == 1 else [other], "ttlMs": 0, "cacheScope": "private"}
            result |= {"resultType": "complete"} | ({"nextCursor": str(page)} if page < self.pages else {})
        answer = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
        if len(answer) > max_bytes:
            raise AnswerTooLarge(len(answer), status=200)
        return HttpAnswer(200, {"content-type": "application/json"}, answer)


async def test_all_pages_of_a_list_are_together_no_longer_than_one_answer_may_be() -> None:
    """Twenty of a mebibyte each would be read, and what the SDK makes of them is many times as large."""
    http = Paged(4, 2_600)
    with pytest.raises(SendFailed) as failed:
        await search(McpTools(http, http, SystemClock()))
    assert failed.value.may_have_arrived is False
    assert "tools/call" not in http.asked

    enough = Paged(3, 2_600)
    assert json.loads((await search(McpTools(enough, enough, SystemClock()))).body) == {"called": True}


async def test_of_a_list_only_reviewed_tools_are_kept_and_serve_the_next_call() -> None:
    """One list for each user: what else a server names must not fill this process."""
    http = Paged(2, 2_600)
    tools = McpTools(http, http, SystemClock())
    for _ in range(2):
        assert json.loads((await search(tools)).body) == {"called": True}

    assert (http.asked.count("tools/list"), http.asked.count("tools/call")) == (2, 2)
    (kept,) = tools._lists.values()
    assert [tool["name"] for tool in kept.result["tools"]] == list(kept.pins) == ["search_notes"]


class Streams:
    """A server that answers the call with this stream before it ends."""

    def __init__(self, events: bytes) -> None:
        self.events = events
        self.asked: list[Any] = []

    async def send(
        self, method: str, url: str, *, body: bytes | None, headers: Mapping[str, str], timeout_s: float, max_bytes: int
    ) -> HttpAnswer:
        message = json.loads(body or b"{}")
        self.asked.append(message.get("method"))
        result: dict[str, Any] = {"tools": [SEARCH], "ttlMs": 0, "cacheScope": "private", "resultType": "complete"}
        content_type, before = "application/json", b""
        if message.get("method") == "tools/call":
            result = {"resultType": "complete", "content": [], "structuredContent": {"called": True}}
            content_type, before = "text/event-stream", self.events
        answer = json.dumps({"jsonrpc": "2.0", "id": message.get("id"), "result": result}).encode()
        if before:
            answer = before + b"event: message\ndata: " + answer + b"\n\n"
        return HttpAnswer(200, {"content-type": content_type}, answer)


async def test_what_a_server_asks_in_a_stream_is_not_answered_and_a_flood_of_it_is_not_read() -> None:
    """Each question cost a POST with the user's token and a millisecond, until the call's time was over."""
    ping = b'event: message\ndata: {"jsonrpc":"2.0","id":1,"method":"ping"}\n\n'
    some = Streams(ping * 20)
    assert json.loads((await search(McpTools(some, some, SystemClock()))).body) == {"called": True}
    assert some.asked == ["tools/list", "tools/call"]

    flood = Streams(ping * 10_000)
    with pytest.raises(AnswerTooLarge) as refused:
        await search(McpTools(flood, flood, SystemClock()))
    assert (refused.value.status, flood.asked) == (200, some.asked)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Logs as a function has them."""
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    levels = {name: logging.getLogger(name).level for name in logging.root.manager.loggerDict}
    configure_logging("p")
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.usefixtures("logged")
async def test_what_a_server_writes_is_in_no_line_of_our_log(caplog: pytest.LogCaptureFixture) -> None:
    """It may hold the user's token: the SDK's lines name events and kinds of content that it does not know."""
    server = Streams(b"event: the-users-token\ndata: {}\n\n" * 100)
    with caplog.at_level(logging.WARNING):
        assert json.loads((await search(McpTools(server, server, SystemClock()))).body) == {"called": True}
    assert "the-users-token" not in caplog.text


@pytest.mark.parametrize(
    "endpoint",
    ["https://notes.test:443/mcp", "https://notes.test/größe", "https://notes.test", "https://notes.test/m?a=b"],
)
async def test_an_address_is_used_as_it_is_configured_however_the_sdk_would_write_it(endpoint: str) -> None:
    async with McpServerDouble().running("https://notes.test") as double:
        http = Over(double, "https://notes.test/mcp")
        answer = await search(McpTools(http, http, SystemClock()), endpoint)
    assert json.loads(answer.body)["called"] == "search_notes"
    assert set(http.addresses) == {endpoint}
