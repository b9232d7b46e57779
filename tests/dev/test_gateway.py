"""The gateway between a client and two real servers: what goes through unchanged, what is added, what it answers itself."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from yarl import URL

from cab_dev.processes.ports import PortLeases
from cab_dev.services import gateway
from cab_dev.services.gateway import Instances, Route, public_routes


async def echo(request: web.Request) -> web.Response:
    """Tells what arrived."""
    body = await request.read()
    headers = [[name, value] for name, value in request.headers.items()]
    answer = {"method": request.method, "target": request.raw_path, "headers": headers, "body": body.decode("latin-1")}
    response = web.json_response(answer, status=int(request.headers.get("Answer-With", "200")))
    response.headers.add("Set-Cookie", "one=1")
    response.headers.add("Set-Cookie", "two=2")
    response.headers["Location"] = "https://idp.example/authorize?a=b%2Fc"
    return response


@pytest.fixture
async def origin() -> AsyncIterator[str]:
    """A gateway with `/here` and everything below `/pages` at an echo server, and `/gone` at a port where nobody listens."""
    app = web.Application(client_max_size=4 * gateway.MAX_BODY_BYTES)
    app.router.add_route("*", r"/{any:[\s\S]*}", echo)
    runner = web.AppRunner(app, auto_decompress=False)
    await runner.setup()
    with PortLeases() as leases:
        echo_port, gateway_port, closed_port = leases.take_free(), leases.take_free(), leases.take_free()
        await web.TCPSite(runner, "127.0.0.1", echo_port).start()
        routes = (
            Route("/here", f"http://127.0.0.1:{echo_port}"),
            Route("/pages/*", f"http://127.0.0.1:{echo_port}"),
            Route("/gone", f"http://127.0.0.1:{closed_port}"),
        )
        front = await gateway.serve(routes, gateway_port)
        yield f"http://127.0.0.1:{gateway_port}"
        await front.cleanup()
        await runner.cleanup()


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    async with ClientSession(auto_decompress=False, skip_auto_headers=("Content-Type",)) as session:
        yield session


def values(echoed: dict[str, list[list[str]]], name: str) -> list[str]:
    return [value for key, value in echoed["headers"] if key.lower() == name.lower()]


async def test_a_request_goes_through_with_its_method_target_and_body(client: ClientSession, origin: str) -> None:
    target = URL(f"{origin}/pages/a%2Fb/../c?x=%20&x=1+2", encoded=True)
    async with client.post(target, data=b"\x00\xff") as answer:
        echoed = await answer.json()
    assert (echoed["method"], echoed["target"], echoed["body"]) == ("POST", "/pages/a%2Fb/../c?x=%20&x=1+2", "\x00\xff")


async def test_repeated_headers_go_through_in_both_directions(client: ClientSession, origin: str) -> None:
    headers = [("DPoP", "one"), ("DPoP", "two"), ("Authorization", "Basic eDp5")]
    async with client.get(f"{origin}/here", headers=headers) as answer:
        echoed = await answer.json()
        assert answer.headers.getall("Set-Cookie") == ["one=1", "two=2"]
    assert values(echoed, "DPoP") == ["one", "two"]
    assert values(echoed, "Authorization") == ["Basic eDp5"]
    assert values(echoed, "Host") == [URL(origin).authority]


async def test_nothing_is_sent_that_the_caller_did_not_send_or_a_load_balancer_does_not_add(
    client: ClientSession, origin: str
) -> None:
    no_headers = ("Accept", "Accept-Encoding", "User-Agent")
    async with client.get(f"{origin}/here", skip_auto_headers=no_headers) as answer:
        echoed = await answer.json()
    assert {name for name, _ in echoed["headers"]} == {
        "Host",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Cloud-Trace-Context",
        "Via",
    }


async def test_the_callers_address_is_appended_to_what_the_caller_claims(client: ClientSession, origin: str) -> None:
    async with client.get(f"{origin}/here", headers={"X-Forwarded-For": "203.0.113.9"}) as answer:
        echoed = await answer.json()
    assert values(echoed, "X-Forwarded-For") == ["203.0.113.9, 127.0.0.1, 127.0.0.1"]
    assert values(echoed, "X-Forwarded-Proto") == ["http"]


async def test_headers_of_the_connection_stay_behind(client: ClientSession, origin: str) -> None:
    headers = {"Connection": "keep-alive, X-Private", "X-Private": "1", "TE": "trailers", "Keep-Alive": "timeout=5"}
    async with client.get(f"{origin}/here", headers=headers) as answer:
        echoed = await answer.json()
    assert [values(echoed, name) for name in headers] == [[], [], [], []]


async def test_redirects_and_errors_of_a_function_are_handed_on(client: ClientSession, origin: str) -> None:
    async with client.get(f"{origin}/here", headers={"Answer-With": "302"}, allow_redirects=False) as answer:
        assert answer.status == 302
        assert answer.headers["Location"] == "https://idp.example/authorize?a=b%2Fc"
    async with client.get(f"{origin}/here", headers={"Answer-With": "503"}) as answer:
        assert answer.status == 503


async def test_an_encoded_body_is_not_decoded_on_the_way(client: ClientSession, origin: str) -> None:
    headers = {"Content-Encoding": "gzip"}
    async with client.post(f"{origin}/here", data=b"not really gzip", headers=headers) as answer:
        echoed = await answer.json()
    assert echoed["body"] == "not really gzip"


@pytest.mark.parametrize("path", ["/", "/here/below", "/pagesbeside", "/%0A", "//here"])
async def test_an_unknown_path_is_answered_404_in_json(client: ClientSession, origin: str, path: str) -> None:
    async with client.get(URL(origin + path, encoded=True)) as answer:
        body = await answer.json()
    assert answer.status == 404
    assert body == {
        "error": "invalid_request",
        "reason_code": "not_found",
        "error_description": "There is nothing at this path.",
        "txn": answer.headers["CAB-Txn"],
    }


async def test_a_function_that_is_down_gives_the_standard_error(client: ClientSession, origin: str) -> None:
    async with client.post(f"{origin}/gone", data=b"x") as answer:
        body = await answer.json()
    assert answer.status == 503
    assert (body["error"], body["txn"]) == ("temporarily_unavailable", answer.headers["CAB-Txn"])
    assert answer.headers["Retry-After"] == "2"
    assert answer.headers["Cache-Control"] == "no-store"


async def test_a_body_over_one_mebibyte_is_refused(client: ClientSession, origin: str) -> None:
    limit = gateway.MAX_BODY_BYTES
    async with client.post(f"{origin}/here", data=io.BytesIO(bytes(limit))) as answer:
        assert answer.status == 200
    async with client.post(f"{origin}/here", data=io.BytesIO(bytes(limit + 1))) as answer:
        assert answer.status == 413
        assert (await answer.json())["reason_code"] == "body_too_large"


@pytest.mark.parametrize(
    ("path", "function"),
    [
        ("/edge/token", "mint_assertion"),
        ("/oauth2/token", "exchange_token"),
        ("/oauth2/introspect", "exchange_token"),
        ("/oauth2/revoke", "exchange_token"),
        ("/oauth2/jwks.json", "publish_metadata"),
        ("/edge/jwks.json", "publish_metadata"),
        ("/.well-known/oauth-authorization-server/oauth2", "publish_metadata"),
        ("/.well-known/openid-configuration", "publish_metadata"),
        ("/oauth2/.well-known/openid-configuration", "publish_metadata"),
        ("/connect", "connect_account"),
        ("/connect/callback/crm", "connect_account"),
        ("/approvals/abc", "connect_account"),
        ("/me", "connect_account"),
        ("/grants/token", None),
        ("/tools/call", "call_tool"),
        ("/tools", "call_tool"),
        ("/.well-known/oauth-protected-resource/mcp", "call_tool"),
        ("/oauth2/outcomes", "exchange_token"),
        ("/internal/calls", None),
        ("/mcp", "call_tool"),
    ],
)
def test_every_public_path_leads_to_its_function_and_private_ones_nowhere(path: str, function: str | None) -> None:
    names = ("mint_assertion", "exchange_token", "publish_metadata", "connect_account", "call_tool")
    routes = public_routes({name: name for name in names})
    assert next((route.origin for route in routes if route.matches(path)), None) == function


def write(file: Path, serving: dict[str, list[str]]) -> None:
    other = file.with_suffix(".new")
    other.write_text(json.dumps(serving), "utf-8")
    other.rename(file)


def test_instances_take_turns_from_the_next_request_on(tmp_path: Path) -> None:
    instances = Instances(tmp_path / "instances.json")
    assert instances.next("http://old") == "http://old"
    write(tmp_path / "instances.json", {"http://old": ["http://a", "http://b"]})
    assert {instances.next("http://old") for _ in range(2)} == {"http://a", "http://b"}
    assert instances.next("http://other") == "http://other"
    write(tmp_path / "instances.json", {})
    assert instances.next("http://old") == "http://old"


async def test_where_no_instance_serves_callers_are_told_to_come_back(client: ClientSession, tmp_path: Path) -> None:
    write(tmp_path / "instances.json", {"http://127.0.0.1:1": []})
    with PortLeases() as leases:
        port = leases.take_free()
        routes = (Route("/here", "http://127.0.0.1:1"),)
        front = await gateway.serve(routes, port, instances=Instances(tmp_path / "instances.json"))
        try:
            async with client.get(f"http://127.0.0.1:{port}/here") as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
                assert (await answer.json())["reason_code"] == "service_unavailable"
        finally:
            await front.cleanup()
