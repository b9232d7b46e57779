"""Acme ID's identity assertion grants: leg 1 of the ID-JAG draft, for confidential clients and their own users only."""

import json
from typing import Any

import jwt
import pytest
from tests.dev.doubles.in_process import Client
from tests.examples.acme_in_process import BROKER, IDP, VERIFIER, fixed_clock, fresh_idp
from tests.examples.test_idp import log_in

from cab_dev.doubles.clients import RegisteredClient
from cab_dev.doubles.clock import MovableClock

AUDIENCE = f"{BROKER}/oauth2"
RESOURCE = "http://127.0.0.1:8085/mcp"
CALLBACK = "http://127.0.0.1:53123/cb"
SECRET = "s3cret-of-desktop"
NOW = 1_800_000_000

CLIENTS = {
    client.client_id: client
    for client in (
        RegisteredClient(
            client_id="desktop",
            client_secret=SECRET,
            redirect_uris=("http://127.0.0.1:*/cb",),
            client_id_at={AUDIENCE: "mcp-client"},
        ),
        RegisteredClient(client_id="other", client_secret=SECRET, redirect_uris=(), client_id_at={AUDIENCE: "other"}),
        RegisteredClient(
            client_id="public", redirect_uris=("http://127.0.0.1:*/cb",), client_id_at={AUDIENCE: "public"}
        ),
    )
}


def start_idp(clock: MovableClock) -> Client:
    return Client(fresh_idp(clock, clients=CLIENTS), IDP)


@pytest.fixture(scope="module")
def idp() -> Client:
    """One for all tests that leave its clock alone: its RSA keys take long to make."""
    return start_idp(fixed_clock())


def id_token(idp: Client, client_id: str = "desktop") -> str:
    idp.cookies.clear()  # a browser of its own
    form = {
        "grant_type": "authorization_code",
        "code": log_in(idp, client_id=client_id)["code"],
        "redirect_uri": CALLBACK,
        "code_verifier": VERIFIER,
        "client_id": client_id,
    }
    if CLIENTS[client_id].client_secret:
        form["client_secret"] = SECRET
    return str(idp.post("/token", data=form).json()["id_token"])


def ask(idp: Client, subject_token: str, /, *, client_id: str = "desktop", **changes: str | None) -> Any:
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "requested_token_type": "urn:ietf:params:oauth:token-type:id-jag",
        "subject_token": subject_token,
        "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
        "audience": AUDIENCE,
        "resource": RESOURCE,
        "client_id": client_id,
        "client_secret": SECRET if CLIENTS[client_id].client_secret else None,
        **changes,
    }
    return idp.post("/token", data={name: value for name, value in form.items() if value is not None})


def test_an_id_jag_says_who_for_whom_and_where(idp: Client) -> None:
    details = [{"type": "cab_action", "actions": ["notes.note.list"]}]
    answer = ask(idp, id_token(idp), scope="note.read", authorization_details=json.dumps(details))
    assert answer.status_code == 200
    body = answer.json()
    token = body.pop("access_token")
    assert body == {
        "issued_token_type": "urn:ietf:params:oauth:token-type:id-jag",
        "token_type": "N_A",
        "expires_in": 300,
        "scope": "note.read",
    }
    header = jwt.get_unverified_header(token)
    assert (header["typ"], header["alg"]) == ("oauth-id-jag+jwt", "RS256")
    key = jwt.PyJWKSet.from_dict(idp.get("/jwks.json").json())[header["kid"]]
    options: Any = {"verify_exp": False, "verify_iat": False}
    claims = jwt.decode(token, key, algorithms=["RS256"], audience=AUDIENCE, issuer=IDP, options=options)
    assert claims.pop("jti")
    assert claims.pop("sub")
    assert claims == {
        "iss": IDP,
        "aud": AUDIENCE,
        "client_id": "mcp-client",
        "iat": NOW,
        "exp": NOW + 300,
        "auth_time": NOW,
        "acr": "urn:acme:acr:password",
        "amr": ["pwd"],
        "email": claims["email"],
        "email_verified": True,
        "groups": ["sales"],
        "resource": RESOURCE,
        "scope": "note.read",
        "authorization_details": details,
    }


def test_an_id_jag_never_outlives_the_id_token() -> None:
    clock = fixed_clock()
    idp = start_idp(clock)
    token = id_token(idp)
    clock.advance(400)
    assert ask(idp, token).json()["expires_in"] == 200
    clock.advance(200)
    assert ask(idp, token).json()["error"] == "invalid_request"


def test_an_id_token_of_another_client_is_refused(idp: Client) -> None:
    assert ask(idp, id_token(idp), client_id="other").json()["error"] == "invalid_request"


def test_an_id_jag_is_not_a_subject_token(idp: Client) -> None:
    jag = ask(idp, id_token(idp)).json()["access_token"]
    assert ask(idp, jag).json()["error"] == "invalid_request"


def test_a_public_client_gets_none(idp: Client) -> None:
    assert ask(idp, id_token(idp, "public"), client_id="public").json()["error"] == "unauthorized_client"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"audience": "http://127.0.0.1:9999/oauth2"}, "invalid_target"),
        ({"audience": None}, "invalid_target"),
        ({"resource": "urn:notes"}, "invalid_target"),
        ({"client_secret": "wrong"}, "invalid_client"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:access_token"}, "invalid_request"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:jwt"}, "invalid_request"),
        ({"subject_token": "x.y.z"}, "invalid_request"),
        ({"authorization_details": "{"}, "invalid_request"),
        ({"authorization_details": "{}"}, "invalid_request"),
    ],
)
def test_what_is_not_asked_for_as_the_draft_says_is_refused(idp: Client, changes: dict[str, Any], error: str) -> None:
    answer = ask(idp, id_token(idp), **changes)
    assert answer.status_code in (400, 401)
    assert answer.json()["error"] == error
