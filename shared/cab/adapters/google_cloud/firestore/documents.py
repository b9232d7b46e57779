"""`Documents` in one Firestore database. One round trip per call; no transaction ever reads.

Firestore routes by two headers that Google's own clients send; both name the database, so they are the same for
every call.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from grpc import StatusCode

from cab.adapters import spans
from cab.adapters.document_indexes import CompositeIndex, listed_indexes
from cab.adapters.document_rules import EXPIRY_FIELD, check_writes, checked_path, order_field
from cab.adapters.google_cloud.firestore.group_commit import GroupCommit, Statuses
from cab.adapters.google_cloud.firestore.group_read import GroupRead
from cab.adapters.google_cloud.firestore.values import read_fields, write_fields, write_value
from cab.adapters.google_cloud.pubsub.messages import load
from cab.adapters.google_cloud.rpc import GoogleApi, Method, Refused, routing
from cab.ports import AlreadyExists, Condition, Conflict, Create, Delete, Document, Tally, Unavailable, Write

_requests = load("google.cloud.firestore_v1", "firestore")
_GetDocumentRequest = _requests.GetDocumentRequest.pb()
_BatchGetDocumentsRequest = _requests.BatchGetDocumentsRequest.pb()
_CommitRequest = _requests.CommitRequest.pb()
_RunQueryRequest = _requests.RunQueryRequest.pb()
_Document = load("google.cloud.firestore_v1", "document").Document.pb()
_WriteMessage = load("google.cloud.firestore_v1", "write").Write.pb()
_StructuredQuery = load("google.cloud.firestore_v1", "query").StructuredQuery.pb()

_SERVICE = "/google.firestore.v1.Firestore/"
_GET = Method(_SERVICE + "GetDocument", _Document)
_BATCH_GET = Method(_SERVICE + "BatchGetDocuments", _requests.BatchGetDocumentsResponse.pb(), streams_responses=True)
_COMMIT = Method(_SERVICE + "Commit", _requests.CommitResponse.pb())
_QUERY = Method(_SERVICE + "RunQuery", _requests.RunQueryResponse.pb(), streams_responses=True)

_READ_BUDGET_S = 2.0
_WRITE_BUDGET_S = 3.0
_RETRY_READ = frozenset({StatusCode.UNAVAILABLE, StatusCode.ABORTED})
# After ABORTED nothing was written. After UNAVAILABLE something may have been: a second `create` could meet the
# document of the first, a second `tally` would count twice.
_RETRY_WRITE = frozenset({StatusCode.ABORTED})
_MISSING = frozenset({StatusCode.NOT_FOUND})
_NOTHING: Statuses = frozenset()
_EXISTS = frozenset({StatusCode.ALREADY_EXISTS})
_CHANGED = _EXISTS | {StatusCode.FAILED_PRECONDITION, StatusCode.NOT_FOUND}

_FILTER = _StructuredQuery.FieldFilter
_OPERATORS = {
    "==": _FILTER.EQUAL,
    "<": _FILTER.LESS_THAN,
    "<=": _FILTER.LESS_THAN_OR_EQUAL,
    ">": _FILTER.GREATER_THAN,
    ">=": _FILTER.GREATER_THAN_OR_EQUAL,
    "array_contains": _FILTER.ARRAY_CONTAINS,
}
_SIMPLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ID = "__name__"
_EMPTY_COLLECTION = "nothing"


class FirestoreDocuments:
    """One database. Honours FIRESTORE_EMULATOR_HOST. Belongs to the event loop of its first call.

    `indexes` are the composite indexes that the database has.
    """

    def __init__(self, project: str, database: str, *, indexes: Collection[CompositeIndex] | None = None) -> None:
        self._indexes = listed_indexes() if indexes is None else indexes
        self._database = f"projects/{project}/databases/{database}"
        self._parent = f"{self._database}/documents"
        self._prefix = f"{self._parent}/"
        self._metadata = (
            ("google-cloud-resource-prefix", self._database),
            routing({"project_id": quote(project, safe=""), "database_id": quote(database, safe="")}),
        )
        self._api = GoogleApi(
            "documents",
            host="firestore.googleapis.com",
            emulator_variable="FIRESTORE_EMULATOR_HOST",
        )
        self._reads = GroupRead(self._get)
        self._commits = GroupCommit(self._commit)

    @spans.a_wait("store read")
    async def read(self, path: str) -> Document | None:
        document = await self._reads.read(self._prefix + checked_path(path))
        return None if document is None else self._as_document(document)

    @spans.a_wait("store write")
    async def write(self, *writes: Write) -> tuple[object, ...]:
        check_writes(writes)
        messages = [self._write_message(write) for write in writes]
        expected = _CHANGED if any(map(_expects_version, writes)) else _EXISTS
        results: Sequence[Any]
        try:
            if len(writes) == 1:
                results = [
                    await self._commits.write(messages[0], writes[0].path, is_conditional=True, expected=expected)
                ]
            else:
                results = await self._commit(messages, _WRITE_BUDGET_S, expected)
        except Refused as refused:
            if refused.status is StatusCode.ALREADY_EXISTS:
                raise AlreadyExists from None
            raise Conflict from None
        return tuple(_version(result.update_time) for result in results)

    @spans.a_wait("store tally")
    async def tally(self, tally: Tally) -> dict[str, int]:
        message = _WriteMessage()
        message.update.name = self._prefix + checked_path(tally.path)
        message.update_mask.SetInParent()  # present but empty: all fields stay that are not named below
        if tally.expires_at is not None:
            write_value(message.update.fields[EXPIRY_FIELD], tally.expires_at)
            message.update_mask.field_paths.append(EXPIRY_FIELD)
        for name, amount in tally.add.items():
            message.update_transforms.add(field_path=_field_path(name)).increment.integer_value = amount
        for name, bound in tally.at_most.items():
            message.update_transforms.add(field_path=_field_path(name)).minimum.integer_value = bound
        result = await self._commits.write(message, tally.path, is_conditional=False, expected=_NOTHING)
        values = [value.integer_value for value in result.transform_results]
        return dict(zip([*tally.add, *tally.at_most], values, strict=True))

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
        request = _RunQueryRequest(parent=self._parent)
        query = request.structured_query
        query.from_.add(collection_id=collection)
        query.limit.value = limit
        for condition in conditions:
            _add_condition(query.where.composite_filter, condition)
        self._add_order(query, order, descending=descending, after=after)
        responses = await self._api.call(
            _QUERY, request, budget_s=_READ_BUDGET_S, metadata=self._metadata, retry_on=_RETRY_READ
        )
        return [self._as_document(response.document) for response in responses if response.HasField("document")]

    async def server_time(self) -> datetime:
        """A query that finds nothing is answered with the time at which it found nothing."""
        request = _RunQueryRequest(parent=self._parent)
        request.structured_query.from_.add(collection_id=_EMPTY_COLLECTION)
        request.structured_query.limit.value = 1
        responses = await self._api.call(
            _QUERY, request, budget_s=_READ_BUDGET_S, metadata=self._metadata, retry_on=_RETRY_READ
        )
        read_time: datetime = responses[0].read_time.ToDatetime(tzinfo=UTC)
        return read_time

    async def close(self) -> None:
        """Let go of the connection. A later call opens a new one."""
        await self._reads.close()
        await self._commits.close()
        await self._api.close()

    async def _get(self, names: Sequence[str], budget_s: float) -> dict[str, Any]:
        """The documents that exist, by name."""
        if len(names) > 1:
            request = _BatchGetDocumentsRequest(database=self._database, documents=names)
            responses = await self._api.call(
                _BATCH_GET, request, budget_s=budget_s, metadata=self._metadata, retry_on=_RETRY_READ
            )
            found = {item.found.name: item.found for item in responses if item.HasField("found")}
            if not found.keys() | {item.missing for item in responses} >= set(names):
                raise Unavailable("documents")  # a document that the answer does not speak of is not missing
            return found
        try:
            document = await self._api.call(
                _GET,
                _GetDocumentRequest(name=names[0]),
                budget_s=budget_s,
                metadata=self._metadata,
                retry_on=_RETRY_READ,
                expected=_MISSING,
            )
        except Refused:
            return {}
        return {names[0]: document}

    async def _commit(self, messages: Sequence[Any], budget_s: float, expected: Statuses) -> Sequence[Any]:
        """Apply writes, all or none."""
        response = await self._api.call(
            _COMMIT,
            _CommitRequest(database=self._database, writes=messages),
            budget_s=budget_s,
            metadata=self._metadata,
            retry_on=_RETRY_WRITE,
            expected=expected,
        )
        results: Sequence[Any] = response.write_results
        return results

    def _as_document(self, document: Any) -> Document:
        return Document(
            document.name.removeprefix(self._prefix), read_fields(document.fields), _version(document.update_time)
        )

    def _write_message(self, write: Write) -> Any:
        message = _WriteMessage()
        name = self._prefix + checked_path(write.path)
        if isinstance(write, Delete):
            message.delete = name
        else:
            message.update.name = name
            write_fields(message.update.fields, write.fields)
            if write.expires_at is not None:
                write_value(message.update.fields[EXPIRY_FIELD], write.expires_at)
        if isinstance(write, Create):
            message.current_document.exists = False
        elif write.version is not None:
            message.current_document.update_time.FromNanoseconds(write.version)
        return message

    def _add_order(self, query: Any, field: str | None, *, descending: bool, after: Document | None) -> None:
        direction = _StructuredQuery.DESCENDING if descending else _StructuredQuery.ASCENDING
        if field is not None:
            query.order_by.add(direction=direction).field.field_path = _field_path(field)
        query.order_by.add(direction=direction).field.field_path = _ID
        if after is not None:
            query.start_at.before = False
            if field is not None:
                write_value(query.start_at.values.add(), after.fields[field])
            query.start_at.values.add().reference_value = self._prefix + after.path


def _expects_version(write: Write) -> bool:
    return not isinstance(write, Create) and write.version is not None


def _add_condition(composite: Any, condition: Condition) -> None:
    composite.op = _StructuredQuery.CompositeFilter.AND
    if condition.op == "==" and condition.value is None:
        unary = composite.filters.add().unary_filter
        unary.op = _StructuredQuery.UnaryFilter.IS_NULL
        unary.field.field_path = _field_path(condition.field)
        return
    field_filter = composite.filters.add().field_filter
    field_filter.op = _OPERATORS[condition.op]
    field_filter.field.field_path = _field_path(condition.field)
    write_value(field_filter.value, condition.value)


def _field_path(name: str) -> str:
    """The path of one top-level field, whatever characters are in its name."""
    if _SIMPLE_NAME.fullmatch(name):
        return name
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _version(update_time: Any) -> int:
    nanoseconds: int = update_time.ToNanoseconds()
    return nanoseconds
