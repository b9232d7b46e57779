"""The grant documents. Every change is a compare-and-set against the version that was read; nothing is ever written blind."""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from enum import Enum
from itertools import chain
from typing import Any, Final

from cab.domain.grants import Grant, GrantStatus
from cab.domain.lru import remember
from cab.ports import AlreadyExists, Condition, Conflict, Create, Delete, Document, Documents, Replace
from cab.values import immutable

SEEN: Final = 1024  # grants kept in memory as they were last
# What a grant's id begins with, and its document is found by when it is due: an index of times alone takes 500 writes a second.
SHARDS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
SHARD_FIELD: Final = "due_shard"
OF_A_SHARD: Final = 100  # grants of one query
_PAGE: Final = 200
ARE_SPREAD: Final = "marks/grants_are_spread"
_UNDER_WAY: Final = {GrantStatus.REFRESHING.value, GrantStatus.RECOVERING.value, GrantStatus.REVOKING.value}
# Members whose fields have kept the name that they had in the first release.
_FIELDS: Final = {"secret_version": "secret_ver", "refresh_version": "refresh_ver", "base_version": "base_ver"}
_MEMBERS: Final = {field: member for member, field in _FIELDS.items()}


@immutable
class StoredGrant:
    grant: Grant
    version: object


@immutable
class Spread:
    """How many grants were put into their shards, and how many are left since somebody works on them."""

    written: int
    left: int


class Grants:
    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._seen: OrderedDict[str, StoredGrant] = OrderedDict()
        self._are_spread = False

    async def read(self, grant_id: str) -> StoredGrant | None:
        seen = self._seen.get(grant_id)
        document = await self._documents.read(f"grants/{grant_id}", known=None if seen is None else seen.version)
        if document is None:
            return None
        return self._saw(seen if seen is not None and seen.version == document.version else _restore(document))

    def seen(self, grant_id: str) -> StoredGrant | None:
        """The grant as this process read or wrote it last. Others may have changed it since: good only for a compare-and-set."""
        return self._seen.get(grant_id)

    async def last_seen(self, grant_id: str) -> StoredGrant | None:
        """As `seen`, for who has read or written the grant a moment ago. What was found changed since then is read. Raises: Unavailable."""
        return self.seen(grant_id) or await self.read(grant_id)

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
        """The same in pages, each read when it is asked for, `limit` grants at most. Raises: Unavailable.

        Once they are spread, each page is of all shards together, the longest waiting of the page first; `size` then says nothing.
        """
        is_due = Condition("due_at", "<=", now)
        if await self._find_spread():
            pages = self._pages_of_shards(is_due, limit)
        else:
            pages = self._pages(is_due, order_by="due_at", size=size, limit=limit)
        async for page in pages:
            yield [_restore(document) for document in page]

    async def _pages(
        self, *conditions: Condition, order_by: str | None = None, size: int = _PAGE, limit: int = sys.maxsize
    ) -> AsyncIterator[list[Document]]:
        """What fits, `limit` at most, in pages of `size`, each read when it is asked for."""
        after: Document | None = None
        while limit > 0:
            page = await self._documents.find(
                "grants", *conditions, order_by=order_by, limit=min(size, limit), after=after
            )
            if page:
                yield page
                after = page[-1]
            if len(page) < size:
                return
            limit -= len(page)

    async def _pages_of_shards(self, is_due: Condition, limit: int) -> AsyncIterator[list[Document]]:
        after: dict[str, Document | None] = dict.fromkeys(SHARDS)
        while after and limit > 0:
            shards = dict(after)
            found = await asyncio.gather(
                *(
                    self._documents.find(
                        "grants",
                        Condition(SHARD_FIELD, "==", shard),
                        is_due,
                        order_by="due_at",
                        limit=OF_A_SHARD,
                        after=last,
                    )
                    for shard, last in shards.items()
                )
            )
            after = {shard: page[-1] for shard, page in zip(shards, found, strict=True) if len(page) == OF_A_SHARD}
            together = sorted(chain.from_iterable(found), key=lambda document: document.fields["due_at"])[:limit]
            limit -= len(together)
            if together:
                yield together

    async def _find_spread(self) -> bool:
        if not self._are_spread:
            self._are_spread = await self._documents.read(ARE_SPREAD) is not None
        return self._are_spread

    async def spread(self) -> Spread:
        """Write into each grant which shard it is of, where the last release wrote it, and then have sweeps ask each shard.

        Grants that somebody works on are left, and get it by that; with any left, sweeps go on as before. Safe beside everything
        else, to stop and to repeat. Raises: Unavailable.
        """
        written, left = 0, 0
        async for page in self._pages():
            came = await asyncio.gather(*(self._put_into_shard(document) for document in page))
            written, left = written + came.count(True), left + came.count(None)
        if not left:
            await self._documents.write(Replace(ARE_SPREAD, {}, version=None))
        return Spread(written, left)

    async def gather(self) -> None:
        """Have sweeps ask for all grants together again, as the last release does. What runs goes on as before."""
        await self._documents.write(Delete(ARE_SPREAD))

    async def _put_into_shard(self, document: Document) -> bool | None:
        """Whether this wrote it; None when it is still to be done."""
        found: Document | None = document
        while found is not None and SHARD_FIELD not in found.fields:
            if found.fields["status"] in _UNDER_WAY:
                return None
            fields = found.fields | {SHARD_FIELD: _shard(found.path.partition("/")[2])}
            try:
                await self._documents.write(Replace(found.path, fields, found.version))
            except Conflict:
                found = await self._documents.read(found.path)
            else:
                return True
        return False

    async def uncounted(self, connection: str, tenant: str, status: GrantStatus, *, limit: int) -> list[StoredGrant]:
        """Grants in this state of which nobody has counted uses yet. Documents have had the field since the first release."""
        equal = {"connection": connection, "tenant": tenant, "status": status.value, "last_used_at": None}
        conditions = [Condition(name, "==", value) for name, value in equal.items()]
        return [_restore(it) for it in await self._documents.find("grants", *conditions, limit=limit)]

    async def matching(self, *, equal: Mapping[str, str], limit: int = 1000) -> list[StoredGrant]:
        """Grants whose fields equal the given values, e.g. tenant, subject, connection."""
        conditions = [Condition(name, "==", value) for name, value in equal.items()]
        return [_restore(document) async for page in self._pages(*conditions, limit=limit) for document in page]


def _shard(grant_id: str) -> str:
    return grant_id[:1]


def _restore(document: Document) -> StoredGrant:
    """The document's place is its identity: the field `grant_id` could have been copied from elsewhere."""
    name = document.path.partition("/")[2]
    members = {_MEMBERS.get(field, field): value for field, value in document.fields.items()}
    return StoredGrant(Grant.model_validate(members | {"grant_id": name}), document.version)


def _fields(grant: Grant) -> dict[str, Any]:
    fields = {
        _FIELDS.get(name, name): value.value if isinstance(value, Enum) else value
        for name, value in grant.model_dump().items()
    }
    return fields | {SHARD_FIELD: _shard(grant.grant_id)}
