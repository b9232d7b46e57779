"""One origin in front of the functions, as the HTTPS load balancer of a deployment: routes by path, adds forwarding headers.

    python -m cab_dev.services.gateway --port 8080 --route /edge/token=http://127.0.0.1:20001 --route '/connect/*=http://127.0.0.1:20002'

Paths and headers go through as they came, but for what belongs to one connection (RFC 9110 section 7.6.1). Bodies are
passed whole, at most 1 MiB; the functions' own limit is lower. A function that cannot be reached is answered for with
the broker's standard JSON error. Private functions (refresh_grants, ingest_audit) simply have no route.

With `--rights`, what Cloud Run asks is asked here too (`doors.py`): of what goes through the load balancer, and, at a port of
its own for each function in `--doors`, of what goes straight to it.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import gc
import json
import secrets
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from aiohttp.typedefs import Handler
from multidict import CIMultiDict
from yarl import URL

from cab.domain.errors import BrokerError, Reason
from cab.protocol.oauth_errors import error_body, status_of
from cab_dev.processes.ports import HOST
from cab_dev.services.doors import Doors, Refusal
from gcp_emulators.permissions.table import Table

MAX_BODY_BYTES = 1024 * 1024
_MAX_HEADER_BYTES = 32 * 1024
_CONNECT_WITHIN_S = 3.0  # with the answer on top still inside the contract's 5 s for what is down
_ANSWER_WITHIN_S = 30.0
_KEEP_ALIVE_S = 1.0  # below the 2 s after which the functions' servers close an idle connection

_OWN_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


@dataclass(frozen=True)
class Route:
    """`path` matches exactly; with `/*` at its end, the path before that and everything below it."""

    path: str
    origin: str

    def matches(self, path: str) -> bool:
        if self.path.endswith("/*"):
            folder = self.path.removesuffix("/*")
            return path == folder or path.startswith(folder + "/")
        return path == self.path


def public_routes(functions: Mapping[str, str]) -> tuple[Route, ...]:
    """Who answers which path of the origin, given each public function's own origin. The first match wins."""
    mint, exchange = functions["mint_assertion"], functions["exchange_token"]
    metadata, pages = functions["publish_metadata"], functions["connect_account"]
    tools = functions["call_tool"]
    return (
        Route("/edge/token", mint),
        Route("/oauth2/token", exchange),
        Route("/oauth2/introspect", exchange),
        Route("/oauth2/revoke", exchange),
        Route("/oauth2/outcomes", exchange),
        Route("/tools/call", tools),
        Route("/tools", tools),
        Route("/mcp", tools),
        Route("/.well-known/oauth-protected-resource/mcp", tools),
        Route("/oauth2/jwks.json", metadata),
        Route("/oauth2/authorization-details-types", metadata),
        Route("/oauth2/openapi.json", metadata),
        Route("/edge/jwks.json", metadata),
        Route("/.well-known/*", metadata),
        Route("/oauth2/.well-known/*", metadata),
        Route("/edge/.well-known/*", metadata),
        Route("/health", metadata),
        Route("/connect/*", pages),
        Route("/approvals/*", pages),
        Route("/me/*", pages),
        Route("/login/*", pages),
        Route("/logout", pages),
        Route("/ssf/events", pages),
    )


@dataclass(frozen=True)
class Guarded:
    """What is asked before a function sees a request. `functions`: name to origin."""

    doors: Doors
    functions: Mapping[str, str]

    def of_route(self, route: Route) -> Refusal | None:
        function = next(name for name, origin in self.functions.items() if origin == route.origin)
        return self.doors.from_load_balancer(function)


@dataclass
class Instances:
    """Which processes serve in place of an origin, as new revisions and more instances do on the platform.

    `file`, where there is one: JSON, origin to the origins that take turns; an origin that it does not name serves itself.
    It is read again when it was changed, so write it whole and rename it.
    """

    file: Path | None = None
    _read: tuple[int, int] | None = None  # which file: inode and time of its last change
    _serving: Mapping[str, Sequence[str]] = field(default_factory=dict)
    _turn: int = 0

    def next(self, origin: str) -> str | None:
        """Where the next request for `origin` goes. None when nobody serves it now."""
        serving = self._now().get(origin, (origin,))
        self._turn += 1
        return serving[self._turn % len(serving)] if serving else None

    def _now(self) -> Mapping[str, Sequence[str]]:
        if self.file is None:
            return self._serving
        try:
            found = self.file.stat()
        except FileNotFoundError:
            self._read, self._serving = None, {}
            return self._serving
        if (found.st_ino, found.st_mtime_ns) != self._read:
            self._serving = json.loads(self.file.read_bytes())
            self._read = found.st_ino, found.st_mtime_ns
        return self._serving


class Gateway:
    """The forwarding handler and the connections it keeps."""

    def __init__(
        self, routes: Sequence[Route], guarded: Guarded | None = None, instances: Instances | None = None
    ) -> None:
        self._routes = tuple(routes)
        self._guarded = guarded
        self._instances = instances or Instances()
        self._session: ClientSession | None = None

    async def connections(self, _: web.Application) -> AsyncIterator[None]:
        """Context of the server's life (aiohttp's `cleanup_ctx`)."""
        async with ClientSession(
            connector=TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            timeout=ClientTimeout(total=_ANSWER_WITHIN_S, sock_connect=_CONNECT_WITHIN_S),
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        ) as self._session:
            yield

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path, _, _ = request.raw_path.partition("?")
        route = next((route for route in self._routes if route.matches(path)), None)
        if route is None:
            return _refusal(BrokerError(Reason.NOT_FOUND, "There is nothing at this path."))
        refusal = self._guarded.of_route(route) if self._guarded else None
        if refusal is not None:
            return web.Response(status=refusal.status, text=refusal.text)
        return await self.forward(request, route.origin, _forwarded_headers(request))

    async def forward(self, request: web.Request, origin: str, headers: CIMultiDict[str]) -> web.StreamResponse:
        """Send a request on to a function, whole, and its answer back."""
        if self._session is None:
            raise RuntimeError("the gateway is not running")
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _refusal(BrokerError(Reason.BODY_TOO_LARGE, "The body is larger than 1 MiB."))
        instance = self._instances.next(origin)
        if instance is None:
            return _unreachable()
        try:
            async with self._session.request(
                request.method,
                URL(instance + request.raw_path, encoded=True),
                headers=headers,
                data=body or None,
                allow_redirects=False,
            ) as answer:
                return web.Response(
                    status=answer.status,
                    reason=answer.reason,
                    headers=_end_to_end(answer.headers),
                    body=await answer.read(),
                )
        except (ClientError, TimeoutError, ValueError):  # ValueError: a request target that no URL can carry
            return _unreachable()


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """The headers without those of the connection, also those that `Connection` names."""
    named = {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    dropped = _HOP_BY_HOP | named | {"content-length"}  # the length is set anew
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped)


def _forwarded_headers(request: web.Request) -> CIMultiDict[str]:
    """As a Google load balancer sends them on: the caller's address and the balancer's own appended to X-Forwarded-For."""
    headers = _end_to_end(request.headers)
    seen_before = ", ".join(request.headers.getall("X-Forwarded-For", []))
    headers["X-Forwarded-For"] = ", ".join(part for part in (seen_before, request.remote or "", HOST) if part)
    headers["X-Forwarded-Proto"] = "http"
    headers["Via"] = "1.1 google"
    headers.setdefault("X-Cloud-Trace-Context", f"{secrets.token_hex(16)}/{secrets.randbits(63)};o=0")
    return headers


def _refusal(error: BrokerError) -> web.Response:
    txn = secrets.token_urlsafe(16)
    return web.json_response(
        error_body(error, txn=txn),
        status=status_of(error.reason),
        headers=_OWN_HEADERS | {"CAB-Txn": txn},
    )


def _unreachable() -> web.Response:
    txn = secrets.token_urlsafe(16)
    body = {
        "error": "temporarily_unavailable",
        "reason_code": "service_unavailable",
        "error_description": "The service behind this path does not answer.",
        "txn": txn,
    }
    return web.json_response(body, status=503, headers=_OWN_HEADERS | {"CAB-Txn": txn, "Retry-After": "2"})


def application(
    routes: Sequence[Route], guarded: Guarded | None = None, instances: Instances | None = None
) -> web.Application:
    gateway = Gateway(routes, guarded, instances)
    return _application(gateway, gateway.handle)


def door_application(
    doors: Doors, function: str, *, url: str, origin: str, instances: Instances | None = None
) -> web.Application:
    """A function as others reach it at its own `url`; it runs at `origin`."""
    gateway = Gateway((), instances=instances)

    async def handle(request: web.Request) -> web.StreamResponse:
        refusal = await doors.from_inside(function, url, request.headers)
        if refusal is not None:
            return web.Response(status=refusal.status, text=refusal.text)
        return await gateway.forward(request, origin, _end_to_end(request.headers))

    return _application(gateway, handle)


def bigquery_door(table: Table, identity: str, *, origin: str) -> web.Application:
    """BigQuery at `origin` for one identity. What a function does there is to add rows; other methods need what nobody has."""
    gateway = Gateway(())

    async def handle(request: web.Request) -> web.StreamResponse:
        resource, _, method = request.path.removeprefix("/bigquery/v2/").rpartition("/")
        adds = request.method == "POST" and method == "insertAll"
        permission = "bigquery.tables.updateData" if adds else f"{request.method} {request.path}"
        if not table.permits(identity, permission, resource):
            return _access_denied(permission, resource)
        return await gateway.forward(request, origin, _end_to_end(request.headers))

    return _application(gateway, handle)


def _access_denied(permission: str, resource: str) -> web.Response:
    """As BigQuery says it."""
    said = f"Access Denied: {resource}: Permission {permission} denied on resource (or it may not exist)."
    error = {"message": said, "domain": "global", "reason": "accessDenied"}
    body = {"error": {"code": 403, "message": said, "errors": [error], "status": "PERMISSION_DENIED"}}
    return web.json_response(body, status=403)


def _application(gateway: Gateway, handle: Handler) -> web.Application:
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.cleanup_ctx.append(gateway.connections)
    app.router.add_route("*", r"/{anything:[\s\S]*}", handle)
    return app


async def serve(
    routes: Sequence[Route], port: int, guarded: Guarded | None = None, instances: Instances | None = None
) -> web.AppRunner:
    """Listen on 127.0.0.1; the caller cleans the runner up. Raises: OSError when the port is taken."""
    return await _listen(application(routes, guarded, instances), port)


async def _listen(app: web.Application, port: int) -> web.AppRunner:
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,  # an encoded body goes through as it is
        max_line_size=_MAX_HEADER_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
        shutdown_timeout=2.0,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port).start()
    except BaseException:
        await runner.cleanup()
        raise
    return runner


def _route(text: str) -> Route:
    path, separator, origin = text.partition("=")
    if not separator or not path.startswith("/") or not origin.startswith("http://"):
        raise argparse.ArgumentTypeError("expected /path=http://host:port")
    return Route(path, origin)


async def _run(
    routes: Sequence[Route],
    port: int,
    guarded: Guarded | None,
    instances: Instances,
    doors: Mapping[str, int],
    bigquery: tuple[str, int, str] | None,
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as listening:
        if guarded is not None:
            for function, door in doors.items():
                url, origin = f"http://{HOST}:{door}", guarded.functions[function]
                app = door_application(guarded.doors, function, url=url, origin=origin, instances=instances)
                listening.push_async_callback((await _listen(app, door)).cleanup)
            if bigquery is not None:
                identity, door, origin = bigquery
                app = bigquery_door(guarded.doors.table, identity, origin=origin)
                listening.push_async_callback((await _listen(app, door)).cleanup)
        runner = await serve(routes, port, guarded, instances)
        listening.push_async_callback(runner.cleanup)
        await stop.wait()


def main() -> None:
    atexit.register(gc.freeze)  # looking for garbage one last time takes a third of the CPU of a start
    parser = argparse.ArgumentParser(description="The local stack's origin. Binds 127.0.0.1 only.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--route", type=_route, action="append", required=True, metavar="PATH=ORIGIN")
    parser.add_argument("--instances", type=Path, help="a JSON file that says who serves in place of an origin")
    parser.add_argument(
        "--rights", type=Path, help="a file that says who may do what, see gcp_emulators/permissions/table.py"
    )
    parser.add_argument("--project", help="with --rights: whose services these are")
    parser.add_argument("--issuer", help="with --rights: who signs ID tokens, and serves its keys at /jwks")
    parser.add_argument("--functions", type=json.loads, default={}, help="with --rights, JSON: function -> its origin")
    parser.add_argument(
        "--doors", type=json.loads, default={}, help="with --rights, JSON: function -> port of its own URL"
    )
    parser.add_argument(
        "--bigquery", type=json.loads, help="with --rights, JSON: [identity, port for it, BigQuery's origin]"
    )
    arguments = parser.parse_args()
    guarded = None
    if arguments.rights is not None:
        doors = Doors(Table(arguments.rights), arguments.project, arguments.issuer)
        guarded = Guarded(doors, arguments.functions)
    instances = Instances(arguments.instances)
    asyncio.run(_run(arguments.route, arguments.port, guarded, instances, arguments.doors, arguments.bigquery))


if __name__ == "__main__":
    main()
