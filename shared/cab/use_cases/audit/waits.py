"""What the request under way has waited for, in parts, for the latency of its event."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, get_args

Part = Literal["refresh", "provider", "publish"]

# The request's own dictionary, in milliseconds; tasks that it starts add to the same one.
_waited: ContextVar[dict[str, float] | None] = ContextVar("waited", default=None)


@contextmanager
def collected_in(waited: dict[str, float]) -> Iterator[None]:
    before = _waited.set(waited)
    try:
        yield
    finally:
        _waited.reset(before)


@contextmanager
def waiting_for(part: Part) -> Iterator[None]:
    """Waits for one part add up, also those that fail."""
    started = time.perf_counter()
    try:
        yield
    finally:
        _add(part, (time.perf_counter() - started) * 1000)


def so_far() -> dict[str, float]:
    """For the function that asked this one: it waited for the same. Milliseconds."""
    return {part: round(ms, 3) for part, ms in (_waited.get() or {}).items() if part in get_args(Part)}


def told_by_another(waited: Any) -> None:
    """Take over what a function that was asked says it waited for: its own parts of what this one waited for."""
    for part, ms in waited.items() if isinstance(waited, Mapping) else ():
        if part in ("provider", "publish") and isinstance(ms, int | float) and ms >= 0 and math.isfinite(ms):
            _add(part, ms)


def _add(part: str, ms: float) -> None:
    waited = _waited.get()
    if waited is not None:
        waited[part] = waited.get(part, 0.0) + ms
