"""`python -m benchmarks.capacity`: what so many users cost and how near they come to the platform's quotas. docs/capacity.md holds
what it prints; a test compares them.

The counts of `operations` are its input, and what people do in a day. Change either, and the table follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.operations import CPU_SHARE, ONCE, REFRESH, SECRET_VERSION_MONTH, Operations, parts, us_dollars

USERS: Final = (1_000, 100_000, 10_000_000)
CONNECTIONS: Final = 3  # each user has connected
WORKING_DAYS: Final = 21  # of a month
BUSY_HOUR: Final = 0.15  # of a day's requests come in the busiest hour
REFRESHES: Final = 8  # of each grant in a day: once an hour while it is used
BUSY_LOOP = Operations(
    reads=1, writes=0, events=1
)  # a hot exchange by Google identity; its shared writes are added below
SHARED_WRITES: Final = 0.2  # of rate limit and record, as tests/functions/test_hand_outs.py counts them

CPU_MS: Final = {"mint with a key": 1.1, "ask the user": 2.4, "decide": 2.4, "repeat when the user agreed": 2.4}
HOT_CPU_MS: Final = 2.2
REFRESH_CPU_MS: Final = 4.0


@dataclass(frozen=True)
class Day:
    """What one user's agents do in a working day, as numbers of each path."""

    exchanges: int = 60
    mints: int = 12
    confirmations: int = 2

    @property
    def paths(self) -> list[tuple[Operations, float, float]]:
        """Operations, CPU (ms) and number in a day."""
        asked = [(ONCE[name], CPU_MS[name], float(self.confirmations)) for name in list(CPU_MS)[1:]]
        return [
            (BUSY_LOOP, HOT_CPU_MS, float(self.exchanges)),
            (ONCE["mint with a key"], CPU_MS["mint with a key"], float(self.mints)),
            *asked,
            (REFRESH, REFRESH_CPU_MS, float(REFRESHES * CONNECTIONS)),
        ]

    @property
    def us_dollars_a_month(self) -> float:
        shared = self.exchanges * SHARED_WRITES * us_dollars(Operations(0, 1, requests=0, events=0), cpu_ms=0)
        return WORKING_DAYS * (shared + sum(us_dollars(what, cpu_ms=cpu) * number for what, cpu, number in self.paths))

    def busiest(self, of: str) -> float:
        """Of one kind of operation per second and user, in the busiest hour; `of` is a member of `Operations`."""
        total: float = sum(getattr(what, of) * number for what, _, number in self.paths)
        total += self.exchanges * SHARED_WRITES if of == "writes" else 0
        return total * BUSY_HOUR / 3600

    @property
    def cpu_seconds(self) -> float:
        """Per second and user, in the busiest hour."""
        return sum(cpu * number for _, cpu, number in self.paths) / 1000 * BUSY_HOUR / 3600


def table(day: Day | None = None) -> str:
    """As Markdown, a row for each number of users."""
    day = day or Day()
    versions = CONNECTIONS * 2 * SECRET_VERSION_MONTH  # the one in use, and the one before until it is cleaned up
    adding = REFRESHES * CONNECTIONS * BUSY_HOUR / 3600
    lines = [
        "| users | requests/s | Firestore writes/s | versions added a minute | instances | US$ a month | of it secrets |",
        "|---|---|---|---|---|---|---|",
    ]
    for users in USERS:
        secrets = users * versions
        per_s = [f"{users * day.busiest(of):,.0f}" for of in ("requests", "writes")]
        instances = max(1, round(users * day.cpu_seconds / CPU_SHARE))
        total = users * day.us_dollars_a_month + secrets
        cells = [
            f"{users:,}",
            *per_s,
            f"{users * adding * 60:,.0f}",
            f"{instances:,}",
            f"{total:,.0f}",
            f"{secrets:,.0f}",
        ]
        lines += [f"| {' | '.join(cells)} |"]
    return "\n".join(lines)


def prices() -> str:
    """US$ per million of each path, from the exact counts, and what for."""
    names = list(parts(ONCE["hot"], cpu_ms=0))
    lines = [
        f"| path | reads | writes | US$ per million | of it {' | '.join(names)} |",
        "|---" * (4 + len(names)) + "|",
    ]
    for name, operations in ONCE.items():
        each = [price * 1e6 for price in parts(operations, cpu_ms=CPU_MS.get(name, HOT_CPU_MS)).values()]
        cells = [f"{price:.2f}" for price in (sum(each), *each)]
        lines.append(f"| {name} | {operations.reads} | {operations.writes} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(prices(), table(), sep="\n\n")
