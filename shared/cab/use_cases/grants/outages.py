"""Providers that are out, as far as this process has seen: the sweep then spares them all but a probe now and then.

A provider that is out for an hour leaves every grant that somebody needed half done, and each would be tried again every minute: they
fill the sweep's queue, grants of other providers wait behind them, and the provider is asked most when it comes back. Whoever
needs a grant tries all the same, with its own pauses.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from cab.domain.configured.connections import RotationClass
from cab.domain.grants import Grant, GrantStatus, own_share

MANY: Final = 50  # so many grants have failed, and none has succeeded since
REMEMBERED_FOR: Final = timedelta(minutes=10)  # since the last failure
PROBE_EVERY: Final = timedelta(seconds=10)
PUT_OFF: Final = timedelta(hours=2)  # half of it to all of it, each grant by its own share


class Outages:
    def __init__(self) -> None:
        self._failed: dict[str, set[str]] = {}
        self._failed_at: dict[str, datetime] = {}
        self._probed_at: dict[str, datetime] = {}

    def succeeded(self, provider: str) -> None:
        self._failed.pop(provider, None)

    def failed(self, provider: str, grant_id: str, now: datetime) -> None:
        grants = self._failed.setdefault(provider, set())
        if len(grants) < MANY:
            grants.add(grant_id)
        self._failed_at[provider] = now

    def put_off_until(self, grant: Grant, now: datetime) -> datetime | None:
        """When to come again to a grant whose last attempt failed; None: try now. While a leeway runs it is always tried."""
        if grant.status is not GrantStatus.RECOVERING or grant.attempt_id is not None or grant.escrow is not None:
            return None
        if grant.provider_class is RotationClass.LEEWAY and _leeway_runs(grant, now):
            return None
        if not self._is_out(grant.provider, now):
            return None
        probed_at = self._probed_at.get(grant.provider)
        if probed_at is None or now - probed_at >= PROBE_EVERY:
            self._probed_at[grant.provider] = now
            return None
        return now + PUT_OFF * (0.5 + own_share(grant.grant_id) / 2)

    def _is_out(self, provider: str, now: datetime) -> bool:
        if len(self._failed.get(provider, ())) < MANY:
            return False
        if now - self._failed_at[provider] <= REMEMBERED_FOR:
            return True
        self.succeeded(provider)
        return False


def _leeway_runs(grant: Grant, now: datetime) -> bool:
    return grant.sent_at is None or now < grant.sent_at + timedelta(seconds=grant.leeway_s)
