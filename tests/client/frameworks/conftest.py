"""Run in an environment that has the frameworks and not the broker: see tests/client/test_frameworks.py."""

from __future__ import annotations

import gc
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cab_client import Agent, AsyncAgent, AsyncAuthorizedClient, AuthorizedClient, ClientSecret
from cab_client.testing import FakeBroker

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
        credential = ClientSecret("sales-assistant", "s")
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

        self.read_deal, self.delete_deal, self.move_deal = read_deal, delete_deal, move_deal


@pytest.fixture
def tools() -> Tools:
    return Tools()


@pytest.fixture
def no_leak(fake: FakeBroker, caplog: pytest.LogCaptureFixture) -> Callable[..., None]:
    """Call it with everything that outlives a call: no token may be in what it shows, nor in what was logged."""
    caplog.set_level(logging.DEBUG)

    def check(*things: Any) -> None:
        gc.collect()
        secrets = {*fake._assertions, *fake._tokens}
        assert secrets
        shown = [caplog.text]
        for thing in things:
            shown += [repr(thing), str(thing)]
            if isinstance(thing, BaseException):
                shown += traceback.TracebackException.from_exception(thing, capture_locals=True).format()
            try:
                shown.append(pickle.dumps(thing).decode("latin-1"))
            except Exception:  # noqa: BLE001 - what refuses to be pickled leaks nothing by it
                shown.append("")
        for secret in secrets:
            assert not any(secret in text for text in shown)
            assert not any(secret.rpartition(".")[2] in text for text in shown)

    return check
