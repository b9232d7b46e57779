"""How call_tool hears exchange_token: its refusals passed on whole, its troubles taken as ours."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from cab.adapters.exchange_token_client import ExchangeTokenClient
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.ports import AnswerTooLarge, CallCredentials, HttpAnswer, PermittedCall, SendFailed, Unavailable
from cab_dev.fakes.clock import SettableClock
from cab_dev.fakes.service_tokens import InMemoryServiceTokens

URL = "https://exchange-token.test"
NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
UNTIL = int(NOW.timestamp() * 1000) + 14_000  # a second before nobody waits any more
BOUND = CallCredentials("call-token", "POST", "https://cab.test/mcp", "proof")
FREE = CallCredentials("call-token", "POST", "https://cab.test/mcp")
GOOD = {
    "access_token": "secret-of-crm",
    "token_type": "Bearer",
    "expires_in": 300,
    "connection": "crm",
    "authorization_details": [{"type": "cab_action"}],
    "intent_hash": "sha-256:i",
    "request_digest": "sha-256:r",
    "call_id": "c-1",
    "idempotency_key": "key",
    "attempt": "attempt",
    "txn": "t-1",
}


class Host:
    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.sent: list[tuple[str, Any, dict[str, str]]] = []

    async def post_json(self, url: str, document: Any, *, headers: Any = None, **_: Any) -> HttpAnswer:
        self.sent.append((url, document, headers))
        if isinstance(self.answer, Exception):
            raise self.answer
        assert isinstance(self.answer, HttpAnswer)
        return self.answer

    async def get(self, *_: Any, **__: Any) -> HttpAnswer:
        raise AssertionError("exchange_token is only ever posted to")

    post_form = get


def answer(status: int, document: Any, **headers: str) -> HttpAnswer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return HttpAnswer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def client(host: Host) -> ExchangeTokenClient:
    return ExchangeTokenClient(URL, host, InMemoryServiceTokens("call-tool@x"), SettableClock(NOW))


async def decide(host: Host, credentials: CallCredentials = FREE, call_id: str | None = "c-1") -> PermittedCall:
    return await client(host).decide(
        credentials,
        connection="crm",
        detail={"type": "cab_action"},
        call_id=call_id,
        deferred=True,
        policy_version="v1",
    )


async def test_a_call_goes_out_with_what_the_agent_presented_and_our_own_identity() -> None:
    host = Host(answer(200, GOOD))
    permitted = await decide(host, BOUND)
    ((url, document, headers),) = host.sent
    assert url == f"{URL}/internal/calls"
    assert headers["Authorization"].startswith("Bearer ")
    assert document == {
        "call_token": "call-token",
        "policy_version": "v1",
        "awaited_until": UNTIL,
        "connection": "crm",
        "detail": {"type": "cab_action"},
        "deferred": True,
        "call_id": "c-1",
        "dpop": {"proof": "proof", "method": "POST", "url": "https://cab.test/mcp"},
    }
    assert permitted.access_token == "secret-of-crm"
    assert "secret-of-crm" not in repr(permitted)
    assert "call-token" not in repr(BOUND)


async def test_what_is_not_there_is_not_sent() -> None:
    host = Host(answer(200, GOOD))
    await decide(host, call_id=None)
    assert {"dpop", "call_id"} & host.sent[0][1].keys() == set()


async def test_a_call_that_waits_and_one_whose_token_was_refused_are_asked_for_by_their_handles() -> None:
    host = Host(answer(200, GOOD))
    await client(host).resume(FREE, deferral_code="dc", policy_version="v1")
    token = await client(host).another_token(FREE, attempt="a", rejected_token_sha256="h", policy_version="v1")
    common = {"call_token": "call-token", "policy_version": "v1", "awaited_until": UNTIL}
    assert [document for _, document, _ in host.sent] == [
        common | {"deferral_code": "dc"},
        common | {"attempt": "a", "rejected_token_sha256": "h"},
    ]
    assert token == "secret-of-crm"


async def test_a_refusal_is_passed_on_with_everything_that_helps() -> None:
    refusal = {
        "error": "authorization_pending",
        "reason_code": "authorization_pending",
        "error_description": "The user has not answered yet.",
        "interaction_uri": "https://cab.test/approvals/1",
        "deferral_code": "dc",
        "interval": 2,
        "expires_in": 600,
        "acr_values": "gold",
        "max_age": 60,
        "parameter": "x",
    }
    with pytest.raises(BrokerError) as refused:
        await decide(Host(answer(400, refusal, retry_after="7")))
    assert (refused.value.reason, refused.value.detail) == (
        Reason.AUTHORIZATION_PENDING,
        "The user has not answered yet.",
    )
    assert refused.value.remedy == Remedy(
        retry_after_s=7,
        interaction_uri="https://cab.test/approvals/1",
        acr_values="gold",
        max_age_s=60,
        deferral_code="dc",
        interval_s=2,
        expires_in_s=600,
        member="x",
    )


@pytest.mark.parametrize(
    "reply",
    [
        answer(401, {"error": "invalid_client", "reason_code": "client_authentication_failed"}),
        answer(400, {"error": "invalid_request", "reason_code": "parameter_invalid"}),
        answer(500, {"error": "server_error", "reason_code": "internal_error"}),
        answer(500, b"<html>"),
        answer(400, {"reason_code": "of_another_revision"}),
        answer(200, {name: value for name, value in GOOD.items() if name != "attempt"}),
        answer(200, b"[]"),
        SendFailed("decisions", may_have_arrived=True),
        AnswerTooLarge(),
    ],
)
async def test_everything_else_is_an_outage(reply: Any) -> None:
    with pytest.raises(Unavailable) as failed:
        await decide(Host(reply))
    assert failed.value.what == "decisions"
