"""ID tokens of the enterprise IdP (OpenID Connect Core 1.0 section 2), as subject tokens at the edge and from our own login."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cab.domain.deployment import IdentityProvider
from cab.domain.identifiers import digest, is_printable, subject_key
from cab.protocol.assertions import MAX_GROUPS
from cab.protocol.jws import LEEWAY, Rules, TokenRejected, VerifiedClaims

MAX_LIFE: Final = timedelta(hours=1)
MAX_GROUPS_IN_TOKEN: Final = 2000


@dataclass(frozen=True, slots=True)
class Login:
    """Who logged in, how and when, as the IdP says and the configuration maps it."""

    tenant: str
    idp_issuer: str
    subject: str
    idp_subject_hash: str
    groups: tuple[str, ...]
    expires_at: datetime
    auth_time: int | None
    acr: str | None
    amr: tuple[str, ...]
    display_name: str | None  # for the person's own pages only, never stored in audit


def rules(provider: IdentityProvider, client_id: str) -> Rules:
    return Rules(
        typ=frozenset({None, "jwt"}),
        algorithms=frozenset(provider.algorithms),
        issuer=provider.issuer,
        audiences=frozenset({client_id}),
        max_life=MAX_LIFE,
        several_audiences=True,
    )


def read(verified: VerifiedClaims, provider: IdentityProvider, *, client_id: str, nonce: str | None = None) -> Login:
    """The login behind a verified ID token. Raises TokenRejected.

    With several audiences, or whenever `azp` is present, `azp` must be the registered client (section 3.1.3.7, 4 and 5).
    """
    claims = verified.claims
    several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
    if (several or "azp" in claims) and claims.get("azp") != client_id:
        raise TokenRejected("azp is another client")
    if nonce is not None and claims.get("nonce") != nonce:
        raise TokenRejected("nonce does not match")
    return login_of(verified, provider)


def login_of(verified: VerifiedClaims, provider: IdentityProvider) -> Login:
    """What any JWT of this IdP says about a user. Raises TokenRejected."""
    claims = verified.claims
    idp_subject = verified.text("sub")
    return Login(
        tenant=provider.tenant,
        idp_issuer=provider.issuer,
        subject=subject_key(provider.tenant, provider.issuer, idp_subject),
        idp_subject_hash=digest("cab-idp-subject", provider.issuer, idp_subject),
        groups=_groups(claims.get(provider.groups_claim), provider),
        expires_at=verified.expires_at,
        auth_time=_auth_time(verified),
        acr=verified.optional_text("acr"),
        amr=_amr(claims.get("amr")),
        display_name=_display_name(claims),
    )


def _auth_time(verified: VerifiedClaims) -> int | None:
    """A login after its own token (milliseconds for seconds, say) would count as fresh for ever, so it is refused."""
    auth_time = verified.optional_time("auth_time")
    issued_at = verified.issued_at
    if auth_time is not None and issued_at is not None and auth_time > (issued_at + LEEWAY).timestamp():
        raise TokenRejected("auth_time is later than the token")
    return auth_time


def _groups(value: object, provider: IdentityProvider) -> tuple[str, ...]:
    """Only groups the configuration maps, sorted: a user's hundreds of other groups never leave the edge."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_GROUPS_IN_TOKEN:
        raise TokenRejected("groups are malformed")
    mapped = {provider.groups[item] for item in value if isinstance(item, str) and item in provider.groups}
    return tuple(sorted(mapped)[:MAX_GROUPS])


def _amr(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(item for item in value[:20] if isinstance(item, str) and is_printable(item, max_length=64))


def _display_name(claims: Mapping[str, Any]) -> str | None:
    for name in ("name", "preferred_username", "email"):
        value = claims.get(name)
        if isinstance(value, str) and is_printable(value, max_length=120):
            return value
    return None
