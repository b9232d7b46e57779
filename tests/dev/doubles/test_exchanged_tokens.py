"""Tokens made from tokens at the provider double: downscoping (RFC 8693) and Entra's on-behalf-of, and whatever is not quite that."""

import dataclasses
from typing import Any

import pytest
from tests.dev.doubles.provider_client import ProviderUnderTest

from cab_dev.doubles.oauth_provider import PROFILES, Exchange, token_sha256

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
WITH_CLIENT = dataclasses.replace(PROFILES["box-like"], name="with-client", exchange=Exchange.WITH_CLIENT)
OWN_API = "api://cab/access"


def downscope(double: ProviderUnderTest, token: str, **changes: str | None) -> Any:
    form: dict[str, Any] = {"subject_token": token, "subject_token_type": ACCESS_TOKEN, "scope": "read", **changes}
    form = {"grant_type": TOKEN_EXCHANGE, **{name: value for name, value in form.items() if value is not None}}
    if double.provider.settings.profile.exchange is Exchange.TOKEN_ALONE:
        return double.http.post("/oauth/token", data=form)
    return double.token(**form)


def on_behalf_of(double: ProviderUnderTest, token: str, *, client: Any = None, **changes: str) -> Any:
    form: dict[str, Any] = {"assertion": token, "requested_token_use": "on_behalf_of", "scope": "read", **changes}
    more: dict[str, Any] = {} if client is None else {"client": client}
    return double.token(grant_type=JWT_BEARER, **more, **form)


def connected(profile: Any, scope: str = "read write") -> tuple[ProviderUnderTest, str]:
    double = ProviderUnderTest(profile)
    return double, double.connect(scope=scope)["access_token"]


@pytest.mark.parametrize("profile", ["box-like", WITH_CLIENT], ids=["token alone", "with client"])
def test_a_downscoped_token_has_the_scopes_asked_for_and_ends_with_its_grant(profile: Any) -> None:
    double, wide = connected(profile)
    answer = downscope(double, wide).json()
    assert (answer["scope"], answer["issued_token_type"]) == ("read", ACCESS_TOKEN)
    assert "refresh_token" not in answer
    accepted = double.book.accept(answer["access_token"])
    assert (accepted.scopes, accepted.account) == (frozenset({"read"}), "double-1001")
    (entry,) = [entry for entry in double.ledger()["entries"] if entry["event"] == "exchanged"]
    assert (entry["token_sha256"], entry["scope"]) == (token_sha256(wide), "read")
    double.book.end_account("double-1001")
    assert not double.works(answer["access_token"])


def test_a_downscoped_token_lives_no_longer_than_the_token_it_was_made_from() -> None:
    double, wide = connected("box-like")
    double.clock.advance(3000)
    answer = downscope(double, wide).json()
    assert answer["expires_in"] == 600
    double.clock.advance(601)
    assert not double.works(answer["access_token"])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"scope": "read write offline_access"}, "invalid_scope"),
        ({"scope": "unheard-of"}, "invalid_scope"),
        ({"scope": None}, "invalid_scope"),
        ({"subject_token": "unknown"}, "invalid_request"),
        ({"subject_token": None}, "invalid_request"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request"),
        ({"actor_token": "a"}, "invalid_request"),
        ({"resource": "https://elsewhere.example"}, "invalid_target"),
        ({"client_secret": "s3cret-of-cab", "client_id": "cab"}, "invalid_request"),
    ],
)
def test_downscoping_is_refused_unless_it_is_exactly_that(changes: dict[str, Any], error: str) -> None:
    double, wide = connected("box-like")
    answer = downscope(double, wide, **changes)
    assert (answer.status_code, answer.json()["error"]) == (400, error)


def test_a_token_that_is_presented_alone_comes_without_credentials_in_the_header_too() -> None:
    double, wide = connected("box-like")
    form: dict[str, Any] = {"subject_token": wide, "subject_token_type": ACCESS_TOKEN, "scope": "read"}
    assert double.token(grant_type=TOKEN_EXCHANGE, **form).json()["error"] == "invalid_request"


def test_one_client_cannot_downscope_the_token_of_another() -> None:
    double, wide = connected(WITH_CLIENT)
    form: dict[str, Any] = {"subject_token": wide, "subject_token_type": ACCESS_TOKEN, "scope": "read"}
    answer = double.token(client=("other", "other-secret"), grant_type=TOKEN_EXCHANGE, **form)
    assert answer.json()["error"] == "invalid_request"
    refused = double.token(client=("cab", "wrong"), grant_type=TOKEN_EXCHANGE, **form)
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")


def test_an_expired_token_is_not_downscoped() -> None:
    double, wide = connected("box-like")
    double.clock.advance(3601)
    assert downscope(double, wide).json()["error"] == "invalid_request"


def test_on_behalf_of_brings_a_token_for_another_api_and_the_own_one_opens_nothing() -> None:
    double, wide = connected("entra-like", OWN_API)
    answer = on_behalf_of(double, wide).json()
    assert answer["scope"] == "read"
    assert "refresh_token" not in answer
    assert double.book.accept(answer["access_token"]).scopes == {"read"}
    assert double.book.accept(wide).scopes == {OWN_API}


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"requested_token_use": "impersonation"}, 400, "invalid_request"),
        ({"scope": OWN_API}, 400, "invalid_scope"),
        ({"scope": ""}, 400, "invalid_scope"),
        ({"assertion": "unknown"}, 400, "invalid_grant"),
        ({"client": ("other", "other-secret")}, 400, "invalid_grant"),
        ({"client": ("cab", "wrong")}, 401, "invalid_client"),
        ({"subject_token": "t"}, 400, "invalid_request"),
    ],
)
def test_on_behalf_of_is_refused_unless_it_is_exactly_that(changes: dict[str, Any], status: int, error: str) -> None:
    double, wide = connected("entra-like", OWN_API)
    answer = on_behalf_of(double, changes.pop("assertion", wide), **changes)
    assert (answer.status_code, answer.json()["error"]) == (status, error)


def test_a_token_for_another_api_is_no_assertion() -> None:
    double, wide = connected("entra-like", "read")
    assert on_behalf_of(double, wide).json()["error"] == "invalid_grant"


def test_a_provider_without_exchanges_knows_none() -> None:
    double, wide = connected("google-like")
    form: dict[str, Any] = {"subject_token": wide, "subject_token_type": ACCESS_TOKEN, "scope": "read"}
    assert double.token(grant_type=TOKEN_EXCHANGE, **form).json()["error"] == "unsupported_grant_type"
