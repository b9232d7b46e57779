"""Many grants and many callers for each, in several processes: what it costs upstream, by the providers' own ledgers."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from dataclasses import dataclass

from tests.grants.processes.killing import KINDS
from tests.grants.processes.site import Connected, Site

AT_ONCE = 20  # grants that every process works on at the same time, with all their callers
CONNECTED_AT_ONCE = 50


@dataclass(frozen=True)
class Crowd:
    """`by_grant`: how often each answer was given, for each grant. `calls`: refreshes the provider did or refused."""

    grants: list[Connected]
    by_grant: dict[str, Counter[str]]
    calls: Counter[str]
    live: set[str]
    each: int
    processes: int
    took_s: float

    @property
    def answers(self) -> int:
        return sum(answers.total() for answers in self.by_grant.values())

    @property
    def upstream_calls(self) -> int:
        return sum(self.calls.values())

    def violations(self) -> list[str]:
        """Grants that cost more or less than one call, or whose callers did not all get the one token that works."""
        found = []
        for grant in self.grants:
            answers = self.by_grant[grant.name]
            if self.calls[grant.at_provider] != 1:
                found.append(f"{grant.kind}: {self.calls[grant.at_provider]} upstream calls for one grant")
            if answers.total() != self.each or len(answers) != 1 or not set(answers) <= self.live:
                found.append(f"{grant.kind}: {dict(Counter(answer.split()[0] for answer in answers.elements()))}")
        return found

    def __str__(self) -> str:
        return (
            f"{len(self.grants)} expired grants, {self.each} callers each in {self.processes} processes: "
            f"{self.upstream_calls} upstream calls, {self.answers} answers in {self.took_s:.0f} s"
        )


def ask_for_many(site: Site, number: int, *, user: str, each: int = 20, processes: int = 5) -> Crowd:
    """`each` concurrent requests for every one of `number` expired grants of all kinds, spread over the processes."""
    kinds = [KINDS[position % len(KINDS)] for position in range(number)]
    grants: list[Connected] = []
    for first in range(0, number, CONNECTED_AT_ONCE):
        grants += site.connect(kinds[first : first + CONNECTED_AT_ONCE], user=f"{user}-{first}")
    names = [(grant.name, grant.kind) for grant in grants]
    reports = [site.folder / f"{user}-{position}.json" for position in range(processes)]
    start_at = time.time() + 2
    workers = [
        site.start(
            "crowd",
            grants=names,
            each=each // processes,
            at_once=AT_ONCE,
            start_at=start_at,
            report=str(report),
            production_timings=True,
        )
        for report in reports
    ]
    for worker in workers:
        assert worker.result(within_s=60 + number) is not None, "a process died"
    took_s = time.time() - start_at
    by_grant: dict[str, Counter[str]] = defaultdict(Counter)
    for report in reports:
        for name, answer, count in json.loads(report.read_text("utf-8")):
            by_grant[name][answer] += count
    calls, live = _at_the_providers(site, {grant.at_provider for grant in grants})
    return Crowd(grants, by_grant, calls, live, each, processes, took_s)


def _at_the_providers(site: Site, grants: set[str]) -> tuple[Counter[str], set[str]]:
    """Every request with a refresh token of these grants, and the access tokens that were issued for one."""
    calls: Counter[str] = Counter()
    live: set[str] = set()
    for book in site.books.values():
        for entry in book.ledger():
            if entry["grant_id"] not in grants:
                continue
            if entry["event"] in ("refreshed", "refused") and entry["kind"] == "refresh":
                calls[entry["grant_id"]] += 1
            if entry["event"] == "issued" and entry["kind"] == "access" and entry["predecessor_sha256"]:
                live.add(f"token {entry['token_sha256']}")
    return calls, live
