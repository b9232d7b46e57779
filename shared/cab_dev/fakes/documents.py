"""`Documents` in a dictionary, with the guarantees of Firestore and no more."""

from __future__ import annotations

import asyncio
import itertools
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from cab.adapters.document_indexes import CompositeIndex, listed_indexes
from cab.adapters.document_rules import EXPIRY_FIELD, check_writes, checked_path, order_field
from cab.adapters.system import SystemClock
from cab.ports import (
    AlreadyExists,
    Clock,
    Condition,
    Conflict,
    Create,
    Delete,
    Document,
    Fields,
    Tally,
    Unavailable,
    Write,
)
from cab_dev.fakes.warning import warn_of_fake

Method = Literal["read", "write", "tally", "find", "server_time"]

_WHAT = "documents"
_INT64 = range(-(2**63), 2**63)


@dataclass
class Outage:
    """Calls that fail. `after=True`: the work is done and only the answer is lost, as when a connection breaks."""

    methods: frozenset[Method]
    after: bool = False
    skip: int = 0
    times: int | None = None

    def strikes(self, method: Method) -> bool:
        """Count one call; tell whether it fails."""
        if method not in self.methods or self.times == 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class InMemoryDocuments:
    """One database. `delay_s` passes before each call does its work, so that callers interleave as over a network.

    `calls` counts calls by method, failed ones included, `written` the documents that they wrote, deletes aside, `made` those of them that
    were not there before, and `found` those that queries returned. `clock` is the server's.
    """

    def __init__(
        self,
        *,
        delay_s: float = 0.0,
        indexes: Collection[CompositeIndex] | None = None,
        clock: Clock | None = None,
    ) -> None:
        warn_of_fake(self)
        self._clock = clock or SystemClock()
        self._indexes = listed_indexes() if indexes is None else indexes
        self.delay_s = delay_s
        self.outage: Outage | None = None
        self.calls: dict[Method, int] = dict.fromkeys(get_args(Method), 0)
        self.written = 0
        self.made = 0
        self.found = 0
        self._documents: dict[str, Document] = {}
        self._versions = itertools.count(1)

    async def read(self, path: str, *, known: object | None = None) -> Document | None:
        checked_path(path)
        fails_after = await self._begin("read")
        document = self._documents.get(path)
        _end(fails_after)
        if document is None:
            return None
        return replace(document, fields={}) if document.version == known else _copied(document)

    async def write(self, *writes: Write) -> tuple[object, ...]:
        check_writes(writes)
        prepared = [(write, _new_fields(write)) for write in writes]
        self.written += sum(not isinstance(write, Delete) for write in writes)
        fails_after = await self._begin("write")
        for write in writes:
            self._check_precondition(write)
        version = next(self._versions)
        versions = tuple(self._apply(write.path, fields, version) for write, fields in prepared)
        _end(fails_after)
        return versions

    async def tally(self, tally: Tally) -> dict[str, int]:
        checked_path(tally.path)
        self.written += 1
        fails_after = await self._begin("tally")
        document = self._documents.get(tally.path)
        fields = dict(document.fields) if document else {}
        if tally.expires_at is not None:
            fields[EXPIRY_FIELD] = _stored(tally.expires_at)
        values: dict[str, int] = {}
        for name, amount in tally.add.items():
            values[name] = fields[name] = _number(fields.get(name), 0) + amount
        for name, bound in tally.at_most.items():
            values[name] = fields[name] = min(_number(fields.get(name), bound), bound)
        self._apply(tally.path, fields, next(self._versions))
        _end(fails_after)
        return values

    async def find(
        self,
        collection: str,
        *conditions: Condition,
        order_by: str | None = None,
        descending: bool = False,
        limit: int = 100,
        after: Document | None = None,
    ) -> list[Document]:
        order = order_field(collection, conditions, order_by, descending=descending, limit=limit, indexes=self._indexes)
        fails_after = await self._begin("find")
        folder = f"{collection}/"
        wanted = [(condition, _key(condition.value)) for condition in conditions]
        found = [
            document
            for path, document in self._documents.items()
            if path.startswith(folder)
            and (order is None or order in document.fields)
            and all(_meets(document.fields, *one) for one in wanted)
        ]
        found.sort(key=lambda document: _place(document, order), reverse=descending)
        if after is not None:
            start = _place(after, order)
            found = [
                document
                for document in found
                if (_place(document, order) < start if descending else _place(document, order) > start)
            ]
        _end(fails_after)
        self.found += len(found[:limit])
        return [_copied(document) for document in found[:limit]]

    async def server_time(self) -> datetime:
        fails_after = await self._begin("server_time")
        _end(fails_after)
        return self._clock.now()

    async def close(self) -> None:
        """Nothing to let go of."""

    async def _begin(self, method: Method) -> bool:
        """Pass the delay and any outage; tell whether the answer is to be lost."""
        self.calls[method] += 1
        await asyncio.sleep(self.delay_s)
        struck = self.outage is not None and self.outage.strikes(method)
        if struck and self.outage is not None and not self.outage.after:
            raise Unavailable(_WHAT)
        return struck

    def _check_precondition(self, write: Write) -> None:
        document = self._documents.get(write.path)
        if isinstance(write, Create):
            if document is not None:
                raise AlreadyExists
        elif write.version is not None and (document is None or document.version != write.version):
            raise Conflict

    def _apply(self, path: str, fields: Fields | None, version: int) -> object:
        if fields is None:
            self._documents.pop(path, None)
            return version
        document = self._documents.get(path)
        if document is not None and _same(document.fields, fields):
            return document.version  # Firestore: a write that changes nothing keeps the update time
        self.made += document is None
        self._documents[path] = Document(path, fields, version)
        return version


def _end(fails_after: bool) -> None:  # noqa: FBT001
    if fails_after:
        raise Unavailable(_WHAT)


def _new_fields(write: Write) -> Fields | None:
    """All fields that the write leaves behind; None when it deletes."""
    checked_path(write.path)
    if isinstance(write, Delete):
        return None
    fields = _stored_fields(write.fields)
    if write.expires_at is not None:
        fields[EXPIRY_FIELD] = _stored(write.expires_at)
    return fields


def _copied(document: Document) -> Document:
    return Document(document.path, _stored_fields(document.fields), document.version)


def _stored_fields(fields: Mapping[str, Any]) -> Fields:
    return {str(name): _stored(value) for name, value in fields.items()}


def _stored(value: Any) -> Any:
    """A deep copy of what Firestore would give back. Raises: TypeError, ValueError, as the real adapter does."""
    kind = type(value)
    if kind is str and value.isascii():  # most values are such texts
        return value
    if value is None or isinstance(value, bool | float | bytes):
        return value
    if isinstance(value, str):
        value.encode()
        return str(value)
    if isinstance(value, int):
        if value not in _INT64:
            raise ValueError("Integers of documents have 64 bits.")
        return int(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise TypeError("Documents hold instants, not datetimes without a zone.")
        return value if kind is datetime and value.tzinfo is UTC else value.astimezone(UTC)
    if isinstance(value, dict):
        return _stored_fields(value)
    if isinstance(value, list):
        if any(isinstance(item, list) for item in value):
            raise TypeError("Documents do not hold lists of lists.")
        return [_stored(item) for item in value]
    raise TypeError(f"Documents do not hold values of type {type(value).__name__}.")


# --- how Firestore compares ---

_RANKS: Mapping[type, int] = {bool: 1, int: 2, float: 2, datetime: 3, str: 4, bytes: 5, list: 6, dict: 7}


def _key(value: Any) -> tuple[int, Any]:
    """Orders values of all types: first by type, then by value. 1 and 1.0 are equal, 1 and True are not."""
    rank = _RANKS.get(type(value)) or next((_RANKS[kind] for kind in _RANKS if isinstance(value, kind)), 0)
    if rank < 6:
        return rank, value if rank else 0
    if rank == 6:
        return rank, tuple(_key(item) for item in value)
    return rank, tuple((name, _key(value[name])) for name in sorted(value))


def _same(left: Fields, right: Fields) -> bool:
    return left == right and _key(left) == _key(right)  # Python takes 1 and True for equal, and mostly says no at once


def _place(document: Document, order: str | None) -> tuple[Any, ...]:
    return (document.path,) if order is None else (_key(document.fields[order]), document.path)


def _meets(fields: Fields, condition: Condition, wanted: tuple[int, Any]) -> bool:
    """`wanted` is the condition's value as a key."""
    if condition.field not in fields:
        return False
    value = fields[condition.field]
    if condition.op == "array_contains":
        return isinstance(value, list) and wanted in [_key(item) for item in value]
    found = _key(value)
    if condition.op == "==":
        return found == wanted
    return found[0] == wanted[0] and _COMPARE[condition.op](found, wanted)  # a range never reaches into another type


_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _number(value: Any, otherwise: int) -> int:
    """Firestore's transforms take a field that is no number for absent."""
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise
