"""Grants without a consent screen: an issuer that the organisation trusts vouches for the user.

RFC 7523 section 2.1 (`jwt-bearer`), RFC 8693 (`token-exchange` with a JWT as subject token), and ID-JAGs at the `jwt-bearer`
grant (draft-ietf-oauth-identity-assertion-authz-grant-05). Each double names the issuers it trusts, and which account each of
their subjects has here. A JWT is good once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from cab_dev.doubles.clients import RegisteredClient
from cab_dev.doubles.clock import Clock

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"
JWT_TYPES = ("urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token")
ID_JAG_TYP = "oauth-id-jag+jwt"
ID_JAG_PROFILE = "urn:ietf:params:oauth:grant-profile:id-jag"

_LEEWAY_S = 30
_LONGEST_LIFE_S = 3600
_LONGEST_ID_JAG_LIFE_S = 300
_ID_JAG_CLAIMS = ["sub", "exp", "iat", "jti", "client_id"]


@dataclass(frozen=True, kw_only=True)
class TrustedIssuer:
    """`jwks()` gives the issuer's current public set, and may raise OSError; `accounts` maps its `sub` to the account id here.

    `audiences` are names that its JWTs may call this provider by, beside the provider's own. With `id_jags` it vouches at the
    `jwt-bearer` grant by ID-JAGs alone, and may be the issuer of subject tokens all the same.
    """

    issuer: str
    jwks: Callable[[], Mapping[str, Any]]
    accounts: Mapping[str, str]
    algorithms: tuple[str, ...] = ("ES256", "RS256")
    audiences: tuple[str, ...] = ()
    id_jags: bool = False


class AssertionRefused(Exception):
    """`invalid_grant`: the JWT does not vouch for anybody here. `why` goes to the ledger, never to the client."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, kw_only=True)
class Voucher:
    """A JWT that was believed. `kind` is `jwt` or `id_jag`; `scopes` are the most it may be given, None for no bound."""

    kind: str
    account: str
    claims: Mapping[str, Any]
    scopes: frozenset[str] | None = None


class TrustedAssertions:
    """Verifies JWTs of `issuers` for the provider `issuer`, whose token endpoint they may name too, each `jti` once."""

    def __init__(self, issuers: tuple[TrustedIssuer, ...], *, issuer: str, token_endpoint: str, clock: Clock) -> None:
        self._issuers = {trusted.issuer: trusted for trusted in issuers}
        self._issuer = issuer
        self._token_endpoint = token_endpoint
        self._clock = clock
        self._used: dict[tuple[str, str], float] = {}

    def for_jwt_bearer(self, assertion: str, client: RegisteredClient) -> Voucher:
        """Raises AssertionRefused."""
        return self._id_jag(assertion, client) if _typ(assertion) == ID_JAG_TYP else self._jwt(assertion, bearer=True)

    def for_token_exchange(self, subject_token: str) -> Voucher:
        """Raises AssertionRefused."""
        if _typ(subject_token) == ID_JAG_TYP:
            raise AssertionRefused("an ID-JAG is no subject token")
        return self._jwt(subject_token, bearer=False)

    def _jwt(self, token: str, *, bearer: bool) -> Voucher:
        trusted = self._trusted(token)
        if bearer and trusted.id_jags:
            raise AssertionRefused("this issuer vouches by ID-JAGs")
        claims = self._verified(token, trusted, required=["sub", "exp"])
        named = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        if not {self._issuer, self._token_endpoint, *trusted.audiences} & set(named):
            raise AssertionRefused("for another audience")
        return self._voucher("jwt", claims, trusted, longest_s=_LONGEST_LIFE_S)

    def _id_jag(self, token: str, client: RegisteredClient) -> Voucher:
        """Strict: this issuer as the one audience, this confidential client, a bound that is kept."""
        trusted = self._trusted(token)
        if not trusted.id_jags:
            raise AssertionRefused("this issuer vouches by no ID-JAGs")
        claims = self._verified(token, trusted, required=_ID_JAG_CLAIMS)
        if claims["aud"] not in (self._issuer, [self._issuer]):
            raise AssertionRefused("for another audience")
        if client.client_secret is None or claims["client_id"] != client.client_id:
            raise AssertionRefused("for another client, or a public one")
        if type(claims["iat"]) is not int or claims["iat"] > self._clock() + _LEEWAY_S:
            raise AssertionRefused("not issued yet")
        if not all(self._is_ours(resource) for resource in _resources(claims)):
            raise AssertionRefused("for another resource")
        scope = claims.get("scope")
        if scope is not None and not isinstance(scope, str):
            raise AssertionRefused("scope is malformed")
        return self._voucher(
            "id_jag",
            claims,
            trusted,
            longest_s=_LONGEST_ID_JAG_LIFE_S,
            scopes=None if scope is None else frozenset(scope.split()),
        )

    def _is_ours(self, resource: object) -> bool:
        return isinstance(resource, str) and f"{resource}/".startswith(f"{self._issuer}/")

    def _trusted(self, token: str) -> TrustedIssuer:
        try:
            return self._issuers[jwt.decode(token, options={"verify_signature": False})["iss"]]
        except (jwt.PyJWTError, KeyError, ValueError, TypeError) as exc:
            raise AssertionRefused("of no trusted issuer") from exc

    def _verified(self, token: str, trusted: TrustedIssuer, *, required: list[str]) -> dict[str, Any]:
        """Claims under the issuer's signature; times and audience are not looked at yet."""
        try:
            key = jwt.PyJWKSet.from_dict(dict(trusted.jwks()))[jwt.get_unverified_header(token)["kid"]]
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(trusted.algorithms),
                options={
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_aud": False,
                    "require": [*required, "aud"],
                },
            )
        except (jwt.PyJWTError, KeyError, ValueError, TypeError, OSError) as exc:
            raise AssertionRefused("malformed, or not signed by its issuer") from exc
        return claims

    def _voucher(
        self,
        kind: str,
        claims: Mapping[str, Any],
        trusted: TrustedIssuer,
        *,
        longest_s: int,
        scopes: frozenset[str] | None = None,
    ) -> Voucher:
        """By the double's own clock, which tests move. Last of all the `jti` is spent."""
        now = self._clock()
        expires_at = claims["exp"]
        if type(expires_at) is not int or not now - _LEEWAY_S < expires_at <= now + longest_s + _LEEWAY_S:
            raise AssertionRefused("expired, or valid for too long")
        account = trusted.accounts.get(str(claims["sub"]))
        if account is None:
            raise AssertionRefused("of nobody with an account here")
        self._used = {use: until for use, until in self._used.items() if now < until}
        if "jti" in claims:
            use = (trusted.issuer, str(claims["jti"]))
            if use in self._used:
                raise AssertionRefused("used before")
            self._used[use] = expires_at + _LEEWAY_S
        return Voucher(kind=kind, account=account, claims=claims, scopes=scopes)


def _typ(token: str) -> str:
    try:
        return str(jwt.get_unverified_header(token).get("typ", "")).lower()
    except (jwt.PyJWTError, ValueError, TypeError) as exc:
        raise AssertionRefused("no JWT") from exc


def _resources(claims: Mapping[str, Any]) -> list[object]:
    resource = claims.get("resource", [])
    return resource if isinstance(resource, list) else [resource]
