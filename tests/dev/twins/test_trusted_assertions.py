"""Grants that an issuer vouches for: jwt-bearer and token exchange at the provider twin."""

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.dev.twins.provider_client import ISSUER, ProviderUnderTest

from cab_dev.twins.oauth_provider import TrustedIssuer

BROKER = "http://127.0.0.1:8080/oauth2"
KEY = ec.generate_private_key(ec.SECP256R1())
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"
NOW = 1_800_000_000


def jwks() -> dict[str, Any]:
    public = jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
    return {"keys": [{**public, "kid": "k1", "alg": "ES256"}]}


def provider() -> ProviderUnderTest:
    trusted = TrustedIssuer(issuer=BROKER, jwks=jwks, accounts={"key-of-alice": "twin-1001"})
    return ProviderUnderTest("salesforce-like", trusted_issuers=(trusted,))


def assertion(*, key: Any = KEY, kid: str = "k1", **changes: Any) -> str:
    claims = {"iss": BROKER, "sub": "key-of-alice", "aud": ISSUER, "exp": NOW + 300, "jti": "j1", **changes}
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, algorithm="ES256", headers={"kid": kid})


def test_a_trusted_jwt_brings_an_access_token_of_the_mapped_user_and_no_refresh_token() -> None:
    twin = provider()
    answer = twin.token(grant_type=JWT_BEARER, assertion=assertion(), scope="read")
    assert (answer.status_code, answer.json()["scope"]) == (200, "read")
    assert "refresh_token" not in answer.json()
    assert twin.book.accept(answer.json()["access_token"]).account == "twin-1001"


def test_token_exchange_answers_with_the_type_of_what_it_issued() -> None:
    twin = provider()
    form = {"subject_token": assertion(), "subject_token_type": JWT_TYPE, "scope": "read"}
    answer = twin.token(grant_type=TOKEN_EXCHANGE, **form).json()
    assert answer["issued_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
    assert twin.works(answer["access_token"])


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "http://127.0.0.1:8080/edge"},
        {"sub": "key-of-bob"},
        {"sub": None},
        {"aud": "https://elsewhere.example"},
        {"exp": NOW - 60},
        {"exp": NOW + 86400},
        {"exp": None},
        {"key": ec.generate_private_key(ec.SECP256R1())},
        {"kid": "k2"},
    ],
)
def test_a_jwt_that_vouches_for_nobody_here_is_refused(changes: dict[str, Any]) -> None:
    twin = provider()
    bearer = twin.token(grant_type=JWT_BEARER, assertion=assertion(**changes), scope="read")
    form = {"subject_token": assertion(**changes), "subject_token_type": JWT_TYPE, "scope": "read"}
    exchange = twin.token(grant_type=TOKEN_EXCHANGE, **form)
    assert (bearer.status_code, bearer.json()) == (400, {"error": "invalid_grant"})
    assert (exchange.status_code, exchange.json()) == (400, {"error": "invalid_request"})


def test_a_jwt_is_good_once() -> None:
    twin = provider()
    same = assertion()
    assert twin.token(grant_type=JWT_BEARER, assertion=same, scope="read").status_code == 200
    assert twin.token(grant_type=JWT_BEARER, assertion=same, scope="read").status_code == 400


@pytest.mark.parametrize("assertion_text", ["x", "a.b.c", "", "é"])
def test_what_is_no_jwt_is_refused(assertion_text: str) -> None:
    assert provider().token(grant_type=JWT_BEARER, assertion=assertion_text, scope="read").status_code == 400


@pytest.mark.parametrize("scope", ["", "admin.all"])
def test_scopes_must_be_named_and_known(scope: str) -> None:
    answer = provider().token(grant_type=JWT_BEARER, assertion=assertion(), scope=scope)
    assert answer.json() == {"error": "invalid_scope"}


def test_a_provider_that_trusts_nobody_does_not_offer_these_grants() -> None:
    twin = ProviderUnderTest("acme-crm")
    assert twin.token(grant_type=JWT_BEARER, assertion=assertion()).json()["error"] == "unsupported_grant_type"
    grants = twin.http.get("/.well-known/oauth-authorization-server").json()["grant_types_supported"]
    assert grants == ["authorization_code", "refresh_token"]
    offered = provider().http.get("/.well-known/oauth-authorization-server").json()["grant_types_supported"]
    assert offered == ["authorization_code", "refresh_token", JWT_BEARER, TOKEN_EXCHANGE]
