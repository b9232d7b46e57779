"""Which RPC calls arrived, counted exactly. Tests use it to prove "one publish, no Secret Manager call"."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gcp_emulators.faults import Service

_KEPT_CALLS = 10_000  # the counts are exact however many calls there were; only the details are bounded
PENDING = "PENDING"


@dataclass
class Call:
    """One call. `status` is a gRPC status name, or PENDING until the call has ended. `deletes`: how many of its writes delete; `makes`:
    how many are of documents that were not there when it came.

    `took_s`: from when it came (`came_at`, of time.perf_counter, which is the same in all processes) to its end, what faults made
    of it included; None until then.
    """

    service: str
    method: str
    project: str
    resources: tuple[str, ...]
    came_at: float
    status: str = PENDING
    deletes: int = 0
    makes: int = 0
    took_s: float | None = None

    def finished(self, status: str) -> None:
        self.status = status
        self.took_s = time.perf_counter() - self.came_at

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"resources": list(self.resources)}


@dataclass
class CallLog:
    """Every attempt counts, a client's own retries and calls that an injected fault refused included."""

    _counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    _calls: deque[Call] = field(default_factory=lambda: deque(maxlen=_KEPT_CALLS))

    def started(
        self,
        service: Service,
        method: str,
        resources: Sequence[str],
        deletes: int = 0,
        makes: int = 0,
        *,
        came_at: float | None = None,
    ) -> Call:
        """Count a call that has just arrived, or came at `came_at` and had to be read first."""
        came_at = time.perf_counter() if came_at is None else came_at
        call = Call(service, method, project_of(resources), tuple(resources), came_at, deletes=deletes, makes=makes)
        self._counts[call.project, service, method] += 1
        self._calls.append(call)
        return call

    def counts(self, project: str | None = None) -> dict[str, int]:
        """Calls per `service.Method`, of one project or of all."""
        totals: Counter[str] = Counter()
        for (of_project, service, method), count in self._counts.items():
            if project in {None, of_project}:
                totals[f"{service}.{method}"] += count
        return dict(totals)

    def calls(self, project: str | None = None) -> list[Call]:
        """The latest calls, oldest first, at most 10 000."""
        return [call for call in self._calls if project in {None, call.project}]

    def clear(self, project: str | None = None) -> None:
        """Forget the calls of one project, or of all."""
        for key in [key for key in self._counts if project in {None, key[0]}]:
            del self._counts[key]
        kept = [] if project is None else [call for call in self._calls if call.project != project]
        self._calls = deque(kept, maxlen=_KEPT_CALLS)


def project_of(resources: Sequence[str]) -> str:
    """The project that the first `projects/ID/...` name belongs to; "" when there is none."""
    for name in resources:
        collection, _, rest = name.partition("/")
        if collection == "projects" and rest:
            return rest.partition("/")[0]
    return ""
