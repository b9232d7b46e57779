"""Many grants, the agents that use them, the sweep and the providers, second by second.

The sweep is the product's own (`SweepGrants.hand_over`), over a store whose pages and publishes take their time. What a refresh, a
failure and a visit do to a grant is asked of `Rules`. A refresh takes no time here: so as many as can meet do.

The agents are the worst for renewals and memories: each exchange is of any grant in use, so that hardly any is repeated soon.
"""

from __future__ import annotations

import asyncio
import random
from array import array
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, Final

from benchmarks.simulation.rules import NOW, RETRY_AFTER_MOST_S, Rules
from benchmarks.storage import SECRET_PER_GRANT, STORAGES
from cab.use_cases.grants.outages import Outages
from cab.use_cases.grants.sweep import SweepGrants

PAGE_READ_S: Final = 0.06  # of 500 documents
PUBLISH_S: Final = 0.03  # of 500 messages
_KEPT: Final = STORAGES[SECRET_PER_GRANT]  # whose writes are all of the grant's own document
WRITES_OF_REFRESH, WRITES_OF_CLEANING = _KEPT.renewed.writes, _KEPT.visited.writes
WRITES_OF_FAILURE: Final = 3  # docs/grants.md: the lease, the mark of a recovery, the end
BUSIEST: Final = 0  # one grant that an agent asks for every second
WINDOW_S: Final = 10  # in which a herd would show
HERD: Final = 1.75  # times what agents ask of a provider in such a window
HOTTEST: Final = 1.0  # writes a second of one document
OLDEST_S: Final = 300  # a backlog is bounded when none waits longer for its visit while any can be made


@dataclass(frozen=True)
class Course:
    """What happens when, in seconds from the beginning. An outage is of the first provider alone."""

    ends: int = 10_800
    outage: tuple[int, int] = (1_800, 5_400)
    deploy: int = 7_200
    restart: tuple[int, int] = (8_400, 8_700)  # of the whole region
    come_back_s: int = 60  # who was turned away so long before the end of a restart comes back at once
    batch_due: int = 1_200  # when those that were connected together had lain unused for the whole time


@dataclass(frozen=True)
class Load:
    """How much of everything. `visits_per_s` is what refresh_grants can work off."""

    grants: int = 10_000_000
    in_use: int = 6_000_000
    exchanges_per_s: int = 5_000
    visits_per_s: int = 3_000
    batch: int = 500_000  # of those not in use, connected in one second

    def divided_by(self, number: int) -> Load:
        return Load(*(max(1, count // number) for count in vars(self).values()))


@dataclass
class Seen:
    """What the simulation came to."""

    refreshes: int = 0
    exchanges: int = 0
    turned_away: int = 0  # exchanges, for the provider that is out
    asked: list[list[int]] = field(default_factory=list)  # by provider and second: exchanges
    upstream: list[list[int]] = field(default_factory=list)  # and requests to it
    waited_s: int = 0  # the longest for a visit
    waited_while_up_s: int = 0  # the longest of what visits could be made in of that: without the standstill
    due: list[int] = field(default_factory=list)
    most_writes_a_minute: int = 0
    visits: int = 0

    @property
    def herd(self) -> float:
        """The most that a provider is asked in `WINDOW_S`, over what agents ask of it then."""
        most = 0.0
        for asked, upstream in zip(self.asked, self.upstream, strict=True):
            usual = max(1, sum(asked) // max(1, sum(1 for number in asked if number))) * WINDOW_S
            for first in range(0, len(asked), WINDOW_S):
                window = slice(first, first + WINDOW_S)
                most = max(most, sum(upstream[window]) / max(usual, sum(asked[window])))
        return most

    @property
    def writes_per_s(self) -> float:
        """Of the one document that is written most, over a minute."""
        return self.most_writes_a_minute / 60

    @property
    def faults(self) -> list[str]:
        return [
            words
            for found, words in (
                (self.herd > HERD, f"a herd: a provider is asked {self.herd:.1f} times as often as agents ask"),
                (self.writes_per_s > HOTTEST, f"a hot document: {self.writes_per_s:.1f} writes a second"),
                (self.waited_while_up_s > OLDEST_S, f"a backlog: one waited {self.waited_while_up_s} s for its visit"),
            )
            if found
        ]


class Simulation:
    """`providers` are the rules at each of them. Grants are spread over them evenly; those connected together are at the last."""

    def __init__(
        self,
        load: Load,
        providers: Sequence[Rules],
        course: Course | None = None,
        *,
        instances: int = 20,
        spares_outages: bool = True,
        seed: int = 1,
    ) -> None:
        """`instances` of refresh_grants, each with its own memory of outages; without `spares_outages` none has one."""
        self._load = load
        self._rules = providers
        self._course = course or Course()
        self._random = random.Random(seed)  # noqa: S311 - who asks when, not a secret
        self._now = 0
        self._renew_at = array("i", bytes(4 * load.grants))
        self._refreshed_at = array("i", bytes(4 * load.grants))
        self._due_at = array("i", bytes(4 * load.grants))
        self._try_at = array("i", bytes(4 * load.grants))
        self._failures = bytearray(load.grants)
        self._cleans = bytearray(load.grants)  # whether an older version is there
        self._shares = bytearray(load.grants)
        self._at = bytearray(number % len(providers) for number in range(load.grants))
        for number in range(load.in_use, load.in_use + load.batch):
            self._at[number] = len(providers) - 1
        self._writes = bytearray(load.grants)  # of this minute
        self._wheel: dict[int, array[int]] = {}
        self._visited = 0  # the instance that was, last
        self._back: dict[int, list[int]] = defaultdict(list)  # whoever was told to come back then
        self._visits: deque[int] = deque()
        self._named: dict[int, list[int]] = {}
        self._spares_outages = spares_outages
        self._outages = [Outages() for _ in range(instances)]
        self._sweep = self._new_sweep()
        self.seen = Seen(
            asked=[[0] * (self._course.ends + 1) for _ in providers],
            upstream=[[0] * (self._course.ends + 1) for _ in providers],
        )

    def run(self, progress: Callable[[str], None] = lambda _: None) -> Seen:
        self._begin(progress)
        course, load = self._course, self._load
        for now in range(course.ends):
            self._now = now
            if now % 60 == 0:
                self._writes = bytearray(load.grants)
                progress(f"minute {now // 60} of {course.ends // 60}")
            if course.restart[0] <= now < course.restart[1]:
                continue
            self._exchange(load.exchanges_per_s)
            if now in (course.deploy, course.restart[1]):
                self._sweep = self._new_sweep()
                self._outages = [Outages() for _ in self._outages]
            if now == course.restart[1]:  # and the requests that were never finished are those of lapsed leases
                self._exchange(load.exchanges_per_s * course.come_back_s)
            if now % 60 == 0:
                self._sweep_once()
            self._visits.extend(self._named.pop(now, ()))
            for _ in range(min(load.visits_per_s, len(self._visits))):
                self._visit(self._visits.popleft())
        return self.seen

    # --- what there is at the beginning ---

    def _begin(self, progress: Callable[[str], None]) -> None:
        """As if it had gone on like this for long: tokens of every age, unused grants anywhere in their time."""
        load, rules = self._load, self._rules
        pause = load.in_use / load.exchanges_per_s  # between two exchanges of a grant
        for number in range(load.grants):
            if number % 1_000_000 == 0:
                progress(f"{number:,} grants")
            rule = rules[self._at[number]]
            share = self._shares[number] = rule.share(number)
            idle = rule.idle_after[share]
            if number < load.in_use:
                age = self._random.random() * (rule.renewed_after + pause)
                self._refreshed_at[number] = refreshed = -int(age)
                self._renew_at[number] = refreshed + rule.renewed_after
                if age < rule.cleaned_after:
                    self._cleans[number] = 1
                self._schedule(number, refreshed + (rule.cleaned_after if age < rule.cleaned_after else idle))
            else:
                together = number < load.in_use + load.batch
                age_s = max(rule.idle_after) - self._course.batch_due if together else int(self._random.random() * idle)
                refreshed = -age_s
                while refreshed + idle < 0:  # it has been kept alive since
                    refreshed += idle
                self._refreshed_at[number] = refreshed
                self._schedule(number, refreshed + idle)

    # --- agents ---

    def _exchange(self, number: int) -> None:
        now, rules = self._now, self._rules
        pick, in_use, renew_at, at = self._random.random, self._load.in_use, self._renew_at, self._at
        asked = [0] * len(rules)
        for grant in (BUSIEST, *self._back.pop(now, ()), *(int(pick() * in_use) for _ in range(number))):
            asked[at[grant]] += 1
            if renew_at[grant] <= now:
                self._renew(grant)
        for provider, count in enumerate(asked):
            self.seen.asked[provider][now] += count
        self.seen.exchanges += number

    def _renew(self, grant: int) -> None:
        if self._try_at[grant] <= self._now and self._attempt(grant):
            return
        self.seen.turned_away += 1
        wait = min(RETRY_AFTER_MOST_S, self._try_at[grant] - self._now + 1)
        if grant != BUSIEST and self._random.random() < 0.5:  # half of them come back when they are told to
            self._back[self._now + wait].append(grant)

    # --- refresh_grants ---

    def _attempt(self, grant: int) -> bool:
        """One request to the provider, and what the document says afterwards."""
        now, at = self._now, self._at[grant]
        rule = self._rules[at]
        self.seen.upstream[at][now] += 1
        outage = self._course.outage
        if at == 0 and outage[0] <= now < outage[1]:
            retry, due = rule.failed(self._failures[grant], self._shares[grant])
            self._failures[grant] = min(250, self._failures[grant] + 1)
            self._try_at[grant] = now + retry
            self._schedule(grant, now + due)
            self._wrote(grant, WRITES_OF_FAILURE)
            return False
        self.seen.refreshes += 1
        self._failures[grant] = self._try_at[grant] = 0
        self._refreshed_at[grant] = now
        self._renew_at[grant] = now + rule.renewed_after
        if not self._cleans[grant]:  # an earlier mark is kept
            self._cleans[grant] = 1
            self._schedule(grant, now + rule.cleaned_after)
        else:
            self._schedule(grant, min(max(self._due_at[grant], now), now + rule.cleaned_after))
        self._wrote(grant, WRITES_OF_REFRESH)
        return True

    def _visit(self, grant: int) -> None:
        now = self._now
        if self._due_at[grant] > now:
            return
        self.seen.visits += 1
        self._note_wait(self._due_at[grant])
        rule = self._rules[self._at[grant]]
        if self._failures[grant]:
            if self._try_at[grant] > now:
                self._schedule(grant, now + 60)
            elif not self._is_put_off(grant, rule):
                self._tell(grant, rule, succeeded=self._attempt(grant))
            return
        idle = rule.idle_after[self._shares[grant]]
        if now - self._refreshed_at[grant] >= idle:
            self._tell(grant, rule, succeeded=self._attempt(grant))
            return
        self._cleans[grant] = 0
        self._wrote(grant, WRITES_OF_CLEANING)
        self._schedule(grant, self._refreshed_at[grant] + idle)

    def _is_put_off(self, grant: int, rule: Rules) -> bool:
        """Any instance may be visited, by whichever push comes to it."""
        if not self._spares_outages:
            return False
        now = NOW + timedelta(seconds=self._now)
        known = rule.recovering[self._shares[grant]]
        self._visited = (self._visited + 1) % len(self._outages)
        later = self._outages[self._visited].put_off_until(known, now)
        if later is None:
            return False
        self._schedule(grant, self._now + int((later - now).total_seconds()))
        self._wrote(grant, 1)
        return True

    def _tell(self, grant: int, rule: Rules, *, succeeded: bool) -> None:
        outages = self._outages[self._visited]
        if succeeded:
            outages.succeeded(rule.provider.id)
        else:
            outages.failed(rule.provider.id, str(grant), NOW + timedelta(seconds=self._now))

    def _wrote(self, grant: int, number: int) -> None:
        written = self._writes[grant] = min(255, self._writes[grant] + number)
        self.seen.most_writes_a_minute = max(self.seen.most_writes_a_minute, written)

    def _note_wait(self, due_at: int) -> None:
        began, ended = self._course.restart
        still = max(0, min(self._now, ended) - max(due_at, began))
        self.seen.waited_s = max(self.seen.waited_s, self._now - due_at)
        self.seen.waited_while_up_s = max(self.seen.waited_while_up_s, self._now - due_at - still)

    # --- the sweep ---

    def _schedule(self, grant: int, due_at: int) -> None:
        self._due_at[grant] = due_at
        if due_at < self._course.ends:
            place = max(due_at, self._now, 0)
            if place not in self._wheel:
                self._wheel[place] = array("i")
            self._wheel[place].append(grant)
            self._due_at[grant] = place

    def _new_sweep(self) -> SweepGrants:
        """Of an instance that has just started: it remembers nothing."""
        nothing: Any = None
        self._clock = _Clock()
        store: Any = self
        deployment: Any = SimpleNamespace(grants_that_end_unused=())
        return SweepGrants(deployment, store, nothing, nothing, nothing, nothing, nothing, self._clock)

    def _sweep_once(self) -> None:
        self._clock.at = NOW + timedelta(seconds=self._now)
        due = list(self._all_due())
        self.seen.due.append(len(due))
        if due:  # some may never be visited
            self._note_wait(due[0][1])
        self._pages = due
        asyncio.run(self._sweep.hand_over(self._fan_out))

    def _all_due(self) -> list[tuple[int, int]]:
        """Number and time of all that are due, the longest waiting first; what was scheduled anew since is forgotten."""
        found: list[tuple[int, int]] = []
        for second in [second for second in sorted(self._wheel) if second <= self._now]:
            live = array("i", dict.fromkeys(grant for grant in self._wheel[second] if self._due_at[grant] == second))
            if live:
                self._wheel[second] = live
                found += [(grant, second) for grant in live]
            else:
                del self._wheel[second]
        return found

    async def due_pages(self, now: datetime, *, size: int, limit: int) -> AsyncIterator[list[Any]]:
        """As `Grants.due_pages`."""
        pages = self._pages[:limit]
        for first in range(0, len(pages), size):
            self._clock.pass_by(PAGE_READ_S)
            yield [
                SimpleNamespace(grant=SimpleNamespace(grant_id=grant, tenant=str(grant % 10), due_at=_instant(second)))
                for grant, second in pages[first : first + size]
            ]

    async def _fan_out(self, names: Sequence[Any]) -> None:
        self._clock.pass_by(PUBLISH_S)
        at = min(self._now + int((self._clock.at - NOW).total_seconds() - self._now) + 1, self._course.ends)
        self._named.setdefault(at, []).extend(names)


class _Clock:
    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> datetime:
        return self.at

    def pass_by(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


def _instant(second: int) -> datetime:
    return NOW + timedelta(seconds=second)
