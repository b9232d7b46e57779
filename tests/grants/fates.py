"""Processes that die or stand still at a chosen moment: between any two effects on the outside world, however small."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from tests.grants.grant_world import GrantWorld, Worker


@dataclass
class Fate:
    """What becomes of one process. Every call to a store or the provider has two points: before its effect, and after.

    At point number `strikes_at` the process dies (`pause_s` None: nothing of it ever moves again) or is stopped for so long.
    `trace` names every point that was passed.
    """

    strikes_at: int | None = None
    pause_s: float | None = None
    trace: list[str] = field(default_factory=list)
    _stopped_until: float = 0.0
    _is_dead: bool = False

    async def at(self, point: str) -> None:
        loop = asyncio.get_running_loop()
        number = len(self.trace)
        self.trace.append(point)
        if number == self.strikes_at and self.pause_s is None:
            self._is_dead = True
        elif number == self.strikes_at and self.pause_s is not None:
            self._stopped_until = loop.time() + self.pause_s
        if self._is_dead:
            await asyncio.Event().wait()
        if loop.time() < self._stopped_until:
            await asyncio.sleep(self._stopped_until - loop.time())

    @property
    def struck(self) -> str | None:
        """The point at which it happened, or None when the process never came so far."""
        if self.strikes_at is None or self.strikes_at >= len(self.trace):
            return None
        return self.trace[self.strikes_at]


class _Fated:
    """A port of a process with a fate."""

    def __init__(self, port: Any, fate: Fate, name: str) -> None:
        self._port = port
        self._fate = fate
        self._name = name

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._port, method)

        async def fated(*args: Any, **kwargs: Any) -> Any:
            point = f"{self._name}.{method}"
            await self._fate.at(f"before {point}")
            try:
                return await call(*args, **kwargs)
            finally:
                await self._fate.at(f"after {point}")

        return fated


def fated_worker(world: GrantWorld, fate: Fate) -> Worker:
    return world.worker(
        documents=_Fated(world.documents, fate, "documents"),
        vault=_Fated(world.vault, fate, "vault"),
        http=_Fated(world.http, fate, "provider"),
        log=_Fated(world.log, fate, "audit"),
    )
