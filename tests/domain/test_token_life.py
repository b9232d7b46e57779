"""What is handed out works as long as it says, and long enough where the platform allows that."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cab.domain.configured.connections import Provider, Rotation
from cab.domain.token_life import handed_out_until, keepalive, lone_token_life, spares_tokens, token_life

START = datetime(2027, 1, 15, 8, tzinfo=UTC)


def provider(old_access_token: str, **changes: Any) -> Provider:
    leeway_s = changes.pop("leeway_s", 0)
    rotation = {"class": "leeway" if leeway_s else "strict", "leeway_s": leeway_s, "old_access_token": old_access_token}
    return Provider.model_validate({"id": "p", "title": "P", "rotation": Rotation.model_validate(rotation)} | changes)


def seconds(at: datetime) -> float:
    return (at - START).total_seconds()


def life_of(it: Provider, life_s: int, **arguments: Any) -> tuple[float, float]:
    """Until when it is handed out, and until when it works; in seconds after it was received."""
    found = token_life(it, received_at=START, expires_at=START + timedelta(seconds=life_s), **arguments)
    return seconds(found.renew_at), seconds(found.works_until)


@pytest.mark.parametrize(
    ("life_s", "renew_at", "works_until"),
    [(3600, 3360, 3600), (300, 60, 300), (241, 10, 241), (240, 180, 240), (60, 30, 60), (2, 1, 2)],
)
def test_where_old_tokens_live_on_a_token_is_renewed_while_it_has_240_seconds(
    life_s: int, renew_at: int, works_until: int
) -> None:
    """Before, a token of 300 s was handed out with any life down to one second."""
    assert life_of(provider("lives_on"), life_s) == (renew_at, works_until)


@pytest.mark.parametrize("old", ["dies_at_once", "unknown"])
def test_where_a_refresh_ends_tokens_no_more_is_promised_than_the_time_to_it(old: str) -> None:
    assert life_of(provider(old), 3600) == (3540, 3540)
    assert life_of(provider(old), 60) == (30, 30)


def test_keeping_an_idle_grant_alive_is_a_refresh_too() -> None:
    kept_alive_at = START + timedelta(seconds=1000)
    assert life_of(provider("dies_at_once"), 3600, kept_alive_at=kept_alive_at) == (1000, 1000)
    assert life_of(provider("lives_on"), 3600, kept_alive_at=kept_alive_at) == (3360, 3600)


def test_a_larger_margin_of_the_provider_is_kept() -> None:
    assert life_of(provider("lives_on", refresh_margin_s=900), 3600) == (2700, 3600)


def test_a_token_that_no_refresh_ends_is_promised_to_its_end() -> None:
    found = lone_token_life(provider("unknown"), received_at=START, expires_at=START + timedelta(seconds=900))
    assert (seconds(found.renew_at), seconds(found.works_until)) == (660, 900)


@pytest.mark.parametrize(
    ("it", "works_until", "now", "until"),
    [
        (provider("lives_on"), 3600, 100, 3600),
        (provider("dies_at_once"), 3540, 100, 3540),
        (provider("dies_at_once"), 3540, 3540, 3600),
        (provider("dies_at_once"), 3540, 3550, 3600),  # it could not be renewed: what is left
        (provider("dies_at_once"), 3540, 3599.9, 3600.9),  # never nothing
        (provider("dies_after_leeway", leeway_s=600), 3600, 100, 700),  # a refresh for other scopes may come at once
        (provider("dies_after_leeway", leeway_s=60), 3540, 100, 160),
    ],
)
def test_expires_in_says_no_more_than_is_sure(it: Provider, works_until: int, now: float, until: float) -> None:
    def at(after_s: float) -> datetime:
        return START + timedelta(seconds=after_s)

    assert seconds(handed_out_until(it, at(works_until), at(3600), at(now))) == until


@pytest.mark.parametrize(("leeway_s", "spares"), [(239, False), (240, True)])
def test_a_leeway_of_exactly_what_is_promised_is_enough(leeway_s: int, spares: bool) -> None:
    assert spares_tokens(provider("dies_after_leeway", leeway_s=leeway_s)) is spares


def test_grants_that_were_connected_together_are_not_kept_alive_together() -> None:
    it = provider("lives_on", keepalive_s=30 * 86_400)
    ages = {keepalive(it, f"grant-{number}") for number in range(100)}
    assert len(ages) == 100
    assert all(age is not None and timedelta(days=27) <= age <= timedelta(days=30) for age in ages)
    assert keepalive(it, "grant-1") == keepalive(it, "grant-1")
    assert keepalive(provider("lives_on"), "grant-1") is None
