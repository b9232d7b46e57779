"""Call mode: what a tool may believe of a call that the broker makes, whatever comes back or does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from cab_client import (
    Agent,
    AnswerWithheld,
    CabError,
    CallRejected,
    ClientSecret,
    OutcomeUnknown,
    TryLater,
    acting_for,
)
from cab_client.testing import FakeBroker
from cab_client.transport import use_transport

Answer = Callable[[httpx2.Request], httpx2.Response]
agent = Agent("https://cab.fake", ClientSecret("a", "s"), connections={"crm": "https://crm.fake"}, mode="call")


@agent.tool("crm.note.create", on="crm", identifier="opportunity/{deal_id}", parameters=("text",))
def note(deal_id: str, text: str) -> dict[str, str]:
    raise AssertionError("never")


class Answering(httpx2.BaseTransport):
    """A broker that gives call tokens, and answers calls as it is told."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.calls = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        if request.url.path == "/oauth2/token":
            return httpx2.Response(200, json={"access_token": "a.b.c", "token_type": "Bearer", "expires_in": 300})
        self.calls += 1
        return self._answer(request)


def answering(status: int, **how: Any) -> Answer:
    return lambda _: httpx2.Response(status, **how)


def cut(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ReadError("cut", request=request)


def called(answer: Answer) -> tuple[CabError, int]:
    broker = Answering(answer)
    with use_transport(broker), acting_for("a.b.c"), pytest.raises(CabError) as raised:
        note("0061", "x")
    return raised.value, broker.calls


@pytest.mark.parametrize(
    "answer",
    [
        cut,
        answering(503, text="<html>The instance has ended</html>", headers={"Retry-After": "0"}),
        answering(502, text="<html>"),
        answering(504, text="upstream request timeout"),
        answering(500, json={"error": "server_error", "reason_code": "internal_error"}),
        answering(504, json={"error": "temporarily_unavailable", "reason_code": "call_outcome_unknown"}),
        answering(502, json={"error": "server_error", "reason_code": "redirect_refused", "outcome": "unknown"}),
        answering(200, text="<html>"),
        answering(200, json={"outcome": "something new"}),
    ],
)
def test_a_call_that_may_have_been_made_is_neither_repeated_nor_called_undone(answer: Answer) -> None:
    error, calls = called(answer)
    assert type(error) is OutcomeUnknown
    assert calls == 1


def test_a_call_that_the_broker_says_was_not_made_is_repeated() -> None:
    no = {"error": "temporarily_unavailable", "reason_code": "provider_unavailable", "outcome": "not_sent"}
    error, calls = called(answering(503, json=no, headers={"Retry-After": "0"}))
    assert type(error) is TryLater
    assert calls == 3


def test_what_was_done_without_an_answer_is_not_told_as_undone() -> None:
    error, _ = called(
        answering(502, json={"error": "server_error", "reason_code": "response_too_large", "outcome": "done"})
    )
    assert type(error) is AnswerWithheld
    assert error.for_model().startswith("This was done")


def test_a_tool_whose_call_the_system_refused_does_not_return(cab_fake: FakeBroker) -> None:
    cab_fake.permit("crm.note.create")
    cab_fake.answer("CALL", "crm.note.create", status=404)
    with acting_for(cab_fake.user("alice")), pytest.raises(CallRejected) as rejected:
        note("0061", "x")
    assert rejected.value.status == 404
    assert rejected.value.for_model() == "The system refused this, with HTTP status 404. It was not done."
