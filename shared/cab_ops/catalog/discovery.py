"""A starting entry for an MCP server, from what it and its authorization server publish (RFC 9728, RFC 8414)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from cab.encoding import strict_json
from cab.ports import AnswerTooLarge, HttpClient, Unavailable
from cab_ops.catalog.documents import DocumentRefused, shown

MAX_BYTES = 102_400
HttpFor = Callable[[str], HttpClient]


async def discover(url: str, http_for: HttpFor, *, connection: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A provider and a connection, to be completed. `http_for` gives a client for one origin.

    Raises: DocumentRefused: nothing is published, or it says that it is of somebody else.
    """
    parts = _https(url)
    at = f"https://{parts.netloc}/.well-known/oauth-protected-resource"
    path = parts.path.rstrip("/")
    resource = await _document(http_for, at + path) or (await _document(http_for, at) if path else None)
    if resource is None:
        raise DocumentRefused("it publishes no protected resource metadata (RFC 9728)")
    named = resource.get("resource")
    # RFC 9728 section 3.3: a document of another resource must not be used.
    if not isinstance(named, str) or not f"{url.rstrip('/')}/".startswith(f"{named.rstrip('/')}/"):
        raise DocumentRefused(f"its metadata is of {shown(named)}")
    servers = resource.get("authorization_servers")
    if not isinstance(servers, list) or len(servers) != 1 or not isinstance(servers[0], str):
        raise DocumentRefused(f"it names not exactly one authorization server: {shown(servers)}")
    server = await _authorization_server(servers[0], http_for)
    provider = {
        "id": f"{connection}-login",
        "title": connection.capitalize(),
        "issuer": server["issuer"],
        "iss_parameter": "required"
        if server.get("authorization_response_iss_parameter_supported") is True
        else "unknown",
        "authorization_endpoint": _endpoint(server, "authorization_endpoint"),
        "token_endpoint": _endpoint(server, "token_endpoint"),
        "pkce": "supported" if "S256" in _texts(server.get("code_challenge_methods_supported")) else "unknown",
    }
    if "revocation_endpoint" in server:
        provider["revocation"] = {"endpoint": _endpoint(server, "revocation_endpoint")}
    entry = {
        "id": connection,
        "title": connection.capitalize(),
        "provider": provider["id"],
        "resource": named,
        "mcp": {"endpoint": url, "protocol": "2026-07-28"},
        "tenants": ["your-tenant"],
        "client_id": "your-client-id",
        "client_secret": {"secret": f"cab-provider-{connection}", "version": 1},
        "connect_scopes": _texts(resource.get("scopes_supported")),
    }
    return provider, entry


async def _authorization_server(issuer: str, http_for: HttpFor) -> dict[str, Any]:
    parts = _https(issuer)
    origin, path = f"https://{parts.netloc}", parts.path.rstrip("/")
    for address in (
        f"{origin}/.well-known/oauth-authorization-server{path}",  # RFC 8414 section 3.1
        f"{origin}/.well-known/openid-configuration{path}",
        f"{origin}{path}/.well-known/openid-configuration",
    ):
        found = await _document(http_for, address)
        if found is not None:
            if found.get("issuer") != issuer:  # RFC 8414 section 3.3
                raise DocumentRefused(f"the metadata of {shown(issuer)} is of {shown(found.get('issuer'))}")
            return found
    raise DocumentRefused(f"{shown(issuer)} publishes no authorization server metadata (RFC 8414)")


async def _document(http_for: HttpFor, url: str) -> dict[str, Any] | None:
    parts = urlsplit(url)
    http = http_for(f"{parts.scheme}://{parts.netloc}")
    try:
        answer = await http.get(url, headers={"Accept": "application/json"}, max_bytes=MAX_BYTES)
        found = strict_json.loads(answer.body) if answer.status == 200 else None
    except (Unavailable, AnswerTooLarge, strict_json.InvalidJson):
        return None
    return found if isinstance(found, dict) else None


def _endpoint(document: dict[str, Any], name: str) -> str:
    url = document.get(name)
    if not isinstance(url, str):
        raise DocumentRefused(f"the authorization server names no {name}")
    _https(url)
    return url


def _https(url: str) -> Any:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme != "https" or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise DocumentRefused(f"{shown(url)} is no plain https address")
    return parts


def _texts(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
