"""Reads of single documents that meet travel in one BatchGetDocuments (`batches`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from cab.adapters.google_cloud.firestore.batches import Batches, Waiter
from cab.ports import Unavailable

_MAX_READS = 100
_BUDGET_S = 2.0

# Reads documents by their full names within the given seconds; returns those that exist by name, or raises Unavailable.
Read = Callable[[Sequence[str], float], Awaitable[Mapping[str, Any]]]


class GroupRead:
    """Belongs to the event loop of its first read."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._batches: Batches[str] = Batches(_take, self._read_together, budget_s=_BUDGET_S)

    async def read(self, name: str) -> Any:
        """The document's JSON as it is after this call began, or None. Raises: Unavailable."""
        return await self._batches.ask(name)

    async def close(self) -> None:
        """Wait for the reads under way."""
        await self._batches.close()

    async def _read_together(self, group: list[Waiter[str]], budget_s: float) -> None:
        try:
            found = await self._read(list(dict.fromkeys(asked.what for asked in group)), budget_s)
        except Unavailable as unavailable:
            for asked in group:
                asked.fail(Unavailable(unavailable.what))
        else:
            for asked in group:
                asked.succeed(found.get(asked.what))


def _take(waiting: list[Waiter[str]]) -> list[Waiter[str]]:
    group = waiting[:_MAX_READS]
    del waiting[:_MAX_READS]
    return group
