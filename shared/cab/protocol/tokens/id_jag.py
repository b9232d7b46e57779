"""Identity assertion JWT authorization grants (ID-JAG, see drafts.py): the enterprise IdP vouches for a user to this broker.

Never an ID token, never our own assertion: its own `typ`, and `client_id` binds it to the client that redeems it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from cab.domain.configured.deployment import IdentityProvider
from cab.protocol.drafts import ID_JAG_TYP
from cab.protocol.jose.jws import Rules, TokenRejected, VerifiedClaims
from cab.protocol.tokens import id_tokens
from cab.values import immutable

MAX_LIFE: Final = timedelta(hours=1)


@immutable
class IdJag:
    """Who the user is and the most that may be granted. A member that is None sets no bound of its own."""

    login: id_tokens.Login
    client_id: str
    jti: str
    resources: tuple[str, ...] | None
    scopes: tuple[str, ...] | None
    details: list[Any] | None
    jkt: str | None


def rules(idp: IdentityProvider, audience: str) -> Rules:
    return Rules(
        typ=frozenset({ID_JAG_TYP}),
        algorithms=frozenset(idp.algorithms),
        issuer=idp.issuer,
        audiences=frozenset({audience}),
        max_life=MAX_LIFE,
        one_element_audience=True,
        fractions=True,
    )


def read(verified: VerifiedClaims, idp: IdentityProvider) -> IdJag:
    """Raises TokenRejected for a missing or malformed claim."""
    claims = verified.claims
    details = claims.get("authorization_details")
    if details is not None and not isinstance(details, list):
        raise TokenRejected("authorization_details is malformed")
    confirmation = claims.get("cnf")
    jkt = confirmation.get("jkt") if isinstance(confirmation, dict) else None
    if confirmation is not None and not isinstance(jkt, str):
        raise TokenRejected("cnf is of a kind that cannot be checked here")
    scope = verified.optional_text("scope", max_length=2000)
    return IdJag(
        login=id_tokens.login_of(verified, idp),
        client_id=verified.text("client_id"),
        jti=verified.text("jti"),
        resources=_resources(claims.get("resource")),
        scopes=None if scope is None else tuple(scope.split()),
        details=details,
        jkt=jkt,
    )


def _resources(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values) or len(values) > 20:
        raise TokenRejected("resource is malformed")
    return tuple(values)
