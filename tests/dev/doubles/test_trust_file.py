"""The file that tells a provider double whom to believe, and the keys that it fetches."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from cab_dev.doubles.oauth_provider import Account, load_trusted_issuers
from cab_dev.doubles.oauth_provider.trust_file import PublishedKeys

ALICE = Account(login="alice", account_id="crm-1", name="Alice", email="alice@acme.example")
KEYS = {"keys": [{"kty": "EC", "kid": "k1"}]}


class Publisher:
    """One answer for every request, and their number."""

    def __init__(self) -> None:
        self.status, self.body, self.asked = 200, json.dumps(KEYS).encode(), 0
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.asked += 1
                self.send_response(publisher.status)
                self.end_headers()
                self.wfile.write(publisher.body)

            def log_message(self, *_: Any) -> None:
                """Nothing is logged."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_port}/oauth2/jwks.json"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    running = Publisher()
    yield running
    running.stop()


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), "utf-8")
    return path


def test_without_a_file_nobody_is_trusted() -> None:
    assert load_trusted_issuers(None, [ALICE]) == ()


def test_an_account_goes_by_all_its_names_and_by_the_subjects_of_the_file(tmp_path: Path) -> None:
    entry = {"issuer": "cab", "keys": KEYS["keys"], "audiences": ["crm"], "id_jags": True}
    path = write(tmp_path / "trust.json", {"issuers": [entry], "subjects": {"key-of-alice": "alice"}})
    (trusted,) = load_trusted_issuers(path, [ALICE])
    assert trusted.accounts == dict.fromkeys(("alice", "alice@acme.example", "crm-1", "key-of-alice"), "crm-1")
    assert (trusted.issuer, trusted.audiences, trusted.id_jags, trusted.jwks()) == ("cab", ("crm",), True, KEYS)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        {"issuers": [{}]},
        {"issuers": [], "subjects": {"key-of-mallory": "mallory"}},
        {"issuers": [{"issuer": "cab", "jwks_uri": "https://elsewhere.example/keys"}]},
    ],
)
def test_a_file_that_makes_no_sense_ends_the_process(tmp_path: Path, content: Any) -> None:
    with pytest.raises(SystemExit):
        load_trusted_issuers(write(tmp_path / "trust.json", content), [ALICE])


def test_published_keys_are_fetched_when_they_are_needed_and_kept(publisher: Publisher) -> None:
    keys = PublishedKeys(publisher.uri)
    assert publisher.asked == 0
    assert (keys(), keys(), publisher.asked) == (KEYS, KEYS, 1)


@pytest.mark.parametrize(("status", "body"), [(503, b"{}"), (200, b"no json"), (200, b"[]")])
def test_keys_that_cannot_be_had_are_asked_for_again(publisher: Publisher, status: int, body: bytes) -> None:
    keys = PublishedKeys(publisher.uri)
    good, publisher.status, publisher.body = publisher.body, status, body
    with pytest.raises(OSError, match="keys"):
        keys()
    publisher.status, publisher.body = 200, good
    assert keys() == KEYS
