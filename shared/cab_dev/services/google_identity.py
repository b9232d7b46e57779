"""The "Google" of the local stack: signs ID tokens as Google does and imitates the metadata server.

One process. Its main port stands for accounts.google.com: key set, discovery, and a token for any configured account.
Each account may have a port of its own that answers as the metadata server of a machine that runs as this account, so
that google-auth works unmodified with `GCE_METADATA_HOST` and `GCE_METADATA_IP` set to that port.

The RSA key is made at start and never stored: tokens do not survive a restart of this process. Whoever can reach the
ports gets tokens, which is why they are loopback only and why verifiers trust this issuer only by explicit settings.

    python -m cab_dev.services.google_identity --port 8090 --issuer http://127.0.0.1:8090 \
        --accounts '{"exchange-token@demo-cab.iam.gserviceaccount.com": 8091}'
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import signal
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from cab_dev import loopback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from aiohttp.typedefs import Handler

TOKEN_LIFETIME_S = 3600
DUMMY_ACCESS_TOKEN = "local-stack-access-token"  # opens nothing: the emulators check no access tokens
_FLAVOR = {"Metadata-Flavor": "Google"}
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_ACCOUNT_DOMAIN = ".iam.gserviceaccount.com"


def unique_id(email: str) -> str:
    """The account's numeric id, `sub` in its tokens: 21 digits, the same in every run."""
    return "1" + f"{int.from_bytes(hashlib.sha256(email.encode()).digest(), 'big') % 10**20:020d}"


def project_of(email: str) -> str:
    """`demo-cab` for `NAME@demo-cab.iam.gserviceaccount.com`."""
    return email.partition("@")[2].removesuffix(_ACCOUNT_DOMAIN)


@dataclass(frozen=True)
class Signer:
    """Signs Google-shaped ID tokens (RS256) with a key of this process."""

    issuer: str
    _key: rsa.RSAPrivateKey = field(
        default_factory=lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048), repr=False
    )

    def id_token(self, email: str, audience: str) -> str:
        """An ID token that says: the account `email` calls `audience`. Valid for an hour."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": audience,
            "azp": unique_id(email),
            "sub": unique_id(email),
            "email": email,
            "email_verified": True,
            "iat": now,
            "exp": now + TOKEN_LIFETIME_S,
        }
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": self.key_id})

    @property
    def key_id(self) -> str:
        modulus = self._key.public_key().public_numbers().n
        return hashlib.sha256(str(modulus).encode()).hexdigest()[:40]

    def key_set(self) -> dict[str, Any]:
        """The public key as a JWK Set."""
        public = RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {"keys": [public | {"kid": self.key_id, "alg": "RS256", "use": "sig"}]}


def issuer_application(signer: Signer, accounts: frozenset[str]) -> web.Application:
    """Stands for accounts.google.com.

    `/token?email=&audience=` answers text/plain; 404 for an account that was not configured.
    """

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ready"})

    async def key_set(_: web.Request) -> web.Response:
        return web.json_response(signer.key_set(), headers={"Cache-Control": "public, max-age=60"})

    async def discovery(request: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": signer.issuer,
                "jwks_uri": f"http://{request.host}/jwks",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    async def token(request: web.Request) -> web.Response:
        email, audience = request.query.get("email", ""), request.query.get("audience", "")
        if email not in accounts:
            raise web.HTTPNotFound(text="No such service account.\n")
        if not audience:
            raise web.HTTPBadRequest(text="The parameter audience is missing.\n")
        return web.Response(text=signer.id_token(email, audience), headers={"Cache-Control": "no-store"})

    application = web.Application(middlewares=[loopback.refuse_foreign_hosts])
    application.add_routes(
        [
            web.get("/health", health),
            web.get("/jwks", key_set),
            web.get("/.well-known/openid-configuration", discovery),
            web.get("/token", token),
        ]
    )
    return application


@web.middleware
async def _metadata_flavor(request: web.Request, handler: Handler) -> web.StreamResponse:
    """As on Google Cloud: a request without the header is refused, every answer carries it."""
    if request.headers.get("Metadata-Flavor") != "Google":
        return web.Response(status=403, text="Missing Metadata-Flavor:Google header.\n", headers=_FLAVOR)
    response = await handler(request)
    response.headers.update(_FLAVOR)
    return response


def metadata_application(signer: Signer, email: str) -> web.Application:
    """The metadata server of a machine whose default service account is `email`."""

    async def ping(_: web.Request) -> web.Response:
        return web.Response(text="computeMetadata/\n")

    async def project_id(_: web.Request) -> web.Response:
        return web.Response(text=project_of(email))

    async def universe_domain(_: web.Request) -> web.Response:
        return web.Response(text="googleapis.com")

    async def account(_: web.Request) -> web.Response:
        return web.json_response({"aliases": ["default"], "email": email, "scopes": [_SCOPE]})

    async def account_email(_: web.Request) -> web.Response:
        return web.Response(text=email)

    async def access_token(_: web.Request) -> web.Response:
        return web.json_response(
            {"access_token": DUMMY_ACCESS_TOKEN, "expires_in": TOKEN_LIFETIME_S, "token_type": "Bearer"}
        )

    async def identity(request: web.Request) -> web.Response:
        audience = request.query.get("audience", "")
        if not audience:
            raise web.HTTPBadRequest(text="non-empty audience parameter required\n", headers=_FLAVOR)
        return web.Response(text=signer.id_token(email, audience))

    application = web.Application(middlewares=[loopback.refuse_foreign_hosts, _metadata_flavor])
    names = f"default|{email.replace('.', chr(92) + '.')}"
    account_path = f"/computeMetadata/v1/instance/service-accounts/{{account:{names}}}"
    application.add_routes(
        [
            web.get("/", ping),
            web.get("/computeMetadata/v1/project/project-id", project_id),
            web.get("/computeMetadata/v1/universe/universe-domain", universe_domain),
            web.get(account_path + "/", account),
            web.get(account_path + "/email", account_email),
            web.get(account_path + "/token", access_token),
            web.get(account_path + "/identity", identity),
        ]
    )
    return application


@dataclass(frozen=True)
class Listening:
    """Where the service listens: its own URL, and host:port of each account's metadata server."""

    url: str
    metadata: Mapping[str, str]


@asynccontextmanager
async def serving(*, port: int, issuer: str, accounts: Mapping[str, int | None]) -> AsyncIterator[Listening]:
    """Serve in this event loop until the block ends.

    Port 0 takes a free one. An account whose port is None has no metadata server; its tokens come from `/token` only.

    Raises: OSError when a port is taken.
    """
    signer = Signer(issuer)
    async with AsyncExitStack() as stack:
        metadata: dict[str, str] = {}
        for email, account_port in accounts.items():
            if account_port is None:
                continue
            runner, bound = await loopback.serve(metadata_application(signer, email), account_port)
            stack.push_async_callback(runner.cleanup)
            metadata[email] = f"{loopback.HOST}:{bound}"
        runner, bound = await loopback.serve(issuer_application(signer, frozenset(accounts)), port)
        stack.push_async_callback(runner.cleanup)
        yield Listening(f"http://{loopback.HOST}:{bound}", metadata)


def main() -> None:
    """Serve until SIGTERM or SIGINT. Prints one JSON line with the addresses when ready."""
    parser = argparse.ArgumentParser(
        prog="python -m cab_dev.services.google_identity",
        description="Signs Google-shaped ID tokens for the local stack and imitates the metadata server.",
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--issuer", help="`iss` of the tokens; default: the URL of this service")
    parser.add_argument(
        "--accounts",
        type=json.loads,
        required=True,
        help="JSON: service account e-mail -> port of its metadata server, or null",
    )
    arguments = parser.parse_args()
    issuer = arguments.issuer or f"http://{loopback.HOST}:{arguments.port}"
    try:
        asyncio.run(_serve(arguments.port, issuer, arguments.accounts))
    except OSError as exc:
        sys.exit(f"The identity service cannot start: {exc}")


async def _serve(port: int, issuer: str, accounts: Mapping[str, int | None]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(port=port, issuer=issuer, accounts=accounts) as listening:
        print(json.dumps({"url": listening.url, "metadata": listening.metadata}), flush=True)
        await stop.wait()


if __name__ == "__main__":
    main()
