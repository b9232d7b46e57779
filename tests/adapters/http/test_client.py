"""The outbound client: configured origins, checked addresses, no redirects, capped in size and time (security.md I2)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from tests.adapters.http.serving import serving

from cab.adapters.http.client import AiohttpClient
from cab.adapters.http.origins import Origins, origin_of
from cab.encoding.trace_context import TraceContext, current
from cab.ports import AnswerTooLarge, SendFailed, Unavailable


@dataclass
class Server:
    """A server on loopback that shows what it was sent."""

    origin: str = ""
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    hold: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs, dict(request.headers), await request.read()))
        match request.path:
            case "/redirect":
                return web.Response(status=302, headers={"Location": f"{self.origin}/target"})
            case "/large":
                return web.Response(body=b"x" * 200_000)
            case "/hang":
                await self.hold.wait()
            case "/cookie":
                return web.Response(headers={"Set-Cookie": "a=b"})
            case "/reset":
                assert request.transport is not None
                request.transport.abort()
            case "/drop-once" if len(self.requests) > 1:
                # What a server does that closes an idle connection just as the next request arrives on it.
                assert request.transport is not None
                request.transport.abort()
            case "/drip":
                response = web.StreamResponse()
                await response.prepare(request)
                for _ in range(100):
                    await response.write(b".")
                    await asyncio.sleep(0.05)
                return response
            case "/policy":
                return web.Response(headers={"Content-Security-Policy": "x" * 32_000}, text="answered")
            case "/gzip":
                return web.Response(body=b"\x1f\x8b not really", headers={"Content-Encoding": "gzip"})
        return web.Response(status=201, text="answered", headers={"X-Two-Words": "kept"})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    async with serving(server.handle) as server.origin:
        yield server
        server.hold.set()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AiohttpClient]:
    client = AiohttpClient([server.origin], what="provider", allow_loopback_http=True)
    yield client
    await client.close()


async def test_an_answer_has_status_headers_and_body(server: Server, client: AiohttpClient) -> None:
    answer = await client.get(f"{server.origin}/a?b=c", headers={"Authorization": "Bearer x"})
    assert (answer.status, answer.body, answer.headers["x-two-words"]) == (201, b"answered", "kept")
    ((method, path, headers, body),) = server.requests
    assert (method, path, body) == ("GET", "/a?b=c", b"")
    assert headers["Authorization"] == "Bearer x"
    assert headers["Accept-Encoding"] == "identity"


async def test_a_form_and_a_document_arrive_as_such(server: Server, client: AiohttpClient) -> None:
    await client.post_form(f"{server.origin}/f", {"a": "b c", "d": "é&="})
    await client.post_json(f"{server.origin}/j", {"a": [1, None]})
    form, document = server.requests
    assert (form[2]["Content-Type"], form[3]) == ("application/x-www-form-urlencoded", b"a=b+c&d=%C3%A9%26%3D")
    assert (document[2]["Content-Type"], document[3]) == ("application/json", b'{"a":[1,null]}')


async def test_a_redirect_is_an_answer_and_is_never_followed(server: Server, client: AiohttpClient) -> None:
    assert (await client.get(f"{server.origin}/redirect")).status == 302
    assert (await client.post_form(f"{server.origin}/redirect", {})).status == 302
    assert [path for _, path, _, _ in server.requests] == ["/redirect", "/redirect"]


async def test_cookies_are_not_kept(server: Server, client: AiohttpClient) -> None:
    await client.get(f"{server.origin}/cookie")
    await client.get(f"{server.origin}/after")
    assert "Cookie" not in server.requests[-1][2]


async def test_an_encoded_answer_is_not_unpacked(server: Server, client: AiohttpClient) -> None:
    assert (await client.get(f"{server.origin}/gzip")).body == b"\x1f\x8b not really"


async def test_an_answer_with_a_long_header_is_read(server: Server, client: AiohttpClient) -> None:
    """An answer that cannot be read may have held the successor of a refresh token. It ended at 8 KiB."""
    assert (await client.post_form(f"{server.origin}/policy", {})).body == b"answered"


async def test_an_answer_beyond_the_limit_is_refused(server: Server, client: AiohttpClient) -> None:
    with pytest.raises(AnswerTooLarge):
        await client.get(f"{server.origin}/large", max_bytes=199_999)
    assert len((await client.get(f"{server.origin}/large", max_bytes=200_000)).body) == 200_000


async def test_a_hanging_server_is_given_up_in_time_and_may_have_heard(server: Server, client: AiohttpClient) -> None:
    started = asyncio.get_running_loop().time()
    with pytest.raises(SendFailed) as failed:
        await client.post_form(f"{server.origin}/hang", {"a": "b"}, timeout_s=0.2)
    assert asyncio.get_running_loop().time() - started < 5
    assert (failed.value.what, failed.value.may_have_arrived) == ("provider", True)


async def test_a_connection_that_breaks_may_have_carried_the_request(server: Server, client: AiohttpClient) -> None:
    with pytest.raises(SendFailed) as failed:
        await client.post_form(f"{server.origin}/reset", {"a": "b"})
    assert failed.value.may_have_arrived


async def test_a_refused_connection_has_carried_nothing() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        client = AiohttpClient([origin], what="provider", allow_loopback_http=True)
        with pytest.raises(SendFailed) as failed:
            await client.get(f"{origin}/a")
        await client.close()
    assert not failed.value.may_have_arrived
    assert isinstance(failed.value, Unavailable)


ELSEWHERE = [
    "http://127.0.0.2/a",
    "https://evil.test/a",
    "http://user@{host}/a",
    "http://user:pass@{host}/a",
    "https://{host}/a",
    "ftp://{host}/a",
    "//{host}/a",
    "/a",
    "",
    "http://{host}.evil.test/a",
    "http://{host}@evil.test/a",
    "http:{host}/a",
]


@pytest.mark.parametrize("url", ["https://api.example.com", "https://api.example.co:4", "https://api.example.cox/a"])
def test_an_origin_that_is_known_opens_none_that_is_longer(url: str) -> None:
    origins = Origins(["https://api.example.co", "https://api.example.co:"])
    assert origins.include("https://api.example.co/a")
    assert origins.include("https://api.example.co:/a")
    assert not origins.include(url)


@pytest.mark.parametrize("url", ELSEWHERE)
async def test_another_origin_than_the_configured_ones_is_never_called(
    server: Server, client: AiohttpClient, url: str
) -> None:
    await client.get(f"{server.origin}/a")  # from now on, the origin is known as one that may be called
    server.requests.clear()
    with pytest.raises(SendFailed) as failed:
        await client.get(url.format(host=server.origin.removeprefix("http://")))
    assert not failed.value.may_have_arrived
    assert server.requests == []


@pytest.mark.parametrize(
    "origin",
    [
        "http://example.test",
        "http://127.0.0.1:9",
        "http://localhost:9",
        "https://127.0.0.1:9",
        "https://169.254.169.254",
        "https://10.0.0.1",
        "https://[::1]:9",
        "https://[64:ff9b::a9fe:a9fe]",
        "https://localhost:9",
        "https://127.1:9",
        "https://2130706433:9",
        "https://0x7f.1:9",
        "https://017700000001:9",
        "https://metadata.google.internal",
    ],
)
async def test_in_the_cloud_no_plain_http_and_no_inner_address_is_called(origin: str) -> None:
    """Even when the configuration names it."""
    client = AiohttpClient([origin], what="identity_provider")
    with pytest.raises(SendFailed) as failed:
        await client.get(f"{origin}/keys", timeout_s=2)
    await client.close()
    assert not failed.value.may_have_arrived


@pytest.mark.parametrize(
    "origin", ["http://example.test", "http://10.0.0.1", "http://169.254.169.254", "http://0.0.0.0:9"]
)
async def test_the_local_switch_opens_loopback_and_nothing_else(origin: str) -> None:
    client = AiohttpClient([origin], what="identity_provider", allow_loopback_http=True)
    with pytest.raises(SendFailed) as failed:
        await client.get(f"{origin}/keys", timeout_s=2)
    await client.close()
    assert not failed.value.may_have_arrived


async def test_a_name_that_resolves_inside_is_refused_at_connect_time(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the name is public by configuration, the address it has today is not."""
    port = server.origin.rpartition(":")[2]
    inside = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))]
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lambda *_, **__: _done(inside))
    client = AiohttpClient([f"https://idp.test:{port}"], what="identity_provider", allow_loopback_http=True)
    with pytest.raises(SendFailed):
        await client.get(f"https://idp.test:{port}/keys", timeout_s=2)
    await client.close()
    assert server.requests == []


@pytest.mark.parametrize(
    ("host", "address", "reached"),
    [
        ("keycloak.corp.test", "10.1.2.3", True),
        ("keycloak.corp.test", "fd12::1", True),
        ("keycloak.corp.test", "142.250.74.46", True),
        ("keycloak.corp.test", "127.0.0.1", False),
        ("keycloak.corp.test", "169.254.169.254", False),
        ("keycloak.corp.test", "fd20:ce::254", False),
        ("other.corp.test", "10.1.2.3", False),
        ("x.keycloak.corp.test", "10.1.2.3", False),
    ],
)
async def test_a_private_address_is_reached_only_for_a_host_that_is_named(
    host: str, address: str, reached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judged by the address at connect time, so a named host that is rebound to a metadata service is not reached."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    place = (address, 443, 0, 0) if ":" in address else (address, 443)
    found = [(family, socket.SOCK_STREAM, 6, "", place)]
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lambda *_, **__: _done(found))
    tried: list[str] = []

    async def connect(*_: object, addr_infos: list[Any], **__: object) -> None:
        tried.extend(item[4][0] for item in addr_infos)
        raise OSError("nobody is there")

    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", connect)
    client = AiohttpClient([f"https://{host}"], what="provider", private_hosts=["keycloak.corp.test"])
    with pytest.raises(SendFailed):
        await client.get(f"https://{host}/keys", timeout_s=2)
    await client.close()
    assert tried == ([address] if reached else [])


@pytest.mark.parametrize(("host", "called"), [("10.9.8.7", True), ("169.254.169.254", False), ("127.0.0.1", False)])
async def test_an_address_itself_may_be_named_if_it_is_private(
    host: str, called: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    async def connect(*_: object, addr_infos: list[Any], **__: object) -> None:
        tried.extend(item[4][0] for item in addr_infos)
        raise OSError("nobody is there")

    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", connect)
    client = AiohttpClient([f"https://{host}"], what="provider", private_hosts=[host])
    with pytest.raises(SendFailed):
        await client.get(f"https://{host}/keys", timeout_s=2)
    await client.close()
    assert tried == ([host] if called else [])


async def _done(value: object) -> object:
    return value


async def test_without_keep_alive_every_call_has_a_connection_of_its_own(server: Server) -> None:
    client = AiohttpClient([server.origin], what="provider", allow_loopback_http=True, keep_alive=False)
    for _ in range(2):
        await client.get(f"{server.origin}/a")
    await client.close()
    assert [headers.get("Connection") for _, _, headers, _ in server.requests] == ["close", "close"]


async def test_proxies_of_the_environment_have_no_say(
    server: Server, client: AiohttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert (await client.get(f"{server.origin}/a")).status == 201


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://a.test/keys?x#y", "https://a.test"),
        ("https://a.test:8443/keys", "https://a.test:8443"),
        ("http://127.0.0.1:8081", "http://127.0.0.1:8081"),
    ],
)
def test_the_origin_of_a_url(url: str, origin: str) -> None:
    assert origin_of(url) == origin


async def test_the_trace_of_the_request_under_way_is_sent_on_and_none_is_made_up(
    server: Server, client: AiohttpClient
) -> None:
    trace = TraceContext("0123456789abcdef0123456789abcdef", "00f067aa0ba902b7", is_sampled=True)
    await client.get(f"{server.origin}/a")
    token = current.set(trace)
    try:
        await client.post_form(f"{server.origin}/b", {"a": "b"})
        await client.get(f"{server.origin}/c", headers={"traceparent": "its own"})
    finally:
        current.reset(token)
    assert [headers.get("traceparent") for _, _, headers, _ in server.requests] == [None, trace.traceparent, "its own"]
