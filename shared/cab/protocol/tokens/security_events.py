"""Security event tokens (RFC 8417) of identity providers, as the Shared Signals Framework 1.0 sends them: CAEP and RISC events.

A token without `exp` that says what happened, not who may do what. Transmitters write subjects in several shapes; what names
nobody here is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from cab.domain.configured.deployment import IdentityProvider
from cab.protocol.jose.jws import LEEWAY, Rules, TokenRejected
from cab.values import immutable

TYPES: Final = frozenset({"secevent+jwt", "application/secevent+jwt", "jwt", None})  # the last two: older transmitters
_EVENTS: Final = "https://schemas.openid.net/secevent/"
_MOST_EVENTS: Final = 10
_MILLISECONDS: Final = 100_000_000_000  # no instant of ours is as many seconds away


class SignalEffect(StrEnum):
    ENDS_LOGINS = "ends logins"
    CLOSES_ACCOUNT = "closes account"
    PURGES_ACCOUNT = "purges account"
    OPENS_ACCOUNT = "opens account"
    NONE = "none"


_EFFECTS: Final = {
    "caep/event-type/session-revoked": SignalEffect.ENDS_LOGINS,
    "caep/event-type/credential-change": SignalEffect.ENDS_LOGINS,
    "risc/event-type/sessions-revoked": SignalEffect.ENDS_LOGINS,
    "risc/event-type/account-credential-change-required": SignalEffect.ENDS_LOGINS,
    "risc/event-type/credential-compromise": SignalEffect.ENDS_LOGINS,
    "oauth/event-type/tokens-revoked": SignalEffect.ENDS_LOGINS,
    "risc/event-type/account-disabled": SignalEffect.CLOSES_ACCOUNT,
    "risc/event-type/account-purged": SignalEffect.PURGES_ACCOUNT,
    "risc/event-type/account-enabled": SignalEffect.OPENS_ACCOUNT,
}


@immutable
class SecurityEvent:
    """`idp_subject` is the person's name at the provider, None when the event names nobody of this provider."""

    name: str  # as `caep.session-revoked`; `other` for a type that is not known here
    effect: SignalEffect
    idp_subject: str | None
    at: datetime


def rules(issuer: str, audiences: Iterable[str], algorithms: Iterable[str]) -> Rules:
    """All but the times: an event has no end, and `read` looks at when it was issued."""
    return Rules(
        typ=TYPES,
        algorithms=frozenset(algorithms),
        issuer=issuer,
        audiences=frozenset(audiences),
        max_life=timedelta(0),
        several_audiences=True,
    )


def read(claims: Mapping[str, Any], provider: IdentityProvider, *, now: datetime) -> list[SecurityEvent]:
    """The events of a token whose signature was verified. Raises: TokenRejected."""
    issued_at = _instant(claims.get("iat"))
    if issued_at is None or not isinstance(claims.get("jti"), str):
        raise TokenRejected("iat or jti is missing")
    if issued_at > now + LEEWAY:
        raise TokenRejected("iat is in the future")
    events = claims.get("events")
    if not isinstance(events, Mapping) or not 0 < len(events) <= _MOST_EVENTS:
        raise TokenRejected("events is missing")
    return list(_events(events, claims, provider, issued_at))


def _events(
    events: Mapping[str, Any], claims: Mapping[str, Any], provider: IdentityProvider, issued_at: datetime
) -> Iterator[SecurityEvent]:
    for uri, content in events.items():
        if not isinstance(content, Mapping):
            raise TokenRejected("an event is no object")
        kind = uri.removeprefix(_EVENTS)
        effect = _EFFECTS.get(kind, SignalEffect.NONE)
        name = kind.replace("/event-type/", ".") if kind in _EFFECTS else "other"
        subject = claims.get("sub_id", content.get("subject"))
        # Never later than it was said: an instant to come would end logins yet to be made.
        at = min(_instant(content.get("event_timestamp")) or _instant(claims.get("toe")) or issued_at, issued_at)
        yield SecurityEvent(name, effect, _named(subject, provider), at)


def _named(subject: Any, provider: IdentityProvider) -> str | None:
    """RFC 9493 subject identifiers, and their older spelling (`subject_type`, `iss-sub`)."""
    if not isinstance(subject, Mapping):
        return None
    if isinstance(subject.get("user"), Mapping):  # a complex subject (SSF 1.0 section 3.2), also without `format`
        return _named(subject["user"], provider)
    match str(subject.get("format", subject.get("subject_type", ""))).replace("-", "_"):
        case "iss_sub" | "id_token_claims":
            return _text(subject.get("sub")) if _is_issuer(subject.get("iss"), provider) else None
        case "opaque":
            return _text(subject.get("id"))
        case "aliases":
            several = subject.get("identifiers")
            named = [_named(it, provider) for it in several[:10]] if isinstance(several, list) else []
            return next((it for it in named if it is not None), None)
        case _:
            return None


def _is_issuer(value: Any, provider: IdentityProvider) -> bool:
    """Google ends its issuer with a slash in events and without in ID tokens."""
    own = {provider.issuer.rstrip("/")}
    if provider.shared_signals is not None and provider.shared_signals.issuer is not None:
        own.add(provider.shared_signals.issuer.rstrip("/"))
    return isinstance(value, str) and value.rstrip("/") in own


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _instant(value: Any) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return datetime.fromtimestamp(value / 1000 if value > _MILLISECONDS else value, UTC)
    except (OverflowError, ValueError, OSError):
        return None
