"""Acme's notes as an OAuth server of an MCP server is: nothing is issued but for the resource, and all that a client needs is published."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from examples.acme.services.notes import create_notes
from examples.acme.stack import organisation
from tests.dev.doubles.in_process import Client
from tests.support.trusted_acme import notes_entries

from cab.ports import HttpAnswer
from cab_dev.doubles.clients import RegisteredClient
from cab_dev.doubles.oauth_provider import s256
from cab_ops.catalog.discovery import discover

ORIGIN = "https://notes.test"
CALLBACK = "https://cab.test/connect/callback/notes"
RESOURCE = f"{ORIGIN}/mcp"
VERIFIER = "v" * 43
CLIENT = RegisteredClient(client_id="cab", client_secret="s", redirect_uris=(CALLBACK,))


@pytest.fixture
def http() -> Any:
    return Client(create_notes(issuer=ORIGIN, clients={"cab": CLIENT}), ORIGIN)


def authorize(http: Any, **changes: str) -> Any:
    query = {
        "response_type": "code",
        "client_id": "cab",
        "redirect_uri": CALLBACK,
        "scope": "note.read offline_access",
        "code_challenge": s256(VERIFIER),
        "code_challenge_method": "S256",
    }
    return http.get("/oauth/authorize", params=query | changes)


def redeem(http: Any, **changes: str) -> Any:
    page = authorize(http, resource=RESOURCE).text
    request_id = page.partition('name="request" value="')[2].partition('"')[0]
    back = http.post("/oauth/consent", data={"request": request_id, "account": "alice"})
    code = back.headers["location"].partition("code=")[2].partition("&")[0]
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "code_verifier": VERIFIER}
    return http.post("/oauth/token", data=form | changes, auth=("cab", "s"))


OTHERS: tuple[dict[str, str], ...] = ({}, {"resource": ORIGIN}, {"resource": "https://elsewhere.test/mcp"})


@pytest.mark.parametrize("named", OTHERS, ids=["none", "its origin", "another"])
def test_codes_and_tokens_are_issued_for_the_resource_only(http: Any, named: dict[str, str]) -> None:
    assert "error=invalid_target" in authorize(http, **named).headers["location"]
    assert redeem(http, **named).json()["error"] == "invalid_target"
    tokens = redeem(http, resource=RESOURCE).json()
    refresh = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    assert http.post("/oauth/token", data=refresh | named, auth=("cab", "s")).json()["error"] == "invalid_target"
    assert http.post("/oauth/token", data=refresh | {"resource": RESOURCE}, auth=("cab", "s")).status_code == 200


def test_a_stranger_is_told_where_the_metadata_is(http: Any) -> None:
    answer = http.post("/mcp", json={})
    assert answer.status_code == 401
    where = f"{ORIGIN}/.well-known/oauth-protected-resource/mcp"
    assert f'resource_metadata="{where}"' in answer.headers["www-authenticate"]
    assert http.get(where).json()["resource"] == RESOURCE


def test_what_it_publishes_is_discovered_as_the_entries_of_the_document(http: Any) -> None:
    class InProcess:
        async def get(self, url: str, *, headers: Mapping[str, str], max_bytes: int) -> HttpAnswer:
            answer = http.get(url, headers=dict(headers))
            return HttpAnswer(answer.status_code, dict(answer.headers), answer.content)

    def http_for(_: str) -> Any:
        return InProcess()

    found = asyncio.run(discover(RESOURCE, http_for, connection="notes"))
    documented = json.loads(json.dumps(notes_entries()).replace("${ACME_NOTES_ORIGIN}", ORIGIN))
    (provider,), (connection,) = documented["providers"], documented["connections"]
    for name in ("issuer", "iss_parameter", "authorization_endpoint", "token_endpoint", "base_scopes", "pkce"):
        assert found.provider[name] == provider[name]
    for name in ("resource", "client_secret"):
        assert found.connection[name] == connection[name]
    assert found.connection["mcp"].items() <= connection["mcp"].items()
    assert found.scopes == ["note.read", "note.write"]


def test_acme_starts_them_around_a_folder_that_declares_their_origin_and_no_other(tmp_path: Path) -> None:
    def names(*declared: str) -> set[str]:
        acme = organisation(lambda port: port, declared)
        services = acme.services(origin="http://127.0.0.1:8080", environment={}, folder=tmp_path, keys=tmp_path)
        assert ("ACME_NOTES_ORIGIN" in acme.variables) == ("notes" in acme.ports)
        return {service.name for service in services}

    assert names("ACME_NOTES_ORIGIN") - names("ACME_CRM_ORIGIN") == {"notes"}
