"""Grants: the document that is the only source of truth about a user's authorization, and the payload it points to.

How one document follows from another is `cab.domain.grant_transitions`; docs/grants.md explains the protocol.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from cab.domain.configured.connections import RotationClass
from cab.domain.identifiers import digest
from cab.values import immutable


class GrantStatus(StrEnum):
    ACTIVE = "active"
    REFRESHING = "refreshing"
    RECOVERING = "recovering"
    NEEDS_REAUTH = "needs_reauth"
    REVOKING = "revoking"
    REVOKED = "revoked"
    QUARANTINED = "quarantined"


# `fail_cause` of attempts that only the operator can help:
CLIENT_REFUSED: Final = "our client is refused"  # the provider does not accept our own credentials
UNREAD: Final = "unread answer"  # one is stored that this release cannot read
SCOPE_REFUSED: Final = "invalid_scope"  # and of one that says nothing about the grant
IDLE: Final = "idle"  # and of a grant that ended because nobody used it
NO_TOKENS: Final = 0  # `secret_version` of a grant with nothing in the vault
SERVABLE = frozenset({GrantStatus.ACTIVE, GrantStatus.REFRESHING, GrantStatus.RECOVERING})
ENDED = frozenset({GrantStatus.REVOKING, GrantStatus.REVOKED, GrantStatus.QUARANTINED})


class RefreshOutcome(StrEnum):
    """What one request for a token came to. Every request ends in exactly one of these."""

    SUCCESS = "success"  # refreshed by this request
    CACHED = "cached"  # the committed token was good enough
    JOINED = "joined"  # another request refreshed meanwhile
    RACE_RECOVERED = "race_recovered"  # a lost holder's token set was found and committed
    UPSTREAM_TRANSIENT = "upstream_transient"
    PERSIST_TRANSIENT = "persist_transient"
    NEEDS_REAUTH_CONFIRMED = "needs_reauth_confirmed"
    LOST_IN_WINDOW = "lost_in_window"
    REVOKED = "revoked"
    REFUSED = "refused"  # nothing to refresh: no such grant, or scopes it does not have
    BUG = "bug"


Storage = Literal["secret_per_grant", "sealed_documents"]


class LeftBehind(BaseModel):
    """Versions of a grant that was moved, where it was before: to be destroyed once nobody can want them."""

    model_config = ConfigDict(extra="ignore", defer_build=True)

    storage: Storage
    first: int
    last: int


class Grant(BaseModel):
    """The Firestore document of one grant. Times are instants in UTC."""

    model_config = ConfigDict(extra="ignore", defer_build=True)  # an older revision must read what a newer one wrote

    grant_id: str
    tenant: str
    subject: str
    connection: str
    provider: str
    provider_class: RotationClass
    leeway_s: int = 0
    status: GrantStatus = GrantStatus.ACTIVE
    seq: int = 1  # grows by one with every committed token set
    secret_version: int = (
        1  # Secret Manager version that holds the committed token set; 0: there is none, see `keeps_tokens`
    )
    fence: int = 0  # grows with every acquire, revoke and reconnect: the holder's right to act
    attempt_id: str | None = None
    lease_until: datetime | None = None
    base_version: int | None = None  # version whose refresh token the running attempt spends
    sent_at: datetime | None = None  # when it was last sent; set means it may be spent
    suspect_since: datetime | None = None  # a spent token was sent: tokens got before may have been revoked for it
    leeway_until: datetime | None = None  # until then versions below `clean_below` may still be wanted
    revoke_epoch: int = 0
    access_expires_at: datetime | None = None
    refreshed_at: datetime | None = None
    next_try_at: datetime | None = None
    due_at: datetime | None = None  # when the sweeper should look again; None when nothing is to do
    fail_count: int = 0
    fail_cause: str | None = None
    # The same definite refusal of the refresh token, again and again: how it reads, since when, how often. See `is_believed`.
    refused_as: str | None = None
    refused_since: datetime | None = None
    refused_times: int = 0
    scopes: list[str] = []
    upstream_account: str | None = None  # the provider's own, stable id
    upstream_account_name: str | None = None  # what people call it there; for display only
    # Version whose refresh token goes on being used where the committed set came without one; None: that set has its own;
    # 0: there is none, see `lasts`.
    refresh_version: int | None = None
    replaced_below: int | None = (
        None  # versions below this number are of earlier consents, or of ones that were not finished
    )
    replaced_account: bool = False  # whether those are of another upstream account
    destroy_below: int = 1  # versions below this number are already destroyed
    clean_below: int | None = None  # versions below this number are to be destroyed next
    escrow: str | None = None  # a token set sealed while Secret Manager refused the write
    connected_at: datetime
    # When it was last used, to the day; where nobody has used it since that is counted, since when it is.
    last_used_at: datetime | None = None
    ends_unused_at: datetime | None = None  # unless somebody uses it before; None: nobody counts, see `grant_idle_days`
    storage: Storage | None = None  # where its versions are; None: where the deployment's are that say nothing
    moving_to: Storage | None = None  # a copy may be there, of a move that is under way or was broken off
    left_behind: LeftBehind | None = None
    moved_at: datetime | None = None  # when a move began, or left versions behind
    outbox: list[dict[str, Any]] = []  # audit events of state changes, not yet acknowledged

    @property
    def keeps_tokens(self) -> bool:
        """False where the organisation's trust takes the place of a consent: the document is all there is of the grant."""
        return self.secret_version > NO_TOKENS

    @property
    def life(self) -> tuple[datetime, int]:
        """The same while it was neither ended, connected anew, nor forgotten and followed by the next one: in another life nothing
        is handed out that was got in this one.
        """
        return self.connected_at, self.revoke_epoch

    @property
    def account_shown(self) -> str | None:
        """The upstream account in the words of people, or by its id."""
        return self.upstream_account_name or self.upstream_account

    @property
    def lasts(self) -> bool:
        """Whether it has a refresh token. Without one it ends with its access token."""
        return self.refresh_version != NO_TOKENS

    @property
    def ends_at(self) -> datetime | None:
        """When it ends although nobody ends it. None where it lasts, and where its access token has no end."""
        return None if self.lasts else self.access_expires_at

    def has_stopped(self, now: datetime) -> bool:
        """Whether its access token has ended and the last attempt at a new one failed, though nothing is decided yet."""
        ended = self.access_expires_at is not None and self.access_expires_at <= now
        return ended and self.status in SERVABLE and self.fail_cause not in (None, SCOPE_REFUSED)

    @property
    def oldest_wanted(self) -> int:
        """The lowest version that is still read: versions below may be destroyed."""
        return self.refresh_version or self.secret_version


@immutable
class Timings:
    """How long things may take. Production runs on the defaults; tests that kill processes shorten them all alike."""

    lease: timedelta = timedelta(seconds=30)  # one provider call and the writes after it
    provider_timeout: timedelta = timedelta(seconds=10)  # of most answers; a refresh is listened to for its lease
    longest_pause: timedelta = timedelta(seconds=30)  # a holder may stand still so long between fence check and send
    answer_within: timedelta = timedelta(seconds=11)  # a hanging provider is answered as unavailable within 12 s
    shortest_send: timedelta = timedelta(seconds=3)  # with less time than this left, a request starts no refresh
    first_back_off: timedelta = timedelta(seconds=2)
    longest_back_off: timedelta = timedelta(seconds=60)
    write_proven_for: timedelta = timedelta(seconds=60)  # after a successful write, the next is believed to succeed
    write_breaker: timedelta = timedelta(seconds=10)  # after a failed one, no token is spent for so long
    clean_up_after: timedelta = timedelta(seconds=60)  # how long a late reader may still want a replaced version
    believe_refusals_after: timedelta = timedelta(days=3)  # that nobody knows for the end of a grant, see `is_believed`
    believe_refusals_times: int = 5
    visit_again: timedelta = timedelta(seconds=60)  # when a sweeper's visit changed nothing

    @property
    def after_answer(self) -> timedelta:
        """What a holder keeps of its lease for the writes after an answer."""
        return self.lease / 8


PRODUCTION_TIMINGS = Timings()


@lru_cache(maxsize=4096)  # asked for on every exchange
def grant_id(tenant: str, subject: str, connection: str) -> str:
    """The one grant of a user at a connection. A hash: resource names carry no names of people."""
    return digest("cab-grant", tenant, subject, connection)


def own_share(grant_id: str) -> float:
    """A number from 0 to 1 that is each grant's own and always the same: what would come at once for many is spread by it."""
    return int.from_bytes(hashlib.sha256(grant_id.encode()).digest()[:4]) / 2**32


def names_itself(grant: Grant) -> bool:
    """Whether the id is that of the tenant, user and connection in the document: fields of another grant do not fit."""
    return grant.grant_id == grant_id(grant.tenant, grant.subject, grant.connection)


class CarriedAccessToken(BaseModel):
    """An access token of an earlier refresh that still lives, with the scopes it was narrowed to."""

    model_config = ConfigDict(extra="ignore", defer_build=True, hide_input_in_errors=True)

    access_token: str = Field(repr=False)
    scopes: list[str]
    expires_at: datetime


class TokenSet(BaseModel):
    """The payload of one Secret Manager version: access and refresh token travel together so they can never be mixed."""

    model_config = ConfigDict(extra="ignore", defer_build=True, hide_input_in_errors=True)

    format: Literal[1] = 1
    grant_id: str
    tenant: str
    user_key: str
    seq: int
    attempt_id: str
    fence: int
    predecessor_sha256: str | None
    received_at: datetime  # lives are counted from here: when the request was sent, for a refresh
    status: int  # the provider's HTTP status
    response: str  # the provider's bytes, base64
    # The same as text, instead of `response`, where base64 would not leave room for the carried refresh token.
    response_text: str | None = Field(default=None, repr=False)
    requested_scopes: list[str] = []  # what the answer means when it names no scope
    carried_refresh_token: str | None  # used when the answer has none
    carried_access_tokens: list[CarriedAccessToken] = []  # narrower ones that still live

    def __repr__(self) -> str:  # never let a traceback or log print tokens
        return f"TokenSet(grant_id={self.grant_id!r}, seq={self.seq})"

    __str__ = __repr__
