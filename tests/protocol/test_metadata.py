"""The discovery document, whole (RFC 8414, OpenID Connect Discovery 1.0; docs/api.md)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.world import CRM, LEDGER, ORIGIN, STS, WAREHOUSE, WIKI, deployment

from cab.protocol import metadata


@pytest.mark.requirement("RFC9728-4-1")
@pytest.mark.requirement("RFC8414-2-1")
@pytest.mark.requirement("RFC8414-3.3-1")
@pytest.mark.requirement("OIDCD-3-1")
@pytest.mark.requirement("RFC9396-10-1")
def test_the_document_says_what_is_served_and_nothing_else() -> None:
    assert metadata.document(deployment()) == {
        "issuer": STS,
        "authorization_endpoint": f"{ORIGIN}/connect",
        "token_endpoint": f"{ORIGIN}/oauth2/token",
        "jwks_uri": f"{ORIGIN}/oauth2/jwks.json",
        "introspection_endpoint": f"{ORIGIN}/oauth2/introspect",
        "revocation_endpoint": f"{ORIGIN}/oauth2/revoke",
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256", "RS256"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["private_key_jwt", "client_secret_basic", "client_secret_post"],
        "token_endpoint_auth_signing_alg_values_supported": ["ES256", "RS256"],
        "introspection_endpoint_auth_methods_supported": [
            "private_key_jwt",
            "client_secret_basic",
            "client_secret_post",
        ],
        "introspection_endpoint_auth_signing_alg_values_supported": ["ES256", "RS256"],
        "revocation_endpoint_auth_methods_supported": ["private_key_jwt", "client_secret_basic", "client_secret_post"],
        "revocation_endpoint_auth_signing_alg_values_supported": ["ES256", "RS256"],
        "scopes_supported": [
            "contact.read",
            "deal.read",
            "deal.write",
            "entry.read",
            "page.read",
            "page.write",
            "query.explain",
            "query.run",
            "report.read",
            "salary.read",
            "table.drop",
            "table.read",
            "table.share",
            "table.write",
            "tools.destructive",
            "tools.read",
            "tools.write",
        ],
        "dpop_signing_alg_values_supported": ["ES256", "RS256"],
        "authorization_details_types_supported": ["cab_action", "cab_task"],
        "authorization_details_types_metadata_endpoint": f"{ORIGIN}/oauth2/authorization-details-types",
        "authorization_response_iss_parameter_supported": True,
        "protected_resources": sorted([CRM, LEDGER, f"{ORIGIN}/mcp", WAREHOUSE, WIKI]),
        "grant_types_supported": [
            "urn:ietf:params:oauth:grant-type:token-exchange",
            "urn:ietf:params:oauth:grant-type:deferred",
        ],
    }


def test_call_mode_is_advertised_only_while_an_agent_may_use_it() -> None:
    plain = deployment()
    without = tuple(agent for agent in plain.agents if agent.mode == "token")
    text = repr(metadata.document(replace(plain, agents=without)))
    assert "tools." not in text
    assert "/mcp" not in text


@pytest.mark.requirement("CAB-1.12-1")
def test_draft_features_are_advertised_only_while_enabled() -> None:
    plain = deployment()
    provider = plain.identity_providers[0].model_copy(update={"id_jag": True})
    enabled = metadata.document(replace(plain, identity_providers=(provider,)))
    assert "urn:ietf:params:oauth:grant-type:jwt-bearer" in enabled["grant_types_supported"]
    assert enabled["authorization_grant_profiles_supported"] == ["urn:ietf:params:oauth:grant-profile:id-jag"]
    assert "authorization_grant_profiles_supported" not in metadata.document(plain)


@pytest.mark.requirement("RFC8414-3-1")
def test_the_document_stands_under_every_path_a_client_may_build_from_the_issuer() -> None:
    assert {
        "/.well-known/oauth-authorization-server/oauth2",
        "/oauth2/.well-known/oauth-authorization-server",
        "/oauth2/.well-known/openid-configuration",
        "/.well-known/openid-configuration/oauth2",
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
    } == metadata.METADATA_PATHS
