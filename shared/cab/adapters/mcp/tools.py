"""Calls of tools of MCP servers as `HttpSender`: the rules of sending, repeating and reducing are those of every other call.

A call is made only while the server lists the tool exactly as it was reviewed. The list is looked at with the user's own token,
and is good for five minutes in this process.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import httpx2
from mcp import Client, types
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from cab.adapters.mcp.wire import Wire
from cab.domain.calls.pins import pins_of
from cab.domain.configured.calls import McpCall
from cab.domain.configured.connections import Connection, McpServer
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.domain.lru import remember
from cab.ports import CallRefused, Clock, HttpAnswer, HttpSender, SendFailed
from cab.values import immutable

LIST_GOOD_FOR_S: Final = 300
ASKED_FOR_S: Final = 600  # how long a server's question of a user is kept
MOST_LISTS: Final = 256
MOST_ASKED: Final = 1024
MOST_PAGES: Final = 20
_CLIENT: Final = types.Implementation(name="cab", version="0.1")
# Refused before anything was done (JSON-RPC 2.0 section 5.1; MCP 2026-07-28, error codes).
_NOT_DONE: Final = frozenset({-32700, -32600, -32601, -32602, -32020, -32021, -32022})
_UNUSABLE: Final = {"content-type": "multipart/mixed"}  # of no kind that is given on

_Result = types.CallToolResult | types.InputRequiredResult


@immutable
class _Listed:
    until: float
    result: dict[str, Any]
    pins: dict[str, str | None]


@immutable
class _Asked:
    """What a server said that it needs of a user before it does what it was asked. Nobody but the server gets it back."""

    until: float
    state: str | None
    keys: tuple[str, ...]


class McpTools:
    """`McpSenders`: of this process, with what it remembers of servers."""

    def __init__(self, reads: HttpSender, writes: HttpSender, clock: Clock) -> None:
        self._reads = reads
        self._writes = writes
        self._clock = clock
        self._lists: OrderedDict[tuple[str, str], _Listed] = OrderedDict()
        self._asked: OrderedDict[tuple[str, str], _Asked] = OrderedDict()

    def sender(self, connection: Connection, call: McpCall, *, user: str, reads: bool) -> HttpSender:
        assert connection.mcp is not None  # noqa: S101  # as its calls are
        http = self._reads if reads else self._writes
        return _ToolSender(self, http, connection, connection.mcp, call, user=user, reads=reads)

    def now(self) -> float:
        return self._clock.now().timestamp()

    def listed(self, endpoint: str, user: str) -> _Listed | None:
        found = self._lists.get((endpoint, user))
        return found if found is not None and self.now() < found.until else None

    def keep_list(self, connection: Connection, endpoint: str, user: str, result: types.ListToolsResult) -> _Listed:
        """Of all that a server may list, the tools that were reviewed and are as they were then: nothing else is ever called."""
        reviewed = {(it.call.tool, it.call.definition) for it in connection.actions if isinstance(it.call, McpCall)}
        dumped = _as_json(result)
        found = {name: pin for name, pin in pins_of(dumped["tools"]).items() if (name, pin) in reviewed}
        kept = dumped | {"tools": [tool for tool in dumped["tools"] if tool["name"] in found]}
        listed = _Listed(self.now() + LIST_GOOD_FOR_S, kept, found)
        remember(self._lists, (endpoint, user), listed, most=MOST_LISTS)
        return listed

    def take_asked(self, key: tuple[str, str]) -> _Asked | None:
        found = self._asked.pop(key, None)
        return found if found is not None and self.now() < found.until else None

    def keep_asked(self, key: tuple[str, str], state: str | None, keys: tuple[str, ...]) -> None:
        remember(self._asked, key, _Asked(self.now() + ASKED_FOR_S, state, keys), most=MOST_ASKED)


class _ToolSender:
    def __init__(
        self,
        tools: McpTools,
        http: HttpSender,
        connection: Connection,
        server: McpServer,
        call: McpCall,
        *,
        user: str,
        reads: bool,
    ) -> None:
        self._tools = tools
        self._http = http
        self._connection = connection
        self._server = server
        self._call = call
        self._user = user
        self._reads = reads

    async def send(
        self,
        method: str,  # always POST
        url: str,
        *,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_s: float,
        max_bytes: int,
    ) -> HttpAnswer:
        """Make the call that `body` says, which is what was approved. See `HttpSender`; raises CallRefused too."""
        arguments: dict[str, Any] = json.loads(body or b"{}")["params"]["arguments"]
        key = (self._user, hashlib.sha256(url.encode() + b"\n" + (body or b"")).hexdigest())
        listed = self._tools.listed(self._server.endpoint, self._user)
        wire = Wire(
            self._http,
            self._server.endpoint,
            {name: value for name, value in headers.items() if name in ("Authorization", "traceparent")},
            timeout_s=timeout_s,
            max_bytes=max_bytes,
            elicits=bool(self._server.elicitation_hosts),
            listed=listed.result if listed else None,
        )
        met: list[HttpAnswer | Exception] = []
        # However the SDK ends a connection, what counts is what was met on it.
        with suppress(Exception):
            async with asyncio.timeout(timeout_s):
                await self._converse(wire, arguments, key, met, listed)
        if not met:
            met.append(self._without_result(wire, None))
        if isinstance(met[0], Exception):
            raise met[0]
        return met[0]

    async def _converse(
        self,
        wire: Wire,
        arguments: dict[str, Any],
        key: tuple[str, str],
        met: list[HttpAnswer | Exception],
        listed: _Listed | None,
    ) -> None:
        async with (
            httpx2.AsyncClient(transport=wire, timeout=None) as http,  # the wire has its own
            connected(self._server, http) as client,
        ):
            try:
                if client.protocol_version != self._server.protocol:
                    met.append(_not_sent(Reason.PROVIDER_UNAVAILABLE, "The platform speaks another revision of MCP."))
                    return
                found = await list_tools(client)
                if listed is None:
                    listed = self._tools.keep_list(self._connection, self._server.endpoint, self._user, found)
                if listed.pins.get(self._call.tool) != self._call.definition:
                    met.append(_not_sent(Reason.TOOL_DEFINITION_CHANGED, "The tool is not the one that was reviewed."))
                    return
                met.append(self._answer(await self._ask(client, arguments, key), wire, key))
            except MCPError as error:
                met.append(self._without_result(wire, error))
            except RuntimeError:  # the answer does not have the form that the tool's definition promises
                met.append(HttpAnswer(200, _UNUSABLE, wire.answer.body if wire.answer else b"?"))

    async def _ask(self, client: Client, arguments: dict[str, Any], key: tuple[str, str]) -> _Result:
        asked = self._tools.take_asked(key)
        responses: types.InputResponses | None = None
        if asked:
            responses = {name: types.ElicitResult(action="accept") for name in asked.keys}
        return await client.session.call_tool(
            self._call.tool,
            arguments,
            input_responses=responses or None,
            request_state=asked.state if asked else None,
            allow_input_required=True,
        )

    # --- what it means ---

    def _answer(self, result: _Result, wire: Wire, key: tuple[str, str]) -> HttpAnswer | Exception:
        if isinstance(result, types.InputRequiredResult):
            requests = result.input_requests or {}
            pages = [
                request.params.url
                for request in requests.values()
                if isinstance(request, types.ElicitRequest) and isinstance(request.params, types.ElicitRequestURLParams)
            ]
            refusal = self._asks_user(pages, complete=len(pages) == len(requests))
            if refusal.refusal.reason is Reason.PLATFORM_ASKS_USER:
                self._tools.keep_asked(key, result.request_state, tuple(requests))
            return refusal
        headers = wire.answer.headers if wire.answer else {}
        about = {name: headers[name] for name in ("x-request-id", "retry-after") if name in headers}
        content_type, body = _content(result)
        said: Literal["no", "failed"] | None = None
        if result.is_error:  # servers say so of what they refuse as of what broke in the middle
            said = "no" if self._reads else "failed"
        return HttpAnswer(200, {**about, "content-type": content_type}, body, said=said)

    def _without_result(self, wire: Wire, error: MCPError | None) -> HttpAnswer | Exception:
        if wire.failure is not None:
            return wire.failure
        answer = wire.answer
        code = error.code if error is not None else None
        if code == types.URL_ELICITATION_REQUIRED and error is not None and wire.call_sent:
            return self._asks_user(_pages_of(error.data), complete=True)
        if answer is not None and answer.status >= 300:
            if answer.status >= 500 and not wire.call_sent:
                return SendFailed("provider", may_have_arrived=False)
            return answer
        if not wire.call_sent:
            return SendFailed("provider", may_have_arrived=False)
        if answer is None or error is None:
            return SendFailed("provider", may_have_arrived=True)
        return HttpAnswer(answer.status, answer.headers, answer.body, said="no" if code in _NOT_DONE else "failed")

    def _asks_user(self, pages: list[str], *, complete: bool) -> CallRefused:
        """One page, of a host that is listed: all else is none of the user's business as the broker sees it."""
        if complete and len(pages) == 1 and self._may_be_opened(pages[0]):
            host = urlsplit(pages[0]).netloc
            detail = f"{self._connection.title} asks the user to open a page of {host}. Then call again."
            refusal = BrokerError(Reason.PLATFORM_ASKS_USER, detail, remedy=Remedy(interaction_uri=pages[0]))
        else:
            refusal = BrokerError(
                Reason.RESPONSE_TYPE_NOT_ALLOWED, "The platform asks for something that is not passed on."
            )
        return CallRefused(refusal, status=200)

    def _may_be_opened(self, page: str) -> bool:
        try:
            parts = urlsplit(page)
        except ValueError:
            return False
        return (
            parts.scheme == "https"
            and parts.netloc in self._server.elicitation_hosts
            and len(page) <= 2048
            and page.isascii()
            and page.isprintable()
            and " " not in page
        )


def connected(server: McpServer, http: httpx2.AsyncClient) -> Client:
    """A client that speaks the configured revision. A server that has only another is not tried with it."""
    return Client(
        streamable_http_client(server.endpoint, http_client=http),
        mode="legacy" if server.protocol == "2025-11-25" else server.protocol,
        client_info=_CLIENT,
    )


async def list_tools(client: Client) -> types.ListToolsResult:
    """The whole list, as one page. Raises: MCPError; also RuntimeError where it does not end."""
    tools: list[types.Tool] = []
    params: types.PaginatedRequestParams | None = None
    for _ in range(MOST_PAGES):
        page = await client.session.list_tools(params=params)
        tools += page.tools
        if page.next_cursor is None:
            return types.ListToolsResult(tools=tools)
        params = types.PaginatedRequestParams(cursor=page.next_cursor)
    raise MCPError(types.INTERNAL_ERROR, "the list has too many pages")


def _as_json(result: types.ListToolsResult) -> dict[str, Any]:
    dumped: dict[str, Any] = result.model_dump(by_alias=True, mode="json", exclude_none=True)
    return dumped


def tools_as_json(result: types.ListToolsResult) -> list[dict[str, Any]]:
    """The listed tools, as pins are made of them."""
    tools: list[dict[str, Any]] = _as_json(result)["tools"]
    return tools


def _content(result: types.CallToolResult) -> tuple[str, bytes]:
    """What the answer would be over plain HTTP: its structure, else its text, else its one image or sound."""
    if result.structured_content is not None:
        return "application/json", json.dumps(result.structured_content, ensure_ascii=False).encode(
            "utf-8", "surrogatepass"
        )
    blocks = result.content
    if not blocks:
        return "application/json", b""
    texts = [block.text for block in blocks if isinstance(block, types.TextContent)]
    if len(texts) == len(blocks):
        text = "\n".join(texts)
        return "application/json" if _is_document(text) else "text/plain", text.encode("utf-8", "surrogatepass")
    block = blocks[0]
    if len(blocks) == 1 and isinstance(block, types.ImageContent | types.AudioContent):
        with suppress(binascii.Error, ValueError):
            return block.mime_type, base64.b64decode(block.data, validate=True)
    return _UNUSABLE["content-type"], b"?"


def _is_document(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _not_sent(reason: Reason, detail: str) -> CallRefused:
    return CallRefused(BrokerError(reason, detail), status=None)


def _pages_of(data: Any) -> list[str]:
    """The pages of error -32042 (MCP 2025-11-25, client/elicitation); an empty text for what is none."""
    elicitations = data.get("elicitations") if isinstance(data, dict) else None
    if not isinstance(elicitations, list):
        return []
    return [str(one.get("url")) if isinstance(one, dict) and one.get("mode") == "url" else "" for one in elicitations]
