"""How often an exchange writes a counter, and how often it asks refresh_grants, when agents' requests go to any of many instances.

The counters are the product's own (`RateLimits`, each instance with leases of its own, over one store); what an instance
remembers of tokens is an LRU of the product's size and rule. An agent reads 20 times in a minute for its user; requests go to
instances at random, as the platform sends them.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from benchmarks.simulation.rules import NOW
from cab.domain.configured.actions import Action
from cab.domain.configured.deployment import RateLimit
from cab.domain.lru import remember
from cab.ports import Tally
from cab.stores.limits import RateLimits
from cab.use_cases.exchange.issue import CACHE_SIZE

READS: Final = 20  # in a minute, of each agent's loop
LIMIT: Final = RateLimit(effects=("read",), limit=120, window_s=60)
INSTANCES: Final = (1, 4, 20, 100)


@dataclass(frozen=True)
class Remembered:
    """Of exchanges by `instances`, each exchange as a share or a number of what it does."""

    instances: int
    asks_refresh_grants: float
    counter_writes: float
    most_writes_of_a_counter: int  # in its minute

    @property
    def is_hot(self) -> bool:
        """Whether one counter is written more than once a second."""
        return self.most_writes_of_a_counter > 60


class _Counters:
    """`Documents.tally`, and how often each document was written."""

    def __init__(self) -> None:
        self.values: Counter[str] = Counter()
        self.writes: Counter[str] = Counter()

    async def tally(self, tally: Tally) -> dict[str, int]:
        self.values[tally.path] += tally.add["n"]
        self.writes[tally.path] += 1
        return {"n": self.values[tally.path]}


async def _measure(instances: int, *, agents: int, busy: int, seed: int) -> Remembered:
    chance = random.Random(seed)  # noqa: S311 - where a request goes, not a secret
    counters: Any = _Counters()
    limits = [RateLimits(counters, (LIMIT,)) for _ in range(instances)]
    tokens: list[OrderedDict[int, str]] = [OrderedDict() for _ in range(instances)]
    action = Action.model_validate(
        {"id": "crm.deal.list", "title": "List", "effect": "read", "scopes": ["deal.read"], "identifier": "deal/*"}
    )
    requests = sorted(
        (chance.random() * 60, agent) for agent in range(agents) for _ in range(READS if agent >= busy else 600)
    )
    asked = 0
    for second, agent in requests:
        instance = chance.randrange(instances)
        now = NOW + timedelta(seconds=second)
        await limits[instance].count(tenant="acme", subject=str(agent), agent="a", action=action, now=now)
        if agent not in tokens[instance]:
            asked += 1
        remember(tokens[instance], agent, "a token", most=CACHE_SIZE)
    return Remembered(
        instances, asked / len(requests), sum(counters.writes.values()) / len(requests), max(counters.writes.values())
    )


def measure(instances: int, *, agents: int | None = None, busy: int = 3, seed: int = 1) -> Remembered:
    """`agents` loops that run at the same time (250 for each instance, about what it can serve, and 5,000 at most), the first `busy`
    of them ten times a second, far beyond their limit.
    """
    return asyncio.run(_measure(instances, agents=agents or min(5_000, 250 * instances), busy=busy, seed=seed))
