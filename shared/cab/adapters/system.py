"""The real clock and the real source of randomness."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Final

import uuid_utils

_now: Final = datetime.now  # looked up once: each request asks ten times


class SystemClock:
    def now(self) -> datetime:
        return _now(UTC)


class SystemRandomness:
    def event_id(self) -> str:
        return str(uuid_utils.uuid7())

    def token(self, n_bytes: int = 32) -> str:
        return secrets.token_urlsafe(n_bytes)
