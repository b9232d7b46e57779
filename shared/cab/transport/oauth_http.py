"""OAuth endpoints over HTTP: strict form in, JSON out, `no-store`, `CAB-Txn` on every answer (RFC 6749 section 5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from cab.domain.audit import EventType
from cab.domain.errors import BrokerError, Reason
from cab.ports import Randomness
from cab.protocol.forms import parse_form
from cab.protocol.names import FORM_MEDIA_TYPE
from cab.transport.requests import JsonAnswer, context_of, health, read_body, refusal_response, single_header
from cab.use_cases.audit.auditor import Answered, Auditor, Facts
from cab.use_cases.identity.authenticate_client import Credentials
from cab.values import immutable

Endpoint = Callable[[dict[str, Any], Credentials, Facts], Awaitable[Any]]
Handler = Callable[[Request], Awaitable[Response]]


@immutable
class OAuthRoute:
    endpoint: Endpoint
    event_type: EventType
    render: Callable[[Any], bytes]
    media_type: str = FORM_MEDIA_TYPE
    parse: Callable[[bytes], dict[str, Any]] = parse_form
    status: int = 200
    is_silent: bool = False  # its success is no event


def json_body(content: Any) -> bytes:
    return orjson.dumps(content)


def empty_body(_: Any) -> bytes:
    return b""


class OAuthEndpoints:
    """The handler of one function: its form endpoints by path."""

    def __init__(self, routes: Mapping[str, OAuthRoute], auditor: Auditor, randomness: Randomness) -> None:
        self._routes = routes
        self._auditor = auditor
        self._randomness = randomness

    async def handle(self, request: Request) -> Response:
        path = request.scope["path"]  # request.url would build it from the Host header too
        context = context_of(request, self._randomness)
        if path == "/health":
            return health(context.txn)
        route = self._routes.get(path)
        if route is None:
            return refusal_response(BrokerError(Reason.NOT_FOUND, "There is no such endpoint."), txn=context.txn)

        async def work(facts: Facts) -> Any:
            form = route.parse(await read_body(request, media_type=route.media_type))
            credentials = Credentials(
                authorization=single_header(request, "authorization"),
                client_assertion_type=form.get("client_assertion_type"),
                client_assertion=form.get("client_assertion"),
                client_id=form.get("client_id"),
                client_secret=form.get("client_secret"),
                dpop_proof=single_header(request, "dpop"),
            )
            return await route.endpoint(form, credentials, facts)

        answered = await self._auditor.run(route.event_type, context, work, silent=route.is_silent)
        if answered.refusal is not None:
            return refusal_response(answered.refusal, txn=answered.txn, tried_basic=_tried_basic(request))
        return render(answered, route)


def _tried_basic(request: Request) -> bool:
    return any(value[:6].lower() in ("basic", "basic ") for value in request.headers.getlist("authorization"))


def render(answered: Answered[Any], route: OAuthRoute) -> Response:
    return JsonAnswer(route.render(answered.answer), status=route.status, txn=answered.txn)
