"""What makes routes a service: safe headers, JSON errors, quiet access log, command line, one way to run.

Logs hold the method, the path, the status and the time: no query strings, no headers, no bodies.
"""

import argparse
import json
import logging
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send, StatelessLifespan

from cab_dev.doubles.strict_input import BadRequest

access_log = logging.getLogger("cab_dev.access")

Handler = Callable[[Request], Awaitable[Response]]

_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


def _is_foreign(scope: Scope, own_names: Collection[str]) -> bool:
    """True for a request that names another host (DNS rebinding), or a web page's request to a control endpoint."""
    headers = Headers(scope=scope)
    try:
        host = urlsplit("//" + headers.get("host", "")).hostname
    except ValueError:
        return True
    return host not in own_names or (scope["path"].startswith("/_control/") and "origin" in headers)


class _EveryRequest:
    """Refuses foreign requests, logs `METHOD path status ms`, and adds the headers every answer carries."""

    def __init__(self, app: ASGIApp, *, own_names: Collection[str]) -> None:
        self._app = app
        self._own_names = own_names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                names = {name.lower() for name, _ in message["headers"]}
                extra = [(b"x-content-type-options", b"nosniff")]
                if b"cache-control" not in names:
                    extra.append((b"cache-control", b"no-store"))
                if b"content-security-policy" not in names:
                    extra.append((b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"))
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        try:
            if _is_foreign(scope, self._own_names):
                refusal = JSONResponse({"error": "forbidden"}, status_code=403)
                await refusal(scope, receive, send_with_headers)
            else:
                await self._app(scope, receive, send_with_headers)
        finally:
            milliseconds = (time.perf_counter() - started) * 1000
            path = quote(scope["path"], errors="replace")[:200]
            access_log.info("%s %s %d %.1fms", scope["method"][:10], path, status, milliseconds)


async def _bad_request(_: Request, exc: Exception) -> Response:
    return cast(BadRequest, exc).response()


async def _http_exception(_: Request, exc: Exception) -> Response:
    status = cast(HTTPException, exc).status_code
    error = {404: "not_found", 405: "method_not_allowed"}.get(status, "invalid_request")
    headers = cast(HTTPException, exc).headers
    return JSONResponse({"error": error}, status_code=status, headers=dict(headers or {}))


async def _server_error(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": "server_error"}, status_code=500)


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


def create_app(
    routes: Sequence[BaseRoute], *, origin: str, lifespan: StatelessLifespan[Starlette] | None = None
) -> Starlette:
    """An application with `GET /health`, JSON errors, safe headers and the access log around `routes`.

    Answers requests whose `Host` is a loopback name or the host of `origin`, and 403 to all others.
    """
    own_names = _LOOPBACK_NAMES | {urlsplit(origin).hostname or ""}
    return Starlette(
        routes=[Route("/health", _health), *routes],
        lifespan=lifespan,
        middleware=[Middleware(_EveryRequest, own_names=own_names)],
        exception_handlers={
            BadRequest: _bad_request,
            HTTPException: _http_exception,
            Exception: _server_error,
        },
    )


def service_arguments(name: str, *, default_port: int) -> argparse.ArgumentParser:
    """Parser for `--port` and `--origin`; environment variables `ACME_<NAME>_PORT`, `_ORIGIN` give the defaults."""
    prefix = f"ACME_{name.upper()}_"
    parser = argparse.ArgumentParser(description=f"Demo service {name}. Binds 127.0.0.1 only.")
    parser.add_argument("--port", type=int, default=int(os.environ.get(prefix + "PORT", str(default_port))))
    parser.add_argument("--origin", default=os.environ.get(prefix + "ORIGIN"), help="public URL, no trailing slash")
    return parser


def origin_of(arguments: argparse.Namespace) -> str:
    """`--origin`, or the loopback URL of `--port`."""
    origin = str(arguments.origin or f"http://127.0.0.1:{arguments.port}")
    if not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", origin):
        raise SystemExit("--origin must be scheme://host[:port] without a path or trailing slash")
    return origin


def serve(app: ASGIApp, *, port: int) -> None:
    """Serve on 127.0.0.1 until SIGTERM or SIGINT; the access log goes to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    access_log.addHandler(handler)
    access_log.setLevel(logging.INFO)
    access_log.propagate = False
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=2,
    )


def read_json_file(path: str | Path) -> Any:
    """The JSON of a configuration file; ends the process with a sentence when it cannot be read."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise SystemExit(f"cannot read {path}: {type(exc).__name__}") from exc
