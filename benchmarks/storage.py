"""What it takes to keep a grant going, by where it is kept: exact, held by tests/functions/test_what_grants_cost.py."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Final

from benchmarks.operations import SECRET_VERSION_MONTH, Operations


@dataclass(frozen=True)
class Kept:
    """Documents read, written and made (as `Operations` has it), and secret versions accessed, and added or destroyed: these are free,
    and a quota counts them."""

    reads: int
    writes: int
    made: int = 0
    accesses: int = 0
    changes: int = 0

    def __sub__(self, other: Kept) -> Kept:
        return Kept(*(mine - its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def operations(self, **others: int) -> Operations:
        """Of one request to `refresh_grants`."""
        return Operations(self.reads, self.writes, self.made, secret_accesses=self.accesses, **others)


@dataclass(frozen=True)
class Storage:
    """Each in a process of `refresh_grants` that has not the grant in memory: it keeps 1,024 of them, and there may be many more."""

    asked: Kept  # beyond the exchange, by an instance that has not the token
    renewed: Kept  # beyond the exchange, when the token has ended
    visited: Kept  # once after each renewal, by the sweep: it finds the grant, and has the replaced version destroyed
    kept_alive: Kept  # of a grant that nobody uses, where the provider ends those: the sweep renews it, and visits it after that
    version_month: float  # US$, of a grant: a version that is kept for a month


SECRET_PER_GRANT: Final = "secret_per_grant"
SEALED_DOCUMENTS: Final = "sealed_documents"
STORAGES: Final = {
    SECRET_PER_GRANT: Storage(
        asked=Kept(reads=1, writes=0, accesses=1),
        renewed=Kept(reads=1, writes=3, accesses=2, changes=1),
        visited=Kept(reads=3, writes=1, changes=1),
        kept_alive=Kept(reads=7, writes=4, accesses=2, changes=2),
        version_month=SECRET_VERSION_MONTH,
    ),
    SEALED_DOCUMENTS: Storage(
        asked=Kept(reads=2, writes=0),
        renewed=Kept(reads=4, writes=5, made=1),
        visited=Kept(reads=3, writes=1),
        kept_alive=Kept(reads=11, writes=6, made=1),
        version_month=0.0,
    ),
}

DUE_AT_CHANGES: Final = 4
"""Of a grant's `due_at` with each renewal: the lease, the commit, the event taken off, and the visit."""
