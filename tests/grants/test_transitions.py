"""The state machine alone: which transitions are legal, what each leaves behind, when the sweeper must look again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cab.domain import grant_transitions as to
from cab.domain.configured.connections import RotationClass
from cab.domain.grant_transitions import IllegalTransition
from cab.domain.grants import NO_TOKENS, PRODUCTION_TIMINGS, Grant, GrantStatus, grant_id, names_itself

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(seconds=3)
EVENT = {"event_id": "e"}
S = GrantStatus
HELD = {S.REFRESHING, S.RECOVERING}


def a_grant(status: GrantStatus = S.ACTIVE, **fields: object) -> Grant:
    held: dict[str, object] = {"attempt_id": "a", "fence": 3, "base_version": 4}
    base: dict[str, object] = {
        "grant_id": grant_id("acme", "alice", "crm"),
        "tenant": "acme",
        "subject": "alice",
        "connection": "crm",
        "provider": "p",
        "provider_class": RotationClass.STRICT,
        "status": status,
        "secret_version": 4,
        "connected_at": NOW - timedelta(days=1),
        **(held if status in HELD else {}),
    }
    return Grant.model_validate(base | fields)


TRANSITIONS: dict[str, tuple[set[GrantStatus], Callable[[Grant], Grant]]] = {
    "acquired": ({S.ACTIVE} | HELD, lambda g: to.acquired(g, attempt_id="b", now=NOW)),
    "sending": (HELD, lambda g: to.sending(g, now=NOW)),
    "escrowed": (HELD | {S.NEEDS_REAUTH}, lambda g: to.escrowed(g, sealed="x", now=NOW)),
    "with_escrow": ({S.RECOVERING}, lambda g: to.with_escrow(g, sealed="x")),
    "committed": (
        HELD | {S.NEEDS_REAUTH},
        lambda g: to.committed(g, version=5, access_expires_at=None, now=NOW, event=EVENT),
    ),
    "released": ({S.REFRESHING}, lambda g: to.released(g, cause="c", now=NOW, pause=timedelta(seconds=2))),
    "unknown_outcome": (HELD, lambda g: to.unknown_outcome(g, cause="c", now=NOW, pause=timedelta(seconds=2))),
    "waiting": ({S.RECOVERING}, lambda g: to.waiting(g, until=LATER)),
    "needs_reauth": (HELD, lambda g: to.needs_reauth(g, cause="c", now=NOW, event=EVENT)),
    "quarantined": ({S.ACTIVE} | HELD, lambda g: to.quarantined(g, cause="c", now=NOW, event=EVENT)),
    "suspected": ({S.ACTIVE} | HELD, lambda g: to.suspected(g, now=NOW)),
    "revoking": (
        {S.ACTIVE, S.NEEDS_REAUTH, S.QUARANTINED} | HELD,
        lambda g: to.revoking(g, cause="c", now=NOW, event=EVENT),
    ),
    "revoking_again": ({S.REVOKING}, lambda g: to.revoking_again(g, now=NOW)),
    "revoked": ({S.REVOKING}, lambda g: to.revoked(g, now=NOW)),
    "dropped_tokens": (
        {S.ACTIVE, S.NEEDS_REAUTH} | HELD,
        lambda g: to.dropped_tokens(g, now=NOW, events=[EVENT]),
    ),
    "reconnected": (
        set(S) - {S.REVOKING},
        lambda g: to.reconnected(
            g, version=5, scopes=["r"], upstream_account=None, access_expires_at=None, now=NOW, event=EVENT
        ),
    ),
}


@pytest.mark.parametrize("status", list(GrantStatus))
@pytest.mark.parametrize("name", list(TRANSITIONS))
def test_a_transition_happens_from_its_own_states_and_from_no_other(name: str, status: GrantStatus) -> None:
    legal, transition = TRANSITIONS[name]
    before = a_grant(status)
    if status in legal:
        assert transition(before) is not before
    else:
        with pytest.raises(IllegalTransition):
            transition(before)


def test_a_held_grant_cannot_be_acquired() -> None:
    held = to.acquired(a_grant(), attempt_id="a", now=NOW)
    with pytest.raises(IllegalTransition, match="while held"):
        to.acquired(held, attempt_id="b", now=NOW + PRODUCTION_TIMINGS.lease - timedelta(microseconds=1))
    assert to.acquired(held, attempt_id="b", now=NOW + PRODUCTION_TIMINGS.lease).attempt_id == "b"


def test_a_new_attempt_spends_the_committed_token() -> None:
    held = to.acquired(a_grant(fence=7), attempt_id="b", now=NOW)
    assert (held.status, held.fence, held.base_version, held.sent_at) == (S.REFRESHING, 8, 4, None)
    assert held.lease_until == held.due_at == NOW + PRODUCTION_TIMINGS.lease


def test_an_attempt_that_never_sent_is_simply_begun_again() -> None:
    lapsed = to.acquired(a_grant(), attempt_id="a", now=NOW - timedelta(minutes=1))
    assert to.acquired(lapsed, attempt_id="b", now=NOW).status is S.REFRESHING


def test_an_attempt_that_was_sent_is_recovered_on_the_same_base() -> None:
    lapsed = to.sending(to.acquired(a_grant(), attempt_id="a", now=NOW - timedelta(minutes=1)), now=NOW)
    recovery = to.acquired(lapsed, attempt_id="b", now=NOW)
    assert (recovery.status, recovery.base_version, recovery.sent_at) == (S.RECOVERING, 4, NOW)


def test_committing_ends_the_attempt_and_keeps_the_audit_event() -> None:
    held = to.sending(to.acquired(a_grant(outbox=[{"event_id": "older"}]), attempt_id="a", now=NOW), now=NOW)
    done = to.committed(held, version=5, access_expires_at=LATER, now=LATER, event=EVENT)
    assert (done.status, done.secret_version, done.seq, done.access_expires_at) == (S.ACTIVE, 5, 2, LATER)
    assert (done.attempt_id, done.lease_until, done.base_version, done.sent_at, done.escrow) == (None,) * 5
    assert done.outbox == [{"event_id": "older"}, EVENT]
    assert done.due_at == LATER


def test_tokens_that_are_dropped_leave_a_grant_without_any_and_nobody_with_a_right_to_it() -> None:
    lapsed = to.sending(to.acquired(a_grant(escrow="x"), attempt_id="a", now=NOW - timedelta(minutes=1)), now=NOW)
    aside = to.dropped_tokens(lapsed, now=NOW, events=[EVENT])
    assert (aside.status, aside.keeps_tokens, aside.seq, aside.outbox) == (S.ACTIVE, False, lapsed.seq, [EVENT])
    assert (aside.fence, aside.revoke_epoch) == (lapsed.fence + 1, lapsed.revoke_epoch + 1)
    assert (aside.attempt_id, aside.lease_until, aside.base_version, aside.sent_at, aside.escrow) == (None,) * 5
    assert to.next_visit(to.delivered(aside, keepalive=None, now=NOW), keepalive=None, now=NOW) == NOW + timedelta(
        seconds=60
    )


def test_tokens_that_are_dropped_are_destroyed_also_when_the_grant_is_revoked_next() -> None:
    aside = to.dropped_tokens(a_grant(), now=NOW, events=[])
    ended = to.revoked(to.revoking(aside, cause="c", now=NOW, event=EVENT), now=NOW)
    assert ended.clean_below == 5


def test_a_grant_that_is_held_or_has_no_tokens_is_not_worked_on() -> None:
    held = to.acquired(a_grant(), attempt_id="a", now=NOW)
    with pytest.raises(IllegalTransition, match="while held"):
        to.dropped_tokens(held, now=NOW, events=[])
    with pytest.raises(IllegalTransition, match="without tokens"):
        to.acquired(a_grant(secret_version=NO_TOKENS), attempt_id="a", now=NOW)


def test_reconnecting_takes_the_fence_from_whoever_works_on_the_old_consent() -> None:
    held = to.acquired(a_grant(), attempt_id="a", now=NOW)
    anew = TRANSITIONS["reconnected"][1](held)
    assert anew.fence == held.fence + 1
    assert anew.revoke_epoch == held.revoke_epoch + 1
    assert anew.attempt_id is None


def test_reconnecting_leaves_the_consent_before_to_be_ended_upstream_unless_it_was_revoked() -> None:
    anew = TRANSITIONS["reconnected"][1]
    assert anew(a_grant()).replaced_below == 5
    assert anew(a_grant(S.REVOKED)).replaced_below is None


# --- time ---


@pytest.mark.parametrize(
    ("rotation", "leeway_s", "expected_s"),
    [
        (RotationClass.STATIC, 0, 0),
        (RotationClass.LEEWAY, 30, 15),
        (RotationClass.LEEWAY, 60, 30),
        (RotationClass.LEEWAY, 600, 40),
        (RotationClass.STRICT, 0, 40),
    ],
)
def test_the_hold_down_is_what_the_provider_class_allows(
    rotation: RotationClass, leeway_s: int, expected_s: int
) -> None:
    grant = a_grant(provider_class=rotation, leeway_s=leeway_s)
    assert to.hold_down(grant).total_seconds() == expected_s


@pytest.mark.parametrize(
    ("rotation", "leeway_s", "expected_s"),
    [
        (RotationClass.STATIC, 0, 30),
        (RotationClass.STRICT, 0, 30),
        (RotationClass.LEEWAY, 600, 30),
        (RotationClass.LEEWAY, 60, 30),
        (RotationClass.LEEWAY, 40, 20),
        (RotationClass.LEEWAY, 30, 15),
        (RotationClass.LEEWAY, 5, 15),  # shorter than a call: no lease helps there
    ],
)
def test_the_lease_leaves_half_of_the_leeway_to_recovery(
    rotation: RotationClass, leeway_s: int, expected_s: int
) -> None:
    grant = a_grant(provider_class=rotation, leeway_s=leeway_s)
    assert to.lease(grant).total_seconds() == expected_s


def test_only_a_lost_attempt_that_was_sent_holds_the_resend_down() -> None:
    assert to.no_resend_before(a_grant(S.REFRESHING, sent_at=None)) is None
    assert to.no_resend_before(a_grant(S.RECOVERING, sent_at=NOW, attempt_id=None)) is None
    assert to.no_resend_before(a_grant(S.RECOVERING, sent_at=NOW)) == NOW + timedelta(seconds=40)


def test_a_strict_provider_that_may_still_be_at_work_is_left_alone_for_the_hold_down() -> None:
    held = a_grant(S.REFRESHING, sent_at=NOW)
    answered = to.unknown_outcome(held, cause="c", now=LATER, pause=timedelta(seconds=2))
    silent = to.unknown_outcome(held, cause="c", now=LATER, pause=timedelta(seconds=2), in_flight=True)
    assert answered.next_try_at == LATER + timedelta(seconds=2)
    assert silent.next_try_at == NOW + timedelta(seconds=40)
    assert silent.due_at == silent.next_try_at


def test_back_off_doubles_up_to_a_limit_and_respects_what_the_provider_asks() -> None:
    pauses = [to.back_off(a_grant(fail_count=count)).total_seconds() for count in range(8)]
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]
    assert to.back_off(a_grant(), asked=timedelta(seconds=300)).total_seconds() == 300
    assert to.back_off(a_grant(), asked=timedelta(0)).total_seconds() == 2


@pytest.mark.parametrize("fail_count", [0, 3, 9])
@pytest.mark.parametrize("asked_s", [None, 0, 3600])
def test_no_pause_uses_up_a_leeway_that_runs(fail_count: int, asked_s: int | None) -> None:
    grant = a_grant(provider_class=RotationClass.LEEWAY, leeway_s=60, fail_count=fail_count)
    asked = None if asked_s is None else timedelta(seconds=asked_s)
    assert to.back_off(grant, may_be_spent=True, asked=asked) <= timedelta(seconds=30)


# --- what is left to do ---


def test_replaced_versions_are_destroyed_only_after_the_leeway() -> None:
    held = a_grant(S.REFRESHING, provider_class=RotationClass.LEEWAY, leeway_s=600)
    done = to.committed(held, version=5, access_expires_at=None, now=NOW, event=EVENT)
    assert done.clean_below == 5
    assert to.may_clean_at(done) == NOW + timedelta(seconds=660)
    delivered = to.delivered(done, keepalive=None, now=NOW)
    assert delivered.due_at == NOW + timedelta(seconds=660)


def test_a_grant_refreshed_within_every_leeway_is_cleaned_all_the_same() -> None:
    grant = a_grant(S.REFRESHING, provider_class=RotationClass.LEEWAY, leeway_s=600)
    now = NOW
    for version in range(5, 9):
        grant = to.committed(grant, version=version, access_expires_at=None, now=now, event=EVENT)
        now += timedelta(seconds=300)
        grant = to.acquired(grant, attempt_id="a", now=now)
    assert (grant.clean_below, to.may_clean_at(grant)) == (5, NOW + timedelta(seconds=660))
    cleaned = to.cleaned(grant, keepalive=None, now=now)
    assert (cleaned.destroy_below, cleaned.clean_below) == (5, 8)
    assert cleaned.leeway_until == now + timedelta(seconds=grant.leeway_s)


def test_a_revoked_grant_is_buried_once_no_holder_can_store_one_more_version() -> None:
    ended = to.revoked(a_grant(S.REVOKING), now=NOW)
    assert ended.clean_below == 5
    assert to.next_visit(to.delivered(ended, keepalive=None, now=NOW), keepalive=None, now=NOW) == NOW + timedelta(
        seconds=60
    )
    assert to.cleaned(ended.model_copy(update={"outbox": []}), keepalive=None, now=NOW).due_at is None


def test_a_use_says_when_it_was_and_when_the_grant_ends_without_another() -> None:
    idle = timedelta(days=30)
    used = to.used(a_grant(), idle=idle, now=NOW)
    assert (used.last_used_at, used.ends_unused_at) == (NOW, NOW + idle + to.USE_NOTED_EVERY)
    assert to.used(used, idle=None, now=LATER).ends_unused_at is None


def test_an_idle_grant_is_visited_before_its_refresh_token_idles_out() -> None:
    keepalive = timedelta(days=80)
    grant = a_grant(refreshed_at=NOW)
    assert to.next_visit(grant, keepalive=keepalive, now=NOW) == NOW + keepalive
    tried = grant.model_copy(update={"next_try_at": NOW + timedelta(days=81)})
    assert to.next_visit(tried, keepalive=keepalive, now=NOW) == NOW + timedelta(days=81)
    assert to.next_visit(a_grant(), keepalive=None, now=NOW) is None


@pytest.mark.parametrize("left", ["outbox", "escrow"])
def test_a_grant_that_was_given_up_is_visited_for_what_it_still_holds(left: str) -> None:
    fields: dict[str, object] = {"outbox": {"outbox": [EVENT]}, "escrow": {"escrow": "x"}}[left]  # type: ignore[assignment]
    grant = a_grant(S.NEEDS_REAUTH).model_copy(update=fields)
    assert to.next_visit(grant, keepalive=None, now=NOW) == NOW


def has_something_to_do(grant: Grant) -> bool:
    return bool(
        grant.status in HELD | {S.REVOKING}
        or grant.outbox
        or (grant.suspect_since and grant.status is S.ACTIVE)
        or (grant.escrow and grant.status is not S.QUARANTINED)
        or (grant.clean_below or 0) > grant.destroy_below
    )


@settings(max_examples=400, deadline=None)
@given(
    names=st.lists(st.sampled_from([*TRANSITIONS, "delivered", "cleaned", "looked_once_more"]), max_size=25),
    rotation=st.sampled_from(RotationClass),
)
def test_whatever_happens_a_grant_with_something_to_do_has_its_next_visit(
    names: list[str], rotation: RotationClass
) -> None:
    grant = a_grant(provider_class=rotation, leeway_s=60 if rotation is RotationClass.LEEWAY else 0)
    bookkeeping: dict[str, Callable[[Grant], Grant]] = {
        name: lambda g, name=name: getattr(to, name)(g, keepalive=None, now=NOW)  # type: ignore[misc]
        for name in ("delivered", "cleaned", "looked_once_more")
    }
    for name in names:
        before = grant
        legal, transition = TRANSITIONS.get(name, (set(S), bookkeeping.get(name, lambda g: g)))
        held = name in ("acquired", "dropped_tokens") and to.is_held(grant, NOW)
        if grant.status not in legal or held or (name == "acquired" and not grant.keeps_tokens):
            continue
        grant = transition(grant)
        assert grant.due_at is not None or not has_something_to_do(grant), name
        assert grant.due_at is None or grant.due_at <= NOW + timedelta(minutes=2), name
        assert grant.fence >= before.fence
        assert grant.seq - before.seq == (name in ("committed", "reconnected"))
        assert (grant.attempt_id is None) or grant.status in HELD
        assert len(grant.outbox) >= len(before.outbox) or name == "delivered"
        # The right to act changes hands only with a new fence.
        if grant.attempt_id is not None and grant.attempt_id != before.attempt_id:
            assert grant.fence > before.fence


def test_a_document_with_fields_of_another_grant_does_not_name_itself() -> None:
    assert names_itself(a_grant())
    assert not names_itself(a_grant(tenant="globex"))
    assert not names_itself(a_grant(subject="bob"))
    assert not names_itself(a_grant(connection="tracker"))


# --- when ---


@pytest.mark.parametrize("sent", [NOW - timedelta(seconds=5), None], ids=["sent", "not known to be sent"])
def test_the_hold_down_counts_from_the_send_and_not_from_when_it_was_given_up(sent: datetime | None) -> None:
    held = a_grant(S.REFRESHING, sent_at=sent)
    lost = to.unknown_outcome(held, cause="c", now=NOW, pause=timedelta(seconds=2), in_flight=True)
    assert lost.sent_at == (sent or NOW)
    assert lost.next_try_at == (sent or NOW) + to.hold_down(held)
    assert to.escrowed(held, sealed="x", now=NOW).sent_at == (sent or NOW)


@pytest.mark.parametrize("in_flight", [True, False])
@pytest.mark.parametrize("kind", list(RotationClass))
def test_only_a_strict_provider_that_may_still_be_at_work_is_given_the_whole_hold_down(
    kind: RotationClass, in_flight: bool
) -> None:
    held = a_grant(S.REFRESHING, sent_at=NOW, provider_class=kind, leeway_s=60)
    lost = to.unknown_outcome(held, cause="c", now=NOW, pause=timedelta(seconds=2), in_flight=in_flight)
    waits = to.hold_down(held) if in_flight and kind is RotationClass.STRICT else timedelta(seconds=2)
    assert lost.next_try_at == lost.due_at == NOW + waits


@pytest.mark.parametrize(
    ("before", "after", "replaced"), [(None, "b", False), ("a", "a", False), ("a", "b", True), ("a", None, True)]
)
def test_an_account_is_replaced_only_by_another_one(before: str | None, after: str | None, replaced: bool) -> None:
    connected = to.reconnected(
        a_grant(upstream_account=before),
        version=5,
        scopes=["r"],
        upstream_account=after,
        access_expires_at=None,
        now=NOW,
        event=EVENT,
    )
    assert connected.replaced_account is replaced


def test_a_long_pause_is_not_shortened_by_the_hold_down() -> None:
    held = a_grant(S.REFRESHING, sent_at=NOW)
    long = timedelta(hours=1)
    assert to.unknown_outcome(held, cause="c", now=NOW, pause=long, in_flight=True).next_try_at == NOW + long


def test_versions_are_destroyed_only_when_nobody_can_want_them_any_more() -> None:
    """After the leeway where there is one, else after the refresh, else after the connect; and a while later."""
    connected = a_grant(clean_below=4)
    assert to.may_clean_at(connected) == connected.connected_at + PRODUCTION_TIMINGS.clean_up_after
    refreshed = connected.model_copy(update={"refreshed_at": NOW})
    assert to.may_clean_at(refreshed) == NOW + PRODUCTION_TIMINGS.clean_up_after
    in_leeway = refreshed.model_copy(update={"leeway_until": LATER})
    assert to.may_clean_at(in_leeway) == LATER + PRODUCTION_TIMINGS.clean_up_after
    assert to.next_visit(in_leeway, keepalive=None, now=NOW) == LATER + PRODUCTION_TIMINGS.clean_up_after
    nothing_left = in_leeway.model_copy(update={"destroy_below": 4})
    assert to.next_visit(nothing_left, keepalive=None, now=NOW) is None


def test_an_earlier_mark_stands_when_the_grant_is_refreshed_again() -> None:
    first = to.committed(a_grant(S.REFRESHING, leeway_s=60), version=5, access_expires_at=None, now=NOW, event=EVENT)
    assert (first.clean_below, first.leeway_until) == (5, NOW + timedelta(seconds=60))
    again = first.model_copy(update={"status": S.REFRESHING, "attempt_id": "b", "base_version": 5})
    second = to.committed(again, version=6, access_expires_at=None, now=LATER, event=EVENT)
    assert (second.clean_below, second.leeway_until) == (5, NOW + timedelta(seconds=60))


@pytest.mark.parametrize("status", [S.ACTIVE, S.REVOKING])
def test_a_grant_that_waits_for_a_pause_is_visited_after_it(status: GrantStatus) -> None:
    waiting = a_grant(status, suspect_since=NOW, next_try_at=LATER)
    assert to.next_visit(waiting, keepalive=None, now=NOW) == LATER
    assert to.next_visit(a_grant(status, suspect_since=NOW), keepalive=None, now=NOW) == NOW


@pytest.mark.parametrize(("idle_for", "due"), [(timedelta(days=1), NOW), (timedelta(days=2), NOW + timedelta(days=1))])
def test_an_idle_grant_is_refreshed_before_its_token_idles_out(idle_for: timedelta, due: datetime) -> None:
    assert to.next_visit(a_grant(), keepalive=idle_for, now=NOW) == due
    refreshed = a_grant(refreshed_at=LATER)
    assert to.next_visit(refreshed, keepalive=idle_for, now=NOW) == LATER + idle_for
    held_back = a_grant(next_try_at=NOW + timedelta(days=9))
    assert to.next_visit(held_back, keepalive=idle_for, now=NOW) == NOW + timedelta(days=9)
    assert to.next_visit(a_grant(), keepalive=None, now=NOW) is None
