"""Whose certificate is believed, by every client and on every Python, and what is said where one is not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from tests.adapters.google_cloud.http_server import HttpServer, serving
from tests.adapters.http.authorities import DEVIATIONS, Authority

from cab.adapters.google_cloud.access_tokens import AccessTokens
from cab.adapters.google_cloud.rest import GoogleApi
from cab.adapters.http.aiohttp_wire import why_failed
from cab.adapters.http.client import AiohttpClient
from cab.adapters.http.own_function import OwnFunction
from cab.adapters.http.platforms import Platforms
from cab.adapters.http.published import PublishedDocuments
from cab.adapters.http.tls import tls_context
from cab.ports import SendFailed, Unavailable

Trust = Callable[[Path], None]

_AT_FIRST: Final = ssl.VERIFY_X509_TRUSTED_FIRST
# What `ssl.create_default_context` verifies by. Each is tried on every Python.
DEFAULTS: Final = {
    "Python 3.11": _AT_FIRST,
    "Python 3.13": _AT_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT,
}


@pytest.fixture(params=DEFAULTS)
def trust(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trust]:
    """Whoever calls trusts the certificates of this file, and no others, by the defaults of one Python."""
    defaults = DEFAULTS[request.param]

    def only(file: Path) -> None:
        def create_default_context() -> ssl.SSLContext:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.verify_flags = defaults
            context.load_verify_locations(file)
            return context

        monkeypatch.setattr(ssl, "create_default_context", create_default_context)

    tls_context.cache_clear()
    yield only
    tls_context.cache_clear()


async def published(origin: str) -> Any:
    return await PublishedDocuments([origin], what="x", allow_loopback_http=True).get(f"{origin}/a")


async def oauth(origin: str) -> Any:
    client = AiohttpClient([origin], what="x", allow_loopback_http=True)
    try:
        return await client.get(f"{origin}/a")
    finally:
        await client.close()


async def platform(origin: str) -> Any:
    client = Platforms([origin], what="x", allow_loopback_http=True, keep_alive=False)
    return await client.send("GET", f"{origin}/a", body=None, headers={}, timeout_s=5, max_bytes=1000)


async def own_function(origin: str) -> Any:
    client = OwnFunction(origin, what="x", allow_loopback_http=True)
    try:
        return await client.post_json(f"{origin}/a", {})
    finally:
        await client.close()


async def google(origin: str) -> Any:
    class NoTokens(AccessTokens):
        def fresh(self) -> bytes:
            return b""

    api = GoogleApi("x", host=origin.removeprefix("https://"), emulator_variable="NOT_SET", tokens=NoTokens())
    try:
        return await api.call("Do", "/a", {}, read=dict, budget_s=5)
    finally:
        await api.close()


Ask = Callable[[str], Awaitable[Any]]
CLIENTS: Final = (published, oauth, platform, own_function, google)
each_client = pytest.mark.parametrize("ask", CLIENTS)


async def is_heard(ask: Ask, context: ssl.SSLContext) -> bool:
    async with serving(HttpServer(), context) as server:
        await ask(f"https://localhost:{server.port}")
    return len(server.heads) == 1


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "cab.adapters.http.tls"]


@each_client
@pytest.mark.parametrize("deviation", DEVIATIONS)
async def test_a_chain_that_verifies_is_believed_however_its_authority_writes(
    trust: Trust, tmp_path: Path, ask: Ask, deviation: str
) -> None:
    authority = Authority(tmp_path, deviation)
    trust(authority.roots())
    assert await is_heard(ask, authority.server())


@each_client
async def test_an_authority_that_is_trusted_by_itself_needs_no_root(trust: Trust, tmp_path: Path, ask: Ask) -> None:
    authority = Authority(tmp_path)
    trust(authority.below())
    assert await is_heard(ask, authority.server())


@each_client
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("expired", "certificate has expired"),
        ("not begun", "certificate is not yet valid"),
        ("other name", "Hostname mismatch, certificate is not valid for 'localhost'."),
        ("other authority", "unable to get local issuer certificate"),
        ("signed by a server", "invalid CA certificate"),
        ("not the authority's to vouch for", "permitted subtree violation"),
    ],
)
async def test_who_does_not_prove_to_be_the_host_hears_nothing_and_only_the_log_says_why(
    trust: Trust, tmp_path: Path, caplog: pytest.LogCaptureFixture, ask: Ask, wrong: str, words: str
) -> None:
    authority = Authority(
        tmp_path,
        may_sign=wrong != "signed by a server",
        only_for="corp.example" if wrong == "not the authority's to vouch for" else None,
    )
    trust((Authority(tmp_path, name="other") if wrong == "other authority" else authority).roots())
    since = {"expired": timedelta(days=-2), "not begun": timedelta(hours=1)}.get(wrong, timedelta(hours=-1))
    context = authority.server("elsewhere.example" if wrong == "other name" else "localhost", since=since)
    server = HttpServer()

    async with serving(server, context):
        with pytest.raises(Unavailable) as failed:
            await ask(f"https://localhost:{server.port}")

    assert server.heads == []
    assert set(said(caplog)) == {f"no TLS with localhost: {words}"}
    assert (failed.value.what, str(failed.value)) == ("x", "x")


@each_client
async def test_the_log_says_that_the_other_side_speaks_no_tls(
    trust: Trust, tmp_path: Path, caplog: pytest.LogCaptureFixture, ask: Ask
) -> None:
    async def answer_in_clear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    trust(Authority(tmp_path).roots())
    listening = await asyncio.start_server(answer_in_clear, "localhost", 0)
    with pytest.raises(Unavailable):
        await ask(f"https://localhost:{listening.sockets[0].getsockname()[1]}")
    listening.close()
    assert set(said(caplog)) <= {
        f"no TLS with localhost: {it}" for it in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
    }
    assert said(caplog)


async def test_the_commands_that_check_say_why_tls_fails(trust: Trust, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    trust(authority.roots())
    async with serving(HttpServer(), authority.server(since=timedelta(days=-2))) as server:
        with pytest.raises(SendFailed) as failed:
            await oauth(f"https://localhost:{server.port}")
    assert why_failed(failed.value) == "TLS: certificate has expired"
