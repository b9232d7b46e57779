"""aiohttp's server: `CabResource` as its middleware.

    app = web.Application(middlewares=[cab_middleware(issuer=..., resource=..., rules={"GET /deals/{id}": covers(...)})])

Rules go by the route that aiohttp chose and by its placeholders, so that both read a path the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from aiohttp import web

from cab_client.resource import (
    METADATA_PATH,
    Caller,
    FetchJson,
    Gate,
    Refusal,
    Reporter,
    Rule,
    checked_routes,
    fetch_json,
)

CALLER = web.RequestKey("cab", Caller)
"""`request[CALLER]`: who calls, for whom, for what."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def cab_middleware(
    *,
    issuer: str,
    resource: str,
    rules: Mapping[str, Rule],
    public: Iterable[str] = (),
    hosts: Iterable[str] = (),
    fetch: FetchJson = fetch_json,
    reporter: Reporter | None = None,
) -> Any:
    """The arguments are those of `CabResource`. Handlers find the `Caller` in `request[CALLER]`."""
    gate = Gate(issuer=issuer, resource=resource, hosts=hosts, fetch=fetch, reporter=reporter)
    known, open_to_all = checked_routes(rules), frozenset(public)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        found = request.match_info.route.resource
        where = f"{request.method} {request.path if found is None else found.canonical}"
        if where in open_to_all:
            return await handler(request)
        if where == f"GET {METADATA_PATH}":
            return web.json_response(gate.metadata())
        try:
            is_encoded = "Content-Encoding" in request.headers  # which the gate refuses, and aiohttp would decode
            body = b"" if is_encoded else await request.read()
        except web.HTTPRequestEntityTooLarge:
            body = None
        caller = await asyncio.to_thread(
            gate.judge,
            request.method,
            request.path,
            request.rel_url.raw_query_string,
            list(request.headers.items()),
            body,
            known.get(where),
            dict(request.match_info),
        )
        if isinstance(caller, Refusal):
            told = {"error": caller.error, "error_description": caller.description}
            return web.json_response(told, status=caller.status, headers=gate.headers_of(caller))
        request[CALLER] = caller
        status = None
        try:
            answer = await handler(request)
            status = answer.status
        except web.HTTPException as answered:
            status = answered.status
            raise
        finally:
            gate.tell(caller, request.headers.items(), status)
        return answer

    return guard
