"""How the core does I/O without doing any: a flow yields what is to be sent or waited for, and is given the answer.

The same flows run under threads and under asyncio (`transport.py`), and in tests under neither.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(slots=True, repr=False)
class Send:
    """One HTTP request. Shown without headers and body, which hold secrets."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    timeout_s: float = 15.0

    def __repr__(self) -> str:
        return f"Send({self.method} {self.url})"


@dataclass(slots=True)
class Pause:
    seconds: float


@dataclass(slots=True, repr=False)
class Reply:
    """The answer; header names in lower case. Shown by its status alone."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def object(self) -> dict[str, Any] | None:
        """The JSON object that the body is, or None."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def __repr__(self) -> str:
        return f"Reply({self.status})"


class CannotConnect(Exception):
    """Nothing was sent; the text says why."""


class NoAnswer(Exception):
    """It may have been received; no answer came."""


Flow = Generator[Send | Pause, Reply, T]
