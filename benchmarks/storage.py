"""What it takes to keep a grant going, by where it is kept: exact, held by tests/functions/test_what_grants_cost.py."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Final

from benchmarks.operations import FIRESTORE_DELETE, FIRESTORE_READ, FIRESTORE_WRITE, SECRET_ACCESS, SECRET_VERSION_MONTH


@dataclass(frozen=True)
class Kept:
    """Documents read and written, and secret versions accessed and added: adding is free, and a quota counts it."""

    reads: int
    writes: int
    accesses: int = 0
    additions: int = 0

    def __sub__(self, other: Kept) -> Kept:
        return Kept(*(mine - its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    @property
    def us_dollars(self) -> float:
        written = self.writes * (FIRESTORE_WRITE + FIRESTORE_DELETE)
        return self.reads * FIRESTORE_READ + written + self.accesses * SECRET_ACCESS


@dataclass(frozen=True)
class Storage:
    """Each in a process of `refresh_grants` that has not the grant in memory: it keeps 1,024 of them, and there may be many more."""

    asked: Kept  # beyond the exchange, by an instance that has not the token
    renewed: Kept  # beyond the exchange, when the token has ended
    version_month: float  # US$, of a grant: a version that is kept for a month


SECRET_PER_GRANT: Final = "secret_per_grant"
SEALED_DOCUMENTS: Final = "sealed_documents"
STORAGES: Final = {
    SECRET_PER_GRANT: Storage(
        asked=Kept(reads=1, writes=0, accesses=1),
        renewed=Kept(reads=1, writes=3, accesses=2, additions=1),
        version_month=SECRET_VERSION_MONTH,
    ),
    SEALED_DOCUMENTS: Storage(asked=Kept(reads=2, writes=0), renewed=Kept(reads=4, writes=5), version_month=0.0),
}
