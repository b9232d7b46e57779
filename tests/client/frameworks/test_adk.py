"""Google ADK: a confirmation is requested with the link; whatever is answered to it, the broker is asked again."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("google.adk")

from google.adk.agents import LlmAgent
from google.adk.models import BaseLlm, LlmResponse
from google.adk.runners import InMemoryRunner
from google.genai import types
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.client.frameworks.conftest import Broken, Tools

from cab_client import acting_for
from cab_client.adk import for_adk
from cab_client.testing import FakeBroker


class Context(SimpleNamespace):
    """As much of ADK's ToolContext as a tool of ours touches."""

    def __init__(self) -> None:
        super().__init__(asked=[], tool_confirmation=None)

    def request_confirmation(self, *, hint: str, payload: dict[str, Any]) -> None:
        self.asked.append((hint, payload))


def test_the_declaration_shows_the_arguments_alone(tools: Tools) -> None:
    declared = for_adk(tools.move_deal)._get_declaration()
    assert declared is not None
    schema = declared.parameters_json_schema or declared.parameters.model_dump()
    assert set(schema["properties"]) == {"deal_id", "stage"}


async def test_a_read_and_a_confirmed_delete(fake: FakeBroker, tools: Tools, no_leak: Callable[..., None]) -> None:
    read, delete, context = for_adk(tools.read_deal), for_adk(tools.delete_deal), Context()
    with acting_for(fake.user("alice")):
        assert (await read.run_async(args={"deal_id": "0061"}, tool_context=context))["id"] == "0061"
        told = await delete.run_async(args={"deal_id": "0061"}, tool_context=context)
        assert told["status"] == "not_done"
        ((hint, payload),) = context.asked
        assert payload["auth_url"] in hint
        context.tool_confirmation = SimpleNamespace(confirmed=True)
        again = await delete.run_async(args={"deal_id": "0061"}, tool_context=context)
        assert again["status"] == "not_done"  # the framework's yes is not the user's
        fake.approve(payload["auth_url"], user="alice")
        assert await delete.run_async(args={"deal_id": "0061"}, tool_context=context) == {"deleted": "0061"}
    assert tools.ran == ["read 0061", "delete 0061"]
    no_leak(read, delete, told, context)


class Scripted(BaseLlm):  # type: ignore[misc]
    """Calls the tool that it is named after."""

    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> Any:
        called = types.Part(function_call=types.FunctionCall(name=self.model, args={"deal_id": "0061"}))
        yield LlmResponse(content=types.Content(role="model", parts=[called]))


async def test_a_tool_that_fails_leaks_nothing(
    fake: FakeBroker, tools: Tools, no_leak: Callable[..., None], exporter: InMemorySpanExporter
) -> None:
    made = for_adk(tools.break_deal)
    runner = InMemoryRunner(LlmAgent(name="sales", model=Scripted(model="break_deal"), tools=[made]), app_name="crm")
    session = await runner.session_service.create_session(app_name="crm", user_id="u")
    asked = types.Content(role="user", parts=[types.Part(text="please")])
    with acting_for(fake.user("alice")), pytest.raises(Broken) as broken:
        async for _ in runner.run_async(user_id="u", session_id=session.id, new_message=asked):
            pass
    kept = await runner.session_service.get_session(app_name="crm", user_id="u", session_id=session.id)
    assert kept is not None
    assert exporter.get_finished_spans()
    no_leak(broken.value, made, made._get_declaration(), kept.model_dump_json())
