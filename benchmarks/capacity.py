"""`python -m benchmarks.capacity`: what so many users cost and how near they come to the platform's quotas. docs/capacity.md holds
what it prints, docs/deploying.md what a first project costs; a test compares them.

The counts of `operations` are its input, and what people do in a day. Change either, and the table follows.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.operations import (
    CPU_SECOND,
    CPU_SHARE,
    DEFLATED,
    EVENT_BYTES,
    EVENTS_PER_MESSAGE,
    INGEST_CPU_MS,
    NARROWER,
    ONCE,
    PUBSUB_BYTE,
    PUBSUB_LEAST_BYTES,
    REFRESH,
    REFRESH_EVENT_BYTES,
    REQUEST,
    ROW_BYTES,
    SECRET_VERSION_MONTH,
    Operations,
    parts,
    us_dollars,
)
from benchmarks.storage import DUE_AT_CHANGES, SEALED_DOCUMENTS, SECRET_PER_GRANT, STORAGES, Storage

USERS: Final = (1_000, 100_000, 1_000_000, 3_000_000, 10_000_000)
CONNECTIONS: Final = 3  # each user has connected
HOURS: Final = 730  # of a month
WORKING_DAYS: Final = 21  # of a month
BUSY_HOUR: Final = 0.15  # of a day's requests come in the busiest hour
DECIDES, KEEPS, TAKES_IN = "exchange_token", "refresh_grants", "ingest_audit"
ANY: Final = STORAGES[SEALED_DOCUMENTS]  # where it makes no difference where grants are kept
REFRESHES: Final = 8  # of each grant in a day: once an hour while it is used
REPLACED_FOR_S: Final = 120  # a version that was replaced lives on for a minute, and until a visit comes
# Of a grant: they are billed by the time that they are there.
VERSIONS: Final = 1 + REFRESHES * WORKING_DAYS * REPLACED_FOR_S / (HOURS * 3600)
BUSY_LOOP: Final = Operations(reads=1, writes=0)  # a hot exchange by Google identity, without what several share
LOOP: Final = 20  # reads of an agent in a minute, which are counted in one document
# What several exchanges share: a counter, made once for a loop and then replaced; the record of a hand-out, each a document of its own.
COUNT: Final = Operations(reads=0, writes=1, requests=0, events=0)
COUNTER: Final = Operations(reads=0, writes=0, made=1, requests=0, events=0)
RECORD: Final = replace(COUNT, made=1)


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


BY_INSTANCES: Final = {1: Shared(0.04, 0.14), 4: Shared(0.18, 0.41), 20: Shared(0.63, 0.91), 100: Shared(0.90, 0.98)}
"""tests/functions/test_hand_outs.py counts 0.2 writes at one instance; docs/capacity.md shows how they were measured."""

# As measured: docs/performance.md. A confirmed action's is divided by three.
HOT_CPU_MS: Final = 0.6
CONFIRMED: Final = ("ask the user", "decide", "repeat when the user agreed")
CALLED: Final = ("call of the broker", "call of the broker recorded before")
CPU_MS: Final = {"mint with a key": 0.43} | dict.fromkeys(CONFIRMED, 1.2) | dict.fromkeys(CALLED, 1.2)
ASK_CPU_MS: Final = 0.43  # as a minting: one token is verified, and one answered
REFRESH_CPU_MS: Final = 3.2  # what *narrower* takes beyond an exchange
VISIT_CPU_MS: Final = 0.56


@dataclass(frozen=True)
class Work:
    """What is done so often in a day of a user, and by which function."""

    what: str
    function: str
    operations: Operations
    cpu_ms: float
    number: float


@dataclass(frozen=True)
class Day:
    """What one user's agents do in a working day, as numbers of each path, and how much of it instances share."""

    exchanges: int = 60
    mints: int = 12
    confirmations: int = 2
    shared: Shared = BY_INSTANCES[1]

    def work(self, storage: Storage) -> list[Work]:
        """With what comes of it where grants are kept there."""
        exchanges, renewals = float(self.exchanges), float(REFRESHES * CONNECTIONS)
        mint = "mint with a key"
        asked, visited = storage.asked.operations(events=0), storage.visited.operations(events=0, visits=1)
        renewed = storage.renewed.operations(event_bytes=REFRESH_EVENT_BYTES)
        return [
            Work("exchanges", DECIDES, BUSY_LOOP, HOT_CPU_MS, exchanges),
            Work("exchanges", DECIDES, COUNT, 0, exchanges * self.shared.counters),
            Work("exchanges", DECIDES, COUNTER, 0, exchanges / LOOP),
            Work("exchanges", DECIDES, RECORD, 0, exchanges * self.shared.asks),
            Work("exchanges", KEEPS, asked, ASK_CPU_MS, exchanges * self.shared.asks),
            Work("mintings", "mint_assertion", ONCE[mint], CPU_MS[mint], float(self.mints)),
            *(
                Work("confirmed actions", function, ONCE[name], CPU_MS[name], float(self.confirmations))
                for name, function in zip(CONFIRMED, (DECIDES, "connect_account", DECIDES), strict=True)
            ),
            Work("renewals at providers, and visits", KEEPS, renewed, REFRESH_CPU_MS, renewals),
            Work("renewals at providers, and visits", KEEPS, visited, VISIT_CPU_MS, renewals),
        ]

    def us_dollars_a_month(self, storage: Storage) -> float:
        a_day = sum(us_dollars(it.operations, cpu_ms=it.cpu_ms) * it.number for it in self.work(storage))
        return WORKING_DAYS * a_day + CONNECTIONS * VERSIONS * storage.version_month

    def busiest(self, of: str, storage: Storage) -> float:
        """Of one kind of operation per second and user, in the busiest hour; `of` is a member of `Operations`."""
        total: float = sum(getattr(it.operations, of) * it.number for it in self.work(storage))
        return total * BUSY_HOUR / 3600

    def requests(self) -> float:
        """At all functions per second and user, in the busiest hour, those that bring events to `ingest_audit` among them."""
        return self.busiest("requests", ANY) + self.busiest("events", ANY) / EVENTS_PER_MESSAGE

    def record_bytes(self, of_each: float = 1.0) -> float:
        """Of events as they are made, per second and user, in the busiest hour; `of_each` of one becomes what is asked for."""
        work = [(it.operations, it.number) for it in self.work(ANY)]
        total = sum(what.events * what.event_bytes * number for what, number in work)
        return total * of_each * BUSY_HOUR / 3600

    def instances_of(self, function: str, users: int) -> float:
        """In the busiest hour."""
        work = self.work(ANY)
        cpu_ms = sum(it.cpu_ms * it.number for it in work if it.function == function)
        if function == TAKES_IN:
            cpu_ms = sum(it.operations.events * it.number for it in work) * INGEST_CPU_MS
        return users * cpu_ms / 1000 * BUSY_HOUR / 3600 / CPU_SHARE

    def instances(self, users: int) -> int:
        """Of the five functions that have something to do here, in the busiest hour: one of each at least."""
        functions = {it.function for it in self.work(ANY)} | {TAKES_IN}
        return sum(math.ceil(self.instances_of(function, users)) for function in functions)

    def for_users(self, users: int) -> Day:
        """The same day with what instances share, where there are as many as so many people need: of the numbers measured the next,
        or the last."""
        measured = [number for number in BY_INSTANCES if number >= self.instances_of(DECIDES, users)]
        return replace(self, shared=BY_INSTANCES[min(measured, default=max(BY_INSTANCES))])


def table(day: Day | None = None) -> str:
    """As Markdown, a row for each number of users."""
    kept, sealed = STORAGES[SECRET_PER_GRANT], STORAGES[SEALED_DOCUMENTS]
    added = REFRESHES * CONNECTIONS * kept.renewed.changes * BUSY_HOUR / 3600
    names = [
        "users",
        "requests/s",
        f"Firestore writes/s, `{SECRET_PER_GRANT}`",
        f"`{SEALED_DOCUMENTS}`",
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
        cells = [
            f"{users:,}",
            f"{users * of_all.requests():,.0f}",
            *(f"{users * of_all.busiest('writes', storage):,.0f}" for storage in (kept, sealed)),
            f"{of_all.shared.writes:.1f}",
            f"{users * added * 60:,.0f}",
            f"{users * of_all.busiest('secret_accesses', kept) * 60:,.0f}",
            f"{of_all.instances(users):,}",
            *(f"{users * of_all.us_dollars_a_month(storage):,.0f}" for storage in (kept, sealed)),
        ]
        lines += [f"| {' | '.join(cells)} |"]
    return "\n".join(lines)


TOPIC_GIB_MONTH: Final = 0.27  # of messages that a topic keeps
TABLE_GB_MONTH: Final = 0.02  # of a table's partitions, for 90 days; half of that afterwards
MONTH_DAYS: Final = HOURS / 24
LOG_GIB: Final = 0.50  # of log lines taken in and kept for a month
LOG_LINE_BYTES: Final = 1_000  # of a request, about


def replay_us_dollars(days: float) -> float:
    """Of a million events in full messages, kept for so many days by the audit topic."""
    return 1e6 * EVENT_BYTES * DEFLATED / 2**30 * TOPIC_GIB_MONTH * days / MONTH_DAYS


def retention_us_dollars(days: float) -> float:
    """Of a million rows, kept for so many days in the audit table."""
    months = (min(days, 90) + max(days - 90, 0) / 2) / MONTH_DAYS
    return 1e6 * EVENT_BYTES * ROW_BYTES / 1e9 * TABLE_GB_MONTH * months


def request_log_us_dollars(lines: int) -> float:
    """Of a million requests that leave so many lines each."""
    return 1e6 * lines * LOG_LINE_BYTES / 2**30 * LOG_GIB


SECRET_WRITES_A_MINUTE: Final = 600  # of a project, as Google documents it; ours: a version added, and one destroyed
SECRET_ACCESSES_A_MINUTE: Final = 90_000
INDEXED_WRITES_A_SECOND: Final = 500  # of documents whose indexed field only grows
MOST_INSTANCES: Final = 20  # functions.NAME.max_instances
STREAMED_BYTES_A_SECOND: Final = 300e6  # of a project, in a single region
PUBLISHED_BYTES_A_SECOND: Final = 50e6  # of a project, in a small region: the least that was ever documented


def limits() -> str:
    """As Markdown, a row for each limit, that of the fewest users first."""
    of_one = REFRESHES * CONNECTIONS * BUSY_HOUR / 3600
    kept = STORAGES[SECRET_PER_GRANT]
    changes = kept.renewed.changes + kept.visited.changes
    rows: list[tuple[str, str, Callable[[int], float]]] = [
        (
            "Secret Manager, writes (`secret_per_grant`)",
            f"{SECRET_WRITES_A_MINUTE} a minute",
            lambda users: users * changes * of_one * 60 / SECRET_WRITES_A_MINUTE,
        ),
        (
            "Secret Manager, accesses (`secret_per_grant`)",
            f"{SECRET_ACCESSES_A_MINUTE:,} a minute",
            lambda users: (
                users * Day().for_users(users).busiest("secret_accesses", kept) * 60 / SECRET_ACCESSES_A_MINUTE
            ),
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
        *(
            (
                f"Cloud Run, `functions.{name}.max_instances`",
                f"{MOST_INSTANCES}, a setting",
                lambda users, name=name: Day().for_users(users).instances_of(name, users) / MOST_INSTANCES,
            )
            for name in (KEEPS, DECIDES)
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
        f"| path | reads | writes | of them new | US$ per million | of it {' | '.join(names)} |",
        "|---" * (5 + len(names)) + "|",
    ]
    paths = {name: (operations, CPU_MS.get(name, HOT_CPU_MS)) for name, operations in ONCE.items()}
    paths |= {
        "more for a narrower scope": (NARROWER, REFRESH_CPU_MS),
        "more when the token has ended": (REFRESH, REFRESH_CPU_MS),
    }
    for name, storage in STORAGES.items():
        paths[f"the sweep's visit after that, `{name}`"] = storage.visited.operations(events=0, visits=1), VISIT_CPU_MS
    for name, (operations, cpu_ms) in paths.items():
        each = [price * 1e6 for price in parts(operations, cpu_ms=cpu_ms).values()]
        cells = [f"{price:.2f}" for price in (sum(each), *each)]
        counts = [str(number) for number in (operations.reads, operations.writes, operations.made)]
        lines.append(f"| {' | '.join((name, *counts, *cells))} |")
    return "\n".join(lines)


def kept_alive_us_dollars(storage: Storage) -> float:
    """Of a million times that a grant which nobody uses is kept alive: the visit that renews it, and the one after that."""
    both = storage.kept_alive.operations(requests=2, visits=2, event_bytes=REFRESH_EVENT_BYTES)
    return 1e6 * us_dollars(both, cpu_ms=REFRESH_CPU_MS + 2 * VISIT_CPU_MS)


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
        "Pub/Sub": 2
        * (what.events * max(what.event_bytes, PUBSUB_LEAST_BYTES) + what.visits * PUBSUB_LEAST_BYTES)
        * PUBSUB_BYTE,
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


def month(exchanges: int, storage: Storage, day: Day | None = None) -> dict[str, float]:
    """US$ of so many exchanges in a month and of what people do beside them, where requests seldom meet."""
    day = day or Day()
    days = exchanges / day.exchanges  # of one user each
    found: dict[str, float] = defaultdict(float)
    for it in day.work(storage):
        found[it.what] += days * it.number * alone(it.operations)
    return found


def first_project(exchanges: int = 1_000_000) -> str:
    """As Markdown: a project that nobody uses, and one with so many exchanges a month."""
    users = exchanges / (Day().exchanges * WORKING_DAYS)
    resting, busy = idle(), month(exchanges, STORAGES[SEALED_DOCUMENTS])
    rows = [
        *((name, price, price) for name, price in resting.items()),
        *((name, 0.0, price) for name, price in busy.items()),
    ]
    total = (sum(resting.values()), sum(resting.values()) + sum(busy.values()))
    versions = users * CONNECTIONS * VERSIONS * SECRET_VERSION_MONTH
    in_secrets = total[0] + sum(month(exchanges, STORAGES[SECRET_PER_GRANT]).values()) + versions
    lines = [f"| US$ a month | idle | {exchanges:,} exchanges |", "|---|---|---|"]
    lines += [f"| {name} | {one:.2f} | {other:.2f} |" for name, one, other in rows]
    lines += [f"| **with `grant_storage: sealed_documents`** | **{total[0]:.0f}** | **{total[1]:.0f}** |"]
    lines += [f"| with a secret for each grant, {users:,.0f} users | {total[0]:.0f} | {in_secrets:.0f} |"]
    return "\n".join(lines)


def options() -> str:
    """As Markdown: what each option adds."""
    made = Made()
    rows = {
        "`functions.NAME.min_instances`, each": HOURS * 3600 * IDLE_SECOND,
        "`doctor`": MINUTES / 15 * LEAST_JOB_S * JOB_SECOND + SCHEDULED_JOB + ALERT_CONDITION,
        "`audit_heads`": MINUTES / 5 * LEAST_JOB_S * JOB_SECOND + SCHEDULED_JOB + ALERT_CONDITION,
        "`edge_protection`": ARMOR_POLICY + made.armor_rules * ARMOR_RULE,
    }
    return "\n".join(
        ["| option | US$ a month |", "|---|---|", *(f"| {name} | {price:.2f} |" for name, price in rows.items())]
    )


if __name__ == "__main__":
    print(prices(), table(), limits(), first_project(), options(), sep="\n\n")
