"""ID tokens of the enterprise IdP (OpenID Connect Core 1.0 section 2), as subject tokens at the edge and from our own login."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cab.domain.configured.deployment import IdentityProvider
from cab.domain.groups import GroupsUnknown
from cab.domain.identifiers import digest, is_printable, subject_key
from cab.protocol.jose.jws import LEEWAY, Rules, TokenRejected, VerifiedClaims
from cab.values import immutable

ID_TOKEN_TYPES: Final = frozenset({None, "jwt", "application/jwt"})  # RFC 7515 section 4.1.9 allows the prefix


_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
# Python takes any character before the hour: of `20270630013000Z`, as directories write it, it would read 13:00.
_INSTANT: Final = re.compile(r"\d{4}-?\d{2}-?\d{2}[Tt ].*")
_MILLISECONDS: Final = 100_000_000_000  # no instant of ours is as many seconds away
_LAST_NUMBER: Final = (
    10_000_000_000_000  # nor as many milliseconds: it would be `20270630220000`, and not the year 2612
)


@immutable
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
    session: str | None = None  # opaque: the same for all tokens of one login there
    issued_at: datetime | None = None
    groups_unknown: GroupsUnknown | None = None  # why `groups` says nothing about the user
    access_ends_at: datetime | None = None  # when the person's rights end, where the IdP says so

    @property
    def access_ends_s(self) -> int | None:
        """The same as a NumericDate."""
        return None if self.access_ends_at is None else int(self.access_ends_at.timestamp())

    @property
    def vouched_s(self) -> int | None:
        """When the IdP said so, as a NumericDate. None where it says when the person logged in: then that counts."""
        return None if self.auth_time is not None or self.issued_at is None else int(self.issued_at.timestamp())


def rules(idp: IdentityProvider, client_id: str) -> Rules:
    return Rules(
        typ=ID_TOKEN_TYPES,
        algorithms=frozenset(idp.algorithms),
        issuer=idp.issuer,
        audiences=frozenset({client_id}),
        max_life=timedelta(seconds=idp.id_token_max_life_s),
        several_audiences=True,
        fractions=True,
    )


def read(verified: VerifiedClaims, idp: IdentityProvider, *, client_id: str, nonce: str | None = None) -> Login:
    """The login behind a verified ID token. Raises TokenRejected.

    With several audiences, or whenever `azp` is present, `azp` must be the registered client (section 3.1.3.7, 4 and 5).
    """
    claims = verified.claims
    check_no_logout(claims)
    check_party(claims, client_id)
    if nonce is not None and claims.get("nonce") != nonce:
        raise TokenRejected("nonce does not match")
    return login_of(verified, idp)


def check_no_logout(claims: Mapping[str, Any]) -> None:
    """OpenID Connect Back-Channel Logout 1.0 section 2.4: much like an ID token but for `events`. Raises TokenRejected."""
    if "events" in claims:
        raise TokenRejected("a logout token is no ID token")


def check_party(claims: Mapping[str, Any], client_id: str) -> None:
    """OpenID Connect Core section 3.1.3.7, 4 and 5. Raises TokenRejected."""
    several = isinstance(claims["aud"], list) and len(set(claims["aud"])) > 1
    if (several or "azp" in claims) and claims.get("azp") != client_id:
        raise TokenRejected("azp is another client")


def login_of(verified: VerifiedClaims, idp: IdentityProvider) -> Login:
    """What any JWT of this IdP says about a user. Raises TokenRejected."""
    claims = verified.claims
    idp_subject = subject_of(claims, idp)
    groups, groups_unknown = groups_of(claims, idp)
    auth_time = auth_time_of(verified)
    access_ends_at = access_end_of(claims, idp)
    if access_ends_at is not None and verified.checked_at is not None and access_ends_at <= verified.checked_at:
        raise TokenRejected("the person's access has ended")
    return Login(
        tenant=idp.tenant,
        idp_issuer=idp.issuer,
        subject=subject_key(idp.tenant, idp.issuer, idp_subject),
        idp_subject_hash=digest("cab-idp-subject", idp.issuer, idp_subject),
        groups=groups,
        expires_at=verified.expires_at if access_ends_at is None else min(verified.expires_at, access_ends_at),
        access_ends_at=access_ends_at,
        issued_at=verified.issued_at,
        auth_time=auth_time,
        acr=_acr(claims.get("acr")),
        amr=_amr(claims.get("amr")),
        display_name=_display_name(claims),
        session=_session(claims.get("sid"), auth_time, idp, idp_subject),
        groups_unknown=groups_unknown,
    )


def _session(sid: Any, auth_time: int | None, idp: IdentityProvider, idp_subject: str) -> str | None:
    """The provider's session (OpenID Connect Front-Channel Logout 1.0 section 3), else the instant of the login."""
    if not isinstance(sid, str) or sid.startswith("S-1-"):  # of ADFS it is the Windows account, the same for ever
        sid = None if auth_time is None else str(auth_time)
    if sid is None:
        return None
    return digest("cab-login", idp.issuer, idp_subject, sid)[:22]


def subject_of(claims: Mapping[str, Any], idp: IdentityProvider) -> str:
    """Who the user is to the provider. Raises TokenRejected."""
    idp_subject = claim(claims, idp.subject_claim)
    # Only of `sub` a standard says that it is text: employee numbers come as numbers.
    if idp.subject_claim != "sub" and isinstance(idp_subject, int) and not isinstance(idp_subject, bool):
        idp_subject = str(idp_subject)
    if not isinstance(idp_subject, str) or not idp_subject:
        raise TokenRejected("the configured subject claim is missing or no text")
    return idp_subject


def claim(claims: Mapping[str, Any], name: str) -> object:
    """The value of a claim, None where there is none. A name that no claim has leads into objects at its dots.

    Names may hold dots themselves (`https://acme.example/roles`, the client ids in Keycloak's `resource_access`): at every
    level the shortest name that leads to a value is taken, the whole name before any part of it.
    """
    if name in claims:
        return claims[name]
    for end, char in enumerate(name):
        inner = claims.get(name[:end]) if char == "." else None
        if isinstance(inner, Mapping) and (found := claim(inner, name[end + 1 :])) is not None:
            return found
    return None


def auth_time_of(verified: VerifiedClaims) -> int | None:
    """A login yet to come (milliseconds for seconds, say) would count as fresh for ever, so it is refused.

    It may be later than `iat`, which some providers set back by minutes. Raises TokenRejected.
    """
    auth_time = verified.optional_time("auth_time", fractions=True)
    now = verified.checked_at
    if auth_time is not None and now is not None and auth_time > (now + LEEWAY).timestamp():
        raise TokenRejected("auth_time is in the future")
    return auth_time


def access_end_of(claims: Mapping[str, Any], idp: IdentityProvider) -> datetime | None:
    """When the person's rights end; None where the provider does not say. A last day counts in full, in UTC.

    What cannot be read may be a day that is over. Raises TokenRejected.
    """
    value = None if idp.access_until_claim is None else claim(claims, idp.access_until_claim)
    if value is None or value == "":
        return None
    try:
        if isinstance(value, str) and _DAY.fullmatch(value):
            return datetime.fromisoformat(value).replace(tzinfo=UTC) + timedelta(days=1)
        if isinstance(value, str) and _INSTANT.fullmatch(value):
            ends_at = datetime.fromisoformat(value)
            return ends_at if ends_at.tzinfo is not None else ends_at.replace(tzinfo=UTC)
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            number = float(value)
            if number < _LAST_NUMBER:
                return datetime.fromtimestamp(number / 1000 if number > _MILLISECONDS else number, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise TokenRejected("the configured claim for the end of access cannot be read")


def groups_of(claims: Mapping[str, Any], idp: IdentityProvider) -> tuple[tuple[str, ...], GroupsUnknown | None]:
    """Only groups the configuration maps, sorted: a user's hundreds of other groups never leave the edge.

    What the provider does not say is not "none" (OpenID Connect Core section 5.6.2 for `_claim_names`).
    """
    if not idp.groups:
        return (), None
    name = idp.groups_claim
    value = claim(claims, name)
    elsewhere = claims.get("_claim_names")
    if isinstance(elsewhere, Mapping) and (name in elsewhere or name.split(".")[0] in elsewhere):
        return (), GroupsUnknown.LEFT_OUT
    if name == "groups" and claims.get("hasgroups") not in (None, False, 0, "false", "False", "0"):
        return (), GroupsUnknown.LEFT_OUT
    if value is None:
        return (), GroupsUnknown.MISSING
    items = [value] if isinstance(value, str) else value  # one value often comes without its array
    if isinstance(items, Mapping) and items and all(isinstance(about, Mapping) for about in items.values()):
        items = list(items)  # ZITADEL's roles: each name with the organisations that gave it
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        return (), GroupsUnknown.UNREADABLE
    if isinstance(value, str) and value not in idp.groups and any(_stands_in(value, name) for name in idp.groups):
        return (), GroupsUnknown.UNREADABLE
    return tuple(sorted({idp.groups[item] for item in items if item in idp.groups})), None


def _stands_in(text: str, name: str) -> bool:
    """Whether the text may be a list in disguise with this name in it, whatever stands between names: `a|b`, `[a, b]`, `a:b`."""
    return re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w./-])", text) is not None


def _acr(value: object) -> str | None:
    """An unusable level is no level: policy then asks for a stronger login."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return text if isinstance(text, str) and is_printable(text) else None


def _amr(value: object) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        return ()
    return tuple(item for item in items[:20] if isinstance(item, str) and is_printable(item))  # ADFS: whole addresses


def _display_name(claims: Mapping[str, Any]) -> str | None:
    for name in ("name", "preferred_username", "email"):
        value = claims.get(name)
        if isinstance(value, str) and is_printable(value, max_length=120):
            return value
    return None
