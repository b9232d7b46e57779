"""What every twin and demo service needs from the web: strict bodies, safe pages, quiet logs, one way to run.

Bad input is always a 4xx with a JSON body `{"error", "error_description"}`, never a 500. Logs hold the method, the
path, the status and the time: no query strings, no headers, no bodies.
"""

import argparse
import base64
import binascii
import hashlib
import html
import json
import logging
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, quote, unquote_plus, urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 64 * 1024
MAX_FIELDS = 50
MAX_JSON_DEPTH = 20

access_log = logging.getLogger("cab_dev.access")

Handler = Callable[[Request], Awaitable[Response]]


class BadRequest(Exception):
    """The caller's mistake: becomes a JSON error answer. `description` is shown, so it never quotes the input."""

    def __init__(
        self,
        error: str,
        description: str,
        *,
        status: int = 400,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(error)
        self.error = error
        self.description = description
        self.status = status
        self.headers = dict(headers or {})

    def response(self) -> Response:
        body = {"error": self.error, "error_description": self.description}
        return JSONResponse(body, status_code=self.status, headers=self.headers)


# --- reading requests -------------------------------------------------------------------------------------------------


async def read_body(request: Request) -> bytes:
    """The whole body, at most 64 KiB (413 above)."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise BadRequest("invalid_request", "The body is larger than 64 KiB.", status=413)
    except ClientDisconnect as exc:
        raise BadRequest("invalid_request", "The body ended early.") from exc
    return bytes(body)


def _require_media_type(request: Request, wanted: str) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != wanted:
        raise BadRequest("invalid_request", f"The body must be {wanted}.", status=415)


def _single_values(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise BadRequest("invalid_request", "A parameter is repeated.")
    return values


def _parse_urlencoded(raw: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError as exc:
        raise BadRequest("invalid_request", "The parameters are not readable.") from exc
    return _single_values(pairs)


async def read_form(request: Request) -> dict[str, str]:
    """The form fields of the body, each name once. Query parameters are never mixed in."""
    _require_media_type(request, "application/x-www-form-urlencoded")
    return _parse_urlencoded(await read_body(request))


def read_query(request: Request) -> dict[str, str]:
    """The query parameters, each name once."""
    return _parse_urlencoded(request.scope["query_string"])


def _refuse_constant(_: str) -> Any:
    raise ValueError("NaN and Infinity are not JSON")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is repeated")
    return members


def _depth_of(raw: bytes) -> int:
    """Deepest nesting of brackets, counted before parsing; brackets inside strings only make it stricter."""
    depth = deepest = 0
    for byte in raw:
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


async def read_json_object(request: Request) -> dict[str, Any]:
    """The body as one JSON object: UTF-8, no repeated members, no NaN, at most 20 levels deep."""
    _require_media_type(request, "application/json")
    raw = await read_body(request)
    if _depth_of(raw) > MAX_JSON_DEPTH:
        raise BadRequest("invalid_request", "The JSON is nested too deeply.")
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate parses but cannot be stored
    except ValueError as exc:
        raise BadRequest("invalid_request", "The body is not valid JSON.") from exc
    if not isinstance(value, dict):
        raise BadRequest("invalid_request", "The body must be a JSON object.")
    return cast(dict[str, Any], value)


def basic_credentials(request: Request) -> tuple[str, str] | None:
    """Client id and secret of an HTTP Basic header, form-decoded as RFC 6749 section 2.3.1 asks, or None."""
    values = request.headers.getlist("authorization")
    if len(values) != 1:
        return None
    scheme, _, encoded = values[0].partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
        return (unquote_plus(user, errors="strict"), unquote_plus(password, errors="strict")) if colon else None
    except (binascii.Error, ValueError):
        return None


# --- pages ------------------------------------------------------------------------------------------------------------

_CSS = """
:root{color-scheme:light dark;--accent:%(accent)s;--ink:#1c2330;--soft:#5b6577;--line:#d9dee7;--card:#fff;--ground:#f2f4f8}
@media (prefers-color-scheme:dark){:root{--ink:#e8ebf1;--soft:#a3adbd;--line:#333c4b;--card:#1b212b;--ground:#11151c}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:flex;align-items:center;justify-content:center;padding:1rem;
background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{width:100%%;max-width:26rem;background:var(--card);border:1px solid var(--line);border-radius:14px;
padding:1.75rem;border-top:5px solid var(--accent);overflow-wrap:anywhere}
.brand{margin:0 0 1rem;font-weight:600;color:var(--accent)}
h1{font-size:1.35rem;line-height:1.25;margin:0 0 .6rem}
p{margin:.4rem 0}
.soft{color:var(--soft);font-size:.9rem}
ul{margin:.8rem 0;padding:0;list-style:none;border-top:1px solid var(--line)}
li{padding:.55rem 0;border-bottom:1px solid var(--line)}
code{font-size:.85em;color:var(--soft)}
form{margin-top:1.1rem;display:grid;gap:.6rem}
button{font:inherit;font-weight:600;min-height:48px;padding:.6rem 1rem;border-radius:10px;cursor:pointer;
border:1px solid var(--accent);background:var(--accent);color:#fff}
button.quiet{background:transparent;color:var(--ink);border-color:var(--line)}
button:focus-visible{outline:3px solid var(--ink);outline-offset:2px}
"""

# Chromium applies form-action to every redirect that follows a form submission, and a login ends in another origin's
# callback, which may redirect once more. So loopback and https targets are allowed; script URLs and the rest are not.
_FORM_ACTION = "form-action 'self' http://127.0.0.1:* http://localhost:* https:"


class Pages:
    """HTML pages of one brand: one style sheet, allowed by its hash, no scripts, no frames, no outside content."""

    def __init__(self, brand: str, accent: str) -> None:
        self.brand = brand
        self._css = _CSS % {"accent": accent}
        digest = base64.b64encode(hashlib.sha256(self._css.encode()).digest()).decode("ascii")
        self._policy = (
            f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; frame-ancestors 'none'; {_FORM_ACTION}"
        )

    def render(self, title: str, body: str, *, status: int = 200) -> HTMLResponse:
        """A page. `title` is escaped here; `body` is HTML whose parts the caller has escaped."""
        document = (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{html.escape(title)} · {html.escape(self.brand)}</title><style>{self._css}</style></head>"
            f'<body><main><p class="brand">{html.escape(self.brand)}</p>'
            f"<h1>{html.escape(title)}</h1>{body}</main></body></html>"
        )
        headers = {
            "Content-Security-Policy": self._policy,
            "Referrer-Policy": "no-referrer",
            "X-Frame-Options": "DENY",
        }
        return HTMLResponse(document, status_code=status, headers=headers)

    def problem(self, description: str, *, status: int = 400) -> HTMLResponse:
        """An error page for a person; nothing of the request is repeated on it."""
        return self.render("This request cannot be completed", f"<p>{html.escape(description)}</p>", status=status)


# --- running ----------------------------------------------------------------------------------------------------------


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


def create_app(routes: Sequence[BaseRoute], *, origin: str) -> Starlette:
    """An application with `GET /health`, JSON errors, safe headers and the access log around `routes`.

    Answers requests whose `Host` is a loopback name or the host of `origin`, and 403 to all others.
    """
    own_names = _LOOPBACK_NAMES | {urlsplit(origin).hostname or ""}
    return Starlette(
        routes=[Route("/health", _health), *routes],
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
