"""Grants that an issuer vouches for: jwt-bearer and token exchange at the provider double."""

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.dev.doubles.provider_client import ISSUER, ProviderUnderTest

from cab_dev.doubles.oauth_provider import TrustedIssuer

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
    trusted = TrustedIssuer(issuer=BROKER, jwks=jwks, accounts={"key-of-alice": "double-1001"})
    return ProviderUnderTest("salesforce-like", trusted_issuers=(trusted,))


def assertion(*, key: Any = KEY, kid: str = "k1", typ: str = "JWT", **changes: Any) -> str:
    claims = {"iss": BROKER, "sub": "key-of-alice", "aud": ISSUER, "exp": NOW + 300, "jti": "j1", **changes}
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, algorithm="ES256", headers={"kid": kid, "typ": typ})


def test_a_trusted_jwt_brings_an_access_token_of_the_mapped_user_and_no_refresh_token() -> None:
    double = provider()
    answer = double.token(grant_type=JWT_BEARER, assertion=assertion(), scope="read")
    assert (answer.status_code, answer.json()["scope"]) == (200, "read")
    assert "refresh_token" not in answer.json()
    assert double.book.accept(answer.json()["access_token"]).account == "double-1001"


def test_token_exchange_answers_with_the_type_of_what_it_issued() -> None:
    double = provider()
    form: dict[str, Any] = {"subject_token": assertion(), "subject_token_type": JWT_TYPE, "scope": "read"}
    answer = double.token(grant_type=TOKEN_EXCHANGE, **form).json()
    assert answer["issued_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
    assert double.works(answer["access_token"])


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
    double = provider()
    bearer = double.token(grant_type=JWT_BEARER, assertion=assertion(**changes), scope="read")
    form: dict[str, Any] = {"subject_token": assertion(**changes), "subject_token_type": JWT_TYPE, "scope": "read"}
    exchange = double.token(grant_type=TOKEN_EXCHANGE, **form)
    assert (bearer.status_code, bearer.json()) == (400, {"error": "invalid_grant"})
    assert (exchange.status_code, exchange.json()) == (400, {"error": "invalid_request"})


def test_a_jwt_is_good_once() -> None:
    double = provider()
    same = assertion()
    assert double.token(grant_type=JWT_BEARER, assertion=same, scope="read").status_code == 200
    assert double.token(grant_type=JWT_BEARER, assertion=same, scope="read").status_code == 400


@pytest.mark.parametrize("assertion_text", ["x", "a.b.c", "", "é"])
def test_what_is_no_jwt_is_refused(assertion_text: str) -> None:
    assert provider().token(grant_type=JWT_BEARER, assertion=assertion_text, scope="read").status_code == 400


@pytest.mark.parametrize("scope", ["", "admin.all"])
def test_scopes_must_be_named_and_known(scope: str) -> None:
    answer = provider().token(grant_type=JWT_BEARER, assertion=assertion(), scope=scope)
    assert answer.json() == {"error": "invalid_scope"}


def test_a_provider_that_trusts_nobody_does_not_offer_these_grants() -> None:
    double = ProviderUnderTest("acme-crm")
    assert double.token(grant_type=JWT_BEARER, assertion=assertion()).json()["error"] == "unsupported_grant_type"
    grants = double.http.get("/.well-known/oauth-authorization-server").json()["grant_types_supported"]
    assert grants == ["authorization_code", "refresh_token"]
    offered = provider().http.get("/.well-known/oauth-authorization-server").json()["grant_types_supported"]
    assert offered == ["authorization_code", "refresh_token", JWT_BEARER, TOKEN_EXCHANGE]


# --- ID-JAGs ---

JAG_CLAIMS: dict[str, Any] = {"client_id": "cab", "iat": NOW, "resource": ISSUER, "scope": "read write"}


def jag_provider(**changes: Any) -> ProviderUnderTest:
    trusted: dict[str, Any] = {
        "issuer": BROKER,
        "jwks": jwks,
        "accounts": {"key-of-alice": "double-1001"},
        "id_jags": True,
    } | changes
    return ProviderUnderTest("salesforce-like", trusted_issuers=(TrustedIssuer(**trusted),))


def id_jag(*, typ: str = "oauth-id-jag+jwt", **changes: Any) -> str:
    return assertion(typ=typ, **(JAG_CLAIMS | changes))


def redeemed(double: ProviderUnderTest, token: str, scope: str = "read", **client: Any) -> Any:
    return double.token(grant_type=JWT_BEARER, assertion=token, scope=scope, **client)


def test_an_id_jag_brings_a_token_of_its_user_and_stands_in_the_ledger() -> None:
    double = jag_provider()
    answer = redeemed(double, id_jag(act={"sub": "assistant"}))
    assert (answer.status_code, answer.json()["scope"]) == (200, "read")
    assert "refresh_token" not in answer.json()
    assert double.book.accept(answer.json()["access_token"]).account == "double-1001"
    (voucher,) = [entry for entry in double.ledger()["entries"] if entry["event"] == "vouched"]
    assert (voucher["kind"], voucher["claims"]["act"]) == ("id_jag", {"sub": "assistant"})
    assert double.ledger()["grants"][0]["grant_id"] == voucher["grant_id"]


BAD_ID_JAGS: dict[str, dict[str, Any]] = {
    "another type": {"typ": "JWT"},
    "another audience": {"aud": "https://elsewhere.example"},
    "the token endpoint as audience": {"aud": f"{ISSUER}/oauth/token"},
    "two audiences": {"aud": [ISSUER, "https://elsewhere.example"]},
    "another client": {"client_id": "other"},
    "no client": {"client_id": None},
    "another resource": {"resource": "https://elsewhere.example"},
    "a resource that only begins alike": {"resource": f"{ISSUER}1"},
    "a resource that is no text": {"resource": [7]},
    "over": {"exp": NOW - 31},
    "too long": {"exp": NOW + 331},
    "not yet": {"iat": NOW + 31},
    "no instant": {"iat": None},
    "no id": {"jti": None},
    "nobody": {"sub": "key-of-mallory"},
    "scopes as a list": {"scope": ["read"]},
    "another key": {"key": ec.generate_private_key(ec.SECP256R1())},
}


@pytest.mark.parametrize("changes", BAD_ID_JAGS.values(), ids=BAD_ID_JAGS)
def test_an_id_jag_with_one_thing_wrong_is_refused_and_the_ledger_knows_why(changes: dict[str, Any]) -> None:
    double = jag_provider()
    answer = redeemed(double, id_jag(**changes))
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid_grant"})
    (refusal,) = [entry for entry in double.ledger()["entries"] if entry["event"] == "refused"]
    assert refusal["why"]


def test_an_id_jag_is_good_once_and_for_no_more_than_it_carries() -> None:
    double = jag_provider()
    assert redeemed(double, id_jag(scope="read"), scope="write").json() == {"error": "invalid_scope"}
    one = id_jag(jti="j2", aud=[ISSUER])
    assert redeemed(double, one, scope="read write").status_code == 200
    assert redeemed(double, one).json() == {"error": "invalid_grant"}


def test_an_id_jag_is_no_subject_token_and_vouches_only_where_that_is_agreed() -> None:
    form: dict[str, Any] = {"subject_token": id_jag(), "subject_token_type": JWT_TYPE, "scope": "read"}
    assert jag_provider().token(grant_type=TOKEN_EXCHANGE, **form).json() == {"error": "invalid_request"}
    assert redeemed(provider(), id_jag()).json() == {"error": "invalid_grant"}
    exchanged: dict[str, Any] = {"subject_token": assertion(), "subject_token_type": JWT_TYPE, "scope": "read"}
    assert jag_provider().token(grant_type=TOKEN_EXCHANGE, **exchanged).status_code == 200


def test_a_provider_that_takes_id_jags_says_so() -> None:
    where = "/.well-known/oauth-authorization-server"
    said = jag_provider().http.get(where).json()["authorization_grant_profiles_supported"]
    assert said == ["urn:ietf:params:oauth:grant-profile:id-jag"]
    assert "authorization_grant_profiles_supported" not in provider().http.get(where).json()


def test_an_issuer_may_call_the_provider_by_a_name_that_they_agreed_on() -> None:
    double = jag_provider(id_jags=False, audiences=("cab-at-double",))
    form: dict[str, Any] = {
        "subject_token": assertion(aud="cab-at-double"),
        "subject_token_type": JWT_TYPE,
        "scope": "read",
    }
    assert double.token(grant_type=TOKEN_EXCHANGE, **form).status_code == 200


def test_an_issuer_whose_keys_cannot_be_fetched_vouches_for_nobody() -> None:
    def away() -> dict[str, Any]:
        raise OSError

    assert redeemed(jag_provider(jwks=away), id_jag()).json() == {"error": "invalid_grant"}


def test_a_jwt_that_vouches_may_come_without_a_client_and_an_id_jag_may_not() -> None:
    form = {"grant_type": JWT_BEARER, "assertion": assertion(), "scope": "read"}
    double = provider()
    assert double.http.post("/oauth/token", data=form).status_code == 200
    assert double.ledger()["grants"][0]["client_id"] == BROKER
    alone = jag_provider().http.post("/oauth/token", data=form | {"assertion": id_jag()})
    assert (alone.status_code, alone.json()) == (400, {"error": "invalid_grant"})
    assert ProviderUnderTest("acme-crm").http.post("/oauth/token", data=form).json() == {"error": "invalid_client"} | {
        "error_description": "Client authentication failed."
    }
