"""Clients of a double: where secrets come from, and which redirect URIs match."""

import json
from pathlib import Path
from typing import Any

import pytest

from cab_dev.doubles.clients import RegisteredClient, load_clients


def write(folder: Path, document: Any) -> Path:
    file = folder / "clients.json"
    file.write_text(json.dumps(document))
    return file


def test_secrets_are_read_from_where_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("from-file\n")
    monkeypatch.setenv("DOUBLE_TEST_SECRET", "from-env")
    entries = [
        {"client_id": "a", "redirect_uris": [], "client_secret_file": str(tmp_path / "secret")},
        {"client_id": "b", "redirect_uris": [], "client_secret_env": "DOUBLE_TEST_SECRET"},
        {"client_id": "c", "redirect_uris": ["http://127.0.0.1:1/cb"], "name": "C"},
    ]
    clients = load_clients(write(tmp_path, {"clients": entries}))
    assert clients["a"].secret_is("from-file")
    assert clients["b"].secret_is("from-env")
    assert clients["c"].client_secret is None
    assert not clients["c"].secret_is("")


def test_no_file_means_no_clients() -> None:
    assert load_clients(None) == {}


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"clients": {}},
        {"clients": [7]},
        {"clients": [{"client_id": "a"}]},
        {"clients": [{"client_id": "a", "redirect_uris": [], "client_secret_file": "/nonexistent"}]},
        {"clients": [{"client_id": "a", "redirect_uris": [], "client_secret_env": "DOUBLE_TEST_UNSET"}]},
    ],
)
def test_a_file_that_makes_no_sense_ends_the_start(tmp_path: Path, document: Any) -> None:
    with pytest.raises(SystemExit, match=r"clients\.json"):
        load_clients(write(tmp_path, document))


def test_an_unreadable_file_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="cannot read"):
        load_clients(tmp_path / "missing.json")


def test_a_client_never_shows_its_secret() -> None:
    client = RegisteredClient(client_id="a", client_secret="hidden", redirect_uris=())
    assert "hidden" not in repr(client)
    assert "hidden" not in f"{client}"


@pytest.mark.parametrize(
    ("registered", "presented", "matches"),
    [
        ("https://a.example/cb", "https://a.example/cb", True),
        ("https://a.example/cb", "https://a.example/cb?x=1", False),
        ("https://a.example/cb", "https://A.example/cb", False),
        ("http://127.0.0.1:*/cb", "http://127.0.0.1:1/cb", True),
        ("http://127.0.0.1:*/cb", "http://127.0.0.1:65535/cb", True),
        ("http://127.0.0.1:*/cb", "http://127.0.0.1:65536/cb", False),
        ("http://127.0.0.1:*/cb", "http://127.0.0.1:1/cb2", False),
        ("http://127.0.0.1:*/cb", "http://127.0.0.1:*/cb", False),
        ("http://127.0.0.1:*/cb", "http://127.0.0.1.evil.example:1/cb", False),
        ("https://*.example/cb", "https://a.example/cb", False),
        ("https://*.example/cb", "https://*.example/cb", True),
    ],
)
def test_redirect_uris_match_exactly_but_for_the_loopback_port(registered: str, presented: str, matches: bool) -> None:
    assert RegisteredClient(client_id="a", redirect_uris=(registered,)).allows_redirect(presented) is matches
