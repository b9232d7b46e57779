"""Broker JWTs: RFC 9068 access tokens with the intent inside, verified by any resource through our discovery and JWKS."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from cab.protocol.authorization_details import details_hash
from cab.protocol.drafts import SUB_PROFILE_AI_AGENT
from cab.protocol.jose.jws import Rules
from cab.protocol.names import ACCESS_TOKEN_TYP
from cab.protocol.tokens.assertions import Assertion, actor_claim


def claims(
    assertion: Assertion,
    *,
    issuer: str,
    audience: str,
    subject: str,
    agent: str,
    scope: str,
    details: list[dict[str, Any]],
    txn: str,
    jti: str,
    now: datetime,
    expires_at: datetime,
    jkt: str | None,
) -> dict[str, Any]:
    """RFC 9068 section 2.2, `act` of RFC 8693 section 4.1, `authorization_details` of RFC 9396 section 9.1, `txn` of RFC 8417."""
    content: dict[str, Any] = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "client_id": agent,
        "act": actor_claim((agent, *assertion.chain), issuer, sub_profile=SUB_PROFILE_AI_AGENT),
        "authorization_details": details,
        "intent_hash": details_hash(details),
        "txn": txn,
        "tenant": assertion.tenant,
        "iat": int(now.timestamp()),
        "exp": int(expires_at.timestamp()),
        "jti": jti,
    }
    optional = {
        "scope": scope or None,
        "task_id": details[0].get("task_id"),
        "auth_time": assertion.auth_time,
        "acr": assertion.acr,
        "amr": list(assertion.amr) or None,
        "cnf": {"jkt": jkt} if jkt else None,
    }
    return content | {name: value for name, value in optional.items() if value is not None}


def rules(issuer: str, audiences: frozenset[str], *, max_life: timedelta) -> Rules:
    """For our own introspection and revocation endpoints, which accept every audience we issue for."""
    return Rules(
        typ=frozenset({ACCESS_TOKEN_TYP}),
        algorithms=frozenset({"ES256"}),
        issuer=issuer,
        audiences=audiences,
        max_life=max_life,
    )
