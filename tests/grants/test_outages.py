"""A provider that is out is spared by the sweep, but for a probe now and then, and a leeway is never slept through."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cab.domain.configured.connections import RotationClass
from cab.domain.grants import Grant, GrantStatus
from cab.use_cases.grants.outages import MANY, PROBE_EVERY, PUT_OFF, REMEMBERED_FOR, Outages

NOW = datetime(2026, 11, 27, 9, tzinfo=UTC)


def a_grant(name: str = "g", **changes: object) -> Grant:
    return Grant(
        grant_id=name,
        tenant="acme",
        subject="alice",
        connection="crm",
        provider="crm",
        provider_class=RotationClass.STRICT,
        status=GrantStatus.RECOVERING,
        connected_at=NOW,
        sent_at=NOW,
    ).model_copy(update=changes)


def an_outage() -> Outages:
    """Seen by a process that has sent its probe."""
    outages = Outages()
    for number in range(MANY):
        outages.failed("crm", f"g-{number}", NOW)
    assert outages.put_off_until(a_grant(), NOW) is None, "the probe"
    return outages


def test_grants_of_a_provider_that_failed_for_many_come_later_each_at_its_own_time() -> None:
    outages = an_outage()
    until = {outages.put_off_until(a_grant(f"other-{number}"), NOW) for number in range(20)}
    assert len(until) == 20
    assert all(it is not None and PUT_OFF / 2 <= it - NOW <= PUT_OFF for it in until)
    assert outages.put_off_until(a_grant(provider="mail"), NOW) is None


def test_one_grant_that_fails_again_and_again_says_nothing_of_its_provider() -> None:
    outages = Outages()
    for _ in range(2 * MANY):
        outages.failed("crm", "g", NOW)
    assert outages.put_off_until(a_grant(), NOW) is None


def test_a_probe_goes_out_now_and_then_and_its_success_ends_the_sparing() -> None:
    outages = an_outage()
    assert outages.put_off_until(a_grant(), NOW + PROBE_EVERY) is None
    assert outages.put_off_until(a_grant(), NOW + PROBE_EVERY) is not None
    outages.succeeded("crm")
    assert outages.put_off_until(a_grant(), NOW + PROBE_EVERY) is None


def test_an_outage_that_nobody_has_seen_lately_is_forgotten() -> None:
    outages = an_outage()
    later = NOW + REMEMBERED_FOR + timedelta(seconds=1)
    assert [outages.put_off_until(a_grant(), later) for _ in range(2)] == [None, None]


def test_whatever_cannot_wait_is_tried_all_the_same() -> None:
    outages = an_outage()
    in_leeway = a_grant(provider_class=RotationClass.LEEWAY, leeway_s=60)
    assert outages.put_off_until(in_leeway, NOW + timedelta(seconds=5)) is None
    assert outages.put_off_until(a_grant(escrow="sealed"), NOW) is None
    assert outages.put_off_until(a_grant(attempt_id="a"), NOW) is None, "a holder that died: nobody has looked yet"
    assert outages.put_off_until(a_grant(status=GrantStatus.ACTIVE), NOW) is None
