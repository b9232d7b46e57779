"""The way from the server to a function, past the framework that started it."""

from __future__ import annotations

import pytest
from tests.support.functions import ROOT
from tests.support.world import World


@pytest.mark.parametrize("function", sorted(entry.parent.name for entry in ROOT.glob("functions/*/main.py")))
async def test_after_its_first_request_a_function_is_reached_past_the_framework(function: str) -> None:
    world = World()
    refused_by_the_framework = await world.request("TRACE", "/health", function=function)
    assert refused_by_the_framework.status == 405
    assert (await world.request("GET", "/health", function=function)).status == 200
    assert (await world.request("TRACE", "/health", function=function)).status == 200


async def test_a_fault_that_no_handler_catches_is_answered_and_its_text_is_not_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On either way: the framework writes an exception with its text into the log."""

    def mistaken(*_: object) -> None:
        raise RuntimeError("a secret of somebody")

    monkeypatch.setattr("cab.transport.grants_http.context_of", mistaken)
    world = World()
    for _ in range(2):
        answer = await world.request("POST", "/grants/token", function="refresh_grants")
        assert answer.refusal == (500, "server_error", "internal_error")
        assert (answer.header("cache-control"), answer.header("x-content-type-options")) == ("no-store", "nosniff")
        assert f"txn {answer.txn}" in caplog.text
    assert "internal error RuntimeError" in caplog.text
    assert "secret" not in caplog.text
