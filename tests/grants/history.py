"""What must hold of every history of a grant, whatever was done to it: the checker that runs after every test here."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cab_dev.fakes.documents import InMemoryDocuments


@dataclass
class History:
    """Every state a document had, every token that was served, every revocation that was answered."""

    states: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    served: list[tuple[datetime, str, str]] = field(default_factory=list)  # when, grant, how it came about
    revoked: dict[str, datetime] = field(default_factory=dict)
    tampered: set[str] = field(default_factory=set)  # grants that a test changed from outside

    def check(self) -> None:
        """Raises: AssertionError."""
        for path, states in self.states.items():
            name = path.partition("/")[2]
            if name not in self.tampered:
                _check_states(states)
        for at, name, _ in self.served:
            assert name not in self.revoked or at <= self.revoked[name], "a token was served after the revocation"


def _check_states(states: list[dict[str, Any]]) -> None:
    holders: dict[int, str] = {}
    for before, after in itertools.pairwise(states):
        assert after["seq"] - before["seq"] in (0, 1), "seq grows by one"
        if after["storage"] != before["storage"]:
            same = ("seq", "fence", "revoke_epoch", "status", "attempt_id", "access_expires_at")
            assert [after[name] for name in same] == [before[name] for name in same], "a move is nothing else"
        else:
            changed = after["secret_ver"] != before["secret_ver"]
            assert (after["seq"] > before["seq"]) == changed, "a commit is a commit"
        assert after["fence"] - before["fence"] in (0, 1), "the fence never goes back"
        assert after["revoke_epoch"] - before["revoke_epoch"] in (0, 1)
        assert before["status"] != "revoked" or after["seq"] == before["seq"] or after["fence"] > before["fence"]
        assert after["destroy_below"] <= after["secret_ver"] or after["status"] == "revoked"
        holder = after["attempt_id"]
        if holder is not None:
            assert holders.setdefault(after["fence"], holder) == holder, "two holders of one fence"


class RecordingDocuments(InMemoryDocuments):
    """`InMemoryDocuments` that writes down every state of every grant."""

    def __init__(self, history: History, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._history = history

    def _apply(self, path: str, fields: Any, version: int) -> object:
        if path.startswith("grants/") and fields is not None:
            self._history.states[path].append(dict(fields))
        return super()._apply(path, fields, version)
