"""Narrowing by exchange through the functions as they are deployed: what agents and the audit log are told."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from tests.support.asgi import Answer
from tests.support.web import Sent, json_answer
from tests.support.world import CRM, World, intent

from cab.ports import HttpAnswer

READ_DEAL = intent("crm.deal.read", "deal/7")
SCOPES = "deal.read contact.read"
TOKEN_EXCHANGE = "narrowing: token_exchange"
ON_BEHALF_OF = "narrowing: on_behalf_of"


class Provider:
    """Refreshes with the wide token, and exchanges it; `answer` takes the place of what an exchange brings."""

    def __init__(self) -> None:
        self.exchanges: list[dict[str, str]] = []
        self.answer: HttpAnswer | None = None

    async def __call__(self, sent: Sent) -> HttpAnswer:
        form = dict(parse_qsl(sent.body.decode()))
        if form["grant_type"] == "refresh_token":
            return json_answer({"access_token": "wide", "refresh_token": "r", "expires_in": 3600})
        self.exchanges.append(form)
        return self.answer or json_answer(
            {"access_token": f"narrow-{len(self.exchanges)}", "expires_in": 3600, "scope": form["scope"]}
        )


async def start(world: World, narrowing: str) -> Provider:
    def changed(text: str) -> str:
        assert text.count("narrowing: scope_at_refresh") == 1
        text = text.replace("narrowing: scope_at_refresh", narrowing)
        if narrowing == ON_BEHALF_OF:
            text = text.replace(
                "    client_id: cab\n", "    client_id: cab\n    connect_scopes: [api://cab/access]\n", 1
            )
        return text

    world.environment["CAB_CONFIG_DIR"] = str(world.write_policies(None, connections=changed))
    provider = Provider()
    world.web.hosts[CRM] = provider
    granted = ("api://cab/access",) if narrowing == ON_BEHALF_OF else ("deal.read", "contact.read", "deal.write")
    await world.connect("alice", "crm", *granted)
    return provider


async def read_deal(world: World) -> Answer:
    return await world.exchange(
        READ_DEAL, agent="assistant", subject_token=await world.assertion("assistant", user="alice")
    )


@pytest.mark.parametrize("narrowing", [TOKEN_EXCHANGE, ON_BEHALF_OF])
async def test_the_agent_gets_the_narrow_token_and_the_audit_log_says_so(world: World, narrowing: str) -> None:
    provider = await start(world, narrowing)
    answer = await read_deal(world)
    assert (answer.status, answer.json["access_token"], answer.json["scope"]) == (200, "narrow-1", SCOPES)
    assert "narrowed" not in answer.json
    assert world.last_event()["scopes"]["narrowed"] is True
    (form,) = provider.exchanges
    assert form.get("subject_token", form.get("assertion")) != "narrow-1"
    assert (await read_deal(world)).json["access_token"] == "narrow-1"


async def test_an_agent_is_told_where_the_user_can_mend_missing_consent(world: World) -> None:
    provider = await start(world, ON_BEHALF_OF)
    provider.answer = json_answer({"error": "interaction_required", "claims": '{"access_token":{}}'}, 400)
    refused = await read_deal(world)
    assert (refused.status, refused.json["reason_code"]) == (400, "grant_needs_reauth")
    assert refused.json["interaction_uri"] == "http://127.0.0.1:8080/connect?connection=crm"
    assert "claims" not in refused.json
    provider.answer = None
    assert (await read_deal(world)).json["access_token"] == "narrow-2"


async def test_a_busy_provider_is_answered_with_the_time_it_asks_for(world: World) -> None:
    provider = await start(world, TOKEN_EXCHANGE)
    provider.answer = json_answer({"error": "slow_down"}, 429, {"retry-after": "17"})
    refused = await read_deal(world)
    assert (refused.status, refused.json["reason_code"]) == (503, "provider_unavailable")
    assert dict(refused.headers)["retry-after"] == "17"
