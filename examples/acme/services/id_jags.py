"""Acme ID vouches for a user towards another authorization server: identity assertion grants (ID-JAG) for ID tokens.

Leg 1 of draft-ietf-oauth-identity-assertion-authz-grant-05: RFC 8693 token exchange at the identity provider. The client
takes the result to the other server's token endpoint, where it is known under the id that is registered here.
"""

import json
import re
import secrets
from collections.abc import Mapping
from typing import Any

import jwt

from cab_dev.doubles.clients import RegisteredClient
from cab_dev.doubles.strict_input import BadRequest
from examples.acme.services.idp_keys import SigningKeys

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ID_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:id_token"
ID_JAG_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:id-jag"
LIFE_S = 300
_COPIED = ("sub", "email", "email_verified", "groups", "auth_time", "acr", "amr")  # of the ID token


def id_jag_answer(
    form: Mapping[str, str], client: RegisteredClient, keys: SigningKeys, *, issuer: str, now: float
) -> dict[str, Any]:
    """The token answer: an ID-JAG for the user of the ID token, for this client at the server named by `audience`.

    Raises BadRequest: `unauthorized_client` for a client without a secret, `invalid_target` for a server it is not
    registered at, `invalid_request` for everything else.
    """
    if client.client_secret is None:
        raise BadRequest("unauthorized_client", "Only confidential clients get identity assertions.")
    wanted = (form.get("requested_token_type"), form.get("subject_token_type"))
    if wanted != (ID_JAG_TOKEN_TYPE, ID_TOKEN_TYPE):
        raise BadRequest("invalid_request", "Only ID tokens are exchanged, for identity assertions.")
    audience = form.get("audience", "")
    if audience not in client.client_id_at:
        raise BadRequest("invalid_target", "The client is not registered at that authorization server.")
    try:
        user = keys.verify(form.get("subject_token", ""), typ="JWT", issuer=issuer, audience=client.client_id, now=now)
    except (jwt.PyJWTError, ValueError) as exc:
        raise BadRequest("invalid_request", "The subject token is not a current ID token of this client.") from exc
    claims = {name: user[name] for name in _COPIED if name in user} | {
        "iss": issuer,
        "aud": audience,
        "client_id": client.client_id_at[audience],
        "jti": secrets.token_urlsafe(16),
        "iat": int(now),
        "exp": min(int(now) + LIFE_S, user["exp"]),
        **_bounds(form),
    }
    answer = {
        "access_token": keys.sign(claims, typ="oauth-id-jag+jwt"),
        "issued_token_type": ID_JAG_TOKEN_TYPE,
        "token_type": "N_A",
        "expires_in": claims["exp"] - int(now),
    }
    return answer | ({"scope": claims["scope"]} if "scope" in claims else {})


def _bounds(form: Mapping[str, str]) -> dict[str, Any]:
    """What the client asks to be bounded to. The other server grants at most that."""
    bounds: dict[str, Any] = {name: form[name] for name in ("resource", "scope") if form.get(name)}
    if "resource" in bounds and not re.fullmatch(r"https?://[!-~]{1,500}", bounds["resource"]):
        raise BadRequest("invalid_target", "The resource is not an http(s) URI.")
    if "authorization_details" in form:
        try:
            details = json.loads(form["authorization_details"])
        except (ValueError, RecursionError) as exc:
            raise BadRequest("invalid_request", "authorization_details is not JSON.") from exc
        if not isinstance(details, list):
            raise BadRequest("invalid_request", "authorization_details is not an array.")
        bounds["authorization_details"] = details
    return bounds
