"""One token kind to try the verifier with, and the shortest way to ask it about a token."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.jose import Key, ec_key, present

from cab.protocol.jose import jwk, jws

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
ISSUER = "https://issuer.test"
AUDIENCE = "https://us.test"
KEY = ec_key("signer")

RULES = jws.Rules(
    typ=frozenset({"at+jwt"}),
    algorithms=frozenset({"ES256"}),
    issuer=ISSUER,
    audiences=frozenset({AUDIENCE}),
    max_life=timedelta(seconds=300),
)
# A kind as identity providers make them: other algorithm, other `typ`, several audiences.
WIDE_RULES = jws.Rules(
    typ=frozenset({None, "jwt"}),
    algorithms=frozenset({"RS256", "ES256"}),
    issuer=ISSUER,
    audiences=frozenset({AUDIENCE}),
    max_life=timedelta(hours=1),
    several_audiences=True,
)


def claims(**changes: Any) -> dict[str, Any]:
    standard = {"iss": ISSUER, "aud": AUDIENCE, "sub": "somebody", "iat": SECONDS, "exp": SECONDS + 300, "jti": "j1"}
    return present(standard | changes)


def token(*, key: Key = KEY, header: dict[str, Any] | None = None, **changes: Any) -> str:
    """A token that RULES accept, but for the changes."""
    return key.sign(claims(**changes), {"typ": "at+jwt"} | (header or {}))


def verify(text: str, *, key: Key = KEY, rules: jws.Rules = RULES, now: datetime = NOW) -> jws.VerifiedClaims:
    return jws.verify(jws.parse(text), jwk.parse(key.jwk), rules, now=now)


def why_rejected(text: str, *, key: Key = KEY, rules: jws.Rules = RULES, now: datetime = NOW) -> str:
    with pytest.raises(jws.TokenRejected) as rejected:
        verify(text, key=key, rules=rules, now=now)
    return rejected.value.why
