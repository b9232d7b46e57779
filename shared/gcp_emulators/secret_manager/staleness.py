"""What eventually consistent reads see while a `StaleFault` is in force: the past."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gcp_emulators.faults import FaultBook, Staleness
    from gcp_emulators.secret_manager.store import StoredVersion


@dataclass(frozen=True)
class _Change:
    what: Staleness
    at: float
    before: StoredVersion


@dataclass
class Past:
    """Remembers versions as they were before a change, payload included, only while a rule wants them served."""

    faults: FaultBook
    _changes: dict[tuple[str, int], list[_Change]] = field(default_factory=dict)

    def note(self, what: Staleness, before: StoredVersion) -> None:
        """Call before a version is disabled or destroyed."""
        if self.faults.staleness(what, before.secret) or self.faults.staleness("list", before.secret):
            changes = self._changes.setdefault((before.secret, before.number), [])
            changes.append(_Change(what, time.time(), before))

    def as_read(self, version: StoredVersion) -> StoredVersion:
        """A version as a read by number sees it now."""
        for change in self._changes.get((version.secret, version.number), ()):
            if time.time() - change.at < self.faults.staleness(change.what, version.secret):
                return change.before
        return version

    def as_listed(self, versions: Sequence[StoredVersion]) -> list[StoredVersion]:
        """The versions of a secret as a list shows them now."""
        return [self._listed(version) for version in versions if self.is_listed(version.secret, version.created_at)]

    def is_listed(self, secret: str, created_at: float) -> bool:
        """Whether a list already shows what was created at this time."""
        return time.time() - created_at >= self.faults.staleness("list", secret)

    def latest(self, versions: Sequence[StoredVersion]) -> StoredVersion | None:
        """The version that `latest` resolves to now, of all versions of one secret, newest first."""
        for version in versions:
            if time.time() - version.created_at >= self.faults.staleness("latest", version.secret):
                return version
        return None

    def _listed(self, version: StoredVersion) -> StoredVersion:
        lag = self.faults.staleness("list", version.secret)
        for change in self._changes.get((version.secret, version.number), ()):
            if time.time() - change.at < lag:
                return change.before
        return version
