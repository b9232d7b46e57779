"""One call for many: whoever asks for the same thing while it is under way shares the call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class SingleFlight(Generic[_Key, _Value]):
    """Calls under way, by key. Keeps no result: the next one to ask after the end starts a new call.

    A call goes on although those who wait for it may leave; an error reaches all of them. Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._under_way: dict[_Key, asyncio.Task[_Value]] = {}

    def __contains__(self, key: _Key) -> bool:
        return key in self._under_way

    def get(self, key: _Key) -> asyncio.Task[_Value] | None:
        """The call under way. Do not await it without `asyncio.shield` or `asyncio.wait`: it belongs to the others as well."""
        return self._under_way.get(key)

    def start(self, key: _Key, call: Callable[[], Coroutine[Any, Any, _Value]]) -> asyncio.Task[_Value]:
        """The call that is under way for `key`, or `call`, which then begins at the next turn of the loop. As for `get`."""
        task = self._under_way.get(key)
        if task is None or task.done():  # an ended one is forgotten at the loop's next turn
            task = self._under_way[key] = asyncio.create_task(call())
            task.add_done_callback(lambda done: self._end(key, done))
        return task

    async def do(self, key: _Key, call: Callable[[], Coroutine[Any, Any, _Value]]) -> _Value:
        """The result of `start`. Raises what the call raises."""
        return await asyncio.shield(self.start(key, call))

    def _end(self, key: _Key, done: asyncio.Task[_Value]) -> None:
        if self._under_way.get(key) is done:
            del self._under_way[key]
        if not done.cancelled():
            done.exception()  # seen, also when nobody waits any more
