"""Client authentication by JWT: private_key_jwt (RFC 7523 section 2.2, rfc7523bis) and federated JWTs (RFC 7521 section 5.2)."""

from __future__ import annotations

import base64
import binascii
from datetime import timedelta
from typing import Final
from urllib.parse import unquote_plus

from cab.domain.configured.clients import PrivateKeyJwt
from cab.protocol.drafts import CLIENT_AUTHENTICATION_TYP
from cab.protocol.jose.jws import Rules

STRICT_LIFE: Final = timedelta(seconds=300)
COMPATIBLE_LIFE: Final = timedelta(seconds=3600)  # what a popular client library sends


def private_key_jwt_rules(method: PrivateKeyJwt, *, client_id: str, issuer: str, endpoint: str) -> Rules:
    """Audience is the issuer of the endpoint called, as a single string. With the client's compatibility flag it may also be the
    endpoint's URL, and stand alone in an array."""
    compatible = method.audience_compatibility
    return Rules(
        typ=frozenset({None, "jwt", CLIENT_AUTHENTICATION_TYP}),
        algorithms=frozenset(method.algorithms),
        issuer=client_id,
        audiences=frozenset({issuer, endpoint} if compatible else {issuer}),
        max_life=COMPATIBLE_LIFE if compatible else STRICT_LIFE,
        one_element_audience=compatible,
        issued_at_required=False,  # optional in RFC 7523; the life is then counted from now
        fractions=True,
    )


def federated_rules(issuer: str, algorithms: frozenset[str], *, audience: str) -> Rules:
    """A workload's own identity token, made for us alone."""
    return Rules(
        typ=frozenset({None, "jwt"}),
        algorithms=algorithms,
        issuer=issuer,
        audiences=frozenset({audience}),
        max_life=timedelta(hours=1),
        fractions=True,
    )


def basic_credentials(header: str) -> tuple[str, str] | None:
    """Client id and secret of a Basic Authorization header (RFC 6749 section 2.3.1), or None when malformed."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode("ascii").partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None
    return (unquote_plus(user), unquote_plus(password)) if colon else None
