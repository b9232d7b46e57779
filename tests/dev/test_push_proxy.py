"""The proxy that makes the official Pub/Sub emulator's pushes look like production's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import jwt
import pytest
from aiohttp import web

from cab_dev import loopback
from cab_dev.services import google_identity, push_proxy
from cab_dev.services.push_proxy import Route

PUSH = "pubsub-push@demo-cab.iam.gserviceaccount.com"
SOURCE_ROOT = Path(loopback.__file__).parents[1]
ISSUER = "https://accounts.google.test"


class Target:
    """A function that takes pushes: remembers the requests, answers `status`."""

    def __init__(self) -> None:
        self.status = 204
        self.url = ""
        self.seen: list[tuple[dict[str, str], bytes]] = []

    async def accept(self, request: web.Request) -> web.Response:
        self.seen.append((dict(request.headers), await request.read()))
        return web.Response(status=self.status, headers={"Location": "/elsewhere"})


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    target = Target()
    application = web.Application()
    application.add_routes([web.post("/", target.accept)])
    runner, port = await loopback.serve(application, 0)
    target.url = f"http://127.0.0.1:{port}/"
    yield target
    await runner.cleanup()


@pytest.fixture
async def proxy_url(target: Target) -> AsyncIterator[str]:
    routes = {
        "/ingest-audit": Route(target=target.url, audience="http://audit", email=PUSH),
        "/gone": Route(target="http://127.0.0.1:1/", audience="http://audit", email=PUSH),
        "/no-token": Route(target=target.url, audience="http://audit", email="unknown@example.com"),
    }
    async with AsyncExitStack() as stack:
        identity = await stack.enter_async_context(
            google_identity.serving(port=0, issuer=ISSUER, accounts={PUSH: None})
        )
        yield await stack.enter_async_context(push_proxy.serving(port=0, routes=routes, identity_url=identity.url))


async def post(url: str) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=b'{"message":{}}', headers={"Content-Type": "application/json"}) as answer,
    ):
        return answer.status


async def test_a_push_is_forwarded_with_a_token(proxy_url: str, target: Target) -> None:
    assert await post(proxy_url + "/ingest-audit") == 204
    [(headers, body)] = target.seen
    assert body == b'{"message":{}}'
    assert headers["Content-Type"] == "application/json"
    scheme, token = headers["Authorization"].split()
    claims = jwt.decode(token, options={"verify_signature": False})
    assert scheme == "Bearer"
    assert (claims["iss"], claims["aud"], claims["email"]) == (ISSUER, "http://audit", PUSH)


@pytest.mark.parametrize(
    ("answered", "passed_on"), [(200, 200), (202, 204), (204, 204), (302, 302), (401, 401), (503, 503)]
)
async def test_the_status_is_passed_on_and_202_acknowledges_as_in_production(
    proxy_url: str, target: Target, answered: int, passed_on: int
) -> None:
    target.status = answered
    assert await post(proxy_url + "/ingest-audit") == passed_on


async def test_a_target_that_is_down_is_tried_again_later(proxy_url: str) -> None:
    assert await post(proxy_url + "/gone") == 503


async def test_nothing_is_forwarded_without_a_token(proxy_url: str, target: Target) -> None:
    assert await post(proxy_url + "/no-token") == 503
    assert target.seen == []


async def test_a_path_without_a_route_is_not_found(proxy_url: str) -> None:
    assert await post(proxy_url + "/other") == 404


def test_routes_that_make_no_sense_are_refused_with_the_reason() -> None:
    command = [
        sys.executable,
        "-m",
        "cab_dev.services.push_proxy",
        "--port",
        "0",
        "--identity-url",
        "http://127.0.0.1:1",
    ]
    command += ["--routes", '{"/a": {"target": "http://127.0.0.1:1"}}']
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, cwd=SOURCE_ROOT)
    assert ended.returncode == 2
    assert "audience" in ended.stderr
