"""Run in an environment that has the frameworks and not the broker: see tests/client/test_frameworks.py."""

from __future__ import annotations

import base64
import gc
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cab_client import Agent, AsyncAgent, AsyncAuthorizedClient, AuthorizedClient, ClientSecret
from cab_client.testing import FakeBroker

CANARY = "canary-of-the-agent"
CONNECTIONS = {"crm": "https://crm.acme.example"}


@pytest.fixture
def fake() -> Iterator[FakeBroker]:
    with FakeBroker().installed() as broker:
        broker.permit("crm.opportunity.read", effect="read")
        broker.permit("crm.note.create")
        broker.ask("crm.opportunity.delete")
        yield broker


class Tools:
    """One read, one write and one that the user must confirm, declared on both kinds of agent."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.links: list[str | None] = []
        credential = ClientSecret("sales-assistant", CANARY)
        how: dict[str, Any] = {"connections": CONNECTIONS, "on_user": lambda needed: self.links.append(needed.uri)}
        agent = Agent("https://cab.acme.example", credential, **how)
        others = AsyncAgent("https://cab.acme.example", credential, **how)

        @agent.tool("crm.opportunity.read", on="crm", identifier="opportunity/{deal_id}")
        def read_deal(deal_id: str, *, http: AuthorizedClient) -> dict[str, Any]:
            """Read a deal."""
            self.ran.append(f"read {deal_id}")
            return {"id": deal_id, "status": http.get(f"/opportunities/{deal_id}").status_code}

        @others.tool("crm.opportunity.delete", on="crm", identifier="opportunity/{deal_id}")
        async def delete_deal(deal_id: str, *, http: AsyncAuthorizedClient) -> dict[str, Any]:
            """Delete a deal."""
            await http.delete(f"/opportunities/{deal_id}")
            self.ran.append(f"delete {deal_id}")
            return {"deleted": deal_id}

        @agent.tool("crm.opportunity.update", on="crm", identifier="opportunity/{deal_id}", parameters=("stage",))
        def move_deal(deal_id: str, stage: str, *, http: AuthorizedClient) -> dict[str, Any]:
            """Move a deal to a stage."""
            self.ran.append(f"move {deal_id}")
            return {}

        @agent.tool("crm.opportunity.read", on="crm", identifier="opportunity/{deal_id}")
        def break_deal(deal_id: str, *, http: AuthorizedClient) -> dict[str, Any]:
            """Fail with everything at hand that a tool may have."""
            answer = http.get(f"/opportunities/{deal_id}")
            request, headers, permit = answer.request, answer.request.headers, http.permit
            raise Broken(f"{request} {permit} {headers} {http}")

        self.read_deal, self.delete_deal, self.move_deal = read_deal, delete_deal, move_deal
        self.break_deal = break_deal


class Broken(Exception):
    """Of a tool, in the middle of its block."""


@pytest.fixture
def tools() -> Tools:
    return Tools()


@pytest.fixture(scope="session")
def exporter() -> InMemorySpanExporter:
    """Everything that a framework traces by OpenTelemetry."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def no_leak(fake: FakeBroker, caplog: pytest.LogCaptureFixture, exporter: InMemorySpanExporter) -> Callable[..., None]:
    """Call it with everything that outlives a call: no token may be in what it shows, nor in what was logged and traced."""
    caplog.set_level(logging.DEBUG)
    exporter.clear()

    def check(*things: Any) -> None:
        gc.collect()
        basic = base64.b64encode(f"sales-assistant:{CANARY}".encode()).decode()
        tokens = {*fake._assertions, *fake._tokens}
        assert tokens
        secrets = {*tokens, *(token.rpartition(".")[2] for token in tokens), CANARY, basic}
        shown = [caplog.text, *(span.to_json() for span in exporter.get_finished_spans())]
        for thing in things:
            shown += [repr(thing), str(thing)]
            if isinstance(thing, BaseException):
                shown += traceback.TracebackException.from_exception(thing, capture_locals=True).format()
            try:
                shown.append(pickle.dumps(thing).decode("latin-1"))
            except Exception:  # noqa: BLE001 - what refuses to be pickled leaks nothing by it
                shown.append("")
        assert [secret for secret in secrets if any(secret in text for text in shown)] == []

    return check
