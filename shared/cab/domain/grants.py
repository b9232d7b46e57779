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
    resent: bool = False  # a strict provider gets exactly one second try
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


def grant_id(tenant: str, subject: str, connection: str) -> str:
    """The one grant of a user at a connection. A hash: resource names carry no names of people."""
    return digest("cab-grant", tenant, subject, connection)


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
    carried_refresh_token: str | None  # used when the answer has none

    def __repr__(self) -> str:  # never let a traceback or log print tokens
        return f"TokenSet(grant_id={self.grant_id!r}, seq={self.seq})"

    __str__ = __repr__
