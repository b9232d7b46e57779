"""Grants without a consent screen: an issuer that the organisation trusts vouches for the user.

RFC 7523 section 2.1 (`jwt-bearer`) and RFC 8693 (`token-exchange` with a JWT as subject token). Each twin names the
issuers it trusts, and which account each of their subjects has here. A JWT is good once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from cab_dev.twins.clock import Clock

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"
JWT_TYPES = ("urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token")

_LEEWAY_S = 30
_LONGEST_LIFE_S = 3600


@dataclass(frozen=True, kw_only=True)
class TrustedIssuer:
    """`jwks()` gives the issuer's current public set; `accounts` maps its `sub` to the account id at this provider."""

    issuer: str
    jwks: Callable[[], Mapping[str, Any]]
    accounts: Mapping[str, str]
    algorithms: tuple[str, ...] = ("ES256", "RS256")


class AssertionRefused(Exception):
    """`invalid_grant`: the JWT does not vouch for anybody here."""


class TrustedAssertions:
    """Verifies JWTs of `issuers` whose `aud` is `audience`, each `jti` once."""

    def __init__(self, issuers: tuple[TrustedIssuer, ...], *, audience: tuple[str, ...], clock: Clock) -> None:
        self._issuers = {trusted.issuer: trusted for trusted in issuers}
        self._audience = audience
        self._clock = clock
        self._used: dict[tuple[str, str], float] = {}

    def account(self, assertion: str) -> str:
        """The account id that the JWT vouches for. Raises AssertionRefused."""
        try:
            unverified = jwt.decode(assertion, options={"verify_signature": False})
            trusted = self._issuers[unverified["iss"]]
            header = jwt.get_unverified_header(assertion)
            key = jwt.PyJWKSet.from_dict(dict(trusted.jwks()))[header["kid"]]
            claims = jwt.decode(
                assertion,
                key,
                algorithms=list(trusted.algorithms),
                audience=list(self._audience),
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False, "require": ["sub", "exp"]},
            )
            self._check_times_and_use(claims)
            return trusted.accounts[claims["sub"]]
        except (jwt.PyJWTError, KeyError, ValueError, TypeError) as exc:
            raise AssertionRefused from exc

    def _check_times_and_use(self, claims: Mapping[str, Any]) -> None:
        """By the twin's own clock, which tests move. Raises ValueError."""
        now = self._clock()
        expires_at = claims["exp"]
        if type(expires_at) is not int or not now - _LEEWAY_S < expires_at <= now + _LONGEST_LIFE_S + _LEEWAY_S:
            raise ValueError("expired, or valid for too long")
        self._used = {use: until for use, until in self._used.items() if now < until}
        if "jti" in claims:
            use = (claims["iss"], str(claims["jti"]))
            if use in self._used:
                raise ValueError("used before")
            self._used[use] = expires_at + _LEEWAY_S
