"""Faults that tests switch on at run time, in the embedded emulators only.

A rule says what goes wrong (`CallFault`, `PushFault`, `StaleFault`), where (`service`, `method`, a substring of a
resource name) and how often (`skip`, `times`, `probability`). Rules are tried in the order they were added; the
first that fires decides. With a given `seed`, the same sequence of calls meets the same faults.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Service = Literal["firestore", "pubsub", "secret_manager"]
Status = Literal[
    "UNAVAILABLE",
    "ABORTED",
    "DEADLINE_EXCEEDED",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "INTERNAL",
    "UNKNOWN",
]
Staleness = Literal["latest", "list", "disable", "destroy"]


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    resource: str = Field(default="", description="Substring of a resource name in the request; empty matches all.")
    skip: int = Field(default=0, ge=0, description="Let this many matching calls pass before the rule counts.")
    times: int | None = Field(default=None, ge=1, description="Fire at most this often; None is without end.")
    probability: float = Field(default=1.0, gt=0.0, le=1.0)
    seed: int = 0


class CallFault(_Rule):
    """A gRPC call that is slow, fails, or both.

    `when="before"`: the work is not done. `when="after"`: the work is done and only the answer suffers, which is how
    a lost answer looks to the client. A latency longer than the client's deadline makes the call hang.
    """

    kind: Literal["call"] = "call"
    service: Service
    method: str = Field(default="*", description='As in the API, such as "Commit"; "*" is every method.')
    latency_s: float = Field(default=0.0, ge=0.0)
    status: Status | None = None
    details: str = "Injected fault."
    when: Literal["before", "after"] = "before"


class PushFault(_Rule):
    """A Pub/Sub push that comes late, several times at once, or both. `resource` matches the subscription name."""

    kind: Literal["push"] = "push"
    duplicates: int = Field(default=0, ge=0, description="Extra deliveries beside the first, at the same time.")
    delay_s: float = Field(default=0.0, ge=0.0, description="Seconds before the delivery starts.")


class StaleFault(_Rule):
    """Secret Manager answers from the past, as its documentation allows for all but access by number.

    For `for_s` seconds after a change: `latest` still resolves to the previous version, lists lack the new version
    and show the old state, a disabled or destroyed version is still served. Adding a version and then reading it by
    its number stays strongly consistent. `skip`, `times` and `probability` do not apply.
    """

    kind: Literal["stale"] = "stale"
    for_s: float = Field(gt=0.0)
    what: frozenset[Staleness] = frozenset({"latest", "list", "disable", "destroy"})


Fault = Annotated[CallFault | PushFault | StaleFault, Field(discriminator="kind")]
AnyRule = TypeVar("AnyRule", CallFault, PushFault, StaleFault)


@dataclass
class ActiveFault:
    """A rule in force and what is left of it."""

    id: int
    rule: CallFault | PushFault | StaleFault
    matched: int = 0
    fired: int = 0
    dice: random.Random = field(default_factory=random.Random)

    def fires(self) -> bool:
        """Count one matching call; tell whether the rule strikes it."""
        self.matched += 1
        if self.matched <= self.rule.skip or self.is_spent():
            return False
        if self.rule.probability < 1.0 and self.dice.random() >= self.rule.probability:
            return False
        self.fired += 1
        return True

    def is_spent(self) -> bool:
        return self.rule.times is not None and self.fired >= self.rule.times


class FaultBook:
    """All rules in force in this process. Not thread-safe: the emulators live in one event loop."""

    def __init__(self) -> None:
        self._active: list[ActiveFault] = []
        self._ids = itertools.count(1)

    def add(self, rule: CallFault | PushFault | StaleFault) -> int:
        """Put a rule in force. Returns the id that `remove` takes."""
        # A seeded generator of its own, so that a repeated run repeats its faults.
        active = ActiveFault(next(self._ids), rule, dice=random.Random(rule.seed))  # noqa: S311
        self._active.append(active)
        return active.id

    def remove(self, fault_id: int) -> bool:
        """Lift one rule. False when there is no such rule."""
        before = len(self._active)
        self._active = [active for active in self._active if active.id != fault_id]
        return len(self._active) < before

    def clear(self) -> None:
        self._active.clear()

    def active(self) -> list[ActiveFault]:
        """Every rule that was added and not removed, spent ones included."""
        return list(self._active)

    def for_call(self, service: Service, method: str, resources: Sequence[str]) -> CallFault | None:
        """The fault that strikes this call, if any. Counts the call against every rule tried."""
        for active, rule in self._rules(CallFault, resources):
            if rule.service == service and rule.method in {"*", method} and active.fires():
                return rule
        return None

    def denies(self, service: Service, method: str, resource: str) -> bool:
        """Whether a rule in force refuses this method with PERMISSION_DENIED. Counts nothing."""
        return any(
            rule.service == service
            and rule.method in {"*", method}
            and rule.status == "PERMISSION_DENIED"
            and not active.is_spent()
            for active, rule in self._rules(CallFault, (resource,))
        )

    def for_push(self, subscription: str) -> PushFault | None:
        """The fault that strikes this delivery, if any."""
        return next((rule for active, rule in self._rules(PushFault, (subscription,)) if active.fires()), None)

    def staleness(self, what: Staleness, resource: str) -> float:
        """Seconds by which Secret Manager's answer about `resource` lags; 0 when it is up to date."""
        lags = (rule.for_s for _, rule in self._rules(StaleFault, (resource,)) if what in rule.what)
        return max(lags, default=0.0)

    def _rules(self, rule_class: type[AnyRule], resources: Iterable[str]) -> Iterator[tuple[ActiveFault, AnyRule]]:
        names = tuple(resources)
        for active in self._active:
            rule = active.rule
            if isinstance(rule, rule_class) and (not rule.resource or any(rule.resource in name for name in names)):
                yield active, rule
