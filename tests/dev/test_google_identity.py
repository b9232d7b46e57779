"""The local stack's stand-in for Google's token signer and metadata server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest

import cab_dev
from cab_dev.identity_client import IdentityClient, TokenUnavailable
from cab_dev.services import google_identity
from cab_dev.services.google_identity import DUMMY_ACCESS_TOKEN, Listening, project_of, unique_id

ISSUER = "https://accounts.google.test"
EXCHANGE = "exchange-token@demo-cab.iam.gserviceaccount.com"
PUSH = "pubsub-push@demo-cab.iam.gserviceaccount.com"
SOURCE_ROOT = Path(cab_dev.__file__).parents[1]


@pytest.fixture
async def identity() -> AsyncIterator[Listening]:
    async with google_identity.serving(port=0, issuer=ISSUER, accounts={EXCHANGE: 0, PUSH: None}) as listening:
        yield listening


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def get_json(http: aiohttp.ClientSession, url: str) -> Any:
    async with http.get(url) as response:
        assert response.status == 200
        return await response.json()


async def get_metadata(http: aiohttp.ClientSession, listening: Listening, path: str) -> tuple[int, str]:
    url = f"http://{listening.metadata[EXCHANGE]}{path}"
    async with http.get(url, headers={"Metadata-Flavor": "Google"}) as response:
        assert response.headers["Metadata-Flavor"] == "Google"
        return response.status, await response.text()


async def verified_claims(http: aiohttp.ClientSession, listening: Listening, token: str, audience: str) -> Any:
    key_set = jwt.PyJWKSet.from_dict(await get_json(http, listening.url + "/jwks"))
    key = key_set[jwt.get_unverified_header(token)["kid"]]
    return jwt.decode(token, key, algorithms=["RS256"], audience=audience, issuer=ISSUER)


async def test_a_token_has_the_claims_of_googles(identity: Listening, http: aiohttp.ClientSession) -> None:
    token = await IdentityClient(identity.url).token(PUSH, "http://audit")
    claims = await verified_claims(http, identity, token, "http://audit")
    now = time.time()
    assert claims == {
        "iss": ISSUER,
        "aud": "http://audit",
        "azp": unique_id(PUSH),
        "sub": unique_id(PUSH),
        "email": PUSH,
        "email_verified": True,
        "iat": pytest.approx(now, abs=5),
        "exp": claims["iat"] + 3600,
    }


def test_the_unique_id_is_stable_and_differs_between_accounts() -> None:
    assert len(unique_id(PUSH)) == 21
    assert unique_id(PUSH).isdigit()
    assert unique_id(PUSH) != unique_id(EXCHANGE)
    assert project_of(PUSH) == "demo-cab"


async def test_only_configured_accounts_get_tokens(identity: Listening) -> None:
    with pytest.raises(TokenUnavailable):
        await IdentityClient(identity.url).token("somebody@demo-cab.iam.gserviceaccount.com", "http://audit")


async def test_a_token_needs_an_audience(identity: Listening) -> None:
    with pytest.raises(TokenUnavailable):
        await IdentityClient(identity.url).token(PUSH, "")


async def test_a_client_learns_that_the_service_is_down() -> None:
    with pytest.raises(TokenUnavailable):
        await IdentityClient("http://127.0.0.1:1").token(PUSH, "http://audit")


async def test_every_process_signs_with_a_key_of_its_own(identity: Listening, http: aiohttp.ClientSession) -> None:
    async with google_identity.serving(port=0, issuer=ISSUER, accounts={PUSH: None}) as other:
        token = await IdentityClient(other.url).token(PUSH, "http://audit")
        assert await get_json(http, other.url + "/jwks") != await get_json(http, identity.url + "/jwks")
    with pytest.raises(KeyError):
        await verified_claims(http, identity, token, "http://audit")


async def test_the_key_set_holds_no_private_part(identity: Listening, http: aiohttp.ClientSession) -> None:
    [key] = (await get_json(http, identity.url + "/jwks"))["keys"]
    assert set(key) == {"kty", "n", "e", "kid", "alg", "use", "key_ops"}


async def test_discovery_names_the_issuer_and_the_key_set(identity: Listening, http: aiohttp.ClientSession) -> None:
    document = await get_json(http, identity.url + "/.well-known/openid-configuration")
    assert (document["issuer"], document["jwks_uri"]) == (ISSUER, identity.url + "/jwks")


async def test_health_answers(identity: Listening, http: aiohttp.ClientSession) -> None:
    assert await get_json(http, identity.url + "/health") == {"status": "ready"}


async def test_a_request_that_names_another_host_is_refused(identity: Listening, http: aiohttp.ClientSession) -> None:
    for url in (identity.url + "/token", f"http://{identity.metadata[EXCHANGE]}/"):
        async with http.get(url, headers={"Host": "attacker.example"}) as response:
            assert response.status == 403


async def test_the_metadata_server_wants_its_header(identity: Listening, http: aiohttp.ClientSession) -> None:
    url = f"http://{identity.metadata[EXCHANGE]}/computeMetadata/v1/project/project-id"
    async with http.get(url) as response:
        assert response.status == 403


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/computeMetadata/v1/project/project-id", "demo-cab"),
        ("/computeMetadata/v1/universe/universe-domain", "googleapis.com"),
        ("/computeMetadata/v1/instance/service-accounts/default/email", EXCHANGE),
        (f"/computeMetadata/v1/instance/service-accounts/{EXCHANGE}/email", EXCHANGE),
    ],
)
async def test_the_metadata_server_knows_its_project_and_account(
    identity: Listening, http: aiohttp.ClientSession, path: str, content: str
) -> None:
    assert await get_metadata(http, identity, path) == (200, content)


async def test_an_access_token_of_the_metadata_server_is_a_dummy(
    identity: Listening, http: aiohttp.ClientSession
) -> None:
    path = "/computeMetadata/v1/instance/service-accounts/default/token"
    _, content = await get_metadata(http, identity, path)
    assert json.loads(content) == {"access_token": DUMMY_ACCESS_TOKEN, "expires_in": 3600, "token_type": "Bearer"}


async def test_an_identity_token_of_the_metadata_server_needs_an_audience(
    identity: Listening, http: aiohttp.ClientSession
) -> None:
    path = "/computeMetadata/v1/instance/service-accounts/default/identity"
    status, _ = await get_metadata(http, identity, path)
    assert status == 400
    _, token = await get_metadata(http, identity, path + "?audience=http://refresh&format=full")
    claims = await verified_claims(http, identity, token, "http://refresh")
    assert claims["email"] == EXCHANGE


GOOGLE_AUTH_PROGRAM = """
import google.auth, google.auth.transport.requests, google.oauth2.id_token
request = google.auth.transport.requests.Request()
token = google.oauth2.id_token.fetch_id_token(request, "http://refresh-grants")
credentials, project = google.auth.default()
credentials.refresh(request)
print(token, project, credentials.service_account_email, credentials.token)
"""


def test_google_auth_works_unmodified_against_the_metadata_server() -> None:
    environment = os.environ | {"PYTHONPATH": str(SOURCE_ROOT)}
    command = [sys.executable, "-m", "cab_dev.services.google_identity", "--port", "0", "--issuer", ISSUER]
    command += ["--accounts", json.dumps({EXCHANGE: 0})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as service:
        assert service.stdout is not None
        metadata = json.loads(service.stdout.readline())["metadata"][EXCHANGE]
        program = subprocess.run(
            [sys.executable, "-c", GOOGLE_AUTH_PROGRAM],
            env=environment | {"GCE_METADATA_HOST": metadata, "GCE_METADATA_IP": metadata},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        service.terminate()
        assert service.wait(10) == 0
    token, project, email, access_token = program.stdout.split()
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["iss"], claims["email"], claims["aud"]) == (ISSUER, EXCHANGE, "http://refresh-grants")
    assert (project, email, access_token) == ("demo-cab", EXCHANGE, DUMMY_ACCESS_TOKEN)
