"""Which ids of calls were used, and for what: a repetition can be told from a second call, across all instances."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from cab.domain.identifiers import digest
from cab.ports import AlreadyExists, Create, Delete, Documents
from cab.values import immutable

KEPT_FOR: Final = timedelta(hours=24)


@immutable
class CallKey:
    """A call id is its agent's and user's own: nobody can use up or guess another's."""

    tenant: str
    subject: str
    agent: str
    call_id: str

    @property
    def path(self) -> str:
        return f"calls/{digest(self.tenant, self.subject, self.agent, self.call_id)}"

    @property
    def idempotency_key(self) -> str:
        """What a platform gets as its key: the same for every repetition, and for nobody else's call."""
        return digest("cab-idempotency", self.tenant, self.subject, self.agent, self.call_id)


class CallClaim(StrEnum):
    FIRST = "first"
    REPEATED = "repeated"  # of the same intent
    REUSED = "reused"  # for another intent


class CallIds:
    def __init__(self, guards: Documents) -> None:
        self._guards = guards

    async def claim(self, key: CallKey, intent_hash: str, *, now: datetime) -> CallClaim:
        """Record the first use, atomically. Raises: Unavailable; then nothing may be sent."""
        try:
            await self._guards.write(Create(key.path, {"intent_hash": intent_hash}, expires_at=now + KEPT_FOR))
        except AlreadyExists:
            found = await self._guards.read(key.path)
            # Gone again: whoever had claimed it came to nothing. To say so is safe, and rare enough.
            same = found is None or found.fields["intent_hash"] == intent_hash
            return CallClaim.REPEATED if same else CallClaim.REUSED
        return CallClaim.FIRST

    async def release(self, key: CallKey) -> None:
        """Take a first use back: nothing was sent, and nobody else was let through under it."""
        await self._guards.write(Delete(key.path))


class ReportedOutcomes:
    """What agents said came of their tokens, as digests: the first word counts, also of two that meet."""

    def __init__(self, guards: Documents) -> None:
        self._guards = guards

    async def first(self, key: str, said: str, *, until: datetime) -> str:
        """What was said first: this, unless something is on record. Kept `until` then. Raises: Unavailable."""
        try:
            await self._guards.write(Create(f"outcomes/{key}", {"said": said}, expires_at=until))
        except AlreadyExists:
            found = await self._guards.read(f"outcomes/{key}")
            return said if found is None else str(found.fields["said"])
        return said
