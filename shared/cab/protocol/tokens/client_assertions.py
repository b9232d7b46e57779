"""Client authentication by JWT: private_key_jwt (RFC 7523 section 2.2, rfc7523bis) and federated JWTs (RFC 7521 section 5.2)."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from cab.domain.configured.clients import PrivateKeyJwt
from cab.protocol.drafts import CLIENT_AUTHENTICATION_TYP
from cab.protocol.jose.jws import Rules

STRICT_LIFE: Final = timedelta(seconds=300)
COMPATIBLE_LIFE: Final = timedelta(seconds=3600)  # what a popular client library sends


def private_key_jwt_rules(method: PrivateKeyJwt, *, client_id: str, issuer: str, endpoint: str) -> Rules:
    """Audience is the issuer of the endpoint called, as a single string. With the client's compatibility flag it may also be the
    endpoint's URL, and be the only item of an array."""
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
