"""The real clock and the real source of randomness."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

import uuid_utils


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class SystemRandomness:
    def event_id(self) -> str:
        return str(uuid_utils.uuid7())

    def token(self, n_bytes: int = 32) -> str:
        return secrets.token_urlsafe(n_bytes)
