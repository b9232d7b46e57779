"""Counters that hold across instances: rate limits and the uses of a task. One blind write each, no read before it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cab.domain.configured.actions import Action
from cab.domain.configured.deployment import RateLimit, limit_of
from cab.domain.identifiers import digest
from cab.domain.tasks import MAX_USES, Task
from cab.ports import Documents, Tally

TASK_MEMORY = timedelta(hours=24)  # how long after its last assertion's end a task's uses are remembered


@dataclass(frozen=True, slots=True)
class Counted:
    """One request that was counted. `wait_s` is None when it is within the limit, else the seconds until the window ends."""

    path: str
    ends_at: datetime
    wait_s: int | None


class RateLimits:
    """Fixed windows per user, agent and limit. The document id holds the window, so a new one starts at zero."""

    def __init__(self, guards: Documents, limits: tuple[RateLimit, ...]) -> None:
        self._guards = guards
        self._limits = limits

    def limits(self, action: Action) -> bool:
        """Whether requests for this action are counted at all."""
        return limit_of(self._limits, action) is not None

    async def count(self, *, tenant: str, subject: str, agent: str, action: Action, now: datetime) -> Counted | None:
        """Count one request; None when nothing limits the action."""
        found = limit_of(self._limits, action)
        if found is None:
            return None
        _, limit = found
        window = int(now.timestamp()) // limit.window_s
        ends_at = datetime.fromtimestamp((window + 1) * limit.window_s, UTC)
        names = ",".join(sorted(limit.effects or limit.actions))
        path = f"rate_limits/{digest(tenant, subject, agent, names, str(window))}"
        counted = await self._guards.tally(Tally(path, add={"n": 1}, expires_at=ends_at))
        within = counted["n"] <= limit.limit
        return Counted(path, ends_at, None if within else max(1, int((ends_at - now).total_seconds()) + 1))

    async def take_back(self, counted: Counted) -> None:
        """Undo one count: the request came to nothing, and not through its caller."""
        await self._guards.tally(Tally(counted.path, add={"n": -1}, expires_at=counted.ends_at))


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
        counted = await self._guards.tally(
            Tally(
                _path(task, tenant, front_end, subject),
                add={"uses": 1},
                at_most={"limit": MAX_USES if task.max_uses is None else task.max_uses},
                expires_at=not_after + TASK_MEMORY,
            )
        )
        return counted["uses"] <= counted["limit"]


def _path(task: Task, tenant: str, front_end: str, subject: str) -> str:
    return f"task_budgets/{digest(tenant, front_end, subject, task.task_id)}"
