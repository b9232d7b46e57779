"""The metadata server, and others that answer in its place."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from google.auth.credentials import TokenState
from google.auth.exceptions import RefreshError

from cab.adapters.google_cloud import metadata_server
from cab.adapters.google_cloud.metadata_server import MetadataCredentials

GOOD = b'{"access_token":"canary-3f9a","expires_in":3599,"token_type":"Bearer"}'


class Server(HTTPServer):
    """Answers every GET with `status`, `flavor` and `body`; keeps the paths and headers it got."""

    status, flavor, body = 200, "Google", GOOD

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Metadata-Flavor")))
        self.send_response(self.server.status)
        self.send_header("Metadata-Flavor", self.server.flavor)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _state(credentials: MetadataCredentials) -> TokenState:
    state: TokenState = credentials.token_state
    return state


def test_an_access_token_is_fresh_until_minutes_before_its_end(server: Server) -> None:
    credentials: Any = MetadataCredentials()
    credentials.refresh(None)
    headers: dict[str, str] = {}
    credentials.apply(headers)
    assert headers == {"authorization": "Bearer canary-3f9a"}
    assert _state(credentials) is TokenState.FRESH
    server.body = GOOD.replace(b"3599", b"100")
    credentials.refresh(None)
    assert _state(credentials) is TokenState.STALE
    assert server.asked == [("/computeMetadata/v1/instance/service-accounts/default/token", "Google")] * 2


def test_the_audience_of_an_identity_token_is_quoted(server: Server) -> None:
    server.body = b"a.b.c\n"
    assert metadata_server.identity_token("https://x?a=b&c") == "a.b.c"
    assert server.asked[0][0].endswith("/identity?audience=https%3A%2F%2Fx%3Fa%3Db%26c&format=full")


@pytest.mark.parametrize(
    ("status", "flavor", "body"),
    [
        (404, "Google", GOOD),
        (302, "Google", GOOD),
        (200, "Other", GOOD),
        (200, "Google", b"canary-3f9a"),
        (200, "Google", b'["canary-3f9a"]'),
        (200, "Google", b'{"access_token":"canary-3f9a"}'),
        (200, "Google", b'{"access_token":"canary-3f9a","expires_in":null}'),
    ],
)
def test_any_other_answer_is_no_token_and_is_not_quoted(server: Server, status: int, flavor: str, body: bytes) -> None:
    server.status, server.flavor, server.body = status, flavor, body
    with pytest.raises(RefreshError) as error:
        MetadataCredentials().refresh(None)
    assert "canary" not in repr(error.value)


def test_where_nobody_listens_there_is_no_token(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
    with pytest.raises(RefreshError):
        metadata_server.identity_token("a")


@pytest.mark.parametrize(
    ("variables", "is_here"),
    [
        ({}, False),
        ({"K_SERVICE": "exchange-token"}, True),
        ({"GCE_METADATA_HOST": "127.0.0.1:1"}, True),
        ({"K_SERVICE": "exchange-token", "GOOGLE_APPLICATION_CREDENTIALS": "key.json"}, False),
    ],
)
def test_it_speaks_for_this_process_unless_another_identity_was_given(
    variables: dict[str, str], is_here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("K_SERVICE", "GCE_METADATA_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert metadata_server.is_here() is is_here
