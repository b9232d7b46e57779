"""An MCP server whose tools act through the broker, driven by the official client in memory."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

pytest.importorskip("mcp")

from mcp.client import Client
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult
from starlette.requests import Request
from tests.client.frameworks.conftest import Tools

from cab_client import ClientSecret, Intent, acting_for
from cab_client.clients import Agent
from cab_client.mcp import CabTokenVerifier, for_mcp
from cab_client.testing import FakeBroker


def server_of(tools: Tools) -> MCPServer:
    server = MCPServer("crm")
    for one in (tools.read_deal, tools.delete_deal, tools.move_deal):
        server.tool()(for_mcp(one))
    return server


async def test_a_read_and_a_confirmed_delete(fake: FakeBroker, tools: Tools, no_leak: Callable[..., None]) -> None:
    with acting_for(fake.user("alice")):
        async with Client(server_of(tools)) as client:
            listed = await client.list_tools()
            schemas = {tool.name: set(tool.input_schema["properties"]) for tool in listed.tools}
            assert schemas == {"read_deal": {"deal_id"}, "delete_deal": {"deal_id"}, "move_deal": {"deal_id", "stage"}}
            assert not (await client.call_tool("read_deal", {"deal_id": "0061"})).is_error
            asked = await client.call_tool("delete_deal", {"deal_id": "0061"})
            assert asked.is_error
            (link,) = tools.links
            assert link is not None
            assert link in str(asked.content)
            fake.approve(link, user="alice")
            assert not (await client.call_tool("delete_deal", {"deal_id": "0061"})).is_error
    assert tools.ran == ["read 0061", "delete 0061"]
    no_leak(listed, asked)


async def test_a_tool_that_fails_leaks_nothing(fake: FakeBroker, tools: Tools, no_leak: Callable[..., None]) -> None:
    server = MCPServer("crm")
    server.tool()(for_mcp(tools.break_deal))
    with acting_for(fake.user("alice")):
        async with Client(server) as client:
            listed = await client.list_tools()
            told = await client.call_tool("break_deal", {"deal_id": "0061"})
    assert told.is_error
    no_leak(told, told.model_dump_json(), listed.model_dump_json())


@pytest.mark.parametrize("decides", [True, False])
async def test_a_client_that_opens_links_is_asked_to_and_calls_again(
    fake: FakeBroker, tools: Tools, *, decides: bool
) -> None:
    opened: list[str] = []

    async def open_link(context: Any, params: Any) -> ElicitResult:
        opened.append(params.url)
        if decides:
            fake.approve(params.url, user="alice")
        return ElicitResult(action="accept")  # that it was opened; what was decided is the broker's to know

    with acting_for(fake.user("alice")):
        async with Client(server_of(tools), elicitation_callback=open_link) as client:
            called = await client.call_tool("delete_deal", {"deal_id": "0061"})
    assert opened == tools.links[:1]
    assert called.is_error is not decides
    assert tools.ran == (["delete 0061"] if decides else [])


async def test_a_client_of_the_older_revision_is_told_by_the_error(fake: FakeBroker, tools: Tools) -> None:
    async def open_link(context: Any, params: Any) -> ElicitResult:
        raise AssertionError("not asked by a request of its own")

    with acting_for(fake.user("alice")):
        async with Client(server_of(tools), elicitation_callback=open_link, mode="legacy") as client:
            with pytest.raises(MCPError) as told:
                await client.call_tool("delete_deal", {"deal_id": "0061"})
    assert told.value.error.code == -32042
    assert told.value.error.data["elicitations"][0]["url"] == tools.links[0]
    assert tools.ran == []


async def test_a_refusal_is_told_in_fixed_words(fake: FakeBroker, tools: Tools) -> None:
    fake.refuse("crm.opportunity.update")
    with acting_for(fake.user("alice")):
        async with Client(server_of(tools)) as client:
            told = await client.call_tool("move_deal", {"deal_id": "0061", "stage": "won"})
    assert told.is_error
    assert "This is not allowed." in str(told.content)


async def test_the_verifier_takes_the_brokers_tokens_for_this_server_alone(fake: FakeBroker) -> None:
    def fetch(url: str) -> Any:
        return fake.handle_request(httpx2.Request("GET", url)).json()

    connections = {"crm": "https://notes.example"}
    agent = Agent(fake.origin, ClientSecret("sales-assistant", "s"), connections=connections)
    permit = agent.permit(Intent("crm.note.create", on="crm", identifier="opportunity/1"), assertion=fake.user("alice"))
    here = CabTokenVerifier(issuer=f"{fake.origin}/oauth2", resource="https://notes.example", fetch=fetch)
    elsewhere = CabTokenVerifier(issuer=f"{fake.origin}/oauth2", resource="https://other.example", fetch=fetch)
    found = await here.verify_token(permit.reveal())
    assert found is not None
    assert (found.client_id, found.subject, found.resource) == ("sales-assistant", "alice", "https://notes.example")
    assert await elsewhere.verify_token(permit.reveal()) is None
    assert await here.verify_token("rubbish") is None


@pytest.mark.parametrize("values", [["no assertion"], ["a.b.c", "d.e.f"], ["a.b.c, d.e.f"], [""]])
async def test_a_request_with_a_broken_assertion_is_not_the_current_users(
    fake: FakeBroker, tools: Tools, values: list[str]
) -> None:
    """As where a session was opened by one user's request, and another one comes through it."""
    headers = [(b"cab-assertion", value.encode()) for value in values]
    request = Request({"type": "http", "method": "POST", "path": "/mcp", "headers": headers})
    context = SimpleNamespace(request_context=SimpleNamespace(request=request))
    with acting_for(fake.user("alice")), pytest.raises(ToolError):
        await for_mcp(tools.read_deal)("0061", ctx=context)
    assert tools.ran == []


async def test_a_request_with_an_assertion_is_its_users(fake: FakeBroker, tools: Tools) -> None:
    headers = [(b"cab-assertion", fake.user("bob").reveal().encode())]
    request = Request({"type": "http", "method": "POST", "path": "/mcp", "headers": headers})
    context = SimpleNamespace(request_context=SimpleNamespace(request=request))
    with acting_for(fake.user("alice")):
        await for_mcp(tools.read_deal)("0061", ctx=context)
    assert fake.exchanges[0].user == "bob"
