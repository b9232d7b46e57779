"""Single-document writes that meet travel in one Commit (`batches`).

A Commit is atomic, so one failed precondition refuses all of it. Nothing has been written then, and each write is sent
on its own: every caller gets exactly the answer that it would have got alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cab.adapters.google_cloud.firestore.batches import Batches, Waiter
from cab.adapters.google_cloud.rest import Refused, Status
from cab.ports import Unavailable
from cab.values import immutable

_MAX_WRITES = 100
_BUDGET_S = 3.0

Statuses = frozenset[Status]


@immutable
class Written:
    """What a Commit says of one write: the document's version now, if there still is one, and what its tallies are."""

    version: str | None
    tallied: tuple[int, ...] = ()


# Commits the writes, as JSON, within the given seconds; raises Refused for one of the statuses, or Unavailable.
Commit = Callable[[Sequence[Any], float, Statuses], Awaitable[Sequence[Written]]]


@dataclass(slots=True, eq=False)
class _Write:
    """One write, as JSON, and the statuses that its caller wants to see."""

    message: Any
    document: str
    is_conditional: bool
    expected: Statuses


class GroupCommit:
    """Belongs to the event loop of its first write."""

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._batches: Batches[_Write] = Batches(_take, self._commit_together, budget_s=_BUDGET_S)

    async def write(self, message: Any, document: str, *, is_conditional: bool, expected: Statuses) -> Written:
        """Apply one write to `document`. A caller that goes away does not stop its write.

        Raises: Refused for a status in `expected`; Unavailable: the outcome is then unknown.
        """
        written: Written = await self._batches.ask(_Write(message, document, is_conditional, expected))
        return written

    async def close(self) -> None:
        """Wait for the writes under way."""
        await self._batches.close()

    async def _commit_together(self, group: list[Waiter[_Write]], budget_s: float) -> None:
        try:
            results = await self._commit(
                [asked.what.message for asked in group],
                budget_s,
                frozenset().union(*(asked.what.expected for asked in group)),
            )
        except Refused as refused:
            if len(group) == 1:
                group[0].fail(refused)
                return
            await asyncio.gather(*(self._commit_alone(asked) for asked in group))
        except Unavailable as unavailable:
            for asked in group:
                asked.fail(Unavailable(unavailable.what))
        else:
            for asked, result in zip(group, results, strict=True):
                asked.succeed(result)

    async def _commit_alone(self, asked: Waiter[_Write]) -> None:
        try:
            (result,) = await self._commit([asked.what.message], self._batches.remaining_s(asked), asked.what.expected)
        except (Refused, Unavailable) as error:
            asked.fail(error)
        else:
            asked.succeed(result)


def _take(waiting: list[Waiter[_Write]]) -> list[Waiter[_Write]]:
    """Writes that may share a commit. A conditional write has its document for itself, or it would see its neighbour."""
    group: list[Waiter[_Write]] = []
    rest: list[Waiter[_Write]] = []
    conditional: dict[str, bool] = {}
    for asked in waiting:
        write = asked.what
        met = conditional.get(write.document)
        if len(group) < _MAX_WRITES and (met is None or not (met or write.is_conditional)):
            group.append(asked)
            conditional[write.document] = write.is_conditional
        else:
            rest.append(asked)
    waiting[:] = rest
    return group
