"""The one way from a token to its claims: find the issuer's key, then check everything that the kind's rules say."""

from __future__ import annotations

from datetime import datetime

from cab.ports import NotFound, VerificationKeys
from cab.protocol.jose import jws


async def verify_token(
    token: jws.UnverifiedToken, rules: jws.Rules, keys: VerificationKeys, *, now: datetime, source: str | None = None
) -> jws.VerifiedClaims:
    """The claims, with the key that vouches for them. `source` names the key set, where that is not the issuer's.

    Raises: jws.TokenRejected; Unavailable.
    """
    try:
        key = await keys.find(source or rules.issuer, token.kid, token.algorithm)
    except NotFound as error:
        raise jws.TokenRejected("no such key of this issuer") from error
    return jws.verify(token, key, rules, now=now)
