"""`Documents` in one Firestore database. One round trip per call; no transaction ever reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar
from urllib.parse import quote

import orjson

from cab.adapters import spans
from cab.adapters.document_indexes import CompositeIndex, listed_indexes
from cab.adapters.document_rules import EXPIRY_FIELD, check_writes, checked_path, order_field
from cab.adapters.google_cloud.firestore.group_commit import GroupCommit, Statuses, Written
from cab.adapters.google_cloud.firestore.group_read import GroupRead
from cab.adapters.google_cloud.firestore.values import (
    read_fields,
    read_instant,
    to_fields,
    to_value,
)
from cab.adapters.google_cloud.rest import NOT_UNDERSTOOD, GoogleApi, Refused, Status
from cab.ports import AlreadyExists, Condition, Conflict, Create, Delete, Document, Tally, Unavailable, Write

_READ_BUDGET_S = 2.0
_WRITE_BUDGET_S = 3.0
_RETRY_READ = frozenset({Status.UNAVAILABLE, Status.ABORTED})
# After ABORTED nothing was written. After UNAVAILABLE something may have been: a second `create` could meet the
# document of the first, a second `tally` would count twice.
_RETRY_WRITE = frozenset({Status.ABORTED})
_NOTHING: Statuses = frozenset()
_EXISTS = frozenset({Status.ALREADY_EXISTS})
_CHANGED = _EXISTS | {Status.FAILED_PRECONDITION, Status.NOT_FOUND}

_OPERATORS = {
    "==": "EQUAL",
    "<": "LESS_THAN",
    "<=": "LESS_THAN_OR_EQUAL",
    ">": "GREATER_THAN",
    ">=": "GREATER_THAN_OR_EQUAL",
    "array_contains": "ARRAY_CONTAINS",
}
_SIMPLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ID = "__name__"
# Of an answer as Firestore writes it: how each document begins, where the time of its reading ends the one before; its version, the last
# that is said of it; and the end. No text in a field looks like one of these: the quotation marks of a text are escaped.
_FIRST: Final = re.compile(rb'(?:\[|\s*"[^"\\]+"\s*\},)\s*\{\s*"found":\s*\{\s*"name":\s*"([^"\\]+)",')
_VERSION: Final = re.compile(rb'"updateTime":\s*"([^"\\]+)"\s*\},\s*')
_LAST: Final = re.compile(rb'\s*"[^"\\]+"\s*\}\s*\]\s*')
_EMPTY_COLLECTION = "nothing"

_Found = TypeVar("_Found")


class FirestoreDocuments:
    """One database. Honours FIRESTORE_EMULATOR_HOST. Belongs to the event loop of its first call.

    `indexes` are the composite indexes that the database has.
    """

    def __init__(self, project: str, database: str, *, indexes: Collection[CompositeIndex] | None = None) -> None:
        self._indexes = listed_indexes() if indexes is None else indexes
        parent = f"projects/{project}/databases/{database}/documents"
        self._prefix = f"{parent}/"
        self._url = "/v1/" + quote(parent, safe="/()")  # by which Google routes, too
        self._api = GoogleApi(
            "documents",
            host="firestore.googleapis.com",
            emulator_variable="FIRESTORE_EMULATOR_HOST",
        )
        self._reads = GroupRead(self._get)
        self._commits = GroupCommit(self._commit)

    @spans.a_wait("store read")
    async def read(self, path: str, *, known: object | None = None) -> Document | None:
        found = await self._reads.read(self._prefix + checked_path(path), known)
        try:
            return None if found is None else self._document(found, known)  # for each caller its own
        except NOT_UNDERSTOOD:
            raise Unavailable("documents") from None

    @spans.a_wait("store write")
    async def write(self, *writes: Write) -> tuple[object, ...]:
        check_writes(writes)
        made = [self._write(write) for write in writes]
        expected = _CHANGED if any(map(_expects_version, writes)) else _EXISTS
        try:
            if len(writes) == 1:
                result = await self._commits.write(made[0], writes[0].path, is_conditional=True, expected=expected)
                return (result.version,)
            results = await self._commit(made, _WRITE_BUDGET_S, expected)
        except Refused as refused:
            if refused.status is Status.ALREADY_EXISTS:
                raise AlreadyExists from None
            raise Conflict from None
        return tuple(result.version for result in results)

    @spans.a_wait("store tally")
    async def tally(self, tally: Tally) -> dict[str, int]:
        document: dict[str, Any] = {"name": self._prefix + checked_path(tally.path)}
        mask: dict[str, Any] = {}  # present but empty: all fields stay that are not named below
        if tally.expires_at is not None:
            document["fields"] = {EXPIRY_FIELD: to_value(tally.expires_at)}
            mask["fieldPaths"] = [EXPIRY_FIELD]
        transforms = [
            {"fieldPath": _field_path(name), kind: to_value(number)}
            for kind, numbers in (("increment", tally.add), ("minimum", tally.at_most))
            for name, number in numbers.items()
        ]
        write = {"update": document, "updateMask": mask, "updateTransforms": transforms}
        result = await self._commits.write(write, tally.path, is_conditional=False, expected=_NOTHING)
        return dict(zip([*tally.add, *tally.at_most], result.tallied, strict=True))

    @spans.a_wait("store find")
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
        query: dict[str, Any] = {"from": [{"collectionId": collection}], "limit": limit}
        if conditions:
            query["where"] = {"compositeFilter": {"op": "AND", "filters": [_filter(it) for it in conditions]}}
        self._add_order(query, order, descending=descending, after=after)
        return await self._query(
            query, lambda parts: [self._document(part["document"]) for part in parts if "document" in part]
        )

    async def server_time(self) -> datetime:
        """A query that finds nothing is answered with the time at which it found nothing."""
        query = {"from": [{"collectionId": _EMPTY_COLLECTION}], "limit": 1}
        return await self._query(query, lambda parts: read_instant(parts[0]["readTime"]))

    async def close(self) -> None:
        """Let go of the connections. A later call opens new ones."""
        await self._reads.close()
        await self._commits.close()
        await self._api.close()

    async def _get(self, names: Sequence[str], budget_s: float, known: Mapping[str, object]) -> Mapping[str, Any]:
        """The documents that exist, by name. Of those that all have their `known` versions no more is read than that."""

        def found(parts: Any) -> dict[str, Any]:
            documents = {part["found"]["name"]: part["found"] for part in parts if "found" in part}
            if not documents.keys() | {part["missing"] for part in parts if "missing" in part} >= set(names):
                raise ValueError  # a document that the answer does not speak of is not missing
            return documents

        return await self._api.call(
            "BatchGetDocuments",
            f"{self._url}:batchGet",
            {"documents": names},
            read=found,
            load=lambda body: (known and _unchanged(body, known)) or orjson.loads(body),
            budget_s=budget_s,
            retry_on=_RETRY_READ,
        )

    async def _query(self, query: dict[str, Any], read: Callable[[Any], _Found]) -> _Found:
        return await self._api.call(
            "RunQuery",
            f"{self._url}:runQuery",
            {"structuredQuery": query},
            read=read,
            budget_s=_READ_BUDGET_S,
            retry_on=_RETRY_READ,
        )

    async def _commit(self, writes: Sequence[Any], budget_s: float, expected: Statuses) -> Sequence[Written]:
        """Apply writes, all or none."""

        def written(document: Any) -> list[Written]:
            results = [_written(result) for result in document["writeResults"]]
            if len(results) != len(writes):
                raise ValueError
            return results

        return await self._api.call(
            "Commit",
            f"{self._url}:commit",
            {"writes": writes},
            read=written,
            budget_s=budget_s,
            retry_on=_RETRY_WRITE,
            expected=expected,
        )

    def _document(self, document: Any, known: object | None = None) -> Document:
        version = _version(document)
        fields = {} if version == known else read_fields(document.get("fields", {}))
        return Document(document["name"].removeprefix(self._prefix), fields, version)

    def _write(self, write: Write) -> dict[str, Any]:
        name = self._prefix + checked_path(write.path)
        made: dict[str, Any]
        if isinstance(write, Delete):
            made = {"delete": name}
        else:
            fields = to_fields(write.fields)
            if write.expires_at is not None:
                fields[EXPIRY_FIELD] = to_value(write.expires_at)
            made = {"update": {"name": name, "fields": fields}}
        if isinstance(write, Create):
            made["currentDocument"] = {"exists": False}
        elif write.version is not None:
            made["currentDocument"] = {"updateTime": write.version}
        return made

    def _add_order(self, query: dict[str, Any], field: str | None, *, descending: bool, after: Document | None) -> None:
        direction = "DESCENDING" if descending else "ASCENDING"
        fields = [_ID] if field is None else [_field_path(field), _ID]
        query["orderBy"] = [{"field": {"fieldPath": name}, "direction": direction} for name in fields]
        if after is not None:
            values = [] if field is None else [to_value(after.fields[field])]
            values.append({"referenceValue": self._prefix + after.path})
            query["startAt"] = {"before": False, "values": values}


def _unchanged(body: bytes, known: Mapping[str, object]) -> list[Any] | None:
    """An answer about documents without their fields, most of it, which nobody reads then; None unless all have the known versions."""
    *documents, end = body.split(b'"readTime":')
    if not _LAST.fullmatch(end):
        return None
    found = []
    for text in documents:
        begins, ends = _FIRST.match(text), _VERSION.fullmatch(text, max(0, text.rfind(b'"updateTime":')))
        if begins is None or ends is None or known.get(begins[1].decode()) != (version := ends[1].decode()):
            return None
        found.append({"found": {"name": begins[1].decode(), "updateTime": version}})
    return found


def _expects_version(write: Write) -> bool:
    return not isinstance(write, Create) and write.version is not None


def _written(result: Any) -> Written:
    tallied = tuple(int(value["integerValue"]) for value in result.get("transformResults", ()))
    return Written(_version(result) if "updateTime" in result else None, tallied)  # what was deleted has none


def _version(result: Any) -> str:
    """The update time as Firestore writes it, to the nanosecond: a compare-and-set must find the very same one."""
    version = result["updateTime"]
    if not isinstance(version, str):
        raise TypeError
    return version


def _filter(condition: Condition) -> dict[str, Any]:
    field = {"fieldPath": _field_path(condition.field)}
    if condition.op == "==" and condition.value is None:
        return {"unaryFilter": {"op": "IS_NULL", "field": field}}
    return {"fieldFilter": {"field": field, "op": _OPERATORS[condition.op], "value": to_value(condition.value)}}


def _field_path(name: str) -> str:
    """The path of one top-level field, whatever characters are in its name."""
    if _SIMPLE_NAME.fullmatch(name):
        return name
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
