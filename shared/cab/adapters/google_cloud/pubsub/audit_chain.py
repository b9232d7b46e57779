"""The hash chain of one process: every event it publishes names the one before it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cab.domain.audit import AuditEvent, Service, without_credentials
from cab.encoding.canonical_json import canonical

_FIRST_PREV_HASH = ""


@dataclass(frozen=True, slots=True)
class SealedEvent:
    """An event with its place in the chain. `data` is what is published, now and at every retry."""

    event_id: str
    event_type: str
    seq: int
    data: bytes


class AuditChain:
    """Gives events their `service` and `chain`, in the order of the calls. Not thread-safe: one event loop."""

    def __init__(self, chain_id: str, service: Service) -> None:
        self._id = chain_id
        self._service = service.model_dump(mode="json")
        self._length = 0
        self._head = _FIRST_PREV_HASH

    @property
    def length(self) -> int:
        return self._length

    def seal(self, event: AuditEvent) -> SealedEvent:
        """Append the event. Members that are null are left out of `data`, and so of the hash.

        `data` is canonical too: taking the member `hash` out of the text leaves the bytes that were hashed, so SQL can do it.
        """
        seq = self._length + 1
        document = without_credentials(event.model_dump(mode="json", exclude_none=True))
        document["service"] = self._service
        document["chain"] = chain = {"id": self._id, "seq": seq, "prev_hash": self._head}
        chain["hash"] = self._head = hashlib.sha256(canonical(document)).hexdigest()
        self._length = seq
        return SealedEvent(event.event_id, event.event_type.value, seq, canonical(document))
