"""Audit ingest: a pushed message in, a typed row out. Acknowledged only when the row is written; poison is kept aside, never in the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import orjson
from pydantic import ValidationError

from cab.domain import audit
from cab.domain.audit import (
    KNOWN_SCHEMA_VERSIONS,
    SCHEMA_VERSION,
    event_hash,
    without_credentials,
    without_hash,
)
from cab.encoding import strict_json
from cab.ports import AuditRow, AuditRows, Clock, Quarantine
from cab.use_cases.audit.packing import unpack
from cab.values import immutable

MAX_EVENT_BYTES = 65_536
EventToRow = Callable[..., AuditRow]


@immutable
class PushedMessage:
    data: bytes
    message_id: str


class IngestAuditEvent:
    def __init__(self, rows: AuditRows, quarantine: Quarantine, clock: Clock, event_to_row: EventToRow) -> None:
        self._rows = rows
        self._quarantine = quarantine
        self._clock = clock
        self._event_to_row = event_to_row

    async def __call__(self, message: PushedMessage) -> None:
        """Returns when each event of the message is in the table, or kept aside for people: one that cannot become a row does not
        take its neighbours along. Raises Unavailable to have all of it delivered again.
        """
        rows: list[AuditRow] = []
        published: list[bytes] = []  # by row
        aside: list[tuple[bytes, str]] = []
        now = self._clock.now()
        for data in unpack(message.data):
            event = read_event(data)
            if isinstance(event, str):
                aside.append((data, event))
                continue
            # Nothing of ours publishes token-like text; what an older function lets through stops here. The row then keeps
            # the event without it, so that its hash cannot be made again: `verify-chain` calls it edited.
            safe = without_credentials(event)
            kept = data if safe is event else orjson.dumps(safe, option=orjson.OPT_UTC_Z)
            rows.append(self._event_to_row(safe, data=kept, received_at=now, message_id=message.message_id))
            published.append(data)
        refused = await self._rows.insert(rows) if rows else {}
        for data, cause in [*aside, *((published[number], cause) for number, cause in refused.items())]:
            await self._quarantine.put(data, cause=cause, message_id=message.message_id)


def read_event(data: bytes) -> dict[str, Any] | str:
    """The event as JSON, its types checked, or why it can never become a row (a fixed word).

    Its own hash is recomputed: what was changed on the way is not an event of ours. Continuity of the chain is not judged
    here, since pushes are parallel and unordered; the view `chain_gaps` does that.
    """
    if len(data) > MAX_EVENT_BYTES:
        return "too_large"
    return _as_published(data) or _judged(data)


def _as_published(data: bytes) -> dict[str, Any] | None:
    """An event as our functions publish it: what was hashed is its text. None for everything else, which may be good, too."""
    event = audit.read_published(data)
    if event is None or event.get("chain") is None or event.get("service") is None or not _version_is_known(event):
        return None
    own = event["chain"]["hash"]
    return event if hashlib.sha256(without_hash(data, own)).hexdigest() == own else None


def _judged(data: bytes) -> dict[str, Any] | str:
    try:
        document = strict_json.load_object(data)
        if not _version_is_known(document):
            return "unknown_schema_version"
        audit.read(document)
    except strict_json.InvalidJson:
        return "not_json"
    except ValidationError:
        return "not_an_event"
    if document.get("chain") is None or document.get("service") is None:
        return "no_chain"
    try:
        is_intact = event_hash(document) == document["chain"]["hash"]
    except ValueError:  # a number RFC 8785 cannot write: no event of ours has one
        return "not_an_event"
    return document if is_intact else "hash_mismatch"


def _version_is_known(document: dict[str, Any]) -> bool:
    version = document.get("schema_version", SCHEMA_VERSION)
    return isinstance(version, int) and not isinstance(version, bool) and version in KNOWN_SCHEMA_VERSIONS
