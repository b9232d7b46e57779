"""Which RPC calls arrived, counted exactly. Tests use it to prove "one publish, no Secret Manager call"."""

from __future__ import annotations

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
    """One call. `status` is a gRPC status name, or PENDING until the call has ended. `deletes`: how many of its writes delete."""

    service: str
    method: str
    project: str
    resources: tuple[str, ...]
    status: str = PENDING
    deletes: int = 0

    def finished(self, status: str) -> None:
        self.status = status

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"resources": list(self.resources)}


@dataclass
class CallLog:
    """Every attempt counts, a client's own retries and calls that an injected fault refused included."""

    _counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    _calls: deque[Call] = field(default_factory=lambda: deque(maxlen=_KEPT_CALLS))

    def started(self, service: Service, method: str, resources: Sequence[str], deletes: int = 0) -> Call:
        """Count a call that has just arrived."""
        call = Call(service, method, project_of(resources), tuple(resources), deletes=deletes)
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
