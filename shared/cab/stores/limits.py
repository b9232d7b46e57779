"""Counters that hold across instances: rate limits and the uses of a task. One blind write each, no read before it."""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import Final

from cab.domain.configured.actions import Action, Effect
from cab.domain.configured.deployment import RateLimit, limit_of
from cab.domain.identifiers import digest
from cab.domain.lru import remember
from cab.domain.tasks import MAX_USES, Task
from cab.ports import Documents, Tally, Unavailable
from cab.single_flight import SingleFlight
from cab.values import mutable

TASK_MEMORY = timedelta(hours=24)  # how long after its last assertion's end a task's uses are remembered
LARGEST_SHARE: Final = 8  # an instance takes ahead at most one part in so many of what is left of a limit
AHEAD_S: Final = 60.0  # and for so long at most
LEASES: Final = 10_000  # kept in memory; one that is pushed out takes what it had left with it


@mutable
class _Lease:
    """What this instance may let through in one window without asking the store, and how often it was asked for it."""

    path: str
    window: int
    ends_at: datetime
    since: datetime  # when it was asked first, in this window or the one before
    asked: int = 0
    asked_before: int = 0  # in the window before
    waiting: int = 0
    left: int = 0
    counted: int = 0  # all instances together, as of the last answer
    is_over: bool = False

    def size(self, limit: RateLimit, now: datetime) -> int:
        """How much to take now: what those who wait need, and beyond that what will be asked for if it goes on like this, and one
        more, since nobody asks as regularly as a clock."""
        seconds = max(1.0, (now - self.since).total_seconds())
        rest = min(AHEAD_S, (self.ends_at - now).total_seconds())
        expected = int((self.asked_before + self.asked - self.waiting) / seconds * rest)
        ahead = expected + 1 if expected else 0
        return max(self.waiting, min(self.waiting + ahead, (limit.limit - self.counted) // LARGEST_SHARE))


@mutable
class Counted:
    """One request that was counted. `wait_s` is None when it is within the limit, else the seconds until the window ends."""

    lease: _Lease
    wait_s: int | None
    is_taken_back: bool = False

    @property
    def path(self) -> str:
        return self.lease.path

    @property
    def ends_at(self) -> datetime:
        return self.lease.ends_at


class RateLimits:
    """Fixed windows per user, agent and limit. The document id holds the window, so a new one starts at zero.

    An instance that is asked again and again takes some of the allowance ahead, with one write. All writes add to one number,
    and only what lies below the limit is let through: it is never exceeded. What an instance has taken and does not use is
    lost to the others until the window ends; so it takes ahead an eighth of what is left at most, and a first request nothing.
    """

    def __init__(self, guards: Documents, limits: tuple[RateLimit, ...]) -> None:
        self._guards = guards
        self._limits = limits
        self._limit_of: dict[tuple[str, Effect], tuple[int, RateLimit] | None] = {}  # by what names an action in them
        self._leases: OrderedDict[tuple[str, str, str, int], _Lease] = OrderedDict()
        self._taking: SingleFlight[str, None] = SingleFlight()

    def limits(self, action: Action) -> bool:
        """Whether requests for this action are counted at all."""
        return self._find_limit(action) is not None

    async def count(self, *, tenant: str, subject: str, agent: str, action: Action, now: datetime) -> Counted | None:
        """Count one request; None when nothing limits the action. Raises: Unavailable."""
        found = self._find_limit(action)
        if found is None:
            return None
        position, limit = found
        lease = self._lease((tenant, subject, agent, position), limit, now)
        lease.asked += 1
        lease.waiting += 1
        try:
            while lease.left <= 0 and not lease.is_over:
                await self._taking.do(lease.path, lambda: self._take(lease, limit, now))
        finally:
            lease.waiting -= 1
        if lease.left <= 0:
            return Counted(lease, max(1, int((lease.ends_at - now).total_seconds()) + 1))
        lease.left -= 1
        return Counted(lease, None)

    def _find_limit(self, action: Action) -> tuple[int, RateLimit] | None:
        named = (action.id, action.effect)
        if named not in self._limit_of:
            self._limit_of[named] = limit_of(self._limits, action)
        return self._limit_of[named]

    async def take_back(self, counted: Counted) -> None:
        """Undo one count, once: the request came to nothing, and not through its caller; or it was none of its own."""
        if counted.wait_s is None and not counted.is_taken_back:
            counted.is_taken_back = True
            counted.lease.left += 1

    def _lease(self, key: tuple[str, str, str, int], limit: RateLimit, now: datetime) -> _Lease:
        window = int(now.timestamp()) // limit.window_s
        known = self._leases.get(key)
        if known is None or known.window < window:  # one that began before the window did counts in the newer one
            names = ",".join(sorted(limit.effects or limit.actions))
            path = f"rate_limits/{digest(*key[:3], names, str(window))}"
            lease = _Lease(path, window, datetime.fromtimestamp((window + 1) * limit.window_s, UTC), since=now)
            if known is not None and known.window == window - 1:
                lease.since, lease.asked_before = known.since, known.asked
            known = lease
        remember(self._leases, key, known, most=LEASES)
        return known

    async def _take(self, lease: _Lease, limit: RateLimit, now: datetime) -> None:
        size = lease.size(limit, now)
        try:
            lease.counted = (await self._guards.tally(Tally(lease.path, add={"n": size}, expires_at=lease.ends_at)))[
                "n"
            ]
        except Unavailable:  # what it wrote may be lost: the next time no more than is needed
            lease.since, lease.asked_before, lease.asked = now, 0, lease.waiting
            raise
        lease.left += max(0, min(size, limit.limit - (lease.counted - size)))
        lease.is_over = lease.counted >= limit.limit


class TaskBudgets:
    """How often a task was used. A later assertion for the same task may only lower its limit."""

    def __init__(self, guards: Documents) -> None:
        self._guards = guards

    async def is_limited(self, task: Task, *, tenant: str, front_end: str, subject: str) -> bool:
        """Whether the task's uses are counted: it has a limit, or an earlier assertion gave it one, which it keeps."""
        if task.max_uses is not None:
            return True
        return await self._guards.read(_path(task, tenant, front_end, subject)) is not None

    async def spend(self, task: Task, *, tenant: str, front_end: str, subject: str, not_after: datetime) -> bool:
        """Spend one use of a limited task. False when none is left: of N concurrent calls as many succeed as uses are left."""
        counted = await self._add(1, task, _path(task, tenant, front_end, subject), not_after)
        return counted["uses"] <= counted["limit"]

    async def give_back(self, task: Task, *, tenant: str, front_end: str, subject: str, not_after: datetime) -> None:
        """Undo one `spend`, also one that found no use left: what counts is how often the task came to something."""
        await self._add(-1, task, _path(task, tenant, front_end, subject), not_after)

    async def _add(self, number: int, task: Task, path: str, not_after: datetime) -> dict[str, int]:
        limit = MAX_USES if task.max_uses is None else task.max_uses
        add = Tally(path, add={"uses": number}, at_most={"limit": limit}, expires_at=not_after + TASK_MEMORY)
        return await self._guards.tally(add)


def _path(task: Task, tenant: str, front_end: str, subject: str) -> str:
    return f"task_budgets/{digest(tenant, front_end, subject, task.task_id)}"
