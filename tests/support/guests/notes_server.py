"""An MCP tool server that protects itself with the broker as its authorization server. The MCP SDK does the protocol;
what is shown here is introspected with `requests_oauth2client`, so that a revoked token is dead at once.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import anyio
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from pydantic import AnyHttpUrl
from requests_oauth2client import OAuth2Client, PrivateKeyJwt

SCOPE = "note.read"


class Introspection:
    """Asks the issuer about every token. It answers `active` only for tokens made for this server."""

    def __init__(self, *, issuer: str, resource: str, private_key: dict[str, Any]) -> None:
        self._resource = resource
        self._client = OAuth2Client.from_discovery_endpoint(
            issuer=issuer, auth=PrivateKeyJwt("notes-server", private_key, alg="ES256", aud=issuer), testing=True
        )

    async def verify_token(self, token: str) -> AccessToken | None:
        found = await anyio.to_thread.run_sync(self._client.introspect_token, token)
        if found.get("active") is not True or found["aud"] != self._resource:
            return None
        return AccessToken(
            token=token,
            client_id=found["client_id"],
            scopes=found["scope"].split(),
            expires_at=found["exp"],
            resource=found["aud"],
            subject=found["sub"],
            claims=found,
        )


def notes_server(*, issuer: str, resource: str, private_key: dict[str, Any]) -> MCPServer:
    server: MCPServer = MCPServer(
        "Acme Notes",
        token_verifier=Introspection(issuer=issuer, resource=resource, private_key=private_key),
        auth=AuthSettings(
            issuer_url=AnyHttpUrl(issuer),
            resource_server_url=AnyHttpUrl(resource),
            required_scopes=[SCOPE],
            validate_token_resource=True,
        ),
    )

    @server.tool()
    def list_notes() -> dict[str, Any]:
        """Who asks, through whom, to do what: what the token says."""
        token = get_access_token()
        claims = token.claims if token and token.claims else {}
        return {name: claims[name] for name in ("sub", "act", "authorization_details", "scope")}

    return server


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--issuer", required=True)
    parser.add_argument("--private-key", type=Path, required=True)
    arguments = parser.parse_args()
    server = notes_server(
        issuer=arguments.issuer,
        resource=f"http://127.0.0.1:{arguments.port}/mcp",
        private_key=json.loads(arguments.private_key.read_text()),
    )
    anyio.run(lambda: server.run_streamable_http_async(host="127.0.0.1", port=arguments.port, stateless_http=True))


if __name__ == "__main__":
    main()
