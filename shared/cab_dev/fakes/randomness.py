"""Text that looks random and is the same in every run."""

from __future__ import annotations

import hashlib
import itertools
import uuid

from cab.domain.identifiers import base64url
from cab_dev.fakes.warning import warn_of_fake


class PredictableRandomness:
    """Every value is derived from `seed` and a counter: distinct, repeatable, and guessable by anyone."""

    def __init__(self, seed: str = "seed") -> None:
        warn_of_fake(self)
        self._seed = seed
        self._event_numbers = itertools.count(1)
        self._token_numbers = itertools.count(1)

    def event_id(self) -> str:
        """A well-formed UUIDv7; later ones sort after earlier ones."""
        number = next(self._event_numbers)
        tail = int.from_bytes(self._bytes("event", number, 8)) & (2**62 - 1)
        return str(uuid.UUID(int=number << 80 | 7 << 76 | 2 << 62 | tail))

    def token(self, n_bytes: int = 32) -> str:
        return base64url(self._bytes("token", next(self._token_numbers), n_bytes))

    def _bytes(self, kind: str, number: int, n_bytes: int) -> bytes:
        return hashlib.shake_256(f"{self._seed}/{kind}/{number}".encode()).digest(n_bytes)
