"""What a person approved, what was decided, what was sent and what the record says came of it are one request: a thousand times."""

from __future__ import annotations

import base64
import hashlib
import random
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from tests.support.calling import call, call_token, platform_at
from tests.support.web import Sent, json_answer
from tests.support.world import CRM, World

from cab.stores.approvals import ApprovalRequests

INTENTS = 1_000
POLICIES = """
@id("asks")
@confirm("Changes a deal.")
permit (principal, action == CAB::Action::"crm.deal.update", resource) when { context.task.comparison == "within" };
"""
WORDS = "Ünïcode", "a/b?c#d", "..", "%2e%2e", '"quoted"', "{stage}", "line\nbreak", "a&b=c", "\\u0041", "日本語", " x "


def generated(number: int) -> tuple[str, dict[str, Any]]:
    """An identifier and parameters as an agent may choose them; the same for the same number."""
    chosen = random.Random(number)  # noqa: S311 - data for a test
    parameters: dict[str, Any] = {}
    if chosen.random() < 0.8:
        parameters["stage"] = chosen.choice(["open", "won", "lost"])
    if chosen.random() < 0.8:
        parameters["amount"] = chosen.randint(0, 1_000_000)
    if chosen.random() < 0.5:
        parameters["urgent"] = chosen.random() < 0.5
    if chosen.random() < 0.8:
        parameters["note"] = " ".join(chosen.choices(WORDS, k=chosen.randint(1, 6)))
    return f"d{number}", parameters


def digest_of(hit: Sent) -> str:
    """`request_digest` of the bytes that arrived, worked out from docs/api.md alone."""
    named = {
        "method": hit.method,
        "url": hit.url,
        "content_type": hit.headers.get("Content-Type"),
        "body_sha256": _base64url(hashlib.sha256(hit.body).digest()),
    }
    return "sha-256:" + _base64url(hashlib.sha256(rfc8785.dumps(named)).digest())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.mark.timeout(900)
async def test_a_thousand_approved_requests_are_sent_as_they_were_shown(tmp_path: Path) -> None:
    world = World(scratch=tmp_path)
    world = World(world.write_policies(POLICIES), scratch=tmp_path)
    platform = platform_at(world, CRM, json_answer({"id": "d"}))
    await world.connect("alice", "crm", "deal.read", "deal.write", "contact.read")
    guards = world.cloud.documents["guards"]
    approved: dict[str, str] = {}
    for number in range(INTENTS):
        if number % 50 == 0:
            world.advance(61)
            token = await call_token(world)
        identifier, parameters = generated(number)
        arguments = {"id": identifier, **parameters}
        asked = await call(world, token, "crm_deal_update", arguments)
        assert asked.refusal[2] == "confirmation_required", asked.body
        uri = asked.json["interaction_uri"]
        request = await ApprovalRequests(guards).read(uri.rpartition("/")[2])
        assert request is not None
        assert request.request_digest is not None
        approved[identifier] = request.request_digest
        await world.decide(uri, approved=True)
        answer = await call(world, token, "crm_deal_update", arguments)
        assert answer.json["outcome"] == "done"
        assert answer.json["request_digest"] == request.request_digest
    sent = {hit.url.rpartition("/")[2]: digest_of(hit) for hit in platform.hits}
    assert sent == approved
    assert len(platform.hits) == len(set(approved.values())) == INTENTS

    def recorded(function: str, event_type: str) -> list[str | None]:
        return [
            event.call.request_digest
            for event in world.events(function)
            if event.event_type == event_type and event.call is not None and event.call.id is not None
        ]

    assert sorted(map(str, recorded("exchange_token", "exchange.decided"))) == sorted(approved.values())
    assert sorted(map(str, recorded("call_tool", "tool.executed"))) == sorted(approved.values())
