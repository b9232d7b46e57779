"""What Cloud Run asks before a function sees a request, at the gateway and at a function's own URL."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from cab_dev import loopback
from cab_dev.permissions import rows_for
from cab_dev.processes.ports import PortLeases
from cab_dev.services.doors import Doors
from cab_dev.services.gateway import Guarded, application, door_application, public_routes
from cab_dev.services.google_identity import Signer, issuer_application
from cab_dev.stack import FUNCTIONS, PROJECT
from gcp_emulators.permissions.table import Table


@dataclass
class Street:
    """One function behind every name: it tells that it was reached. `rights` may be changed."""

    origin: str
    doors: dict[str, str]
    signer: Signer
    rights: Path
    client: ClientSession

    async def status(self, url: str, authorization: str | None = None) -> int:
        headers = {} if authorization is None else {"Authorization": authorization}
        async with self.client.get(url, headers=headers) as answer:
            return answer.status

    async def call(self, caller: str, function: str, audience: str | None = None) -> int:
        email = f"{caller.replace('_', '-')}@{PROJECT}.iam.gserviceaccount.com"
        token = self.signer.id_token(email, audience or self.doors[function])
        return await self.status(f"{self.doors[function]}/work", f"Bearer {token}")

    def without(self, **given: Any) -> None:
        """Take the rows away that say this."""
        rows = rows_for(PROJECT)
        kept = [row for row in rows if not all(row[name] == value for name, value in given.items())]
        assert len(kept) < len(rows)
        part = self.rights.with_suffix(".part")
        part.write_text(json.dumps(kept), "utf-8")
        part.replace(self.rights)


@pytest.fixture
async def street(tmp_path: Path) -> AsyncIterator[Street]:
    rights = tmp_path / "rights.json"
    rights.write_text(json.dumps(rows_for(PROJECT)), "utf-8")
    runners = []

    async def serve(app: web.Application, port: int = 0) -> str:
        runner, bound = await loopback.serve(app, port)
        runners.append(runner)
        return f"http://127.0.0.1:{bound}"

    async def reached(_: web.Request) -> web.Response:
        return web.Response(text="reached")

    with PortLeases() as leases:
        function = web.Application()
        function.router.add_route("*", "/{path:.*}", reached)
        behind = await serve(function)
        origins = dict.fromkeys(FUNCTIONS, behind)
        issuer_port = leases.take_free()
        signer = Signer(f"http://127.0.0.1:{issuer_port}")
        await serve(issuer_application(signer, frozenset()), issuer_port)
        doors = Doors(Table(rights), PROJECT, signer.issuer)
        urls = {}
        for name in ("exchange_token", "refresh_grants", "ingest_audit"):
            port = leases.take_free()
            urls[name] = await serve(door_application(doors, name, url=f"http://127.0.0.1:{port}", origin=behind), port)
        origin = await serve(application(public_routes(origins), Guarded(doors, {"mint_assertion": behind})))
        async with ClientSession() as client:
            yield Street(origin, urls, signer, rights, client)
    for runner in runners:
        await runner.cleanup()


async def test_the_callers_of_the_architecture_are_let_through(street: Street) -> None:
    for caller, function in (
        ("exchange_token", "refresh_grants"),
        ("connect_account", "refresh_grants"),
        ("scheduler", "refresh_grants"),
        ("pubsub_push", "refresh_grants"),
        ("operator", "refresh_grants"),
        ("pubsub_push", "ingest_audit"),
        ("call_tool", "exchange_token"),
    ):
        assert await street.call(caller, function) == 200, (caller, function)


async def test_who_is_inside_may_still_not_invoke_what_is_not_theirs(street: Street) -> None:
    assert await street.call("call_tool", "refresh_grants") == 403
    assert await street.call("exchange_token", "ingest_audit") == 403


async def test_who_is_not_inside_finds_nothing(street: Street) -> None:
    assert await street.call("mint_assertion", "refresh_grants") == 404
    assert await street.status(f"{street.doors['refresh_grants']}/work") == 404
    assert await street.call("exchange_token", "refresh_grants", audience="https://else.example") == 404
    forged = Signer(street.signer.issuer).id_token(
        f"exchange-token@{PROJECT}.iam.gserviceaccount.com", street.doors["refresh_grants"]
    )
    assert await street.status(f"{street.doors['refresh_grants']}/work", f"Bearer {forged}") == 404
    foreign = street.signer.id_token("exchange-token@other.iam.gserviceaccount.com", street.doors["refresh_grants"])
    assert await street.status(f"{street.doors['refresh_grants']}/work", f"Bearer {foreign}") == 404


async def test_a_function_without_a_way_through_the_network_does_not_arrive(street: Street) -> None:
    """What no test saw before: refresh_grants takes internal traffic only, and its callers had no way through a network."""
    street.without(identity="exchange_token", resource="network")
    assert await street.call("exchange_token", "refresh_grants") == 404
    assert await street.call("connect_account", "refresh_grants") == 200


async def test_the_load_balancer_reaches_what_is_open_to_it_and_to_everybody(street: Street) -> None:
    assert await street.status(f"{street.origin}/edge/token") == 200
    street.without(identity="allUsers", resource=f"projects/{PROJECT}/services/mint-assertion")
    assert await street.status(f"{street.origin}/edge/token") == 403
    street.without(identity="load_balancer", resource=f"projects/{PROJECT}/services/mint-assertion")
    assert await street.status(f"{street.origin}/edge/token") == 404
