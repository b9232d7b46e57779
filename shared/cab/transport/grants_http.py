"""The private endpoints of refresh_grants: JSON in, JSON out, each for its own callers. A token may come in two parts."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from cab.domain import audit
from cab.domain.audit import EventType
from cab.domain.errors import BrokerError, Reason
from cab.encoding import strict_json, two_parts
from cab.first_word import first_word
from cab.ports import AccessToken, ForetoldToken, Randomness, Unavailable
from cab.transport.requests import NO_STORE, context_of, health, read_body, refusal_response, single_header
from cab.use_cases.audit.auditor import Auditor, Facts, RequestContext
from cab.use_cases.audit.waits import so_far
from cab.use_cases.grants.move import MoveGrants
from cab.use_cases.grants.reinstate import ReinstateGrant
from cab.use_cases.grants.revoke import RevokeGrants
from cab.use_cases.grants.serve import ServeGrant
from cab.use_cases.grants.sweep import FanOut, SweepGrants
from cab.use_cases.identity.authenticate_service import ServiceAuthenticator
from cab.values import immutable

Endpoint = Callable[[bytes, Facts], Awaitable[dict[str, Any]]]
Text = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Tell = Callable[[tuple[str, bytes]], None]  # in which transaction; the first part
GRANT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")  # names a document: nothing that could name another
GrantId = Annotated[str, StringConstraints(pattern=f"^{GRANT_ID.pattern}\\Z")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True, regex_engine="python-re")


class TokenRequest(_Body):
    subject_assertion: Annotated[str, StringConstraints(min_length=1, max_length=16_384)]
    connection: Text
    scopes: list[Text] = Field(max_length=100)
    provider_subject_token: Annotated[str, StringConstraints(min_length=1, max_length=16_384)] | None = None
    rejected_token_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\Z")] | None = None
    txn: Text


class RevokeRequest(_Body):
    """Whose grants to revoke: one grant, or all that match tenant and the other members given."""

    grant_id: GrantId | None = None
    tenant: Text | None = None
    subject: Text | None = None
    connection: Text | None = None
    cause: Text
    txn: Text

    @model_validator(mode="after")
    def _names_something(self) -> RevokeRequest:
        if self.grant_id is None and self.tenant is None:
            raise ValueError("give grant_id or tenant")
        return self


class AllowRequest(_Body):
    grant_id: GrantId
    cause: Text
    txn: Text


class MoveRequest(_Body):
    grant_ids: list[GrantId] = Field(min_length=1, max_length=50)
    txn: Text


@immutable
class Callers:
    token: frozenset[str]
    revoke: frozenset[str]
    sweep: frozenset[str]


class GrantEndpoints:
    """`synchronize` sets the clock that leases are judged by; it is awaited before any grant is looked at."""

    def __init__(
        self,
        serve: ServeGrant,
        revoke: RevokeGrants,
        sweep: SweepGrants,
        reinstate: ReinstateGrant,
        move: MoveGrants,
        *,
        services: ServiceAuthenticator,
        callers: Callers,
        fan_out: FanOut,
        synchronize: Callable[[], Awaitable[None]],
        auditor: Auditor,
        randomness: Randomness,
    ) -> None:
        self._serve = serve
        self._revoke = revoke
        self._sweep = sweep
        self._reinstate = reinstate
        self._move = move
        self._services = services
        self._fan_out = fan_out
        self._synchronize = synchronize
        self._auditor = auditor
        self._randomness = randomness
        self._routes: dict[str, tuple[EventType, Endpoint, frozenset[str]]] = {
            "/grants/token": (EventType.GRANT_SERVED, self._token, callers.token),
            "/grants/revoke": (EventType.GRANT_REVOKED, self._revoke_grants, callers.revoke),
            "/grants/allow": (EventType.GRANT_ALLOWED, self._allow, callers.revoke),
            "/grants/move": (EventType.GRANT_MOVED, self._move_grants, callers.revoke),
            "/grants/sweep": (EventType.GRANTS_SWEPT, self._sweep_grants, callers.sweep),
            "/grants/due": (EventType.GRANT_VISITED, self._visit, callers.sweep),
        }

    async def handle(self, request: Request) -> Response:
        path = request.url.path
        if path == "/health":
            return health()
        context = context_of(request, self._randomness)
        route = self._routes.get(path)
        if route is None:
            return refusal_response(BrokerError(Reason.NOT_FOUND, "There is no such endpoint."), txn=context.txn)
        event_type, endpoint, allowed = route

        async def answer(endpoint: Endpoint) -> Response:
            async def work(facts: Facts) -> dict[str, Any]:
                body = await read_body(request, media_type="application/json")
                account = await self._services.authenticate(single_header(request, "authorization"), allowed=allowed)
                facts.client_authenticated = True
                facts.actor = audit.Actor(client_id=account.partition("@")[0])
                await self._synchronize()
                return await endpoint(body, facts)

            # Successes leave their own events (exchange.decided, grant.*); only refusals are recorded here.
            answered = await self._auditor.run(event_type, RequestContext(context.txn), work, silent=True)
            if answered.refusal is not None:
                return refusal_response(answered.refusal, txn=answered.txn)
            body = orjson.dumps(answered.answer)
            return Response(body, media_type="application/json", headers=NO_STORE | {"CAB-Txn": answered.txn})

        if path == "/grants/token" and two_parts.are_asked_for(request.headers.get("accept", "")):
            return await _in_parts(lambda tell: answer(partial(self._token, tell=tell)))
        return await answer(endpoint)

    async def _token(self, body: bytes, facts: Facts, tell: Tell | None = None) -> dict[str, Any]:
        asked = _parse(TokenRequest, body)
        facts.txn = asked.txn
        facts.tool = audit.Tool(connection=asked.connection)
        token = await self._serve(
            subject_assertion=asked.subject_assertion,
            connection_id=asked.connection,
            scopes=tuple(asked.scopes),
            provider_subject_token=asked.provider_subject_token,
            rejected_token_sha256=asked.rejected_token_sha256,
            foretell=None if tell is None else lambda token: tell((asked.txn, _first_part(token))),
        )
        return {"access_token": token.access_token, "outcome": token.outcome} | _facts_of(token)

    async def _revoke_grants(self, body: bytes, facts: Facts) -> dict[str, Any]:
        asked = _parse(RevokeRequest, body)
        facts.txn = asked.txn
        if asked.grant_id is not None:
            done = [await self._revoke.one(asked.grant_id, cause=asked.cause, txn=asked.txn, by=_caller(facts))]
        else:
            equal = asked.model_dump(include={"tenant", "subject", "connection"}, exclude_none=True)
            done = await self._revoke.matching(equal=equal, cause=asked.cause, txn=asked.txn, by=_caller(facts))
        return {
            "revoked": [
                {"grant_id": item.grant_id, "connection": item.connection, "upstream": item.upstream} for item in done
            ]
        }

    async def _allow(self, body: bytes, facts: Facts) -> dict[str, Any]:
        asked = _parse(AllowRequest, body)
        facts.txn = asked.txn
        by = _caller(facts)
        return {"allowed": await self._reinstate(asked.grant_id, cause=asked.cause, txn=asked.txn, by=by)}

    async def _move_grants(self, body: bytes, facts: Facts) -> dict[str, Any]:
        """What came of each: a store that does not answer makes one wait, and the others go on."""
        asked = _parse(MoveRequest, body)
        facts.txn = asked.txn
        came: dict[str, str] = {}
        for name in asked.grant_ids:
            try:
                came[name] = await self._move.one(name, txn=asked.txn, by=_caller(facts))
            except Unavailable:
                came[name] = "waits"
        return {"to": self._move.to, "came": came}

    async def _sweep_grants(self, _: bytes, facts: Facts) -> dict[str, Any]:
        return {"due": await self._sweep.hand_over(self._fan_out)}

    async def _visit(self, body: bytes, facts: Facts) -> dict[str, Any]:
        """A Pub/Sub push that names one grant."""
        try:
            name = base64.b64decode(strict_json.load_object(body)["message"]["data"], validate=True).decode("ascii")
        except (KeyError, TypeError, ValueError):  # the last also for what is not JSON, base64 or ASCII
            name = ""
        if not GRANT_ID.fullmatch(name):
            return {"visited": False}  # acknowledged: delivering it again would not make it better
        await self._sweep.visit(name)
        return {"visited": True}


class _ToTheEnd(StreamingResponse):
    """Stays open although its caller may hang up: while it does, the process does not stand still, and the commit goes on."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.stream_response(send)


async def _in_parts(answer: Callable[[Tell], Coroutine[Any, Any, Response]]) -> Response:
    """The answer in two parts, where its token is foretold; else as it comes."""
    foretold, answering = await first_word(answer)
    if foretold is None:
        return await answering
    txn, first = foretold

    async def parts() -> AsyncIterator[bytes]:
        yield first
        whole = await answering
        retry_after = whole.headers.get("retry-after")
        yield two_parts.last(
            bytes(whole.body),
            status=whole.status_code,
            retry_after_s=None if retry_after is None else int(retry_after),
        )

    return _ToTheEnd(parts(), media_type=two_parts.MEDIA_TYPE, headers=NO_STORE | {"CAB-Txn": txn})


def _first_part(token: ForetoldToken) -> bytes:
    return two_parts.first({"token_sha256": token.sha256} | _facts_of(token))


def _facts_of(token: AccessToken | ForetoldToken) -> dict[str, Any]:
    return {
        "expires_at": None if token.expires_at is None else token.expires_at.isoformat(),
        "scopes": list(token.scopes),
        "narrowed": token.narrowed,
        "grant_id": token.grant_id,
        "seq": token.seq,
        "secret_version": token.secret_version,
        "renew_at": None if token.renew_at is None else token.renew_at.isoformat(),
        "works_until": None if token.works_until is None else token.works_until.isoformat(),
        "waited_ms": so_far(),
    }


def _caller(facts: Facts) -> str | None:
    return facts.actor.client_id if facts.actor else None


def _parse(kind: type[Any], body: bytes) -> Any:
    try:
        return kind.model_validate(strict_json.load_object(body))
    except (strict_json.InvalidJson, ValidationError) as error:
        raise BrokerError(Reason.PARAMETER_INVALID, "The body does not have the expected members.") from error
