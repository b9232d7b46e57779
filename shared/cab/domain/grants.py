"""Grants: the state machine that keeps a user's authorization alive through rotation, races and crashes.

One `Grant` document is the only source of truth. Every transition is a pure function from one document to the next; the
caller writes it with a compare-and-set, so a transition happens once or not at all. docs/grants.md explains the protocol.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cab.domain.connections import RotationClass
from cab.domain.identifiers import digest


class GrantStatus(StrEnum):
    ACTIVE = "active"
    REFRESHING = "refreshing"
    RECOVERING = "recovering"
    NEEDS_REAUTH = "needs_reauth"
    REVOKING = "revoking"
    REVOKED = "revoked"
    QUARANTINED = "quarantined"


SERVABLE = frozenset({GrantStatus.ACTIVE, GrantStatus.REFRESHING, GrantStatus.RECOVERING})
ENDED = frozenset({GrantStatus.REVOKING, GrantStatus.REVOKED, GrantStatus.QUARANTINED})


class Outcome(StrEnum):
    """What one attempt to have a fresh token came to. The counts of all buckets sum to all attempts."""

    SUCCESS = "success"
    CACHED = "cached"
    JOINED = "joined"
    RACE_RECOVERED = "race_recovered"
    UPSTREAM_TRANSIENT = "upstream_transient"
    PERSIST_TRANSIENT = "persist_transient"
    NEEDS_REAUTH_CONFIRMED = "needs_reauth_confirmed"
    LOST_IN_WINDOW = "lost_in_window"
    REVOKED = "revoked"


class Grant(BaseModel):
    """The Firestore document of one grant. Times are instants in UTC."""

    model_config = ConfigDict(extra="ignore")  # an older revision must read what a newer one wrote

    grant_id: str
    tenant: str
    subject: str
    connection: str
    provider: str
    provider_class: RotationClass
    leeway_s: int = 0
    status: GrantStatus = GrantStatus.ACTIVE
    seq: int = 1  # grows by one with every committed token set
    secret_ver: int = 1  # Secret Manager version that holds the committed token set
    fence: int = 0  # grows with every acquire, revoke and reconnect: the holder's right to act
    attempt_id: str | None = None
    lease_until: datetime | None = None
    base_ver: int | None = None  # version whose refresh token the running attempt spends
    sent_at: datetime | None = None  # the running attempt may have spent it
    leeway_until: datetime | None = None
    revoke_epoch: int = 0
    access_expires_at: datetime | None = None
    refreshed_at: datetime | None = None
    next_try_at: datetime | None = None
    due_at: datetime | None = None  # when the sweeper should look again; None when nothing is to do
    fail_count: int = 0
    fail_cause: str | None = None
    scopes: list[str] = Field(default_factory=list)
    upstream_account: str | None = None
    destroy_below: int = 1  # versions below this number are already destroyed
    escrow: str | None = None  # a token set sealed while Secret Manager refused the write
    connected_at: datetime
    last_used_at: datetime | None = None
    outbox: list[dict[str, Any]] = Field(default_factory=list)  # audit events of state changes, not yet acknowledged

    def usable_until(self, margin: timedelta) -> datetime | None:
        """When the committed access token must no longer be handed out: its expiry less the provider's refresh margin."""
        return None if self.access_expires_at is None else self.access_expires_at - margin


# --- transitions -------------------------------------------------------------------------------------------------------------
# Each takes the document as read and gives the next one. The caller's compare-and-set makes it happen once or not at all.

LEASE = timedelta(seconds=30)  # longer than one provider call and the writes after it
PROVIDER_TIMEOUT = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(
    seconds=30
)  # how long a holder may plausibly stand still between its fence check and its send
CLEAN_UP_AFTER = timedelta(seconds=60)  # how long replaced versions stay readable for a late reader
FIRST_BACK_OFF = timedelta(seconds=2)
LONGEST_BACK_OFF = timedelta(minutes=5)


def hold_down(grant: Grant) -> timedelta:
    """How long after a send of unknown outcome nobody may send again: a paused holder's request may still be on its way.

    Static providers forgive any resend, leeway providers forgive one inside the leeway (so half of it must be left), strict
    providers forgive none.
    """
    longest = PROVIDER_TIMEOUT + LONGEST_PAUSE
    match grant.provider_class:
        case RotationClass.STATIC:
            return timedelta(0)
        case RotationClass.LEEWAY:
            return min(longest, timedelta(seconds=grant.leeway_s / 2))
        case RotationClass.STRICT:
            return longest


def is_held(grant: Grant, now: datetime) -> bool:
    """Whether somebody holds the lease."""
    return grant.lease_until is not None and now < grant.lease_until


def acquired(grant: Grant, *, attempt_id: str, now: datetime) -> Grant:
    """Step 1. From rest: a new attempt. After a lapsed lease: recovery, which keeps what is known of the lost attempt."""
    lapsed = grant.status in (GrantStatus.REFRESHING, GrantStatus.RECOVERING) and grant.sent_at is not None
    return grant.model_copy(
        update={
            "status": GrantStatus.RECOVERING if lapsed else GrantStatus.REFRESHING,
            "fence": grant.fence + 1,
            "attempt_id": attempt_id,
            "lease_until": now + LEASE,
            "base_ver": grant.base_ver if lapsed else grant.secret_ver,
            "sent_at": grant.sent_at if lapsed else None,
            "due_at": now + LEASE,
        }
    )


def sending(grant: Grant, *, now: datetime) -> Grant:
    """Step 3. Written before the bytes leave: from here on the refresh token may be spent."""
    return grant.model_copy(update={"sent_at": now})


def committed(
    grant: Grant, *, version: int, access_expires_at: datetime | None, now: datetime, event: dict[str, Any]
) -> Grant:
    """Step 5. The new token set is the truth."""
    return _at_rest(grant).model_copy(
        update={
            "status": GrantStatus.ACTIVE,
            "secret_ver": version,
            "seq": grant.seq + 1,
            "access_expires_at": access_expires_at,
            "refreshed_at": now,
            "leeway_until": now + timedelta(seconds=grant.leeway_s),
            "fail_count": 0,
            "fail_cause": None,
            "next_try_at": None,
            "escrow": None,
            "outbox": [*grant.outbox, event],
            "due_at": now,
        }
    )


def released(grant: Grant, *, cause: str, now: datetime, retry_after: timedelta | None = None) -> Grant:
    """The attempt ended and the refresh token is certainly unspent: back to rest, with a growing pause."""
    pause = max(_back_off(grant), retry_after or timedelta(0))
    return _at_rest(grant).model_copy(
        update={
            "status": GrantStatus.ACTIVE,
            "fail_count": grant.fail_count + 1,
            "fail_cause": cause,
            "next_try_at": now + min(pause, LONGEST_BACK_OFF),
            "due_at": now + LONGEST_BACK_OFF,
        }
    )


def unknown_outcome(grant: Grant, *, cause: str, now: datetime) -> Grant:
    """The attempt ended and the refresh token may be spent: recovery takes over once the hold-down is past."""
    sent_at = grant.sent_at or now
    ready = max(sent_at + hold_down(grant), now + _back_off(grant))
    return grant.model_copy(
        update={
            "status": GrantStatus.RECOVERING,
            "attempt_id": None,
            "lease_until": None,
            "sent_at": sent_at,
            "fail_count": grant.fail_count + 1,
            "fail_cause": cause,
            "next_try_at": ready,
            "due_at": ready,
        }
    )


def needs_reauth(grant: Grant, *, cause: str, now: datetime, event: dict[str, Any]) -> Grant:
    """The provider said for certain that the refresh token is dead. Visible at once, never silent."""
    return _at_rest(grant).model_copy(
        update={
            "status": GrantStatus.NEEDS_REAUTH,
            "fail_cause": cause,
            "next_try_at": None,
            "outbox": [*grant.outbox, event],
            "due_at": now,
        }
    )


def quarantined(grant: Grant, *, cause: str, now: datetime, event: dict[str, Any]) -> Grant:
    """The payload is not this grant's, or not intact: no token of it is ever served."""
    return _at_rest(grant).model_copy(
        update={
            "status": GrantStatus.QUARANTINED,
            "fence": grant.fence + 1,
            "fail_cause": cause,
            "outbox": [*grant.outbox, event],
            "due_at": now,
        }
    )


def revoking(grant: Grant, *, cause: str, now: datetime, event: dict[str, Any]) -> Grant:
    """Revocation starts here and is already effective: every exchange reads this status."""
    return grant.model_copy(
        update={
            "status": GrantStatus.REVOKING,
            "fence": grant.fence + 1,
            "revoke_epoch": grant.revoke_epoch + 1,
            "attempt_id": None,
            "lease_until": None,
            "fail_cause": cause,
            "outbox": [*grant.outbox, event],
            "due_at": now,
        }
    )


def revoked(grant: Grant, *, now: datetime) -> Grant:
    return _at_rest(grant).model_copy(update={"status": GrantStatus.REVOKED, "escrow": None, "due_at": now})


def reconnected(
    grant: Grant,
    *,
    version: int,
    scopes: list[str],
    upstream_account: str | None,
    access_expires_at: datetime | None,
    now: datetime,
    event: dict[str, Any],
) -> Grant:
    """The user consented anew: whatever an old attempt still does, its fence is gone."""
    return committed(grant, version=version, access_expires_at=access_expires_at, now=now, event=event).model_copy(
        update={
            "fence": grant.fence + 1,
            "revoke_epoch": grant.revoke_epoch + 1,
            "scopes": scopes,
            "upstream_account": upstream_account,
            "connected_at": now,
        }
    )


def _at_rest(grant: Grant) -> Grant:
    return grant.model_copy(update={"attempt_id": None, "lease_until": None, "base_ver": None, "sent_at": None})


def _back_off(grant: Grant) -> timedelta:
    return min(FIRST_BACK_OFF * (1 << min(grant.fail_count, 10)), LONGEST_BACK_OFF)


def grant_id(tenant: str, subject: str, connection: str) -> str:
    """The one grant of a user at a connection. A hash: resource names carry no names of people."""
    return digest("cab-grant", tenant, subject, connection)


class CarriedAccessToken(BaseModel):
    """An access token of an earlier refresh that still lives, with the scopes it was narrowed to."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    access_token: str = Field(repr=False)
    scopes: list[str]
    expires_at: datetime


class TokenSet(BaseModel):
    """The payload of one Secret Manager version: access and refresh token travel together so they can never be mixed."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    format: Literal[1] = 1
    grant_id: str
    tenant: str
    user_key: str
    seq: int
    attempt_id: str
    fence: int
    predecessor_sha256: str | None
    received_at: datetime
    status: int  # the provider's HTTP status
    response: str  # the provider's bytes, base64, at most 40 KiB before encoding
    requested_scopes: list[str] = Field(default_factory=list)  # what the answer means when it names no scope
    carried_refresh_token: str | None  # used when the answer has none
    carried_access_tokens: list[CarriedAccessToken] = Field(default_factory=list)  # narrower ones that still live

    def __repr__(self) -> str:  # never let a traceback or log print tokens
        return f"TokenSet(grant_id={self.grant_id!r}, seq={self.seq})"

    __str__ = __repr__
