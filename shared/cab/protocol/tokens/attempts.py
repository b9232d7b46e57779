"""The word of the deciding function on a call that it has just let through, for the executing one: it may ask once more.

A platform may refuse a token before its time. Then the executing function presents this with the refused token's hash and
gets another token for the same call, without a second decision by the user. Nobody else accepts it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from cab.protocol.jose.jws import Rules, TokenRejected, VerifiedClaims
from cab.values import immutable

TYP: Final = "cab-call-attempt+jwt"
LIFE: Final = timedelta(seconds=120)  # the longest call, a minute, and what comes before and after it


@immutable
class Attempt:
    """One call under way: whose, by which agent, through what, for which declared intent (`detail`), as which upstream
    account (`cab.domain.accounts`; None of one that the last release let through)."""

    tenant: str
    subject: str
    agent: str
    connection: str
    scopes: tuple[str, ...]
    detail: dict[str, Any]
    call_id: str
    jti: str
    expires_at: datetime
    account: str | None

    def claims(self, issuer: str, *, now: datetime) -> dict[str, Any]:
        return {
            "iss": issuer,
            "aud": f"{issuer}/calls",
            "tenant": self.tenant,
            "sub": self.subject,
            "client_id": self.agent,
            "connection": self.connection,
            "scope": " ".join(self.scopes),
            "authorization_details": [self.detail],
            "call_id": self.call_id,
            "account": self.account,
            "jti": self.jti,
            "iat": int(now.timestamp()),
            "exp": int(self.expires_at.timestamp()),
        }


def rules(issuer: str) -> Rules:
    return Rules(
        typ=frozenset({TYP}),
        algorithms=frozenset({"ES256"}),
        issuer=issuer,
        audiences=frozenset({f"{issuer}/calls"}),
        max_life=LIFE,
    )


def read(verified: VerifiedClaims) -> Attempt:
    """Raises TokenRejected for a missing or malformed claim."""
    details, scope = verified.claims.get("authorization_details"), verified.claims.get("scope")
    account = verified.claims.get("account")
    if not isinstance(details, list) or len(details) != 1 or not isinstance(details[0], dict):
        raise TokenRejected("authorization_details is malformed")
    if not isinstance(scope, str):
        raise TokenRejected("scope is malformed")
    return Attempt(
        tenant=verified.text("tenant"),
        subject=verified.text("sub"),
        agent=verified.text("client_id"),
        connection=verified.text("connection"),
        scopes=tuple(scope.split()),
        detail=details[0],
        call_id=verified.text("call_id"),
        jti=verified.text("jti"),
        expires_at=verified.expires_at,
        account=account if isinstance(account, str) else None,
    )
