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
    issuer = source or rules.issuer
    try:
        key = await keys.find(issuer, token.kid, token.algorithm)
        try:
            return jws.verify(token, key, rules, now=now)
        except jws.TokenRejected as error:
            if error.why != jws.NOT_VERIFIED:
                raise
            newer = await keys.find(issuer, token.kid, token.algorithm, instead_of=key)
            if newer == key:
                raise
            return jws.verify(token, newer, rules, now=now)
    except NotFound as error:
        raise jws.TokenRejected("no such key of this issuer") from error
