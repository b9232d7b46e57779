"""A connection's state in words for its user: how it is, what to do about it, and whether it can be ended."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cab.domain.configured.connections import GrantKind
from cab.domain.grants import CLIENT_REFUSED, ENDED, IDLE, SERVABLE, UNREAD, Grant, GrantStatus
from cab.use_cases.people.account import ConnectionHealth
from cab.values import immutable


@immutable
class Health:
    """`kind` picks the colour; `connect` labels the way to connect, where there is one; `live` ones can be disconnected,
    and `comes_back` says how one comes back from that.
    """

    kind: str
    words: str
    advice: str = ""
    live: bool = False
    connect: str = ""
    comes_back: str = "You can connect again later."


_BY_STATUS: Final[dict[GrantStatus, Health]] = {
    GrantStatus.NEEDS_REAUTH: Health(
        "danger",
        "Stopped working",
        "The other system ended the access. Connect again to repair it.",
        connect="Connect again",
    ),
    GrantStatus.QUARANTINED: Health(
        "danger",
        "Stopped for safety",
        "The stored access was damaged and is not used any more. Connect again to replace it.",
        connect="Connect again",
    ),
    GrantStatus.REVOKING: Health("warn", "Being disconnected", "Agents cannot use it any more."),
    GrantStatus.REVOKED: Health("", "Disconnected", connect="Connect"),
}
_RAN_OUT: Final = Health(
    "danger",
    "Ended",
    "The other system gave access for a limited time, and nothing to renew it with. Connect again to go on.",
    connect="Connect again",
)
_UNUSED: Final = Health(
    "",
    "Ended, unused",
    "Nobody used it for a long time, so it was ended. Connect again when you need it.",
    connect="Connect again",
)
_CONNECTED: Final = Health("good", "Connected", live=True)
_FOR_NOW: Final = Health("warn", "Connected for now", live=True, connect="Connect again")
_STOPPED: Final = Health(
    "warn",
    "Connected, no answer",
    "The other system gave no access when it was last asked. It is asked again at the next use.",
    live=True,
)
_REFUSING: Final = Health(
    "warn",
    "Connected, refused",
    "The other system refuses to renew the access. It is asked again for some days; connecting again may repair it at once.",
    live=True,
    connect="Connect again",
)
_STOPPED_FOR: Final = {
    CLIENT_REFUSED: Health(
        "warn",
        "Connected, not working",
        "The other system does not accept your organisation's own registration. Only whoever set it up can repair that.",
        live=True,
    ),
    UNREAD: Health(
        "warn",
        "Connected, not working",
        "What the other system answered cannot be read. Your organisation must look into it; connecting again may help at once.",
        live=True,
        connect="Connect again",
    ),
}
_NOT_CONNECTED: Final = Health("", "Not connected", connect="Connect")
_NO_ACCOUNT: Final = Health("good", "Ready", "This system trusts us directly: there is no account to connect.")


_ORGANISATION: Final = "Only your organisation can allow it again."
_APPROVED_UNUSED: Final = Health(
    "good", "Ready, approved by your organisation", "There is nothing to connect: your organisation vouches for you."
)
_APPROVED: Final = replace(_APPROVED_UNUSED, live=True, comes_back=_ORGANISATION)
_NOT_MAPPED: Final = Health(
    "", "Not available to you", "Your organisation has not said which account of this system is yours."
)
_ENDED: Final = Health("", "Disconnected", _ORGANISATION)


def health_of(item: ConnectionHealth) -> Health:
    if item.connection.grant_kind is GrantKind.BROKER_JWT:
        return _NO_ACCOUNT
    if not item.needs_account:
        return _health_by_trust(item)
    if item.grant is None or not item.grant.keeps_tokens:  # the latter is of a time when the organisation approved
        return _NOT_CONNECTED
    if item.grant.status in SERVABLE:
        if item.has_run_out:
            return _RAN_OUT
        if item.has_stopped:
            return _stopped(item.grant)
        return _CONNECTED if item.grant.ends_at is None else _FOR_NOW
    if item.grant.status in (GrantStatus.REVOKING, GrantStatus.REVOKED) and item.grant.fail_cause == IDLE:
        return _UNUSED
    return _BY_STATUS[item.grant.status]


def _stopped(grant: Grant) -> Health:
    """Nothing is decided about the grant, but nobody gets a token: the person is told so, and who can help."""
    if grant.refused_as is not None:
        return _REFUSING
    return _STOPPED_FOR.get(grant.fail_cause or "", _STOPPED)


def _health_by_trust(item: ConnectionHealth) -> Health:
    if item.grant is not None and item.grant.status in ENDED:
        return _ENDED
    if not item.user_known:
        return _NOT_MAPPED
    return _APPROVED_UNUSED if item.grant is None else _APPROVED
