"""aiohttp's server lets in what a token was made for and nothing else, over a real socket."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.client.test_resource import CHANGE, GOOD, INTENT, ISSUER, MUTATIONS, RESOURCE, RULES, fetching, token_for

from cab_client.aiohttp import CALLER, cab_middleware
from cab_client.testing import FakeBroker


@pytest.fixture
def broker() -> FakeBroker:
    fake = FakeBroker(connections={"crm": RESOURCE})
    fake.permit("crm.opportunity.update")
    return fake


NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reading those of the system takes longer than a test


class Crm:
    def __init__(self, port: int, seen: list[Any]) -> None:
        self.port = port
        self.seen = seen

    async def ask(self, method: str, url: str, **options: Any) -> httpx2.Response:
        """Sent to the server here, as a proxy would pass it on."""
        host, _, path = url.partition("://")[2].partition("/")
        headers = {"Host": host, **options.pop("headers", {})}
        async with httpx2.AsyncClient(verify=NO_AUTHORITIES) as client:
            return await client.request(method, f"http://127.0.0.1:{self.port}/{path}", headers=headers, **options)


@pytest.fixture
async def crm(broker: FakeBroker) -> AsyncIterator[Crm]:
    seen: list[Any] = []

    async def note(request: web.Request) -> web.Response:
        seen.append((request[CALLER].subject, await request.json()))
        return web.json_response({"ok": True})

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="well")

    guard = cab_middleware(
        issuer=ISSUER, resource=RESOURCE, rules=RULES, public=["GET /healthy"], fetch=fetching(broker)
    )
    app = web.Application(middlewares=[guard])
    for method in ("GET", "PATCH", "DELETE", "POST"):
        app.router.add_route(method, "/opportunities/{id}", note)
    app.router.add_get("/forgotten", note)
    app.router.add_get("/healthy", health)
    async with TestServer(app) as server:
        assert server.port is not None
        yield Crm(server.port, seen)


async def test_the_request_that_was_declared_gets_in(broker: FakeBroker, crm: Crm) -> None:
    headers = {"Authorization": f"Bearer {token_for(broker, INTENT)}"}
    assert (await crm.ask(**GOOD, headers=headers)).status_code == 200
    assert crm.seen == [("alice", CHANGE)]


async def test_no_changed_request_does(broker: FakeBroker, crm: Crm) -> None:
    token = token_for(broker, INTENT)
    statuses = set()
    for mutation in MUTATIONS:
        changed = dict(mutation)
        headers = {**changed.pop("headers", {}), "Authorization": f"Bearer {token}"}
        if urlsplit(changed["url"]).path.startswith("/opportunities/0061/.."):
            continue  # the client makes another path of it
        try:
            answer = await crm.ask(**changed, headers=headers)
        except (httpx2.LocalProtocolError, httpx2.RemoteProtocolError):
            continue
        statuses.add(answer.status_code)
        assert crm.seen == [], mutation
    assert statuses <= {400, 403, 404, 405, 415, 421}


async def test_a_route_without_a_rule_lets_nobody_in_and_a_public_one_everybody(broker: FakeBroker, crm: Crm) -> None:
    headers = {"Authorization": f"Bearer {token_for(broker, INTENT)}"}
    assert (await crm.ask("GET", f"{RESOURCE}/forgotten", headers=headers)).status_code == 403
    assert (await crm.ask("GET", f"{RESOURCE}/forgotten")).status_code == 401
    assert (await crm.ask("GET", f"{RESOURCE}/healthy")).text == "well"
    metadata = await crm.ask("GET", f"{RESOURCE}/.well-known/oauth-protected-resource")
    assert metadata.json()["resource"] == RESOURCE
    assert crm.seen == []
