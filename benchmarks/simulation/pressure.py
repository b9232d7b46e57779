"""What instances do with more than they can carry: refuse, and be as before soon after. In steps of 10 ms.

By the product's own judgement, `cab.transport.admission`: how many are in a process, when it is behind, how long one waits to begin
at most, and when who was refused comes back. A refusal costs a tenth of a request.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Final

from cab.transport.admission import BEGUN_PER_TURN, MOST_IN_PROCESS, RETRY_AFTER_S, TOO_OLD_S, is_behind

STEP_S: Final = 0.01
REFUSAL: Final = 0.1  # of the work of a request
TRIES: Final = 5  # then a caller gives up
WAITS_S: Final = 0.05  # of a request for others, once it was begun
SERVED_P99_S: Final = 2.0
RECOVERED_S: Final = 20.0  # with all who were refused coming back up to `TRIES` times


@dataclass
class Pressed:
    """Seconds."""

    served: list[float] = field(default_factory=list)
    refused: int = 0
    given_up: int = 0
    most_waiting: int = 0
    recovered_s: float = 0.0  # from the end of the overload to the last refusal

    @property
    def p99(self) -> float:
        return quantiles(self.served, n=100)[98] if len(self.served) > 1 else 0.0

    @property
    def faults(self) -> list[str]:
        return [
            words
            for found, words in (
                (self.p99 > SERVED_P99_S, f"p99 of what is served is {self.p99:.1f} s"),
                (self.recovered_s > RECOVERED_S, f"it refused for {self.recovered_s:.0f} s after the overload"),
            )
            if found
        ]


def press(
    *,
    per_s: float = 5_000,
    over: float = 1.5,
    overload_s: tuple[float, float] = (5, 35),
    ends_s: float = 90,
    instances: int = 20,
    load: float = 0.6,
    bounded: bool = True,
    seed: int = 1,
) -> Pressed:
    """`per_s` is what comes before and after, `load` the share of the instances' time that it takes; in between comes `over`
    times what they can carry. Without `bounded` nobody is refused, to see that it is missed.
    """
    chance = random.Random(seed)  # noqa: S311 - where a request goes, not a secret
    capacity = per_s / load / instances * STEP_S  # requests that an instance does in a step
    turn_s = BEGUN_PER_TURN / capacity * STEP_S  # of its loop, while there is a queue
    queues: list[deque[tuple[float, int]]] = [deque() for _ in range(instances)]
    under_way: list[deque[float]] = [deque() for _ in range(instances)]
    credit = [0.0] * instances
    coming: dict[int, list[int]] = defaultdict(list)
    seen = Pressed()
    refusals = 0

    def refuse(step: int, tries: int, instance: int) -> None:
        nonlocal refusals
        credit[instance] -= REFUSAL
        seen.refused += 1
        refusals += 1
        if step * STEP_S > overload_s[1]:
            seen.recovered_s = step * STEP_S - overload_s[1]
        if tries + 1 >= TRIES:
            seen.given_up += 1
        else:
            coming[step + int(RETRY_AFTER_S[refusals % len(RETRY_AFTER_S)] / STEP_S)].append(tries + 1)

    owed = 0.0
    for step in range(int(ends_s / STEP_S)):
        now = step * STEP_S
        rate = per_s / load * over if overload_s[0] <= now < overload_s[1] else per_s
        owed += rate * STEP_S
        arrivals = [0] * int(owed) + coming.pop(step, [])
        owed -= int(owed)
        for tries in arrivals:
            instance = chance.randrange(instances)
            queue = queues[instance]
            in_process = len(queue) + len(under_way[instance])
            behind = bool(queue) and is_behind(len(queue), oldest_s=now - queue[0][0], turn_s=turn_s)
            if bounded and (in_process >= MOST_IN_PROCESS or behind):
                refuse(step, tries, instance)
            else:
                queue.append((now, tries))
        for instance, queue in enumerate(queues):
            while under_way[instance] and under_way[instance][0] <= now:
                under_way[instance].popleft()
            credit[instance] = min(credit[instance] + capacity, 2 * capacity)
            seen.most_waiting = max(seen.most_waiting, len(queue))
            while queue and credit[instance] >= 1:
                came, tries = queue.popleft()
                if bounded and now - came > TOO_OLD_S:
                    refuse(step, tries, instance)
                    continue
                credit[instance] -= 1
                under_way[instance].append(now + WAITS_S)
                seen.served.append(now - came + WAITS_S)
    return seen
