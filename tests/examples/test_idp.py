"""Acme ID: login, ID tokens, sessions and step-up as OIDC says, keys that rotate, faults on request."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jwt
import pytest
from tests.dev.doubles.in_process import Client
from tests.examples.acme_in_process import BROKER, IDP, SECRET, VERIFIER, fixed_clock, idp_client

from cab_dev.doubles.clock import MovableClock
from cab_dev.doubles.oauth_provider import s256

CALLBACK = "http://127.0.0.1:53123/cb"


def authorize(idp: Client, **changes: str | None) -> Any:
    query = {
        "response_type": "code",
        "client_id": "acme-web",
        "redirect_uri": CALLBACK,
        "scope": "openid profile email groups",
        "state": "st-1",
        "nonce": "n-1",
        "code_challenge": s256(VERIFIER),
        "code_challenge_method": "S256",
        **changes,
    }
    return idp.get("/authorize", params={name: value for name, value in query.items() if value is not None})


def log_in(idp: Client, account: str = "alice", **changes: str | None) -> dict[str, str]:
    """Parameters of the redirect back, after choosing `account` on the login page."""
    page = authorize(idp, **changes).text
    request_id = page.partition('name="request" value="')[2].partition('"')[0]
    answer = idp.post("/login", data={"request": request_id, "account": account})
    return dict(parse_qsl(urlsplit(answer.headers["location"]).query))


def silently(idp: Client, **changes: str | None) -> dict[str, str] | None:
    """Parameters of the redirect back without any page, or None when a page is shown."""
    answer = authorize(idp, **changes)
    if answer.status_code == 200:
        return None
    return dict(parse_qsl(urlsplit(answer.headers["location"]).query))


def redeem(idp: Client, code: str, /, **changes: str) -> Any:
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": CALLBACK,
        "code_verifier": VERIFIER,
        "client_id": "acme-web",
    }
    return idp.post("/token", data={**form, **changes})


def verified(idp: Client, token: str) -> dict[str, Any]:
    """The claims, after verifying the signature with the published keys."""
    kid = jwt.get_unverified_header(token)["kid"]
    key = jwt.PyJWKSet.from_dict(idp.get("/jwks.json").json())[kid]
    options: Any = {"verify_exp": False, "verify_iat": False}
    return dict(jwt.decode(token, key, algorithms=["RS256"], audience="acme-web", issuer=IDP, options=options))


def claims_of(idp: Client, answer: dict[str, str]) -> dict[str, Any]:
    return verified(idp, redeem(idp, answer["code"]).json()["id_token"])


def test_an_id_token_says_who_logged_in_when_and_how() -> None:
    idp = idp_client()
    answer = log_in(idp)
    assert (answer["state"], answer["iss"]) == ("st-1", IDP)

    claims = claims_of(idp, answer)

    assert claims.pop("sid")
    assert claims == {
        "iss": IDP,
        "sub": "8f2c61b07a5e",
        "aud": "acme-web",
        "azp": "acme-web",
        "iat": 1_800_000_000,
        "exp": 1_800_000_600,
        "auth_time": 1_800_000_000,
        "acr": "urn:acme:acr:password",
        "amr": ["pwd"],
        "nonce": "n-1",
        "email": "alice@acme.example",
        "email_verified": True,
        "name": "Alice Moreau",
        "preferred_username": "alice",
        "groups": ["sales"],
    }


def test_the_discovery_document_matches_what_is_served() -> None:
    idp = idp_client()
    document = idp.get("/.well-known/openid-configuration").json()
    assert document["issuer"] == IDP
    assert document["id_token_signing_alg_values_supported"] == ["RS256"]
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "end_session_endpoint"):
        assert document[name].startswith(f"{IDP}/")
        assert idp.get(document[name]).status_code != 404


def test_a_second_login_in_the_same_browser_shows_no_page_and_keeps_auth_time() -> None:
    clock = fixed_clock()
    idp = idp_client(clock)
    first = claims_of(idp, log_in(idp))
    clock.advance(500)

    answer = silently(idp)

    assert answer is not None
    second = claims_of(idp, answer)
    assert (second["sid"], second["auth_time"]) == (first["sid"], first["auth_time"])
    assert second["iat"] == first["iat"] + 500


@pytest.mark.parametrize("changes", [{"prompt": "login"}, {"prompt": "select_account"}, {"login_hint": "bob"}])
def test_a_page_is_shown_when_the_client_asks_for_a_new_login_or_another_person(changes: dict[str, str]) -> None:
    idp = idp_client()
    log_in(idp)
    assert silently(idp, **changes) is None


def test_max_age_asks_for_a_new_login_only_when_the_old_one_is_older() -> None:
    clock = fixed_clock()
    idp = idp_client(clock)
    log_in(idp)
    clock.advance(100)
    assert silently(idp, max_age="100") is not None
    clock.advance(1)
    assert silently(idp, max_age="100") is None

    claims = claims_of(idp, log_in(idp, max_age="100"))

    assert claims["auth_time"] == 1_800_000_101


def test_step_up_asks_again_and_then_says_so() -> None:
    idp = idp_client()
    log_in(idp)
    assert silently(idp, acr_values="urn:acme:acr:mfa") is None

    claims = claims_of(idp, log_in(idp, acr_values="urn:acme:acr:mfa"))

    assert (claims["acr"], claims["amr"]) == ("urn:acme:acr:mfa", ["pwd", "otp", "mfa"])
    assert silently(idp, acr_values="urn:acme:acr:mfa") is not None
    assert silently(idp, acr_values="urn:acme:acr:password") is not None


def test_an_unknown_acr_is_voluntary() -> None:
    idp = idp_client()
    assert claims_of(idp, log_in(idp, acr_values="urn:other"))["acr"] == "urn:acme:acr:password"
    assert silently(idp, acr_values="urn:other") is not None


def test_prompt_none_never_shows_a_page() -> None:
    idp = idp_client()
    assert silently(idp, prompt="none") == {"error": "login_required", "state": "st-1", "iss": IDP}
    log_in(idp)
    answer = silently(idp, prompt="none")
    assert answer is not None
    assert "code" in answer


def test_a_session_ends_after_eight_hours_and_at_logout() -> None:
    clock = fixed_clock()
    idp = idp_client(clock)
    log_in(idp)
    assert idp.post("/logout").status_code == 200
    assert silently(idp) is None
    log_in(idp)
    clock.advance(8 * 3600)
    assert silently(idp) is None


def test_the_hinted_person_comes_first() -> None:
    page = authorize(idp_client(), login_hint="carol@acme.example").text
    assert page.index('value="carol"') < page.index('value="alice"')


def test_cancelling_goes_back_as_access_denied() -> None:
    assert log_in(idp_client(), account="")["error"] == "access_denied"


def test_the_login_form_is_worth_nothing_in_another_browser_or_twice() -> None:
    idp = idp_client()
    page = authorize(idp).text
    form = {"request": page.partition('name="request" value="')[2].partition('"')[0], "account": "alice"}
    assert Client(idp.app, IDP).post("/login", data=form).status_code == 400
    assert idp.post("/login", data=form).status_code == 303
    assert idp.post("/login", data=form).status_code == 400


def test_a_cookie_from_before_the_login_is_not_logged_in() -> None:
    idp = idp_client()
    authorize(idp)
    planted = idp.cookies["acme_idp_session"]
    log_in(idp)

    attacker = Client(idp.app, IDP)
    attacker.cookies.set("acme_idp_session", planted)

    assert silently(attacker) is None


@pytest.mark.parametrize(
    "redirect_uri",
    [
        None,
        "http://127.0.0.1:53123/cb/",
        "http://127.0.0.1:53123/other",
        "http://127.0.0.1/cb",
        "http://127.0.0.1:0/cb",
        "http://127.0.0.1:99999/cb",
        "http://127.0.0.1:53123/cb\n",
        "http://127.0.0.1:٣/cb",
        "http://127.0.0.1:1@evil.example/cb",
        "https://127.0.0.1:53123/cb",
        "http://localhost:53123/cb",
    ],
)
def test_only_the_loopback_address_of_the_client_is_redirected_to(redirect_uri: str | None) -> None:
    answer = authorize(idp_client(), redirect_uri=redirect_uri)
    assert (answer.status_code, "location" in answer.headers) == (400, False)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": "id_token"}, "unsupported_response_type"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"scope": "profile"}, "invalid_scope"),
        ({"max_age": "-1"}, "invalid_request"),
        ({"max_age": "٣"}, "invalid_request"),
        ({"prompt": "create"}, "invalid_request"),
    ],
)
def test_a_faulty_request_goes_back_to_the_client(changes: dict[str, str | None], error: str) -> None:
    assert silently(idp_client(), **changes) == {"error": error, "state": "st-1", "iss": IDP}


@pytest.mark.parametrize(
    "changes",
    [
        {"code": "unknown"},
        {"code_verifier": "w" * 43},
        {"redirect_uri": "http://127.0.0.1:53124/cb"},
    ],
)
def test_a_code_needs_its_verifier_and_address(changes: dict[str, str]) -> None:
    idp = idp_client()
    answer = redeem(idp, log_in(idp)["code"], **changes)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


def test_a_code_works_once_and_for_a_minute() -> None:
    clock = fixed_clock()
    idp = idp_client(clock)
    code = log_in(idp)["code"]
    assert redeem(idp, code).status_code == 200
    assert redeem(idp, code).status_code == 400
    late = silently(idp)
    assert late is not None
    clock.advance(60)
    assert redeem(idp, late["code"]).status_code == 400


def test_a_confidential_client_proves_itself() -> None:
    idp = idp_client()
    callback = f"{BROKER}/login/callback"
    code = log_in(idp, client_id="cab", redirect_uri=callback)["code"]
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": callback, "code_verifier": VERIFIER}

    assert idp.post("/token", data={**form, "client_id": "cab"}).status_code == 401
    assert idp.post("/token", data=form, auth=("cab", "wrong")).status_code == 401
    assert idp.post("/token", data=form, auth=("cab", SECRET)).status_code == 200


def test_rotation_signs_with_the_key_that_was_published_before() -> None:
    idp = idp_client()
    before = {key["kid"] for key in idp.get("/jwks.json").json()["keys"]}
    token = redeem(idp, log_in(idp)["code"]).json()["id_token"]

    new_kid = idp.post("/_control/keys/rotate", json={}).json()["signing_kid"]

    assert new_kid in before
    assert new_kid != jwt.get_unverified_header(token)["kid"]
    assert verified(idp, token)
    answer = silently(idp)
    assert answer is not None
    assert jwt.get_unverified_header(redeem(idp, answer["code"]).json()["id_token"])["kid"] == new_kid


def test_rotation_can_forget_the_old_key_at_once_and_keeps_few() -> None:
    idp = idp_client()
    token = redeem(idp, log_in(idp)["code"]).json()["id_token"]
    idp.post("/_control/keys/rotate", json={"forget_old": True})
    with pytest.raises(KeyError):
        verified(idp, token)
    for _ in range(3):
        idp.post("/_control/keys/rotate", json={})
    assert len(idp.get("/jwks.json").json()["keys"]) == 3


def test_no_private_member_is_ever_published() -> None:
    for key in idp_client().get("/jwks.json").json()["keys"]:
        assert set(key) == {"kty", "use", "alg", "kid", "n", "e"}


def test_jwks_fetches_are_counted_and_can_fail() -> None:
    idp = idp_client()
    faults = [
        {"endpoint": "jwks", "kind": "status", "status": 503, "count": 1},
        {"endpoint": "jwks", "kind": "body", "body": "garbage", "count": 1},
        {"endpoint": "jwks", "kind": "body", "body": "empty_object", "count": 1},
    ]
    assert idp.post("/_control/faults", json={"faults": faults}).status_code == 200

    answers = [idp.get("/jwks.json") for _ in range(4)]

    assert [answer.status_code for answer in answers] == [503, 200, 200, 200]
    with pytest.raises(ValueError, match="utf-8"):
        answers[1].json()
    assert answers[2].json() == {}
    assert len(answers[3].json()["keys"]) == 2
    assert idp.get("/_control/state").json()["jwks_fetches"] == 4


def test_a_token_can_be_signed_by_a_key_nobody_published() -> None:
    idp = idp_client()
    idp.post("/_control/faults", json={"endpoint": "token", "kind": "unknown_kid", "count": 1})
    token = redeem(idp, log_in(idp)["code"]).json()["id_token"]
    assert jwt.get_unverified_header(token)["kid"] not in {key["kid"] for key in idp.get("/jwks.json").json()["keys"]}


def test_the_discovery_document_can_lie_about_its_issuer() -> None:
    idp = idp_client()
    idp.post("/_control/faults", json={"endpoint": "discovery", "kind": "issuer_mismatch", "count": 1})
    issuers = [idp.get("/.well-known/openid-configuration").json()["issuer"] for _ in range(2)]
    assert issuers == [f"{IDP}/", IDP]


def test_claims_of_an_id_token_can_be_replaced_and_left_out() -> None:
    idp = idp_client()
    fault = {"endpoint": "token", "kind": "claims", "value": {"groups": None, "aud": ["a", "b"]}, "count": 1}
    idp.post("/_control/faults", json=fault)
    token = redeem(idp, log_in(idp)["code"]).json()["id_token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["aud"] == ["a", "b"]
    assert "groups" not in claims


def test_public_keys_of_clients_are_served_without_their_private_part(tmp_path: Path) -> None:
    private = {"kty": "EC", "crv": "P-256", "x": "x1", "y": "y1", "d": "PRIVATE", "kid": "k1", "alg": "ES256"}
    (tmp_path / "sales-assistant.json").write_text(json.dumps(private))
    (tmp_path / "two.jwk").write_text(json.dumps({"keys": [private, {**private, "kid": "k2"}]}))
    (tmp_path / "symmetric.json").write_text(json.dumps({"kty": "oct", "k": "PRIVATE"}))
    (tmp_path / "broken.json").write_text("{")
    idp = idp_client(client_keys=tmp_path)

    public = {name: value for name, value in private.items() if name != "d"}
    assert idp.get("/clients/sales-assistant/jwks.json").json() == {"keys": [public]}
    assert len(idp.get("/clients/two/jwks.json").json()["keys"]) == 2
    for client_id in ("symmetric", "broken", "nobody", "%2e%2e%2fetc", "a%00", ".hidden", "a" * 65):
        answer = idp.get(f"/clients/{client_id}/jwks.json")
        assert (answer.status_code, "PRIVATE" in answer.text) == (404, False)


def test_a_page_never_repeats_what_the_caller_sent() -> None:
    idp = idp_client()
    for answer in (authorize(idp, login_hint="<b>x"), authorize(idp, client_id="<b>x"), authorize(idp, state="<b>x")):
        assert "<b>x" not in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_repeated_parameters_get_a_page_and_no_redirect() -> None:
    answer = idp_client().get("/authorize?client_id=acme-web&client_id=cab")
    assert (answer.status_code, "location" in answer.headers) == (400, False)


def test_reset_logs_everybody_out_and_zeroes_the_counters() -> None:
    idp = idp_client(MovableClock())
    log_in(idp)
    idp.get("/jwks.json")
    assert idp.post("/_control/reset").status_code == 200
    assert silently(idp) is None
    assert idp.get("/_control/state").json()["jwks_fetches"] == 0
