"""A starting entry for an MCP server, from what it and its authorization server publish (RFC 9728, RFC 8414)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cab.adapters.secret_names import OF_PROVIDERS
from cab.encoding import strict_json
from cab.ports import AnswerTooLarge, HttpClient, Unavailable
from cab_ops.catalog.documents import DocumentRefused, shown

MAX_BYTES = 102_400
_WAYS = ("client_secret_basic", "client_secret_post", "none")  # of a client to prove who it is that the broker has
HttpFor = Callable[[str], HttpClient]


@dataclass(frozen=True)
class Discovered:
    """A provider and a connection, to be completed, and the scopes that the server names for its tools."""

    provider: dict[str, Any]
    connection: dict[str, Any]
    scopes: list[str]


async def discover(url: str, http_for: HttpFor, *, connection: str) -> Discovered:
    """`http_for` gives a client for one origin.

    Raises: DocumentRefused: nothing is published, or it says that it is of somebody else.
    """
    parts = _https(url)
    at = f"https://{parts.netloc}/.well-known/oauth-protected-resource"
    path = parts.path.rstrip("/")
    found: list[str] = []
    resource = await _document(http_for, at + path, found) or (await _document(http_for, at, found) if path else None)
    if resource is None:
        raise DocumentRefused(f"no protected resource metadata (RFC 9728): {'; '.join(found)}")
    named = resource.get("resource")
    # RFC 9728 section 3.3: a document of another resource must not be used.
    if not isinstance(named, str) or not f"{url.rstrip('/')}/".startswith(f"{named.rstrip('/')}/"):
        raise DocumentRefused(f"its metadata is of {shown(named)}")
    servers = resource.get("authorization_servers")
    if not isinstance(servers, list) or len(servers) != 1 or not isinstance(servers[0], str):
        raise DocumentRefused(f"it names not exactly one authorization server: {shown(servers)}")
    server = await _authorization_server(servers[0], http_for)
    ways = _texts(server.get("token_endpoint_auth_methods_supported")) or ["client_secret_basic"]  # RFC 8414 section 2
    way = next((one for one in _WAYS if one in ways), None)
    if way is None:
        raise DocumentRefused(f"clients prove who they are there only by {shown(', '.join(ways))}")
    scopes = _texts(resource.get("scopes_supported"))
    provider: dict[str, Any] = {
        "id": f"{connection}-login",
        "title": connection.capitalize(),
        "issuer": server["issuer"],
        "iss_parameter": "required"
        if server.get("authorization_response_iss_parameter_supported") is True
        else "unknown",
        "authorization_endpoint": _endpoint(server, "authorization_endpoint"),
        "token_endpoint": _endpoint(server, "token_endpoint"),
        "token_endpoint_auth_method": way,
        "pkce": "supported" if "S256" in _texts(server.get("code_challenge_methods_supported")) else "unknown",
    }
    if "offline_access" in (*scopes, *_texts(server.get("scopes_supported"))):  # else there may be no refresh token
        provider["base_scopes"] = ["offline_access"]
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
    }
    if way != "none":
        entry["client_secret"] = {"secret": f"{OF_PROVIDERS}{connection}", "version": 1}
    return Discovered(provider, entry, [scope for scope in scopes if scope != "offline_access"])


async def _authorization_server(issuer: str, http_for: HttpFor) -> dict[str, Any]:
    parts = _https(issuer)
    origin, path = f"https://{parts.netloc}", parts.path.rstrip("/")
    said: list[str] = []
    for address in (
        f"{origin}/.well-known/oauth-authorization-server{path}",  # RFC 8414 section 3.1
        f"{origin}/.well-known/openid-configuration{path}",
        f"{origin}{path}/.well-known/openid-configuration",
    ):
        found = await _document(http_for, address, said)
        if found is not None:
            if found.get("issuer") != issuer:  # RFC 8414 section 3.3
                raise DocumentRefused(f"the metadata of {shown(issuer)} is of {shown(found.get('issuer'))}")
            return found
    raise DocumentRefused(f"no authorization server metadata of {shown(issuer)} (RFC 8414): {'; '.join(said)}")


async def _document(http_for: HttpFor, url: str, said: list[str]) -> dict[str, Any] | None:
    """The object at `url`; None and one more line in `said` where there is none."""
    parts = urlsplit(url)
    http = http_for(f"{parts.scheme}://{parts.netloc}")
    try:
        answer = await http.get(url, headers={"Accept": "application/json"}, max_bytes=MAX_BYTES)
        found = strict_json.loads(answer.body) if answer.status == 200 else None
    except Unavailable:
        why = "cannot be reached, or not at a public address"
    except AnswerTooLarge:
        why = f"is larger than {MAX_BYTES // 1024} KiB"
    except strict_json.InvalidJson:
        why = "is not JSON that has one meaning"
    else:
        if isinstance(found, dict):
            return found
        why = "is no JSON object" if answer.status == 200 else f"answers {answer.status}"
    said.append(f"{shown(url)} {why}")
    return None


def _endpoint(document: dict[str, Any], name: str) -> str:
    url = document.get(name)
    if not isinstance(url, str):
        raise DocumentRefused(f"the authorization server names no {name}")
    _https(url)
    return url


def _https(url: str) -> Any:
    try:
        parts = urlsplit(url)
        is_plain = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0 and url.isascii()
    except ValueError:
        is_plain = False
    if not is_plain or "@" in parts.netloc or parts.query or parts.fragment:
        raise DocumentRefused(f"{shown(url)} is no plain https address")
    return parts


def _texts(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
