"""What all adapters share: whose thread a tool runs in, and who learns why a call was not made."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from cab_client import AuthorizedClient, NoUser, acting_for
from cab_client.following import result_of, told
from cab_client.testing import FakeBroker


async def test_a_synchronous_tool_that_waits_keeps_nobody_else_waiting(cab_fake: FakeBroker) -> None:
    cab_fake.permit("crm.note.create")
    agent = cab_fake.agent("a")
    both = threading.Barrier(2, timeout=10)  # one after the other, they would never meet

    @agent.tool("crm.note.create", on="crm", identifier="opportunity/{deal_id}")
    def note(deal_id: str, *, http: AuthorizedClient) -> None:
        both.wait()

    async def one(user: str) -> None:
        with acting_for(cab_fake.user(user)):
            await result_of(note, user)

    await asyncio.gather(one("alice"), one("bob"))
    assert {(one.user, one.intent.identifier) for one in cab_fake.exchanges} == {
        ("alice", "opportunity/alice"),
        ("bob", "opportunity/bob"),
    }


def test_the_developer_learns_from_the_log_what_the_model_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "cab_client.tools"):
        assert told(NoUser())["reason"] == NoUser.model_text
    assert "no_user: No assertion was given and none is current: see acting_for." in caplog.text
