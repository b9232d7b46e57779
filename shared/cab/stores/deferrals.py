"""Deferred exchanges (DTR): what a client polls for while a person decides. Holds verified facts, never a token."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from cab.domain.identifiers import digest
from cab.ports import Create, Documents, Tally


@dataclass(frozen=True, slots=True)
class Deferral:
    """One deferred exchange, bound to the client that made it (and its DPoP key when it used one)."""

    client_id: str
    approval_id: str
    assertion_claims: dict[str, Any]
    intent: dict[str, Any]  # the declared cab_action, reason included
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
        fields = {
            "client_id": deferral.client_id,
            "approval_id": deferral.approval_id,
            "assertion_claims": orjson.dumps(deferral.assertion_claims).decode(),
            "intent": orjson.dumps(deferral.intent).decode(),
            "connection": deferral.connection,
            "scope": deferral.scope,
            "jkt": deferral.jkt,
            "call_id": deferral.call_id,
            "call_id_is_chosen": deferral.call_id_is_chosen,
            "created_at": deferral.created_at,
            "expires_at": deferral.expires_at,
        }
        await self._guards.write(Create(f"deferrals/{digest(code)}", fields, expires_at=deferral.expires_at))

    async def read(self, code: str) -> Deferral | None:
        document = await self._guards.read(f"deferrals/{digest(code)}")
        if document is None:
            return None
        fields = document.fields
        return Deferral(
            client_id=fields["client_id"],
            approval_id=fields["approval_id"],
            assertion_claims=orjson.loads(fields["assertion_claims"]),
            intent=orjson.loads(fields["intent"]),
            connection=fields["connection"],
            scope=fields["scope"],
            jkt=fields["jkt"],
            created_at=fields["created_at"],
            expires_at=fields["expires_at"],
            call_id=fields.get("call_id"),
            call_id_is_chosen=fields.get("call_id_is_chosen", False),
        )

    async def count_poll(self, code: str, deferral: Deferral) -> int:
        """How often this code was polled, this time included."""
        counted = await self._guards.tally(
            Tally(f"deferral_polls/{digest(code)}", add={"n": 1}, expires_at=deferral.expires_at)
        )
        return counted["n"]
