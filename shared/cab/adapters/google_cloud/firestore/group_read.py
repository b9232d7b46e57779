"""Reads of single documents that meet travel in one BatchGetDocuments (`batches`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from cab.adapters.google_cloud.firestore.batches import Batches, Waiter
from cab.ports import Unavailable

_MAX_READS = 100
_BUDGET_S = 2.0

# Reads documents by their full names within the given seconds; returns those that exist by name, or raises Unavailable. Where versions
# are given, of all of them, nobody needs the fields of a document that still has its own.
Read = Callable[[Sequence[str], float, Mapping[str, object]], Awaitable[Mapping[str, Any]]]
_Asked = tuple[str, object | None]


class GroupRead:
    """Belongs to the event loop of its first read."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._batches: Batches[_Asked] = Batches(_take, self._read_together, budget_s=_BUDGET_S)

    async def read(self, name: str, known: object | None = None) -> Any:
        """The document's JSON as it is after this call began, or None; perhaps without its fields if its version is the `known` one.

        Raises: Unavailable.
        """
        return await self._batches.ask((name, known))

    async def close(self) -> None:
        """Wait for the reads under way."""
        await self._batches.close()

    async def _read_together(self, group: list[Waiter[_Asked]], budget_s: float) -> None:
        known = dict([asked.what for asked in group])
        names = list(known)
        if any(version is None or version != known[name] for name, version in [asked.what for asked in group]):
            known = {}
        try:
            found = await self._read(names, budget_s, known)
        except Unavailable as unavailable:
            for asked in group:
                asked.fail(Unavailable(unavailable.what))
        else:
            for asked in group:
                asked.succeed(found.get(asked.what[0]))


def _take(waiting: list[Waiter[_Asked]]) -> list[Waiter[_Asked]]:
    group = waiting[:_MAX_READS]
    del waiting[:_MAX_READS]
    return group
