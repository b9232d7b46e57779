"""Deferred exchanges (DTR): what a client polls for while a person decides. Holds verified facts, never a token."""

from __future__ import annotations

from dataclasses import field
from datetime import datetime
from typing import Any

from cab.domain.identifiers import digest
from cab.ports import Create, Documents, Tally
from cab.stores.fields import AS_TEXT, from_fields, to_fields
from cab.values import immutable


@immutable
class Deferral:
    """One deferred exchange, bound to the client that made it (and its DPoP key when it used one)."""

    client_id: str
    approval_id: str
    assertion_claims: dict[str, Any] = field(metadata=AS_TEXT)
    intent: dict[str, Any] = field(metadata=AS_TEXT)  # the declared cab_action, reason included
    connection: str
    scope: str | None
    jkt: str | None
    created_at: datetime
    expires_at: datetime
    call_id: str | None = None  # set when the broker is to make the call itself: then no token is ever given for it
    call_id_is_chosen: bool = False


class Deferrals:
    def __init__(self, guards: Documents) -> None:
        self._guards = guards

    async def open(self, code: str, deferral: Deferral) -> None:
        path = f"deferrals/{digest(code)}"
        await self._guards.write(Create(path, to_fields(deferral), expires_at=deferral.expires_at))

    async def read(self, code: str) -> Deferral | None:
        document = await self._guards.read(f"deferrals/{digest(code)}")
        return None if document is None else from_fields(Deferral, document.fields)

    async def count_poll(self, code: str, deferral: Deferral) -> int:
        """How often this code was polled, this time included."""
        counted = await self._guards.tally(
            Tally(f"deferral_polls/{digest(code)}", add={"n": 1}, expires_at=deferral.expires_at)
        )
        return counted["n"]
