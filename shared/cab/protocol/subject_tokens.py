"""The JWT that names a user to a system which trusts this broker: the subject token of RFC 8693, seen by no agent.

Signed by exchange_token with the STS key, checked by refresh_grants before it goes out. Its audience is the name under which
that system knows the broker, so that it is no assertion, no access token, and good at no other system.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from cab.protocol.assertions import Assertion
from cab.protocol.jws import Rules, VerifiedClaims

TYP: Final = "JWT"
LIFE: Final = timedelta(seconds=300)


def claims(
    assertion: Assertion, *, issuer: str, audience: str, subject: str, jti: str, now: datetime
) -> dict[str, Any]:
    """`subject` is the user as the system knows them; `txn` ties the token to its exchange."""
    issued_at = int(now.timestamp())
    return {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "groups": list(assertion.groups),
        "txn": assertion.txn,
        "iat": issued_at,
        "exp": issued_at + int(LIFE.total_seconds()),
        "jti": jti,
    }


def rules(issuer: str, audience: str) -> Rules:
    return Rules(
        typ=frozenset({TYP.lower()}),
        algorithms=frozenset({"ES256"}),
        issuer=issuer,
        audiences=frozenset({audience}),
        max_life=LIFE,
    )


def speaks_for(verified: VerifiedClaims, assertion: Assertion, *, subject: str) -> bool:
    """Whether the token says of the user what the assertion says, and was made for the same exchange."""
    claims = verified.claims
    return (
        claims.get("sub") == subject
        and claims.get("groups") == list(assertion.groups)
        and claims.get("txn") == assertion.txn
    )
