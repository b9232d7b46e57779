"""The grant documents. Every change is a compare-and-set against the version that was read; nothing is ever written blind."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Final

from cab.domain.grants import Grant, GrantStatus
from cab.domain.lru import remember
from cab.ports import AlreadyExists, Condition, Conflict, Create, Document, Documents, Replace

SEEN: Final = 1024  # grants kept in memory as they were last
# Members whose fields have kept the name that they had in the first release.
_FIELDS: Final = {"secret_version": "secret_ver", "refresh_version": "refresh_ver", "base_version": "base_ver"}
_MEMBERS: Final = {field: member for member, field in _FIELDS.items()}


@dataclass(frozen=True, slots=True)
class StoredGrant:
    grant: Grant
    version: object


class Grants:
    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._seen: OrderedDict[str, StoredGrant] = OrderedDict()

    async def read(self, grant_id: str) -> StoredGrant | None:
        document = await self._documents.read(f"grants/{grant_id}")
        return None if document is None else self._saw(_restore(document))

    def seen(self, grant_id: str) -> StoredGrant | None:
        """The grant as this process read or wrote it last. Others may have changed it since: good only for a compare-and-set."""
        return self._seen.get(grant_id)

    def _saw(self, stored: StoredGrant) -> StoredGrant:
        remember(self._seen, stored.grant.grant_id, stored, most=SEEN)
        return stored

    async def create(self, grant: Grant) -> StoredGrant | None:
        """None when the user has a grant at this connection already."""
        try:
            (version,) = await self._documents.write(Create(f"grants/{grant.grant_id}", _fields(grant)))
        except AlreadyExists:
            return None
        return self._saw(StoredGrant(grant, version))

    async def replace(self, stored: StoredGrant, grant: Grant) -> StoredGrant | None:
        """None when the document changed since it was read. Raises Unavailable: it may then have been written all the same."""
        try:
            (version,) = await self._documents.write(
                Replace(f"grants/{grant.grant_id}", _fields(grant), stored.version)
            )
        except Conflict:
            self._seen.pop(grant.grant_id, None)
            return None
        return self._saw(StoredGrant(grant, version))

    async def due(self, now: datetime, *, limit: int) -> list[StoredGrant]:
        """Grants that want attention (lapsed leases, refreshes ahead, outboxes, clean-up), the longest waiting first."""
        return [stored async for page in self.due_pages(now, size=limit, limit=limit) for stored in page]

    async def due_pages(self, now: datetime, *, size: int, limit: int) -> AsyncIterator[list[StoredGrant]]:
        """The same in pages, each read when it is asked for, `limit` grants at most. Raises: Unavailable."""
        after: Document | None = None
        while limit > 0:
            page = await self._documents.find(
                "grants", Condition("due_at", "<=", now), order_by="due_at", limit=min(size, limit), after=after
            )
            if page:
                yield [_restore(document) for document in page]
                after = page[-1]
            if len(page) < size:
                return
            limit -= len(page)

    async def uncounted(self, connection: str, tenant: str, status: GrantStatus, *, limit: int) -> list[StoredGrant]:
        """Grants in this state of which nobody has counted uses yet. Documents have had the field since the first release."""
        equal = {"connection": connection, "tenant": tenant, "status": status.value, "last_used_at": None}
        conditions = [Condition(name, "==", value) for name, value in equal.items()]
        return [_restore(it) for it in await self._documents.find("grants", *conditions, limit=limit)]

    async def matching(self, *, equal: Mapping[str, str], limit: int = 1000) -> list[StoredGrant]:
        """Grants whose fields equal the given values, e.g. tenant, subject, connection."""
        conditions = [Condition(name, "==", value) for name, value in equal.items()]
        found: list[StoredGrant] = []
        after: Document | None = None
        while len(found) < limit:
            page = await self._documents.find("grants", *conditions, limit=min(200, limit - len(found)), after=after)
            found += [_restore(document) for document in page]
            if not page:
                break
            after = page[-1]
        return found


def _restore(document: Document) -> StoredGrant:
    """The document's place is its identity: the field `grant_id` could have been copied from elsewhere."""
    name = document.path.partition("/")[2]
    members = {_MEMBERS.get(field, field): value for field, value in document.fields.items()}
    return StoredGrant(Grant.model_validate(members | {"grant_id": name}), document.version)


def _fields(grant: Grant) -> dict[str, Any]:
    return {
        _FIELDS.get(name, name): value.value if isinstance(value, Enum) else value
        for name, value in grant.model_dump().items()
    }
