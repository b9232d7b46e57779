"""Discovery: RFC 8414 and OpenID Connect Discovery 1.0, one content under every path."""

from __future__ import annotations

from typing import Any

from cab.domain.configured.actions import Effect, tool_scope
from cab.domain.configured.clients import REGISTERED_METHODS
from cab.domain.configured.deployment import Deployment
from cab.protocol import drafts, names

JWKS_PATHS = {"sts": "/oauth2/jwks.json", "edge": "/edge/jwks.json"}
METADATA_PATHS = frozenset(
    {
        "/.well-known/oauth-authorization-server/oauth2",
        "/oauth2/.well-known/oauth-authorization-server",
        "/oauth2/.well-known/openid-configuration",
        "/.well-known/openid-configuration/oauth2",
        # aliases without the path, for clients that do not insert it
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
    }
)
DETAILS_METADATA_PATH = "/oauth2/authorization-details-types"
TOOLS_METADATA_PATH = "/.well-known/oauth-protected-resource/mcp"  # RFC 9728 section 3.1


def document(deployment: Deployment) -> dict[str, Any]:
    """Only what is served: call mode where an agent may use it, draft features because they are enabled."""
    origin, issuer = deployment.broker.origin, deployment.broker.sts_issuer
    scopes = {scope for connection in deployment.connections for scope in connection.all_scopes}
    resources = {connection.resource for connection in deployment.connections}
    if any(agent.mode != "token" for agent in deployment.agents):
        scopes |= {tool_scope(effect) for effect in Effect}
        resources.add(deployment.broker.calls_resource)
    grant_types = [names.TOKEN_EXCHANGE, drafts.DEFERRED_GRANT_TYPE]
    content: dict[str, Any] = {
        "issuer": issuer,
        "authorization_endpoint": f"{origin}/connect",
        "token_endpoint": f"{origin}/oauth2/token",
        "jwks_uri": f"{origin}{JWKS_PATHS['sts']}",
        "introspection_endpoint": f"{origin}/oauth2/introspect",
        "revocation_endpoint": f"{origin}/oauth2/revoke",
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256", "RS256"],
        "code_challenge_methods_supported": ["S256"],
        **_client_authentication("token", "introspection", "revocation"),
        "scopes_supported": sorted(scopes),
        "dpop_signing_alg_values_supported": ["ES256", "RS256"],
        "authorization_details_types_supported": [names.ACTION_TYPE, names.TASK_TYPE],
        "authorization_response_iss_parameter_supported": True,
        "protected_resources": sorted(resources),
        drafts.DETAILS_METADATA_ENDPOINT: f"{origin}{DETAILS_METADATA_PATH}",
    }
    if any(provider.id_jag for provider in deployment.identity_providers):
        grant_types.append(names.JWT_BEARER)
        content["authorization_grant_profiles_supported"] = [drafts.ID_JAG_GRANT_PROFILE]
    return content | {"grant_types_supported": grant_types}


def protected_resource(deployment: Deployment) -> dict[str, Any]:
    """The metadata of the tools as a protected resource (RFC 9728 section 2, RFC 9396 section 10)."""
    broker = deployment.broker
    return {
        "resource": broker.calls_resource,
        "authorization_servers": [broker.sts_issuer],
        "scopes_supported": [tool_scope(effect) for effect in Effect],
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": ["ES256", "RS256"],
        "authorization_details_types_supported": [names.ACTION_TYPE],
    }


def _client_authentication(*endpoints: str) -> dict[str, Any]:
    """Said for each endpoint: left out, RFC 8414 section 2 would have clients assume client_secret_basic."""
    members: dict[str, Any] = {}
    for endpoint in endpoints:
        members[f"{endpoint}_endpoint_auth_methods_supported"] = list(REGISTERED_METHODS)
        members[f"{endpoint}_endpoint_auth_signing_alg_values_supported"] = ["ES256", "RS256"]
    return members
