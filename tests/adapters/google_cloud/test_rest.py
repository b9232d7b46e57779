"""Calls over REST: who gets this process's access token (Google over TLS, and nobody else), and what an answer means."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import google.auth.exceptions
import pytest
from google.auth.credentials import TokenState
from tests.adapters.google_cloud.http_server import HttpServer, serving
from tests.adapters.http.authorities import Authority

from cab.adapters.google_cloud.access_tokens import AccessTokens, NoCredentials
from cab.adapters.google_cloud.rest import GoogleApi, Refused, Status
from cab.ports import Unavailable
from cab_dev.services import google_identity

ACCOUNT = "exchange-token@demo-cab.iam.gserviceaccount.com"
CANARY = "canary-3f9a"
# Where the metadata server is and which authorities are trusted is read once per process.
PROGRAM = """
import asyncio, sys, uvloop
from cab.adapters.google_cloud.rest import GoogleApi
from cab.ports import Unavailable

async def main():
    api = GoogleApi("test", host=sys.argv[1], emulator_variable="NOT_SET")
    for _ in "ab":
        try:
            print(await api.call("WhoAmI", "/v1/me", read=lambda answer: answer["well"], budget_s=5))
        except Unavailable:
            print("unavailable")
    await api.close()

{'asyncio': asyncio, 'uvloop': uvloop}[sys.argv[2]].run(main())
"""


async def said_by_a_process(
    folder: Path, server: HttpServer, *, its_name: str, trusts_it: bool, loop: str = "asyncio"
) -> str:
    """What a process prints that calls `localhost` twice, as the account on Google's platform."""
    authority = Authority(folder)
    trusted = authority if trusts_it else Authority(folder, name="other")
    async with (
        google_identity.serving(port=0, issuer="i", accounts={ACCOUNT: 0}) as listening,
        serving(server, authority.server(its_name)),
    ):
        environment = {name: value for name, value in os.environ.items() if name != "GOOGLE_APPLICATION_CREDENTIALS"}
        environment |= {
            "GCE_METADATA_HOST": listening.metadata[ACCOUNT],
            "GCE_METADATA_IP": listening.metadata[ACCOUNT],
            "SSL_CERT_FILE": str(trusted.roots()),
            "HTTPS_PROXY": "http://127.0.0.1:1",  # is not asked
            "https_proxy": "http://127.0.0.1:1",
            "CLOUDSDK_CONFIG": str(folder),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        command = [sys.executable, "-c", PROGRAM, f"localhost:{server.port}", loop]
        done = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, check=False
        )
    return done.stdout


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_google_gets_the_access_token_of_the_function_over_tls_on_one_connection(
    tmp_path: Path, loop: str
) -> None:
    server = HttpServer(body={"well": "well"})
    said = await said_by_a_process(tmp_path, server, its_name="localhost", trusts_it=True, loop=loop)
    assert said == "well\nwell\n"
    assert server.connected == 1
    for head in server.heads:
        assert head.startswith(f"GET /v1/me HTTP/1.1\r\nhost: localhost:{server.port}\r\n")
        assert f"\r\nauthorization: Bearer {google_identity.DUMMY_ACCESS_TOKEN}\r\n" in head


@pytest.mark.parametrize(("its_name", "trusts_it"), [("elsewhere.example", True), ("localhost", False)])
async def test_whoever_cannot_prove_to_be_the_host_gets_nothing(
    tmp_path: Path, its_name: str, *, trusts_it: bool
) -> None:
    server = HttpServer(body={"well": "well"})
    said = await said_by_a_process(tmp_path, server, its_name=its_name, trusts_it=trusts_it)
    assert said == "unavailable\nunavailable\n"
    assert server.heads == []


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HttpServer]:
    async with serving(HttpServer()) as server:
        monkeypatch.setenv("TEST_EMULATOR_HOST", f"localhost:{server.port}")
        yield server


@pytest.fixture
async def api(server: HttpServer) -> AsyncIterator[GoogleApi]:
    api = GoogleApi("test", host="localhost:1", emulator_variable="TEST_EMULATOR_HOST")
    yield api
    await api.close()


async def call(api: GoogleApi, *, retry_on: frozenset[Status] = frozenset()) -> Any:
    return await api.call(
        "Do",
        "/v1/it:do",
        {"a": 1},
        read=lambda answer: answer,
        budget_s=2,
        retry_on=retry_on,
        expected=frozenset(Status),
    )


async def test_an_emulator_gets_no_token(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = AccessTokens()
    monkeypatch.setattr(tokens, "_lines", b"authorization: Bearer secret\r\n")
    api = GoogleApi("test", host="localhost:1", emulator_variable="TEST_EMULATOR_HOST", tokens=tokens)
    await api.call("WhoAmI", "/v1/me", read=dict, budget_s=5)
    await api.close()
    assert "authorization" not in server.heads[0]


async def test_a_call_is_sent_once_as_json_and_says_how_long_it_is(server: HttpServer, api: GoogleApi) -> None:
    assert await call(api) == {}
    assert server.bodies == [b'{"a":1}']
    assert server.heads[0].startswith("POST /v1/it:do HTTP/1.1\r\n")
    assert "\r\ncontent-type: application/json\r\ncontent-length: 7\r\n" in server.heads[0]


def error(status: object) -> dict[str, Any]:
    return {"error": {"code": 409, "message": CANARY, "status": status}}


MEANINGS: dict[str, tuple[int, object, str]] = {
    "an error": (409, error("ABORTED"), "ABORTED"),
    "another with the same number": (409, error("ALREADY_EXISTS"), "ALREADY_EXISTS"),
    "of a method that streams": (404, [error("NOT_FOUND")], "NOT_FOUND"),
    "in the middle of a stream": (200, [{"found": {}}, error("ABORTED")], "ABORTED"),
    "a word that is none": (400, error("SOMETHING"), "UNKNOWN"),
    "no word": (404, error(None), "UNKNOWN"),
    "another shape": (404, {"error": "invalid"}, "UNKNOWN"),
    "of a front end that knows no documents": (404, b"<html>404</html>", "UNKNOWN"),
    "of a front end that is busy": (503, b"<html>503</html>", "UNAVAILABLE"),
    "of a front end that nobody answers": (502, b"", "UNAVAILABLE"),
    "a redirect": (302, {}, "UNKNOWN"),
    "empty": (204, b"", "UNKNOWN"),
    "no JSON": (200, b"<html>200</html>", "INTERNAL"),
    "JSON that is cut off": (200, b'{"a": ', "INTERNAL"),
    "a stream of other things": (200, [1], "INTERNAL"),
    "JSON of a depth that nobody needs": (200, b"[" * 100_000, "INTERNAL"),
}


@pytest.mark.parametrize("meaning", MEANINGS)
async def test_what_an_answer_means(
    server: HttpServer, api: GoogleApi, meaning: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.status, server.body, status = MEANINGS[meaning]
    with caplog.at_level(logging.DEBUG), pytest.raises(Refused) as refused:
        await call(api)
    assert refused.value.status == status
    assert CANARY not in caplog.text + repr(refused.value)
    assert len(server.heads) == 1
    with pytest.raises(Unavailable):  # for who did not ask to see it
        await api.call("Do", "/v1/it:do", {}, read=lambda answer: answer["none"]["such"], budget_s=2)


async def test_only_what_may_be_done_twice_is_tried_again(server: HttpServer, api: GoogleApi) -> None:
    server.status, server.body = 409, error("ABORTED")
    with pytest.raises(Refused):
        await call(api, retry_on=frozenset({Status.UNAVAILABLE}))
    assert len(server.heads) == 1
    with pytest.raises(Refused):
        await call(api, retry_on=frozenset({Status.ABORTED}))
    assert len(server.heads) == 4


async def test_an_answer_that_nobody_understands_is_unavailable(server: HttpServer, api: GoogleApi) -> None:
    server.body = {"writeResults": None}
    with pytest.raises(Unavailable):
        await api.call("Do", "/v1/it", {}, read=lambda answer: len(answer["writeResults"]), budget_s=2)
    assert len(server.heads) == 1


@pytest.mark.parametrize("path", ["/v1/x\r\nhost: evil", "/v1/\u00fc", "/v1/a b"])
async def test_a_path_that_would_be_something_else_is_never_sent(server: HttpServer, api: GoogleApi, path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        await api.call("Do", path, read=dict, budget_s=2)
    assert server.heads == []


class Credentials:
    """Stands for google-auth's: `refresh` gives token 1, 2, ..."""

    def __init__(self) -> None:
        self.token_state = TokenState.INVALID
        self.refreshed = 0
        self.before: Callable[[], None] = lambda: None

    def refresh(self, _: Any) -> None:
        self.before()
        self.refreshed += 1
        self.token_state = TokenState.FRESH

    def apply(self, headers: dict[str, str]) -> None:
        headers["Authorization"] = f"Bearer {self.refreshed}"


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> Credentials:
    credentials = Credentials()
    monkeypatch.setattr(google.auth, "default", lambda **_: (credentials, "project"))
    return credentials


async def test_a_token_is_fetched_once_for_all_and_again_when_it_is_no_longer_fresh(credentials: Credentials) -> None:
    tokens = AccessTokens()
    first = await asyncio.gather(*(tokens.lines() for _ in range(20)))
    assert set(first) == {b"authorization: Bearer 1\r\n"}
    credentials.token_state = TokenState.STALE
    assert await tokens.lines() == b"authorization: Bearer 2\r\n"


def fail() -> None:
    raise google.auth.exceptions.RefreshError("canary-3f9a")


async def test_a_failed_refresh_says_nothing_of_why_and_is_tried_again(credentials: Credentials) -> None:
    tokens = AccessTokens()
    credentials.before = fail
    with pytest.raises(NoCredentials) as error:
        await tokens.lines()
    assert "canary" not in repr(error.value)
    credentials.before = lambda: None
    assert await tokens.lines() == b"authorization: Bearer 1\r\n"


async def test_a_call_without_credentials_is_unavailable(
    credentials: Credentials, caplog: pytest.LogCaptureFixture
) -> None:
    credentials.before = fail
    api = GoogleApi("documents", host="localhost:1", emulator_variable="NOT_SET")
    with pytest.raises(Unavailable) as unavailable:
        await api.call("WhoAmI", "/v1/me", read=dict, budget_s=1)
    assert unavailable.value.what == "documents"
    assert "canary" not in caplog.text
    await api.close()


async def test_a_token_that_would_end_its_line_is_none(
    credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        credentials, "apply", lambda headers: headers.update({"Authorization": "Bearer x\r\nhost: evil"})
    )
    with pytest.raises(NoCredentials):
        await AccessTokens().lines()
