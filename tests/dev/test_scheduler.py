"""The local Cloud Scheduler: whom it calls, as whom, and what it makes of trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import jwt
import pytest
from aiohttp import web

from cab_dev.processes.ports import PortLeases
from cab_dev.services import google_identity
from cab_dev.services.scheduler import call_once

ACCOUNT = "scheduler@demo-cab.iam.gserviceaccount.com"


class Target:
    """A function that keeps what it was sent."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.requests: list[tuple[str, str, str]] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append((request.method, request.path, request.headers["Authorization"]))
        return web.Response(status=self.status)


@pytest.fixture
async def identity_url() -> AsyncIterator[str]:
    with PortLeases() as leases:
        port = leases.take_free()
        issuer = f"http://127.0.0.1:{port}"
        async with google_identity.serving(port=port, issuer=issuer, accounts={ACCOUNT: None}) as listening:
            yield listening.url


async def call(target: Target, identity_url: str, *, account: str = ACCOUNT) -> str:
    app = web.Application()
    app.router.add_route("*", "/{any:.*}", target.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        with PortLeases() as leases:
            port = leases.take_free()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            origin = f"http://127.0.0.1:{port}"
            return await asyncio.to_thread(
                call_once,
                f"{origin}/grants/sweep",
                audience="http://refresh",
                account=account,
                identity_url=identity_url,
            )
    finally:
        await runner.cleanup()


async def test_the_url_is_called_with_an_id_token_of_the_jobs_account(identity_url: str) -> None:
    target = Target(200)
    assert await call(target, identity_url) == "200"
    [(method, path, authorization)] = target.requests
    assert (method, path) == ("POST", "/grants/sweep")
    claims = jwt.decode(authorization.removeprefix("Bearer "), options={"verify_signature": False})
    assert (claims["email"], claims["aud"]) == (ACCOUNT, "http://refresh")


async def test_an_error_status_is_told_and_not_raised(identity_url: str) -> None:
    assert await call(Target(503), identity_url) == "503"


async def test_without_a_token_the_url_is_not_called(identity_url: str) -> None:
    target = Target(200)
    assert await call(target, identity_url, account="nobody@demo-cab.iam.gserviceaccount.com") == "404"
    assert target.requests == []


async def test_a_service_that_is_down_is_told_and_not_raised() -> None:
    assert await call(Target(200), "http://127.0.0.1:9") == "URLError"
