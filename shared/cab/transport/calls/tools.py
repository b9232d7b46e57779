"""Tools by plain HTTP: `POST /tools/call`, `GET /tools`, and the metadata that tells clients where to get a token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import Response

from cab.domain.audit import EventType
from cab.domain.calls.tools import CallableTool, hints_of, input_schema
from cab.domain.configured.clients import Agent
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.encoding import strict_json
from cab.ports import Randomness
from cab.protocol.metadata import TOOLS_METADATA_PATH, protected_resource
from cab.transport.calls.answers import Refusals, credentials_of, result_body
from cab.transport.requests import NO_STORE, context_of, health, read_body
from cab.use_cases.audit.auditor import Auditor, Facts
from cab.use_cases.calls.call import CallEnded, CallTool, NewToolCall, RefusedElsewhere
from cab.use_cases.calls.identify import IdentifyToolCaller, ToolCaller
from cab.use_cases.calls.listing import Listing
from cab.values import mutable

CALL_PATH: Final = "/tools/call"
LIST_PATH: Final = "/tools"
MAX_ARGUMENTS: Final = 50

Handler = Callable[[Request], Awaitable[Response]]


class _Call(BaseModel):
    """A new call (`tool`), or one that waited for a person (`deferral_code` alone)."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True, regex_engine="python-re")

    tool: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    arguments: dict[str, Any] = Field(default_factory=dict, max_length=MAX_ARGUMENTS)
    reason: Annotated[str, StringConstraints(max_length=500)] | None = None
    call_id: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,128}\Z")] | None = None
    completion_mode: Literal["deferred"] | None = None
    deferral_code: Annotated[str, StringConstraints(min_length=1, max_length=500)] | None = None

    @model_validator(mode="after")
    def _is_one_of_two(self) -> _Call:
        if (self.deferral_code is None) == (self.tool is None):
            raise ValueError("give tool or deferral_code")
        if self.deferral_code is not None and len(self.model_fields_set) > 1:
            raise ValueError("deferral_code allows no other parameter")
        return self


class ToolEndpoints:
    """The handler of call_tool. `mcp` serves what the Model Context Protocol asks."""

    def __init__(
        self,
        deployment: Deployment,
        *,
        identify: IdentifyToolCaller,
        listing: Listing,
        call_tool: CallTool,
        mcp: Handler,
        auditor: Auditor,
        randomness: Randomness,
    ) -> None:
        self._origin = deployment.broker.origin
        self._identify = identify
        self._listing = listing
        self._call_tool = call_tool
        self._mcp = mcp
        self._auditor = auditor
        self._randomness = randomness
        self._refusals = Refusals(deployment)
        self._metadata = orjson.dumps(protected_resource(deployment), option=orjson.OPT_SORT_KEYS)

    async def handle(self, request: Request) -> Response:
        path = request.scope["path"]
        if path == "/health":
            return health(self._randomness.token(16))
        match path:
            case "/mcp":
                return await self._mcp(request)
            case "/tools/call":
                return await self._call(request)
            case "/tools":
                return await self._list(request)
            case _ if path == TOOLS_METADATA_PATH and request.method in ("GET", "HEAD"):
                headers = {"Cache-Control": "public, max-age=300", "Access-Control-Allow-Origin": "*"}
                headers["CAB-Txn"] = self._randomness.token(16)
                return Response(self._metadata, media_type="application/json", headers=headers)
        txn = self._randomness.token(16)
        if path == TOOLS_METADATA_PATH:
            response = self._refusals.response(BrokerError(Reason.METHOD_NOT_ALLOWED, "Use GET."), txn=txn)
            response.headers["Allow"] = "GET, HEAD"
            return response
        return self._refusals.response(BrokerError(Reason.NOT_FOUND, "There is no such endpoint."), txn=txn)

    async def _list(self, request: Request) -> Response:
        async def work(facts: Facts, seen: _Seen) -> bytes:
            if request.method != "GET":
                raise BrokerError(Reason.METHOD_NOT_ALLOWED, "Use GET.")
            caller = await self._caller(request, LIST_PATH, facts, seen)
            return orjson.dumps({"tools": [described(tool, caller.agent) for tool in self._listing.askable(caller)]})

        return await self._answer(request, work, allow="GET")

    async def _call(self, request: Request) -> Response:
        async def work(facts: Facts, seen: _Seen) -> CallEnded:
            body = await read_body(request, media_type="application/json")
            caller = await self._caller(request, CALL_PATH, facts, seen)
            asked = _parse(body)
            if asked.deferral_code is not None:
                return await self._call_tool.resume(caller, asked.deferral_code, facts)
            call = NewToolCall(
                tool=asked.tool or "",
                arguments=asked.arguments,
                reason=asked.reason,
                call_id=asked.call_id,
                deferred=asked.completion_mode is not None,
            )
            return await self._call_tool(caller, call, facts)

        return await self._answer(request, work, allow="POST")

    async def _caller(self, request: Request, path: str, facts: Facts, seen: _Seen) -> ToolCaller:
        authorization, proof = credentials_of(request)
        seen.caller = await self._identify(
            authorization, proof, method=request.method, url=f"{self._origin}{path}", facts=facts
        )
        return seen.caller

    async def _answer(
        self, request: Request, work: Callable[[Facts, _Seen], Awaitable[bytes | CallEnded]], *, allow: str
    ) -> Response:
        """Refusals of ours are put on record here; those of exchange_token are, and calls that were made say so themselves."""
        seen = _Seen()

        async def recorded(facts: Facts) -> bytes | CallEnded | RefusedElsewhere:
            try:
                return await work(facts, seen)
            except RefusedElsewhere as refused:
                return refused

        answered = await self._auditor.run(
            EventType.REQUEST_REFUSED, context_of(request, self._randomness), recorded, silent=True
        )
        txn, answer, refusal = answered.txn, answered.answer, answered.refusal
        ended = answer if isinstance(answer, CallEnded) else None
        if isinstance(answer, RefusedElsewhere):
            refusal = answer.refusal
        elif ended is not None:
            refusal = ended.refusal
        if refusal is None:
            body = answer if isinstance(answer, bytes) else result_body(ended, txn=txn) if ended else b""
            return Response(body, media_type="application/json", headers=NO_STORE | {"CAB-Txn": txn})
        scopes = self._listing.needed_scopes(seen.caller) if seen.caller else ()
        response = self._refusals.response(refusal, txn=txn, scopes=scopes, ended=ended)
        if refusal.reason is Reason.METHOD_NOT_ALLOWED:
            response.headers["Allow"] = allow
        return response


@mutable
class _Seen:
    """Who a request turned out to be from, for what its refusal says."""

    caller: ToolCaller | None = None


def described(tool: CallableTool, agent: Agent) -> dict[str, Any]:
    """A tool as `GET /tools` shows it. `mode` is how this agent can have it done."""
    action = tool.action
    return {
        "name": tool.name,
        "title": action.title,
        "description": action.description or action.title,
        "input_schema": input_schema(action),
        "annotations": hints_of(action),
        "action": action.id,
        "effect": action.effect.value,
        "mode": "token" if action.call is None else agent.mode,
        "resource": tool.connection.resource,
    }


def _parse(body: bytes) -> _Call:
    try:
        return _Call.model_validate(strict_json.load_object(body))
    except strict_json.InvalidJson as error:
        raise BrokerError(Reason.PARAMETER_INVALID, "The body must be one JSON object.") from error
    except ValidationError as error:
        location = error.errors(include_input=False, include_url=False, include_context=False)[0]["loc"]
        member = str(location[0]) if location and location[0] in _Call.model_fields else None
        detail = "Give tool, or deferral_code alone." if member is None else f"The member {member} is not valid."
        raise BrokerError(Reason.PARAMETER_INVALID, detail, remedy=Remedy(member=member)) from error
