"""What the product's own functions say of one grant, in seconds from now, remembered by what it depends on."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final

from cab.domain import grant_transitions
from cab.domain.configured.connections import Provider, RotationClass
from cab.domain.grants import PRODUCTION_TIMINGS, Grant, own_share
from cab.domain.token_life import keepalive, token_life

NOW: Final = datetime(2026, 11, 27, 9, tzinfo=UTC)
SHARES: Final = 64  # a grant's own share is told apart so finely
MOST_FAILURES: Final = 12  # more of them change nothing


@dataclass
class Rules:
    """Of grants at one provider. Without `spreads`, what keeps grants apart is switched off, to see that it is missed."""

    provider: Provider
    token_life_s: int = 3600
    spreads: bool = True
    _failures: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    def share(self, number: int) -> int:
        """Which of the `SHARES` the grant of this number has."""
        return int(own_share(f"grant-{number}") * SHARES)

    @cached_property
    def renewed_after(self) -> int:
        """From then on an exchange has the token renewed."""
        life = token_life(self.provider, received_at=NOW, expires_at=NOW + timedelta(seconds=self.token_life_s))
        return _seconds(life.renew_at)

    @cached_property
    def cleaned_after(self) -> int:
        """When the sweeper is due after a refresh, to destroy the version before."""
        after = self._refreshed(self._grant(0))
        return _seconds(after.due_at)

    @cached_property
    def idle_after(self) -> list[int]:
        """By share: when the sweeper refreshes a grant that nobody uses."""
        ages = []
        for share in range(SHARES):
            grant = self._refreshed(self._grant(share if self.spreads else 0))
            idle = keepalive(self.provider, grant.grant_id)
            cleaned = grant_transitions.cleaned(grant, keepalive=idle, now=grant_transitions.may_clean_at(grant))
            ages.append(_seconds(cleaned.due_at))
        return ages

    def failed(self, failures: int, share: int) -> tuple[int, int]:
        """After one more failure, 503: when whoever needs the grant may try again, and when the sweeper comes."""
        key = (min(failures, MOST_FAILURES), share)
        if key not in self._failures:
            grant = self._grant(share).model_copy(update={"fail_count": key[0]})
            held = grant_transitions.sending(grant_transitions.acquired(grant, attempt_id="a", now=NOW), now=NOW)
            pause = grant_transitions.back_off(held, may_be_spent=True)
            after = grant_transitions.unknown_outcome(held, cause="http 503", now=NOW, pause=pause)
            self._failures[key] = (_seconds(after.next_try_at), _seconds(after.due_at))
        return self._failures[key]

    @cached_property
    def recovering(self) -> list[Grant]:
        """By share: a grant whose last attempt at this provider failed."""
        grants = []
        for share in range(SHARES):
            held = grant_transitions.acquired(self._grant(share), attempt_id="a", now=NOW)
            sent = grant_transitions.sending(held, now=NOW - timedelta(days=1))
            pause = timedelta(0)
            grants.append(grant_transitions.unknown_outcome(sent, cause="http 503", now=NOW, pause=pause))
        return grants

    def _grant(self, share: int) -> Grant:
        rotation = self.provider.rotation
        return Grant(
            grant_id=_ID_OF_SHARE[share],
            tenant="acme",
            subject="somebody",
            connection="crm",
            provider=self.provider.id,
            provider_class=rotation.rotation_class,
            leeway_s=rotation.leeway_s,
            connected_at=NOW,
        )

    def _refreshed(self, grant: Grant) -> Grant:
        held = grant_transitions.sending(grant_transitions.acquired(grant, attempt_id="a", now=NOW), now=NOW)
        expires_at = NOW + timedelta(seconds=self.token_life_s)
        done = grant_transitions.committed(held, version=2, access_expires_at=expires_at, now=NOW, event={"id": "e"})
        idle = keepalive(self.provider, grant.grant_id)
        return grant_transitions.delivered(done, keepalive=idle, now=NOW)


def provider(name: str, *, rotation: RotationClass = RotationClass.STRICT, keepalive_s: int = 60 * 86_400) -> Provider:
    """One that lets older access tokens live on."""
    return Provider.model_validate(
        {
            "id": name,
            "title": name,
            "authorization_endpoint": "https://idp.example/authorize",
            "token_endpoint": "https://idp.example/token",
            "rotation": {"class": rotation.value, "old_access_token": "lives_on"},
            "keepalive_s": keepalive_s,
        }
    )


def _seconds(at: datetime | None) -> int:
    """From `NOW`; never is a long time."""
    return 10**9 if at is None else int((at - NOW).total_seconds())


def _ids() -> list[str]:
    found: dict[int, str] = {}
    number = 0
    while len(found) < SHARES:
        name = f"share-{number}"
        found.setdefault(int(own_share(name) * SHARES), name)
        number += 1
    return [found[share] for share in range(SHARES)]


_ID_OF_SHARE: Final = _ids()
RETRY_AFTER_MOST_S: Final = int(PRODUCTION_TIMINGS.longest_back_off.total_seconds())
