"""`python -m benchmarks.capacity`: what so many users cost and how near they come to the platform's quotas. docs/capacity.md holds
what it prints, docs/deploying.md what a first project costs; a test compares them.

The counts of `operations` are its input, and what people do in a day. Change either, and the table follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.operations import (
    CPU_SECOND,
    CPU_SHARE,
    DEFLATED,
    EVENT_BYTES,
    NARROWER,
    ONCE,
    PUBSUB_BYTE,
    PUBSUB_LEAST_BYTES,
    REFRESH,
    REQUEST,
    ROW_BYTES,
    SECRET_VERSION_MONTH,
    Operations,
    parts,
    us_dollars,
)
from benchmarks.storage import SEALED_DOCUMENTS, SECRET_PER_GRANT, STORAGES, Storage

USERS: Final = (1_000, 100_000, 1_000_000, 3_000_000, 10_000_000)
CONNECTIONS: Final = 3  # each user has connected
HOURS: Final = 730  # of a month
WORKING_DAYS: Final = 21  # of a month
BUSY_HOUR: Final = 0.15  # of a day's requests come in the busiest hour
REFRESHES: Final = 8  # of each grant in a day: once an hour while it is used
REPLACED_FOR_S: Final = 120  # a version that was replaced lives on for a minute, and until a visit comes
# Of a grant: they are billed by the time that they are there.
VERSIONS: Final = 1 + REFRESHES * WORKING_DAYS * REPLACED_FOR_S / (HOURS * 3600)
BUSY_LOOP = Operations(
    reads=1, writes=0, events=1
)  # a hot exchange by Google identity; its shared writes are added below


@dataclass(frozen=True)
class Shared:
    """What an agent's loop does once for several exchanges, as shares of an exchange; `make simulate` measures them.

    A request may come to any instance: one that has not the token in memory asks refresh_grants, which reads the grant, and has
    not recorded its hand-out either; one that has no lease of the rate limit writes the counter.
    """

    asks: float
    counters: float

    @property
    def writes(self) -> float:
        return self.counters + self.asks


BY_INSTANCES: Final = {1: Shared(0.04, 0.17), 4: Shared(0.18, 0.49), 20: Shared(0.63, 0.93), 100: Shared(0.90, 0.98)}
"""tests/functions/test_hand_outs.py counts 0.2 writes at one instance; docs/capacity.md shows how they were measured."""
ASK: Final = Operations(reads=1, writes=0, secret_accesses=1, events=0)

# As measured: docs/performance.md. A confirmed action's is divided by three.
CPU_MS: Final = {"mint with a key": 0.43, "ask the user": 1.3, "decide": 1.3, "repeat when the user agreed": 1.3}
HOT_CPU_MS: Final = 0.6
ASK_CPU_MS: Final = 0.43  # as a minting: one token is verified, and one answered
REFRESH_CPU_MS: Final = 2.1  # what *narrower* takes beyond an exchange


@dataclass(frozen=True)
class Day:
    """What one user's agents do in a working day, as numbers of each path, and how much of it instances share."""

    exchanges: int = 60
    mints: int = 12
    confirmations: int = 2
    shared: Shared = BY_INSTANCES[1]

    @property
    def paths(self) -> list[tuple[Operations, float, float]]:
        """Operations, CPU (ms) and number in a day."""
        asked = [(ONCE[name], CPU_MS[name], float(self.confirmations)) for name in list(CPU_MS)[1:]]
        renewed = replace(REFRESH, secret_accesses=STORAGES[SECRET_PER_GRANT].renewed.accesses)
        return [
            (BUSY_LOOP, HOT_CPU_MS, float(self.exchanges)),
            (ONCE["mint with a key"], CPU_MS["mint with a key"], float(self.mints)),
            *asked,
            (renewed, REFRESH_CPU_MS, float(REFRESHES * CONNECTIONS)),
            (ASK, ASK_CPU_MS, self.exchanges * self.shared.asks),
        ]

    @property
    def us_dollars_a_month(self) -> float:
        shared = self.exchanges * self.shared.writes * us_dollars(Operations(0, 1, requests=0, events=0), cpu_ms=0)
        return WORKING_DAYS * (shared + sum(us_dollars(what, cpu_ms=cpu) * number for what, cpu, number in self.paths))

    def busiest(self, of: str) -> float:
        """Of one kind of operation per second and user, in the busiest hour; `of` is a member of `Operations`."""
        total: float = sum(getattr(what, of) * number for what, _, number in self.paths)
        total += self.exchanges * self.shared.writes if of == "writes" else 0
        return total * BUSY_HOUR / 3600

    @property
    def cpu_seconds(self) -> float:
        """Per second and user, in the busiest hour."""
        return sum(cpu * number for _, cpu, number in self.paths) / 1000 * BUSY_HOUR / 3600

    def kept_a_month(self, storage: Storage) -> float:
        """US$ for a user's grants where they are kept: versions, and what asking for a token and renewing one take there."""
        asked = self.exchanges * self.shared.asks * storage.asked.us_dollars
        renewed = REFRESHES * CONNECTIONS * storage.renewed.us_dollars
        return WORKING_DAYS * (asked + renewed) + CONNECTIONS * VERSIONS * storage.version_month

    def record_bytes(self, of_each: float = 1.0) -> float:
        """Of events as they are made, per second and user, in the busiest hour; `of_each` of one becomes what is asked for."""
        total = sum(what.events * what.event_bytes * number for what, _, number in self.paths)
        return total * of_each * BUSY_HOUR / 3600

    def instances(self, users: int) -> int:
        """Of all functions, in the busiest hour."""
        return max(1, round(users * self.cpu_seconds / CPU_SHARE))

    def instances_of_exchange_token(self, users: int) -> float:
        """In the busiest hour: exchanges, questions and repetitions."""
        asked = self.confirmations * (CPU_MS["ask the user"] + CPU_MS["repeat when the user agreed"])
        return users * (self.exchanges * HOT_CPU_MS + asked) / 1000 * BUSY_HOUR / 3600 / CPU_SHARE

    def for_users(self, users: int) -> Day:
        """The same day with what so many instances share as so many people need: of the numbers measured the next, or the last."""
        measured = [number for number in BY_INSTANCES if number >= self.instances(users)]
        return replace(self, shared=BY_INSTANCES[min(measured, default=max(BY_INSTANCES))])


def table(day: Day | None = None) -> str:
    """As Markdown, a row for each number of users."""
    kept, sealed = STORAGES[SECRET_PER_GRANT], STORAGES[SEALED_DOCUMENTS]
    adding = REFRESHES * CONNECTIONS * kept.renewed.additions * BUSY_HOUR / 3600
    names = [
        "users",
        "requests/s",
        "Firestore writes/s",
        "shared writes per exchange",
        "versions added a minute",
        "secret accesses a minute",
        "instances",
        f"US$ a month, `{SECRET_PER_GRANT}`",
        f"`{SEALED_DOCUMENTS}`",
    ]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for users in USERS:
        of_all = (day or Day()).for_users(users)
        per_s = [f"{users * of_all.busiest(of):,.0f}" for of in ("requests", "writes")]
        other = of_all.us_dollars_a_month - of_all.kept_a_month(kept) + CONNECTIONS * VERSIONS * kept.version_month
        cells = [
            f"{users:,}",
            *per_s,
            f"{of_all.shared.writes:.1f}",
            f"{users * adding * 60:,.0f}",
            f"{users * of_all.busiest('secret_accesses') * 60:,.0f}",
            f"{of_all.instances(users):,}",
            *(f"{users * (other + of_all.kept_a_month(storage)):,.0f}" for storage in (kept, sealed)),
        ]
        lines += [f"| {' | '.join(cells)} |"]
    return "\n".join(lines)


TOPIC_GIB_MONTH: Final = 0.27  # of messages that a topic keeps
TABLE_GB_MONTH: Final = 0.02  # of a table's partitions, for 90 days; half of that afterwards
MONTH_DAYS: Final = HOURS / 24


def replay_us_dollars(days: float) -> float:
    """Of a million events in full messages, kept for so many days by the audit topic."""
    return 1e6 * EVENT_BYTES * DEFLATED / 2**30 * TOPIC_GIB_MONTH * days / MONTH_DAYS


def retention_us_dollars(days: float) -> float:
    """Of a million rows, kept for so many days in the audit table."""
    months = (min(days, 90) + max(days - 90, 0) / 2) / MONTH_DAYS
    return 1e6 * EVENT_BYTES * ROW_BYTES / 1e9 * TABLE_GB_MONTH * months


SECRET_WRITES_A_MINUTE: Final = 600  # of a project, as Google documents it; ours: a version added, and one destroyed
SECRET_ACCESSES_A_MINUTE: Final = 90_000
INDEXED_WRITES_A_SECOND: Final = 500  # of documents whose indexed field only grows
DUE_AT_CHANGES: Final = 3  # of a grant, with each refresh
MOST_INSTANCES: Final = 20  # functions.NAME.max_instances
STREAMED_BYTES_A_SECOND: Final = 300e6  # of a project, in a single region
PUBLISHED_BYTES_A_SECOND: Final = 50e6  # of a project, in a small region: the least that was ever documented


def limits() -> str:
    """As Markdown, a row for each limit, that of the fewest users first."""
    of_one = REFRESHES * CONNECTIONS * BUSY_HOUR / 3600
    rows: list[tuple[str, str, Callable[[int], float]]] = [
        (
            "Secret Manager, writes (`secret_per_grant`)",
            f"{SECRET_WRITES_A_MINUTE} a minute",
            lambda users: users * 2 * of_one * 60 / SECRET_WRITES_A_MINUTE,
        ),
        (
            "Secret Manager, accesses (`secret_per_grant`)",
            f"{SECRET_ACCESSES_A_MINUTE:,} a minute",
            lambda users: users * Day().for_users(users).busiest("secret_accesses") * 60 / SECRET_ACCESSES_A_MINUTE,
        ),
        (
            "Firestore, writes of the index of `due_at`",
            f"about {INDEXED_WRITES_A_SECOND} a second",
            lambda users: users * of_one * DUE_AT_CHANGES / INDEXED_WRITES_A_SECOND,
        ),
        (
            "Firestore, the same index in 64 parts",
            f"about {64 * INDEXED_WRITES_A_SECOND:,} a second",
            lambda users: users * of_one * DUE_AT_CHANGES / (64 * INDEXED_WRITES_A_SECOND),
        ),
        (
            "Cloud Run, `functions.exchange_token.max_instances`",
            f"{MOST_INSTANCES}, a setting",
            lambda users: Day().instances_of_exchange_token(users) / MOST_INSTANCES,
        ),
        (
            "Pub/Sub, bytes published in a small region",
            f"{PUBLISHED_BYTES_A_SECOND / 1e6:.0f} MB a second",
            lambda users: users * Day().record_bytes(DEFLATED) / PUBLISHED_BYTES_A_SECOND,
        ),
        (
            "BigQuery, streamed bytes in one region",
            f"{STREAMED_BYTES_A_SECOND / 1e6:.0f} MB a second",
            lambda users: users * Day().record_bytes(ROW_BYTES) / STREAMED_BYTES_A_SECOND,
        ),
    ]
    at = {name: _users_at(used) for name, _, used in rows}
    lines = ["| limit | as Google has it | met by so many users |", "|---|---|---|"]
    lines += [f"| {name} | {figure} | {at[name]:,} |" for name, figure, _ in sorted(rows, key=lambda row: at[row[0]])]
    return "\n".join(lines)


def _users_at(used: Callable[[int], float]) -> int:
    """The number of users, to two digits, with which so much of a limit is used that it is met."""
    few, many = 1, 10**10
    while few < many:
        middle = (few + many) // 2
        few, many = (middle + 1, many) if used(middle) < 1 else (few, middle)
    return int(float(f"{few:.1e}"))


def prices() -> str:
    """US$ per million of each path, from the exact counts, and what for."""
    names = list(parts(ONCE["hot"], cpu_ms=0))
    lines = [
        f"| path | reads | writes | US$ per million | of it {' | '.join(names)} |",
        "|---" * (4 + len(names)) + "|",
    ]
    renewals = {"more for a narrower scope": NARROWER, "more when the token has ended": REFRESH}
    for name, operations in (ONCE | renewals).items():
        cpu_ms = REFRESH_CPU_MS if name in renewals else CPU_MS.get(name, HOT_CPU_MS)
        each = [price * 1e6 for price in parts(operations, cpu_ms=cpu_ms).values()]
        cells = [f"{price:.2f}" for price in (sum(each), *each)]
        lines.append(f"| {name} | {operations.reads} | {operations.writes} | {' | '.join(cells)} |")
    return "\n".join(lines)


# --- a first project ---

MINUTES: Final = HOURS * 60
PLACES: Final = 6  # of the world, from which an uptime check asks
LEAST_BILLED_S: Final = 0.1  # of an instance, for a request that comes alone
FORWARDING_RULE_HOUR: Final = 0.025
SCHEDULED_JOB: Final = 0.10
DNS_ZONE: Final = 0.20
ALERT_CONDITION: Final = 0.10
ALERT_SERIES: Final = 0.35 / 1_000_000  # returned by the query of a condition, which is asked twice a minute
JOB_SECOND: Final = 1.8e-5 + 0.5 * 2e-6  # one vCPU and half a GiB of a Cloud Run job
LEAST_JOB_S: Final = 60
IDLE_SECOND: Final = 2.5e-6 + 0.5 * 2.5e-6  # of an instance that is kept and has nothing to do
ARMOR_POLICY: Final = 5.0
ARMOR_RULE: Final = 1.0
CLIENT_SECRETS: Final = 3  # two providers and an IdP, each one version
SWEEP: Final = Operations(
    reads=3, writes=0, events=0
)  # a query that finds nothing, the time of the store, and whether grants are spread


@dataclass(frozen=True)
class Made:
    """What the module makes, of what is paid for being there. tests/terraform compares it with the applied module."""

    forwarding_rules: int = 1
    dns_zones: int = 1
    scheduled_jobs: int = 1
    uptime_checks: int = 3
    own_secrets: int = 4
    alert_conditions: int = 17
    conditions_by_function: int = 3
    armor_rules: int = 3


FUNCTIONS: Final = 7


def alone(what: Operations) -> float:
    """US$ of a request that meets no other: an instance is billed for a tenth of a second, its event travels and is taken in by itself."""
    billed_s = LEAST_BILLED_S * what.requests
    by_itself = {
        "Pub/Sub": what.events * 2 * max(what.event_bytes, PUBSUB_LEAST_BYTES) * PUBSUB_BYTE,
        "ingest": what.events * (REQUEST + LEAST_BILLED_S * CPU_SECOND),
    }
    return sum((parts(what, cpu_ms=billed_s * 1000 * CPU_SHARE) | by_itself).values())


def idle(made: Made | None = None) -> dict[str, float]:
    """US$ a month while nobody asks for anything, by what it is for."""
    made = made or Made()
    series = made.alert_conditions + made.conditions_by_function * (FUNCTIONS - 1)
    return {
        "load balancer": made.forwarding_rules * HOURS * FORWARDING_RULE_HOUR,
        "answers to the uptime checks": made.uptime_checks * PLACES * MINUTES * alone(Operations(0, 0, events=0)),
        "alerts": made.alert_conditions * ALERT_CONDITION + series * 2 * MINUTES * ALERT_SERIES,
        "own secrets and three clients'": (made.own_secrets + CLIENT_SECRETS) * SECRET_VERSION_MONTH,
        "sweep of grants, every minute": MINUTES * alone(SWEEP) + made.scheduled_jobs * SCHEDULED_JOB,
        "private DNS zone": made.dns_zones * DNS_ZONE,
    }


def month(exchanges: int, day: Day | None = None) -> dict[str, float]:
    """US$ of so many exchanges in a month and of what people do beside them, where requests seldom meet."""
    day = day or Day()
    days = exchanges / day.exchanges  # of one user each
    paths = day.paths
    confirmed = ["confirmed actions"] * (len(paths) - 4)
    names = ("exchanges", "mintings", *confirmed, "refreshes at providers", "exchanges")
    found: dict[str, float] = {}
    for name, (what, _, number) in zip(names, paths, strict=True):
        found[name] = found.get(name, 0.0) + days * number * alone(what)
    found["exchanges"] += exchanges * day.shared.writes * us_dollars(Operations(0, 1, requests=0, events=0), cpu_ms=0)
    return found


def first_project(exchanges: int = 1_000_000) -> str:
    """As Markdown: a project that nobody uses, and one with so many exchanges a month."""
    users = exchanges / (Day().exchanges * WORKING_DAYS)
    versions = users * CONNECTIONS * VERSIONS * SECRET_VERSION_MONTH
    resting, busy = idle(), month(exchanges)
    rows = [
        *((name, price, price) for name, price in resting.items()),
        *((name, 0.0, price) for name, price in busy.items()),
    ]
    total = (sum(resting.values()), sum(resting.values()) + sum(busy.values()))
    lines = [f"| US$ a month | idle | {exchanges:,} exchanges |", "|---|---|---|"]
    lines += [f"| {name} | {one:.2f} | {other:.2f} |" for name, one, other in rows]
    lines += [f"| **with `grant_storage: sealed_documents`** | **{total[0]:.0f}** | **{total[1]:.0f}** |"]
    lines += [f"| with a secret for each grant, {users:,.0f} users | {total[0]:.0f} | {total[1] + versions:.0f} |"]
    return "\n".join(lines)


def options() -> str:
    """As Markdown: what each option adds."""
    made = Made()
    rows = {
        "`functions.NAME.min_instances`, each": HOURS * 3600 * IDLE_SECOND,
        "`doctor`": MINUTES / 15 * LEAST_JOB_S * JOB_SECOND + SCHEDULED_JOB + ALERT_CONDITION,
        "`audit_heads`": MINUTES / 5 * LEAST_JOB_S * JOB_SECOND + SCHEDULED_JOB,
        "`edge_protection`": ARMOR_POLICY + made.armor_rules * ARMOR_RULE,
    }
    return "\n".join(
        ["| option | US$ a month |", "|---|---|", *(f"| {name} | {price:.2f} |" for name, price in rows.items())]
    )


if __name__ == "__main__":
    print(prices(), table(), limits(), first_project(), options(), sep="\n\n")
