"""A connection's state in words for its user: how it is, what to do about it, and whether it can be ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cab.domain.grants import GrantStatus
from cab.use_cases.my_account import ConnectionHealth


@dataclass(frozen=True, slots=True)
class Health:
    """`kind` picks the colour; `connect` labels the way to connect, where there is one; `live` ones can be disconnected."""

    kind: str
    words: str
    advice: str = ""
    live: bool = False
    connect: str = ""


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
_CONNECTED: Final = Health("good", "Connected", live=True)
_NOT_CONNECTED: Final = Health("", "Not connected", connect="Connect")
_NO_ACCOUNT: Final = Health("good", "Ready", "This system trusts us directly: there is no account to connect.")


def health_of(item: ConnectionHealth) -> Health:
    if not item.needs_account:
        return _NO_ACCOUNT
    if item.grant is None:
        return _NOT_CONNECTED
    return _BY_STATUS.get(item.grant.status, _CONNECTED)
