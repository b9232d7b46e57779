"""The hash chain of one process: every event it publishes names the one before it."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from cab.domain.audit import AuditEvent, Chain, Service, event_hash

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
        self._service = service
        self._length = 0
        self._head = _FIRST_PREV_HASH

    @property
    def length(self) -> int:
        return self._length

    def seal(self, event: AuditEvent) -> SealedEvent:
        """Append the event. Members that are null are left out of `data`, and so of the hash."""
        place = Chain(id=self._id, seq=self._length + 1, prev_hash=self._head, hash="")
        document = event.model_copy(update={"service": self._service, "chain": place}).model_dump(
            mode="json", exclude_none=True
        )
        document["chain"]["hash"] = head = event_hash(document)
        data = orjson.dumps(document)
        self._length += 1
        self._head = head
        return SealedEvent(event.event_id, event.event_type.value, place.seq, data)
