"""How a grant's document follows from the one before: the state machine that survives rotation, races and crashes.

Every transition is a pure function. The caller writes its result with a compare-and-set, so a transition happens once or not
at all; one that the table `_LEGAL` does not allow cannot be written. docs/grants.md explains the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from cab.domain.configured.connections import RotationClass
from cab.domain.grants import NO_TOKENS, PRODUCTION_TIMINGS, Grant, GrantStatus, LeftBehind, Storage, Timings

# A use is written at most so often; a grant ends so much later, so that nobody's ends before its time is over.
USE_NOTED_EVERY = timedelta(days=1)
IDLE_NOTICE = timedelta(days=7)  # how long before the page says so

Event = dict[str, Any]  # an audit event as JSON, written together with the state change it tells of

_S = GrantStatus
_HELD = frozenset({_S.REFRESHING, _S.RECOVERING})
_LEGAL: Mapping[str, frozenset[GrantStatus]] = {
    "acquire": frozenset({_S.ACTIVE}) | _HELD,
    "send": _HELD,
    "escrow": _HELD | {_S.NEEDS_REAUTH},
    "hand over": frozenset({_S.RECOVERING}),
    "commit": _HELD | {_S.NEEDS_REAUTH},
    "release": frozenset({_S.REFRESHING}),
    "outcome unknown": _HELD,
    "wait": frozenset({_S.RECOVERING}),
    "give up": _HELD,
    "quarantine": frozenset({_S.ACTIVE}) | _HELD,
    "suspect": frozenset({_S.ACTIVE}) | _HELD,
    "look again": frozenset({_S.NEEDS_REAUTH}),
    "revoke": frozenset(_S) - {_S.REVOKING, _S.REVOKED},
    "retry revoking": frozenset({_S.REVOKING}),
    "end": frozenset({_S.REVOKING}),
    "drop tokens": frozenset({_S.ACTIVE, _S.NEEDS_REAUTH}) | _HELD,
    "reconnect": frozenset(_S) - {_S.REVOKING},
}


class IllegalTransition(Exception):
    """A transition that its table does not know: a mistake in our own code."""

    def __init__(self, name: str, status: GrantStatus) -> None:
        super().__init__(f"{name} from {status.value}")


def _check(name: str, grant: Grant) -> None:
    if grant.status not in _LEGAL[name]:
        raise IllegalTransition(name, grant.status)


# --- time ---


def is_held(grant: Grant, now: datetime) -> bool:
    """Whether somebody holds the lease."""
    return grant.lease_until is not None and now < grant.lease_until


def lease(grant: Grant, timings: Timings = PRODUCTION_TIMINGS) -> timedelta:
    """How long a holder may work alone. With a leeway at most half of it, so that recovery still finds the other half."""
    if grant.provider_class is not RotationClass.LEEWAY:
        return timings.lease
    shortest = timings.provider_timeout * 1.5  # the call, and the writes after it
    return min(timings.lease, max(shortest, timedelta(seconds=grant.leeway_s / 2)))


def hold_down(grant: Grant, timings: Timings = PRODUCTION_TIMINGS) -> timedelta:
    """How long after a send nobody else may send the same token: the request may still be on its way, its answer not stored.

    Static providers forgive any resend, leeway providers forgive one inside the leeway (so half of it must be left), strict
    providers forgive none.
    """
    longest = timings.provider_timeout + timings.longest_pause
    match grant.provider_class:
        case RotationClass.STATIC:
            return timedelta(0)
        case RotationClass.LEEWAY:
            return min(longest, timedelta(seconds=grant.leeway_s / 2))
        case RotationClass.STRICT:
            return longest


def no_resend_before(grant: Grant, timings: Timings = PRODUCTION_TIMINGS) -> datetime | None:
    """When the token of a lost attempt may be sent again, or None for at once. `grant` is the document before taking over.

    A holder that ended its attempt itself (`attempt_id` is None) left in `next_try_at` how long to wait.
    """
    if grant.sent_at is None or grant.attempt_id is None:
        return None
    return grant.sent_at + hold_down(grant, timings)


def back_off(
    grant: Grant, *, may_be_spent: bool = False, asked: timedelta | None = None, timings: Timings = PRODUCTION_TIMINGS
) -> timedelta:
    """The pause after one more failure: doubling up to a limit, and not less than the provider `asked` for.

    When the token `may_be_spent` and its leeway runs, the pause must not use it up.
    """
    pause = min(timings.first_back_off * (1 << min(grant.fail_count, 10)), timings.longest_back_off)
    if not may_be_spent or grant.provider_class is not RotationClass.LEEWAY:
        return max(pause, asked or pause)
    leeway = timedelta(seconds=grant.leeway_s)
    return max(min(pause, max(timings.first_back_off, leeway / 8)), min(asked or pause, leeway / 2))


def refused(grant: Grant, refusal: str, now: datetime) -> dict[str, Any]:
    """The members that remember one more definite refusal. Another one than before begins anew; outages in between do not."""
    if grant.refused_as != refusal or grant.refused_since is None:
        return {"refused_as": refusal, "refused_since": now, "refused_times": 1}
    return {"refused_times": grant.refused_times + 1}


def is_believed(grant: Grant, refusal: str, *, now: datetime, timings: Timings = PRODUCTION_TIMINGS) -> bool:
    """Whether one more refusal of this kind means the end, although nobody told us that this provider says it so.

    What lasts for days and many tries is no accident, and a user who is asked loses less than one who waits for ever.
    """
    after = grant.model_copy(update=refused(grant, refusal, now))
    lasted = after.refused_since is not None and now - after.refused_since >= timings.believe_refusals_after
    return lasted and after.refused_times >= timings.believe_refusals_times


# --- one attempt: acquire, send, and its ends ---


def acquired(grant: Grant, *, attempt_id: str, now: datetime, timings: Timings = PRODUCTION_TIMINGS) -> Grant:
    """Step 1. From rest, or after an attempt that never sent: a new attempt. Otherwise recovery of what was sent."""
    _check("acquire", grant)
    if is_held(grant, now):
        raise IllegalTransition("acquire while held", grant.status)
    if not grant.keeps_tokens:
        raise IllegalTransition("acquire without tokens", grant.status)
    may_be_spent = grant.sent_at is not None
    until = now + lease(grant, timings)
    return grant.model_copy(
        update={
            "status": GrantStatus.RECOVERING if may_be_spent else GrantStatus.REFRESHING,
            "fence": grant.fence + 1,
            "attempt_id": attempt_id,
            "lease_until": until,
            "base_version": grant.base_version if may_be_spent else grant.secret_version,
            "due_at": until,
        }
    )


def sending(grant: Grant, *, now: datetime) -> Grant:
    """Step 3. Written before the bytes leave: from here on the refresh token may be spent."""
    _check("send", grant)
    return grant.model_copy(update={"sent_at": now})


def escrowed(grant: Grant, *, sealed: str, now: datetime) -> Grant:
    """Step 4, second way: the vault refuses, so the document keeps the sealed token set until it can be put there.

    Ends the attempt. On a grant that was given up meanwhile, it stays given up until the token set has been tried.
    """
    _check("escrow", grant)
    if grant.status is GrantStatus.NEEDS_REAUTH:
        return grant.model_copy(update={"escrow": sealed, "due_at": now})
    return grant.model_copy(
        update={
            "status": GrantStatus.RECOVERING,
            "attempt_id": None,
            "lease_until": None,
            "sent_at": grant.sent_at or now,
            "escrow": sealed,
            "fail_cause": "secrets",
            "next_try_at": None,
            "due_at": now,
        }
    )


def with_escrow(grant: Grant, *, sealed: str) -> Grant:
    """A former holder hands its token set to the present one, whose right to act does not change."""
    _check("hand over", grant)
    return grant.model_copy(update={"escrow": sealed})


def committed(grant: Grant, *, version: int, access_expires_at: datetime | None, now: datetime, event: Event) -> Grant:
    """Step 5. The new token set is the truth."""
    _check("commit", grant)
    return _with_tokens(grant, version, access_expires_at, now, event)


def released(
    grant: Grant,
    *,
    cause: str,
    now: datetime,
    pause: timedelta,
    refusal: str | None = None,
    timings: Timings = PRODUCTION_TIMINGS,
) -> Grant:
    """The attempt ended and the refresh token is certainly unspent: back to rest, with a pause.

    `refusal`: how the provider refused it, where that says something about the token.
    """
    _check("release", grant)
    ready = now + pause
    return _at_rest(grant).model_copy(
        update={
            **(refused(grant, refusal, now) if refusal else {}),
            "status": GrantStatus.ACTIVE,
            "fail_count": grant.fail_count + 1,
            "fail_cause": cause,
            "next_try_at": ready,
            "due_at": max(ready, now + timings.visit_again),
        }
    )


def unknown_outcome(
    grant: Grant,
    *,
    cause: str,
    now: datetime,
    pause: timedelta,
    in_flight: bool = False,
    refusal: str | None = None,
    timings: Timings = PRODUCTION_TIMINGS,
) -> Grant:
    """The attempt ended and the refresh token may be spent: recovery goes on from here, after a pause. `refusal` as in `released`.

    `in_flight`: no answer came, so the provider may still be at work. Strict providers then get the whole hold-down, because
    the earlier request must not meet a token that the resend has already spent.
    """
    _check("outcome unknown", grant)
    sent_at = grant.sent_at or now
    ready = now + pause
    if in_flight and grant.provider_class is RotationClass.STRICT:
        ready = max(ready, sent_at + hold_down(grant, timings))
    return grant.model_copy(
        update={
            **(refused(grant, refusal, now) if refusal else {}),
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


def waiting(grant: Grant, *, until: datetime) -> Grant:
    """Recovery found nothing yet, and may not send before the hold-down is over."""
    _check("wait", grant)
    return grant.model_copy(update={"attempt_id": None, "lease_until": None, "next_try_at": until, "due_at": until})


def needs_reauth(
    grant: Grant, *, cause: str, now: datetime, event: Event, timings: Timings = PRODUCTION_TIMINGS
) -> Grant:
    """The provider said for certain that the refresh token is dead. Visible at once, never silent.

    The sweeper looks once more for a token set that a paused holder may still store (`next_try_at`).
    """
    _check("give up", grant)
    return _at_rest(grant).model_copy(
        update={
            "status": GrantStatus.NEEDS_REAUTH,
            "base_version": grant.base_version,  # where to look for that late token set
            "fail_cause": cause,
            "next_try_at": now + timings.clean_up_after,
            "outbox": [*grant.outbox, event],
            "due_at": now,
        }
    )


def quarantined(grant: Grant, *, cause: str, now: datetime, event: Event) -> Grant:
    """The payload is not this grant's, or not intact: no token of it is ever served."""
    _check("quarantine", grant)
    return _at_rest(grant).model_copy(
        update={
            "status": GrantStatus.QUARANTINED,
            "fence": grant.fence + 1,
            "fail_cause": cause,
            "next_try_at": None,
            "outbox": [*grant.outbox, event],
            "due_at": now,
        }
    )


def suspected(grant: Grant, *, now: datetime) -> Grant:
    """A paused holder has sent a token that another had spent by then, to a provider that may take this for a theft.

    Whether the tokens got meanwhile still live, the next refresh will tell; until then none is served.
    """
    _check("suspect", grant)
    due_at = now if grant.status is GrantStatus.ACTIVE else grant.due_at
    return grant.model_copy(update={"suspect_since": now, "due_at": due_at})


def to_be_looked_at(grant: Grant, *, now: datetime, timings: Timings = PRODUCTION_TIMINGS) -> Grant:
    """A token set came late for a grant that was given up: whatever becomes of who stored it, the sweeper tries it."""
    _check("look again", grant)
    return grant.model_copy(update={"next_try_at": now + timings.clean_up_after, "due_at": now})


# --- the user's and the operator's changes ---


def revoking(grant: Grant, *, cause: str, now: datetime, event: Event) -> Grant:
    """Revocation starts here and is already effective: every exchange reads this status."""
    _check("revoke", grant)
    return grant.model_copy(
        update={
            "status": GrantStatus.REVOKING,
            "fence": grant.fence + 1,
            "revoke_epoch": grant.revoke_epoch + 1,
            "attempt_id": None,
            "lease_until": None,
            "fail_count": 0,
            "fail_cause": cause,
            "next_try_at": None,
            "outbox": [*grant.outbox, event],
            "due_at": now,
        }
    )


def revoking_again(grant: Grant, *, now: datetime, timings: Timings = PRODUCTION_TIMINGS) -> Grant:
    """The provider could not be asked to revoke. The grant stays dead here; the sweeper asks again."""
    _check("retry revoking", grant)
    ready = now + back_off(grant, timings=timings)
    return grant.model_copy(update={"fail_count": grant.fail_count + 1, "next_try_at": ready, "due_at": ready})


def revoked(grant: Grant, *, now: datetime) -> Grant:
    """The end. Versions stay a little longer than a holder that was sending can need to store one more."""
    _check("end", grant)
    return _at_rest(grant).model_copy(
        update={
            "status": GrantStatus.REVOKED,
            "escrow": None,
            "next_try_at": None,
            "leeway_until": now,
            "clean_below": max(grant.clean_below or 0, grant.secret_version + 1),  # tokens dropped before are above
            "due_at": now,
        }
    )


def dropped_tokens(grant: Grant, *, now: datetime, events: list[Event]) -> Grant:
    """Users do not consent at this connection any more: the grant lives on without tokens, and nobody works on the old ones.

    Versions stay as long as those of a revoked grant, for the same reason.
    """
    _check("drop tokens", grant)
    if is_held(grant, now):
        raise IllegalTransition("drop tokens while held", grant.status)
    return _at_rest(grant).model_copy(
        update={
            "status": GrantStatus.ACTIVE,
            "fence": grant.fence + 1,
            "revoke_epoch": grant.revoke_epoch + 1,
            "secret_version": NO_TOKENS,
            "scopes": [],
            "upstream_account": None,
            "upstream_account_name": None,
            "refresh_version": None,
            "access_expires_at": None,
            "suspect_since": None,
            "last_used_at": None,
            "ends_unused_at": None,
            "fail_count": 0,
            "fail_cause": None,
            "next_try_at": None,
            "escrow": None,
            "leeway_until": now,
            "clean_below": grant.secret_version + 1,
            "outbox": [*grant.outbox, *events],
            "due_at": now,
        }
    )


def reconnected(
    grant: Grant,
    *,
    version: int,
    scopes: list[str],
    upstream_account: str | None,
    access_expires_at: datetime | None,
    now: datetime,
    event: Event,
    upstream_account_name: str | None = None,
    refresh_version: int | None = None,
    timings: Timings = PRODUCTION_TIMINGS,
) -> Grant:
    """The user consented anew: whatever an old attempt still does, its fence is gone.

    `refresh_version` as in the document: where an older refresh token goes on, an attempt that may have spent it is recovered.
    """
    _check("reconnect", grant)
    after = _with_tokens(grant, version, access_expires_at, now, event).model_copy(
        update={
            "fence": grant.fence + 1,
            "revoke_epoch": grant.revoke_epoch + 1,
            "scopes": scopes,
            "upstream_account": upstream_account,
            "upstream_account_name": upstream_account_name,
            "refresh_version": refresh_version,
            # What was revoked is not replaced: its end upstream has been seen to.
            "replaced_below": None if grant.status is GrantStatus.REVOKED else version or None,
            "replaced_account": grant.replaced_account
            or (grant.upstream_account is not None and grant.upstream_account != upstream_account),
            "connected_at": now,
            "last_used_at": None,
            "ends_unused_at": None,
            "suspect_since": None,
        }
    )
    if not refresh_version:
        return after
    after = after.model_copy(update={"clean_below": min(after.clean_below or refresh_version, refresh_version)})
    if grant.sent_at is None:
        return after
    return after.model_copy(
        update={
            "status": GrantStatus.RECOVERING,
            "base_version": version,
            "sent_at": grant.sent_at,
            "escrow": grant.escrow,
            "next_try_at": no_resend_before(grant, timings) or grant.next_try_at,
        }
    )


def _with_tokens(grant: Grant, version: int, access_expires_at: datetime | None, now: datetime, event: Event) -> Grant:
    marked = (grant.clean_below or 0) > grant.destroy_below and grant.status is not GrantStatus.REVOKED
    cleared = grant.suspect_since is None or (grant.sent_at is not None and grant.sent_at > grant.suspect_since)
    return _at_rest(grant).model_copy(
        update={
            "status": GrantStatus.ACTIVE,
            "secret_version": version,
            "refresh_version": None,
            "seq": grant.seq + 1,
            "access_expires_at": access_expires_at,
            "suspect_since": None if cleared else grant.suspect_since,
            "refreshed_at": now,
            # An earlier mark is kept: a grant that is refreshed within every leeway would else never be cleaned.
            "clean_below": grant.clean_below if marked else version,
            "leeway_until": grant.leeway_until if marked else now + timedelta(seconds=grant.leeway_s),
            "fail_count": 0,
            "fail_cause": None,
            "refused_as": None,
            "refused_since": None,
            "refused_times": 0,
            "next_try_at": None,
            "escrow": None,
            "outbox": [*grant.outbox, event],
            "due_at": now,
        }
    )


def _at_rest(grant: Grant) -> Grant:
    return grant.model_copy(update={"attempt_id": None, "lease_until": None, "base_version": None, "sent_at": None})


# --- from one storage to another ---


def may_move(grant: Grant, now: datetime) -> bool:
    """Whether nothing but its committed token set is to be taken along: no attempt, nothing to recover, nothing to clean up."""
    at_rest = grant.attempt_id is None and grant.sent_at is None and grant.base_version is None
    cleaned_up = grant.replaced_below is None and (grant.clean_below or 0) <= grant.destroy_below
    settled = grant.status in (GrantStatus.ACTIVE, GrantStatus.NEEDS_REAUTH, GrantStatus.REVOKED)
    nothing_aside = grant.escrow is None and grant.suspect_since is None and grant.left_behind is None
    return settled and at_rest and cleaned_up and nothing_aside and not is_held(grant, now)


def move_begun(grant: Grant, *, to: Storage, now: datetime, timings: Timings = PRODUCTION_TIMINGS) -> Grant:
    """Written before the copy is: whoever finds it later, destroys what was copied. Takes no lease: whoever wants one has it."""
    looked_at = now + timings.clean_up_after
    due_at = looked_at if grant.due_at is None else min(grant.due_at, looked_at)
    return grant.model_copy(update={"moving_to": to, "moved_at": now, "due_at": due_at})


def moved(
    grant: Grant,
    *,
    to: Storage,
    was_in: Storage,
    version: int,
    refresh_version: int | None,
    first: int,
    now: datetime,
    event: Event,
) -> Grant:
    """The copies are the grant's versions from now on, and what is there from `first` on. The former ones stay for late
    readers, as replaced ones do.
    """
    kept = [it for it in (grant.secret_version, grant.refresh_version) if it]
    left = LeftBehind(storage=was_in, first=grant.destroy_below, last=max(kept)) if kept else None
    return grant.model_copy(
        update={
            "storage": to,
            "moving_to": None,
            "left_behind": left,
            "moved_at": now if left else None,
            "secret_version": version,
            "refresh_version": refresh_version,
            "destroy_below": first,
            "clean_below": None,
            "outbox": [*grant.outbox, event],
            "due_at": now,
        }
    )


def move_settled(
    grant: Grant, *, keepalive: timedelta | None, now: datetime, timings: Timings = PRODUCTION_TIMINGS
) -> Grant:
    """Nothing of a move is left: neither copies of one that was broken off, nor versions where the grant was."""
    settled = grant.model_copy(update={"moving_to": None, "left_behind": None, "moved_at": None})
    return scheduled(settled, keepalive=keepalive, now=now, timings=timings)


def move_is_due(grant: Grant, now: datetime, timings: Timings = PRODUCTION_TIMINGS) -> bool:
    return grant.moved_at is not None and grant.moved_at + timings.clean_up_after <= now


# --- grants that nobody uses ---


def may_end_unused(grant: Grant) -> bool:
    """Whether lying unused can end it: it has tokens that the user can give anew, and nothing is under way."""
    return grant.keeps_tokens and grant.status in (GrantStatus.ACTIVE, GrantStatus.NEEDS_REAUTH)


def counted(grant: Grant, *, idle: timedelta | None, now: datetime) -> Grant:
    """With the day on which it ends unused by the present setting: None where unused grants last.

    What was used before anybody counted is not known, so counting begins now. A shorter time than before leaves whoever it
    concerns as long to come back as the page gives notice.
    """
    if not may_end_unused(grant):
        return grant
    if idle is None:
        return grant.model_copy(update={"last_used_at": None, "ends_unused_at": None})
    if grant.last_used_at is None or grant.ends_unused_at is None:
        return grant.model_copy(update={"last_used_at": now, "ends_unused_at": now + idle + USE_NOTED_EVERY})
    ends_at = grant.last_used_at + idle + USE_NOTED_EVERY
    if ends_at < grant.ends_unused_at:
        ends_at = max(ends_at, min(grant.ends_unused_at, now + IDLE_NOTICE))
    return grant.model_copy(update={"ends_unused_at": ends_at})


def use_is_noted(grant: Grant, now: datetime) -> bool:
    """Whether a use at this moment need not be written: nobody counts, or it is known of the last day."""
    if grant.ends_unused_at is None or grant.last_used_at is None:
        return True
    return now - grant.last_used_at < USE_NOTED_EVERY


def used(grant: Grant, *, idle: timedelta | None, now: datetime) -> Grant:
    """Somebody uses it. The sweeper's next visit stays where it is: it is not after the former end."""
    ends_at = None if idle is None else now + idle + USE_NOTED_EVERY
    return grant.model_copy(update={"last_used_at": now, "ends_unused_at": ends_at})


def has_ended_unused(grant: Grant, now: datetime) -> bool:
    return may_end_unused(grant) and grant.ends_unused_at is not None and grant.ends_unused_at <= now


# --- what is left to do ---


def delivered(
    grant: Grant,
    *,
    left: Sequence[dict[str, Any]] = (),
    keepalive: timedelta | None,
    now: datetime,
    timings: Timings = PRODUCTION_TIMINGS,
) -> Grant:
    """The events of the outbox are published, but for those that are `left`."""
    return scheduled(grant.model_copy(update={"outbox": list(left)}), keepalive=keepalive, now=now, timings=timings)


def cleaned(
    grant: Grant, *, keepalive: timedelta | None, now: datetime, timings: Timings = PRODUCTION_TIMINGS
) -> Grant:
    """The versions below `clean_below` are destroyed; those replaced since then get a mark of their own."""
    below = max(grant.destroy_below, grant.clean_below or 1)
    update: dict[str, Any] = {"destroy_below": below, "clean_below": None}
    if grant.replaced_below is not None and grant.replaced_below <= below:
        update |= {"replaced_below": None, "replaced_account": False}
    if below < grant.oldest_wanted:
        update |= {"clean_below": grant.oldest_wanted, "leeway_until": now + timedelta(seconds=grant.leeway_s)}
    return scheduled(grant.model_copy(update=update), keepalive=keepalive, now=now, timings=timings)


def looked_once_more(
    grant: Grant, *, keepalive: timedelta | None, now: datetime, timings: Timings = PRODUCTION_TIMINGS
) -> Grant:
    """Nothing late turned up for a grant that was given up, or nothing that works."""
    forgotten = grant.model_copy(update={"base_version": None, "next_try_at": None, "escrow": None})
    return scheduled(forgotten, keepalive=keepalive, now=now, timings=timings)


def scheduled(
    grant: Grant, *, keepalive: timedelta | None, now: datetime, timings: Timings = PRODUCTION_TIMINGS
) -> Grant:
    """With the next visit in `due_at`."""
    return grant.model_copy(update={"due_at": next_visit(grant, keepalive=keepalive, now=now, timings=timings)})


def next_visit(
    grant: Grant, *, keepalive: timedelta | None, now: datetime, timings: Timings = PRODUCTION_TIMINGS
) -> datetime | None:
    """When the sweeper must look again. None only when nothing whatever is left to do.

    `keepalive` is how long the provider lets a refresh token lie unused, less a margin; None where it never idles out.
    """
    reasons: list[datetime | None] = [now if grant.outbox else None]
    match grant.status:
        case GrantStatus.REFRESHING | GrantStatus.RECOVERING:
            reasons.append(grant.lease_until or grant.next_try_at or now)
        case GrantStatus.REVOKING:
            reasons.append(grant.next_try_at or now)
        case GrantStatus.NEEDS_REAUTH:
            reasons += [now if grant.escrow is not None else None, grant.next_try_at]
        case GrantStatus.ACTIVE if grant.suspect_since is not None:
            reasons.append(grant.next_try_at or now)
        case GrantStatus.ACTIVE if not grant.lasts:
            reasons.append(grant.ends_at)
        case GrantStatus.ACTIVE if keepalive is not None:
            kept = (grant.refreshed_at or grant.connected_at) + keepalive
            reasons.append(max(kept, grant.next_try_at or kept))
        case _:
            pass
    if grant.clean_below is not None and grant.clean_below > grant.destroy_below:
        reasons.append(may_clean_at(grant, timings))
    if may_end_unused(grant):
        reasons.append(grant.ends_unused_at)
    if grant.moved_at is not None:
        reasons.append(grant.moved_at + timings.clean_up_after)
    return min((reason for reason in reasons if reason is not None), default=None)


def may_clean_at(grant: Grant, timings: Timings = PRODUCTION_TIMINGS) -> datetime:
    """From when on the versions below `clean_below` are wanted by nobody."""
    return (grant.leeway_until or grant.refreshed_at or grant.connected_at) + timings.clean_up_after
