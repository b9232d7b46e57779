"""What a system beside the local broker must know to take the organisation's word: whose JWTs to believe, never a private key.

A platform team tells its real systems the same by hand (docs/connecting-systems.md, "Without a consent screen").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cab.domain.configured.connections import Connection, GrantKind, Provider
from cab.domain.configured.deployment import Deployment
from cab.protocol.jose.jwk import public_jwk
from cab.protocol.metadata import JWKS_PATHS


def connections_at(deployment: Deployment, origin: str) -> list[Connection]:
    """The connections whose tokens the authorization server of `origin` issues."""
    return [
        connection
        for connection in deployment.connections
        if (deployment.provider_of(connection).token_endpoint or "").startswith(f"{origin}/")
    ]


def trust_of(deployment: Deployment, origin: str, secrets: Mapping[str, str]) -> list[dict[str, Any]]:
    """One entry per issuer, for `cab_dev.doubles.oauth_provider.load_trusted_issuers`. `secrets`: Secret Manager's ids to values."""
    entries: dict[str, dict[str, Any]] = {}
    for connection in connections_at(deployment, origin):
        if not connection.grant_kind.is_trusted:
            continue
        told = _told(connection, deployment.provider_of(connection), deployment, secrets)
        entry = entries.setdefault(told["issuer"], {"issuer": told["issuer"], "keys": [], "audiences": []})
        for name in ("keys", "audiences"):
            entry[name] += [item for item in told.pop(name, []) if item not in entry[name]]
        entry |= told
    return list(entries.values())


def _told(
    connection: Connection, provider: Provider, deployment: Deployment, secrets: Mapping[str, str]
) -> dict[str, Any]:
    if connection.grant_kind is GrantKind.JWT_BEARER:
        keys = [] if connection.assertion_key is None else [_public(secrets[connection.assertion_key.secret])]
        audiences = [] if provider.assertion_audience is None else [provider.assertion_audience]
        return {"issuer": connection.client_id or "", "keys": keys, "audiences": audiences}
    sts = {"issuer": deployment.broker.sts_issuer, "jwks_uri": deployment.broker.origin + JWKS_PATHS["sts"]}
    if connection.grant_kind is GrantKind.ID_JAG:
        return sts | {"id_jags": True}
    return sts | {"audiences": [] if provider.subject_token_audience is None else [provider.subject_token_audience]}


def _public(private: str) -> dict[str, Any]:
    return public_jwk(json.loads(private)) | {"alg": "ES256"}
