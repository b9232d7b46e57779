"""Model Context Protocol, with the official SDK 2: tools of a server, and the broker's tokens at a server.

    server = MCPServer("crm", token_verifier=CabTokenVerifier(issuer=..., resource=...), auth=...)
    server.tool()(for_mcp(add_note))

A tool acts for the user whose assertion came with the request in `CAB-Assertion`, or for the current one (`acting_for`). The
agent, its connection and its action are the server's; the client's model gives arguments only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mcp.server.auth.provider import AccessToken
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import UrlElicitationRequiredError
from mcp_types import ElicitRequest, ElicitRequestURLParams, InputRequiredResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from cab_client.between import receive_assertion
from cab_client.current import acting_for
from cab_client.errors import CabError, NeedsUser
from cab_client.following import follow, result_of, words_for_model
from cab_client.resource import FetchJson, TokenRejected, TokenVerifier, fetch_json
from cab_client.values import ASSERTION_HEADER


class CabTokenVerifier:
    """The SDK's `TokenVerifier` for what the broker `issuer` made for this server, `resource`. Bound tokens are refused."""

    def __init__(self, *, issuer: str, resource: str, fetch: FetchJson = fetch_json) -> None:
        self._verifier = TokenVerifier(issuer=issuer, resource=resource, fetch=fetch)

    async def verify_token(self, token: str) -> AccessToken | None:
        try:
            caller = await asyncio.to_thread(self._verifier.verify, token)
        except TokenRejected:
            return None
        return AccessToken(
            token=token,
            client_id=caller.agent,
            scopes=sorted(caller.scopes),
            expires_at=int(caller.claims["exp"]),
            resource=self._verifier.resource,
            subject=caller.subject,
            claims=dict(caller.claims),
        )


def for_mcp(tool: Callable[..., Any]) -> Callable[..., Any]:
    """The tool, for `server.tool()`. Where the client can open links for its user it is asked to; else the error says the link."""

    async def wrapper(*args: Any, ctx: Context, **kwargs: Any) -> Any:
        try:
            with _user_of(ctx):
                return await result_of(tool, *args, **kwargs)
        except NeedsUser as needed:
            asked = needed
        except CabError as error:
            raise ToolError(words_for_model(error)) from None
        modern = ctx.session.protocol_version in MODERN_PROTOCOL_VERSIONS
        if asked.uri is not None and _opens_links(ctx) and modern and ctx.request_state is None:
            opened = ElicitRequest(params=ElicitRequestURLParams(message=asked.user_text, url=asked.uri))
            return InputRequiredResult(input_requests={"cab": opened}, request_state="asked")  # it grants nothing
        if asked.uri is not None and _opens_links(ctx) and not modern:
            link = ElicitRequestURLParams(message=asked.user_text, url=asked.uri, elicitation_id=asked.txn or asked.uri)
            raise UrlElicitationRequiredError([link])
        raise ToolError(f"{asked.for_model()} {asked.for_user()}")

    return follow(wrapper, tool, ctx=Context)


@contextmanager
def _user_of(ctx: Context) -> Iterator[None]:
    try:
        request = getattr(ctx.request_context, "request", None)
    except (LookupError, ValueError):
        request = None
    if request is None or ASSERTION_HEADER not in request.headers:
        yield
        return
    with acting_for(receive_assertion(request)):  # one that is none does not make it the current user's request
        yield


def _opens_links(ctx: Context) -> bool:
    elicitation = getattr(ctx.session.client_capabilities, "elicitation", None)
    return getattr(elicitation, "url", None) is not None
