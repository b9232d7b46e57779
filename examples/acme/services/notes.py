"""Acme's notes, an MCP server of the official SDK behind its own OAuth server, which asks for `resource` (RFC 8707) everywhere.

    python -m examples.acme.services.notes --port 8085 --clients clients.json [--state notes.sqlite]

Tools: `search_notes`, `add_note`, and `share_note`, for which everybody must first have opened the page of terms: it asks for that by
URL elicitation. `POST /_control/tools` with `{"name": ..., "description": ...}` changes a definition; `POST /_control/restore`
takes notes, terms and definitions back to the beginning; `GET /_control/calls` lists who called what.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from mcp import types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cab_dev.doubles.clients import RegisteredClient, load_clients
from cab_dev.doubles.clock import MovableClock
from cab_dev.doubles.oauth_provider import (
    AcceptedToken,
    Account,
    OAuthProvider,
    ProviderProfile,
    ProviderSettings,
    RefreshClass,
    TrustedIssuer,
    load_trusted_issuers,
)
from cab_dev.doubles.service import create_app, origin_of, serve, service_arguments
from cab_dev.doubles.strict_input import BadRequest, read_json_object
from examples.acme.people import PEOPLE

ACCOUNTS = tuple(
    Account(login=person.login, account_id=f"notes-{person.login}", name=person.name, email=person.email)
    for person in PEOPLE.values()
)
SCOPES = {
    "note.read": "Find your notes",
    "note.write": "Write and share notes in your name",
    "offline_access": "Keep this access while you are away",
}
PROFILE = ProviderProfile(name="acme-notes", refresh_class=RefreshClass.STRICT, access_token_life_s=300)
TERMS: Final = "https://terms.notes.example/sharing"
_ACCEPTED: Final = "opened"  # all that the server remembers of a question lies in its own table
_TEXT: Final = {"type": "string", "maxLength": 2000}
TOOLS: Final[tuple[dict[str, Any], ...]] = (
    {
        "name": "search_notes",
        "title": "Search notes",
        "description": "Finds notes that hold the words.",
        "inputSchema": {"type": "object", "properties": {"query": _TEXT}, "required": ["query"]},
        "annotations": {"readOnlyHint": True},
    },
    {
        "name": "add_note",
        "description": "Adds a note.",
        "inputSchema": {"type": "object", "properties": {"text": _TEXT}, "required": ["text"]},
        "annotations": {"destructiveHint": False},
    },
    {
        "name": "share_note",
        "description": "Shows a note to everybody in the company.",
        "inputSchema": {"type": "object", "properties": {"text": _TEXT}, "required": ["text"]},
        "annotations": {"destructiveHint": False},
    },
)
_NEEDS: Final = {"search_notes": "note.read", "add_note": "note.write", "share_note": "note.write"}


class _Notes:
    """What there is: notes by account, who has opened the terms, the tools as they are listed now, and who called what."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.restore()

    def restore(self) -> None:
        self.notes: dict[str, list[str]] = {}
        self.accepted: set[str] = set()
        self.tools = [dict(tool) for tool in TOOLS]
        self.calls.clear()

    def call(self, token: AcceptedToken, params: types.CallToolRequestParams) -> Any:
        account, name = token.account, params.name
        self.calls.append({"tool": name, "account": account, "arguments": params.arguments or {}})
        if name not in _NEEDS or _NEEDS[name] not in token.scopes:
            return _said("The access token does not carry the scope that this tool needs.", is_error=True)
        if name == "share_note" and account not in self.accepted:
            if params.request_state != _ACCEPTED:
                page = types.ElicitRequestURLParams(message="Open our terms to go on.", url=TERMS)
                asked = types.ElicitRequest(params=page)
                return types.InputRequiredResult(input_requests={"terms": asked}, request_state=_ACCEPTED)
            self.accepted.add(account)
        own = self.notes.setdefault(account, [])
        if name == "search_notes":
            words = str((params.arguments or {}).get("query", "")).casefold()
            return _structured({"notes": [note for note in own if words in note.casefold()]})
        own.append(str((params.arguments or {}).get("text", "")))
        return _structured({"number": len(own), "shared": name == "share_note"})


def _said(text: str, *, is_error: bool = False) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=is_error)


def _structured(content: dict[str, Any]) -> types.CallToolResult:
    return types.CallToolResult(content=[], structured_content=content)


class _Answered(Response):
    """What the SDK answers, as the response of a route."""

    def __init__(self, manager: StreamableHTTPSessionManager) -> None:
        super().__init__()
        self._manager = manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._manager.handle_request(scope, receive, send)


def create_notes(
    *,
    issuer: str,
    clients: Mapping[str, RegisteredClient],
    database: str = ":memory:",
    clock: MovableClock | None = None,
    trusted_issuers: tuple[TrustedIssuer, ...] = (),
) -> Starlette:
    """The notes as an application. `issuer` is its own origin; `database` keeps tokens, not notes."""
    provider = OAuthProvider(
        ProviderSettings(
            issuer=issuer,
            brand="Acme Notes",
            accent="#7a4b00",
            cookie="acme_notes_session",
            profile=PROFILE,
            clients=clients,
            accounts=ACCOUNTS,
            scopes=SCOPES,
            database=database,
            clock=clock or MovableClock(),
            trusted_issuers=trusted_issuers,
            resource=f"{issuer}/mcp",
        )
    )
    notes = _Notes()

    async def listed(_: Any, __: Any) -> types.ListToolsResult:
        tools = [types.Tool.model_validate(tool) for tool in notes.tools]
        return types.ListToolsResult(tools=tools, ttl_ms=0, cache_scope="private")

    async def called(context: ServerRequestContext[Any, Request], params: types.CallToolRequestParams) -> Any:
        assert context.request is not None  # noqa: S101  # over HTTP there always is one
        return notes.call(context.request.scope["acme.token"], params)

    manager = StreamableHTTPSessionManager(
        Server("acme-notes", version="1", on_list_tools=listed, on_call_tool=called),
        json_response=True,
        stateless=True,
        security_settings=TransportSecuritySettings(allowed_hosts=[urlsplit(issuer).netloc], allowed_origins=[]),
    )

    async def mcp(request: Request) -> Response:
        request.scope["acme.token"] = provider.bearer(request)
        return _Answered(manager)

    async def change_tool(request: Request) -> Response:
        document = await read_json_object(request)
        found = next((tool for tool in notes.tools if tool["name"] == document.get("name")), None)
        if found is None or not isinstance(document.get("description"), str):
            raise BadRequest("invalid_request", "name must be a tool and description a text.")
        found["description"] = document["description"]
        return JSONResponse({})

    async def restore(_: Request) -> Response:
        notes.restore()
        return JSONResponse({})

    async def show_calls(_: Request) -> Response:
        return JSONResponse({"calls": notes.calls})

    @asynccontextmanager
    async def running(_: Starlette) -> AsyncIterator[None]:
        async with manager.run():
            yield

    return create_app(
        [
            *provider.routes(),
            Route("/mcp", provider.guarded_api(mcp), methods=["GET", "POST", "DELETE"]),
            Route("/_control/tools", change_tool, methods=["POST"]),
            Route("/_control/restore", restore, methods=["POST"]),
            Route("/_control/calls", show_calls, methods=["GET"]),
        ],
        origin=issuer,
        lifespan=running,
    )


def main() -> None:
    parser = service_arguments("notes", default_port=8085)
    parser.add_argument("--clients", default=os.environ.get("ACME_NOTES_CLIENTS"), help="JSON file of OAuth clients")
    parser.add_argument("--state", default=os.environ.get("ACME_NOTES_STATE", ":memory:"), help="SQLite file of tokens")
    parser.add_argument("--trust", default=os.environ.get("ACME_NOTES_TRUST"), help="JSON file of issuers that vouch")
    arguments = parser.parse_args()
    app = create_notes(
        issuer=origin_of(arguments),
        clients=load_clients(arguments.clients),
        database=arguments.state,
        trusted_issuers=load_trusted_issuers(arguments.trust, ACCOUNTS),
    )
    serve(app, port=arguments.port)


if __name__ == "__main__":
    main()
