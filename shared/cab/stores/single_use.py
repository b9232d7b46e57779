"""Things that work once across all instances: client-assertion, DPoP and ID-JAG `jti`, calls."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from cab.domain.identifiers import digest
from cab.ports import AlreadyExists, Create, Documents
from cab.protocol.jose.jws import LEEWAY


class Kind(StrEnum):
    """Part of the key: one kind can never be spent as another."""

    CLIENT_ASSERTION = "client_assertion"
    DPOP_PROOF = "dpop_proof"
    ID_JAG = "id_jag"
    CALL_ATTEMPT = "call_attempt"


class SingleUse:
    def __init__(self, guards: Documents) -> None:
        self._guards = guards

    async def claim(self, kind: Kind, *, tenant: str, issuer: str, identifier: str, until: datetime) -> bool:
        """Record the use atomically. True the first time, False ever after (a mark past its end still counts as used).

        Kept until `until` plus the verifier's leeway. Raises Unavailable: then nothing may be issued, since the mark may
        or may not have been written.
        """
        word = kind.value
        path = f"single_use/{digest(tenant, word, issuer, identifier)}"
        try:
            await self._guards.write(Create(path, {"kind": word}, expires_at=until + LEEWAY))
        except AlreadyExists:
            return False
        return True
