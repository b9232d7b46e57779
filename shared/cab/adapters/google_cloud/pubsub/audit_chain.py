"""The hash chain of one process: every event it publishes names the one before it."""

from __future__ import annotations

import hashlib

from cab.domain.audit import AuditEvent, SealedEvent, Service, canonical_event, with_hash, without_credentials
from cab.encoding.records import as_json

_FIRST_PREV_HASH = ""


class AuditChain:
    """Gives events their `service` and `chain`, in the order of the calls. Not thread-safe: one event loop."""

    def __init__(self, chain_id: str, service: Service) -> None:
        self._id = chain_id
        self._service = as_json(service)
        self._length = 0
        self._head = _FIRST_PREV_HASH

    @property
    def length(self) -> int:
        return self._length

    def seal(self, event: AuditEvent, *, settled: int | None = None) -> SealedEvent:
        """Append the event. Members that are null are left out of `data`, and so of the hash.

        `settled`: up to which number nothing of the chain waits for an acknowledgement, as far as anybody knows.
        `data` is canonical too: taking the member `hash` out of the text leaves the bytes that were hashed, so SQL can do it.
        """
        seq = self._length + 1
        document = without_credentials(as_json(event))
        document["service"] = self._service
        document["chain"] = chain = {"id": self._id, "seq": seq, "prev_hash": self._head}
        if settled is not None:
            chain["settled"] = settled
        hashed = canonical_event(document)
        self._head = hashlib.sha256(hashed).hexdigest()
        self._length = seq
        return SealedEvent(event.event_id, event.event_type.value, self._id, seq, with_hash(hashed, self._head))
