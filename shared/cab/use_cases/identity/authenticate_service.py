"""Which of our own services calls a private function: a Google-signed ID token for us, of one of the listed accounts.

On Cloud Run the platform checked the same token before; this check also holds where it did not.
"""

from __future__ import annotations

from datetime import timedelta

from cab.domain.errors import BrokerError, Reason
from cab.ports import Clock, VerificationKeys
from cab.protocol.jose import jws
from cab.use_cases.identity.refused_credentials import credential_refused
from cab.use_cases.identity.verified_before import Verified, VerifiedTokens
from cab.use_cases.identity.verify_token import verify_token

MAX_LIFE = timedelta(hours=1)


class ServiceAuthenticator:
    """A service calls with one token for up to an hour; so one verified before is remembered."""

    def __init__(self, *, issuer: str, audience: str, keys: VerificationKeys, clock: Clock) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys = keys
        self._clock = clock
        self._verified = VerifiedTokens[str](keys, clock)

    async def authenticate(self, authorization: str | None, *, allowed: frozenset[str]) -> str:
        """The caller's account. Raises: BrokerError CLIENT_AUTHENTICATION_FAILED, the same for every failure; Unavailable."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _refused("no bearer token")
        try:
            email = await self._verified.read(token, lambda: self._verify(token))
        except jws.TokenRejected as error:
            raise _refused(error, token) from error
        if email not in allowed:
            raise _refused("the account may not call this", token)
        return email

    async def _verify(self, token: str) -> Verified[str]:
        rules = jws.Rules(
            typ=frozenset({None, "jwt"}),
            algorithms=frozenset({"RS256"}),
            issuer=self._issuer,
            audiences=frozenset({self._audience}),
            max_life=MAX_LIFE,
        )
        claims = await verify_token(jws.parse(token), rules, self._keys, now=self._clock.now())
        email = claims.text("email")
        if claims.claims.get("email_verified") is not True:
            raise jws.TokenRejected("email is not verified")
        return Verified.by(claims, email)


def _refused(cause: Exception | str, token: str | None = None) -> BrokerError:
    return credential_refused(
        Reason.CLIENT_AUTHENTICATION_FAILED, "This function answers known services only.", cause, token=token
    )
