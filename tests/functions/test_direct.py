"""The way from the server to a function, past the framework that started it."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from tests.support import asgi
from tests.support.functions import ROOT
from tests.support.world import World

from cab.bootstrap.direct import serve_directly


@pytest.mark.parametrize("function", sorted(entry.parent.name for entry in ROOT.glob("functions/*/main.py")))
async def test_after_its_first_request_a_function_is_reached_past_the_framework(function: str) -> None:
    world = World()
    refused_by_the_framework = await world.request("TRACE", "/health", function=function)
    assert refused_by_the_framework.status == 405
    assert (await world.request("GET", "/health", function=function)).status == 200
    assert (await world.request("TRACE", "/health", function=function)).status == 200


async def test_a_fault_of_a_function_is_answered_and_its_text_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def function(request: Request) -> Response:
        raise RuntimeError("a secret of somebody")

    application = Starlette()
    serve_directly(application, function)
    answer = await asgi.request(application, "GET", "/")
    assert (answer.status, answer.body) == (500, b"")
    assert "internal error RuntimeError" in caplog.text
    assert "secret" not in caplog.text
