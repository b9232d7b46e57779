"""Single-document writes that are asked for at the same moment travel in one Commit.

A gRPC call costs a quarter of a millisecond of CPU whatever it carries, and one exchange marks a single use, counts
against a rate limit and spends a task's budget at once. Nothing waits for company: only what is asked for in the same
turn of the event loop goes together.

A Commit is atomic, so one failed precondition refuses all of it. Nothing has been written then, and each write is sent
on its own: every caller gets exactly the answer that it would have got alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from grpc import StatusCode

from cab.adapters.google_cloud.rpc import Refused
from cab.ports import Unavailable

_MAX_WRITES = 100
_BUDGET_S = 3.0
_LEAST_BUDGET_S = 0.5

Statuses = frozenset[StatusCode]
# Commits the write messages within the given seconds; returns their WriteResult messages, or raises Refused for one of
# the statuses, or Unavailable.
Commit = Callable[[Sequence[Any], float, Statuses], Awaitable[Sequence[Any]]]


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """One write message and the statuses that its caller wants to see."""

    message: Any
    document: str
    is_conditional: bool
    expected: Statuses
    result: asyncio.Future[Any]

    def succeed(self, result: Any) -> None:
        if not self.result.done():
            self.result.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.result.done():
            self.result.set_exception(error)


class GroupCommit:
    """Belongs to the event loop of its first write."""

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._asked: list[_Asked] = []
        self._commits: set[asyncio.Task[None]] = set()

    async def write(self, message: Any, document: str, *, is_conditional: bool, expected: Statuses) -> Any:
        """Apply one write to `document`; its WriteResult. A caller that goes away does not stop its write.

        Raises: Refused for a status in `expected`; Unavailable: the outcome is then unknown.
        """
        loop = asyncio.get_running_loop()
        asked = _Asked(message, document, is_conditional, expected, loop.create_future())
        if not self._asked:
            loop.call_soon(self._send)
        self._asked.append(asked)
        return await asked.result

    async def close(self) -> None:
        """Wait for the commits under way."""
        while self._commits:
            await asyncio.wait(self._commits)

    def _send(self) -> None:
        asked, self._asked = self._asked, []
        for group in _groups(asked):
            task = asyncio.create_task(self._commit_together(group))
            self._commits.add(task)
            task.add_done_callback(self._commits.discard)

    async def _commit_together(self, group: list[_Asked]) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + _BUDGET_S
        try:
            results = await self._commit(
                [asked.message for asked in group], _BUDGET_S, frozenset().union(*(asked.expected for asked in group))
            )
        except Refused as refused:
            if len(group) == 1:
                group[0].fail(refused)
                return
            budget_s = max(_LEAST_BUDGET_S, deadline - clock())
            await asyncio.gather(*(self._commit_alone(asked, budget_s) for asked in group))
        except Unavailable as unavailable:
            for asked in group:
                asked.fail(Unavailable(unavailable.what))
        else:
            for asked, result in zip(group, results, strict=True):
                asked.succeed(result)

    async def _commit_alone(self, asked: _Asked, budget_s: float) -> None:
        try:
            (result,) = await self._commit([asked.message], budget_s, asked.expected)
        except (Refused, Unavailable) as error:
            asked.fail(error)
        else:
            asked.succeed(result)


def _groups(asked: list[_Asked]) -> list[list[_Asked]]:
    """Writes that may share a commit. A conditional write has its document for itself, or it would see its neighbour."""
    groups: list[list[_Asked]] = []
    documents: list[dict[str, bool]] = []
    for one in asked:
        for group, conditional in zip(groups, documents, strict=True):
            met = conditional.get(one.document)
            if len(group) < _MAX_WRITES and (met is None or not (met or one.is_conditional)):
                break
        else:
            group, conditional = [], {}
            groups.append(group)
            documents.append(conditional)
        group.append(one)
        conditional[one.document] = one.is_conditional
    return groups
