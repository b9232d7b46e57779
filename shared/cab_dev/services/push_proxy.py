"""Stands between the official Pub/Sub emulator and the functions it pushes to, and makes pushes look like production.

The official emulator stores a subscription's `oidc_token` but sends no Authorization header, and it does not take 202
for an acknowledgement. So its subscriptions push to this proxy instead: each path has a target, an audience and a
service account; the proxy fetches an OIDC token from the stack's identity service, forwards the body, and answers 204
where the target said 202. The embedded emulator needs no proxy.

    python -m cab_dev.services.push_proxy --port 8092 --identity-url http://127.0.0.1:8090 --routes '{"/ingest-audit": {
        "target": "http://127.0.0.1:8086/", "audience": "http://127.0.0.1:8086/",
        "email": "pubsub-push@demo-cab.iam.gserviceaccount.com"}}'
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from cab_dev import loopback
from cab_dev.identity_client import IdentityClient, TokenUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

_FORWARD_TIMEOUT_S = 600.0  # the longest ack deadline; the emulator gives up earlier when its own is shorter
_MAX_BODY_BYTES = 16 * 1024 * 1024


class Route(BaseModel):
    """Where the pushes of one path go, and as whom to whom their token speaks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str
    audience: str
    email: str


_routes: TypeAdapter[dict[str, Route]] = TypeAdapter(dict[str, Route])


def proxy_application(routes: Mapping[str, Route], identity: IdentityClient) -> web.Application:
    """Forwards POST of each path in `routes`; 404 for others.

    The target's status is passed on, with 204 for 202. 503 when the target or the identity service does not answer, so
    that the emulator tries again. A request without a token is never forwarded.
    """

    async def session(application: web.Application) -> AsyncIterator[None]:
        timeout = aiohttp.ClientTimeout(total=_FORWARD_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as opened:
            application[_session] = opened
            yield

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ready"})

    async def forward(request: web.Request) -> web.Response:
        route = routes.get(request.path)
        if route is None:
            raise web.HTTPNotFound
        try:
            token = await identity.token(route.email, route.audience)
            headers = {
                "Authorization": f"Bearer {token}",
                "Content-Type": request.headers.get("Content-Type", "application/json"),
                "From": "noreply@google.com",
                "User-Agent": "CloudPubSub-Google",
            }
            async with request.app[_session].post(
                route.target, data=await request.read(), headers=headers, allow_redirects=False
            ) as answer:
                return web.Response(status=204 if answer.status == 202 else answer.status)
        except (aiohttp.ClientError, TimeoutError, TokenUnavailable):
            return web.Response(status=503)

    application = web.Application(middlewares=[loopback.refuse_foreign_hosts], client_max_size=_MAX_BODY_BYTES)
    application.cleanup_ctx.append(session)
    application.add_routes([web.get("/health", health), web.post("/{path:.*}", forward)])
    return application


_session: web.AppKey[aiohttp.ClientSession] = web.AppKey("session", aiohttp.ClientSession)


@asynccontextmanager
async def serving(*, port: int, routes: Mapping[str, Route], identity_url: str) -> AsyncIterator[str]:
    """Serve in this event loop until the block ends. Port 0 takes a free one. Yields the URL.

    Raises: OSError when the port is taken.
    """
    runner, bound = await loopback.serve(proxy_application(routes, IdentityClient(identity_url)), port)
    try:
        yield f"http://{loopback.HOST}:{bound}"
    finally:
        await runner.cleanup()


def main() -> None:
    """Serve until SIGTERM or SIGINT. Prints one JSON line with the address when ready."""
    parser = argparse.ArgumentParser(
        prog="python -m cab_dev.services.push_proxy",
        description="Adds OIDC tokens to the pushes of the official Pub/Sub emulator.",
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--identity-url", required=True, help="the stack's token signer")
    parser.add_argument("--routes", required=True, help="JSON: path -> {target, audience, email}")
    arguments = parser.parse_args()
    try:
        routes = _routes.validate_json(arguments.routes)
    except ValidationError as exc:
        mistakes = exc.errors(include_input=False, include_url=False, include_context=False)
        parser.error("--routes: " + "; ".join(f"{mistake['loc']}: {mistake['msg']}" for mistake in mistakes))
    try:
        asyncio.run(_serve(arguments.port, routes, arguments.identity_url))
    except OSError as exc:
        sys.exit(f"The push proxy cannot start: {exc}")


async def _serve(port: int, routes: Mapping[str, Route], identity_url: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(port=port, routes=routes, identity_url=identity_url) as url:
        print(json.dumps({"url": url}), flush=True)
        await stop.wait()


if __name__ == "__main__":
    main()
