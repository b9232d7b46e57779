"""The peers as processes on the servers' core, and the requests that are sent to them."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import requests
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric import rsa as rsa_keys
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from tests.real import keycloak

from benchmarks.clients import AGENT, Clients, EcKey
from benchmarks.load import Post
from benchmarks.peers import installing
from benchmarks.processes import HOST, Server, on_core_of_servers
from benchmarks.rows import SIGN_ES256, VERIFY_ES256, Row
from benchmarks.surroundings import Surroundings
from cab.protocol import names

OIDC, PROMISING, ZITADEL, ZITADEL_RSA, KEYCLOAK = "oidc", "oidc-2", "zitadel", "zitadel-rsa", "keycloak"
_STARTS_WITHIN_S = 240.0


class Program(Server):
    """Any server that answers HTTP at `port`."""

    _starts_within_s = _STARTS_WITHIN_S

    def __init__(self, command: Sequence[str], port: int, *, folder: Path, environment: Mapping[str, str]) -> None:
        self.port = port
        with on_core_of_servers():
            self._process = subprocess.Popen(
                list(command),
                cwd=folder,
                env={**os.environ, **environment},
                start_new_session=True,
                stdout=subprocess.DEVNULL,
            )


@contextmanager
def _running(program: Program) -> Any:
    try:
        program.wait_until_it_answers()
        yield program
    finally:
        program.stop()


@asynccontextmanager
async def oidc_provider(around: Surroundings, ours: Clients, *, promises: bool) -> AsyncIterator[Row]:
    """oidc-provider with token exchange; `promises`: single use in Firestore, events acknowledged by Pub/Sub."""
    folder, port = installing.install(), around.ports.take_free()
    issuer, project = f"http://{HOST}:{port}", "demo-peers"
    client = EcKey("client-1")
    described = {
        "port": port,
        "resource": ours.resources["crm"],
        **_described(issuer, client, ours),
    }
    path = around.folder / f"oidc-provider-{port}.json"
    path.write_text(json.dumps(described), "utf-8")
    environment = {
        "GOOGLE_CLOUD_PROJECT": project,
        "NODE_ENV": "production",
        "METADATA_SERVER_DETECTION": "none",
        **around.emulators.environment(),
    }
    environment |= {"PROMISES": "1"} if promises else {}
    command = [str(installing.NODE), "oidc_provider.mjs", str(path)]

    def prepare() -> Post:
        return Post("/token", ours.list_opportunities().form | {"client_id": AGENT} | _assertion(client, issuer))

    says = "oidc-provider 9 on Node 22: 2 verifications, 1 signature; nothing kept, no record, no policy, no limit"
    if promises:
        says = "the same, single use in Firestore and an event acknowledged by Pub/Sub, by Google's Node clients"
    with _running(Program(command, port, folder=folder, environment=environment)) as server:
        yield Row(PROMISING if promises else OIDC, says, server, project, prepare, {VERIFY_ES256: 2, SIGN_ES256: 1})


@asynccontextmanager
async def zitadel_server(around: Surroundings, ours: Clients, *, rsa: bool) -> AsyncIterator[Row]:
    """The library of ZITADEL's server in Go, with a storage that answers from memory; `rsa`: signs as that server does by default."""
    program, port = installing.build_zitadel(), around.ports.take_free()
    issuer, client = f"http://{HOST}:{port}", EcKey("client-1")
    described = {"address": f"{HOST}:{port}", **_described(issuer, client, ours)}
    if rsa:
        key = RSAAlgorithm.to_jwk(rsa_keys.generate_private_key(65537, 2048), as_dict=True)
        described["signingKey"] = {**key, "kid": "s", "alg": "RS256"}
    path = around.folder / f"zitadel-{port}.json"
    path.write_text(json.dumps(described), "utf-8")

    def prepare() -> Post:
        # A client that authenticates by an assertion names itself there alone, and "jwt" is what the token of another issuer is.
        form = {name: value for name, value in ours.list_opportunities().form.items() if name != "client_id"}
        return Post("/oauth/token", form | {"subject_token_type": names.JWT_TYPE} | _assertion(client, issuer))

    says = "zitadel/oidc 3, a Go library: 2 verifications, 1 signature; nothing kept, no record, no policy, no limit"
    if rsa:
        says = "the same, signing with RSA (2048 bits) as ZITADEL does by default"
    with _running(Program([str(program), str(path)], port, folder=around.folder, environment={})) as server:
        yield Row(
            ZITADEL_RSA if rsa else ZITADEL, says, server, "demo-peers", prepare, {VERIFY_ES256: 2, SIGN_ES256: 1}
        )


def _described(issuer: str, client: EcKey, ours: Clients) -> dict[str, Any]:
    """What a peer must know: its issuer, its only client, who issues the subject tokens, and the key to sign with."""
    signing = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True)
    return {
        "issuer": issuer,
        "client": {"id": AGENT, "jwk": client.public_jwk()},
        "subjectIssuer": {
            "issuer": f"{ours.origin}/edge",
            "audience": f"{ours.origin}/oauth2",
            "jwk": ours.edge.public_jwk(),
        },
        "signingKey": {**signing, "kid": "s", "alg": "ES256"},
    }


def _assertion(client: EcKey, audience: str) -> dict[str, str]:
    """A fresh client assertion (RFC 7523 section 2.2), as form parameters."""
    now = int(time.time())
    claims = {"iss": AGENT, "sub": AGENT, "aud": audience, "iat": now, "exp": now + 60}
    return {
        "client_assertion_type": names.CLIENT_ASSERTION_TYPE,
        "client_assertion": client.sign(claims | {"jti": secrets.token_urlsafe(16)}, typ="JWT"),
    }


@asynccontextmanager
async def keycloak_server(around: Surroundings) -> AsyncIterator[Row]:
    """Keycloak with its standard token exchange: an access token of its own for one for another audience."""
    home, port = keycloak.install(), around.ports.take_free()
    client = EcKey("client-1")
    program = Program(keycloak.command(port), port, folder=home, environment=keycloak.environment())
    with _running(program) as server:
        token = _realm(f"http://{HOST}:{port}", client)
        audience = f"http://{HOST}:{port}/realms/bench"

        def prepare() -> Post:
            form = {
                "grant_type": names.TOKEN_EXCHANGE,
                "subject_token": token,
                "subject_token_type": names.ACCESS_TOKEN_TYPE,
                "requested_token_type": names.ACCESS_TOKEN_TYPE,
                "client_id": AGENT,
            }
            return Post("/realms/bench/protocol/openid-connect/token", form | _assertion(client, audience))

        says = "Keycloak 26: 2 verifications, 1 signature, its session of the user in memory; no record, no policy, no limit"
        yield Row(KEYCLOAK, says, server, "demo-peers", prepare, {VERIFY_ES256: 1})


def _realm(origin: str, client: EcKey) -> str:
    """A realm, a user and a client that may exchange tokens; the user's access token, made for that client."""
    admin = keycloak.Admin(origin)
    admin(
        "POST", "", {"realm": "bench", "enabled": True, "accessTokenLifespan": 36_000, "ssoSessionIdleTimeout": 36_000}
    )
    user = {
        "username": "alice",
        "enabled": True,
        "email": "alice@bench.example",
        "emailVerified": True,
        "firstName": "Alice",
        "lastName": "Example",
        "credentials": [{"type": "password", "value": "alice", "temporary": False}],
    }
    admin("POST", "/bench/users", user)
    agent = {
        "clientId": AGENT,
        "publicClient": False,
        "standardFlowEnabled": False,
        "directAccessGrantsEnabled": True,
        "clientAuthenticatorType": "client-jwt",
        "attributes": {
            "use.jwks.string": "true",
            "jwks.string": json.dumps({"keys": [client.public_jwk()]}),
            "token.endpoint.auth.signing.alg": "ES256",
            "access.token.signed.response.alg": "ES256",
            "standard.token.exchange.enabled": "true",
        },
    }
    admin("POST", "/bench/clients", agent)
    answer = requests.post(
        f"{origin}/realms/bench/protocol/openid-connect/token",
        data={
            "grant_type": "password",
            "username": "alice",
            "password": "alice",
            "client_id": AGENT,
            **_assertion(client, f"{origin}/realms/bench"),
        },
        timeout=60,
    )
    answer.raise_for_status()
    return str(answer.json()["access_token"])
