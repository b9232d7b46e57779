"""The methods of `google.firestore.v1.Firestore`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from gcp_emulators.firestore.aggregations import aggregate
from gcp_emulators.firestore.documents import DocumentStore
from gcp_emulators.firestore.messages import Message, message_class, new_document, new_empty, timestamp
from gcp_emulators.firestore.queries import projected, run_query
from gcp_emulators.firestore.transactions import Transactions
from gcp_emulators.firestore.values import project
from gcp_emulators.firestore.writes import apply_write, written_name
from gcp_emulators.storage import atomically
from gcp_emulators.wire.rpc import Method, RpcError, protobuf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FULL_NAME = "google.firestore.v1.Firestore"
_MAX_PAGE = 300

_BatchGetDocumentsResponse = message_class("BatchGetDocumentsResponse")
_BatchWriteResponse = message_class("BatchWriteResponse")
_BeginTransactionResponse = message_class("BeginTransactionResponse")
_CommitResponse = message_class("CommitResponse")
_ListCollectionIdsResponse = message_class("ListCollectionIdsResponse")
_ListDocumentsResponse = message_class("ListDocumentsResponse")
_RunAggregationQueryResponse = message_class("RunAggregationQueryResponse")
_RunQueryResponse = message_class("RunQueryResponse")


class FirestoreService:
    """Firestore in Native mode, for as many projects and named databases as callers name.

    Commits are atomic, preconditions and transforms exact, transactions serializable and optimistic.
    Does not do: Listen and the streaming Write, PartitionQuery, pipelines, vector search, reads in the past, snapshot
    reads in a read-only transaction, IAM, security rules, index enforcement, TTL deletion, the admin API.
    """

    def __init__(self, data_dir: str) -> None:
        self._store = DocumentStore(data_dir)
        self._transactions = Transactions(self._store)

    def methods(self) -> dict[str, list[Method]]:
        return {FULL_NAME: self._methods()}

    def delete_project(self, project: str) -> None:
        """Remove all documents of a project."""
        self._store.delete_project(project)

    def close(self) -> None:
        self._store.connection.close()

    def _methods(self) -> list[Method]:
        def unary(name: str, call: Callable[..., Any], *, response: Any = None) -> Method:
            answer = response or message_class(f"{name}Response")
            codecs = protobuf(message_class(f"{name}Request")), protobuf(answer)
            return Method(name, *codecs, call, _resources, self._deletes_and_makes)

        def stream(name: str, call: Callable[..., Any]) -> Method:
            codecs = protobuf(message_class(f"{name}Request")), protobuf(message_class(f"{name}Response"))
            return Method(name, *codecs, call, _resources, streams_responses=True)

        return [
            unary("GetDocument", self.get_document, response=new_document),
            unary("ListDocuments", self.list_documents),
            unary("ListCollectionIds", self.list_collection_ids),
            stream("BatchGetDocuments", self.batch_get_documents),
            stream("RunQuery", self.run_query),
            stream("RunAggregationQuery", self.run_aggregation_query),
            unary("BeginTransaction", self.begin_transaction),
            unary("Commit", self.commit),
            unary("Rollback", self.rollback, response=new_empty),
            unary("BatchWrite", self.batch_write),
        ]

    def get_document(self, request: Message) -> Message:
        """Raises: RpcError NOT_FOUND."""
        _refuse_the_past(request)
        if request.transaction:
            self._transactions.read_document(request.transaction, request.name)
        document = self._store.get(request.name)
        if document is None:
            raise RpcError(grpc.StatusCode.NOT_FOUND, f'Document "{request.name}" not found.')
        return project(document, request.mask.field_paths) if request.HasField("mask") else document

    def batch_get_documents(self, request: Message) -> list[Message]:
        """Found and missing documents, in the order asked for."""
        _refuse_the_past(request)
        transaction, begun = self._transaction_of(request)
        read_time = timestamp(self._store.now_us())
        responses = [_BatchGetDocumentsResponse(transaction=begun)] if begun else []
        for name in request.documents:
            if transaction:
                self._transactions.read_document(transaction, name)
            response = _BatchGetDocumentsResponse(read_time=read_time)
            document = self._store.get(name)
            if document is None:
                response.missing = name
            elif request.HasField("mask"):
                response.found.CopyFrom(project(document, request.mask.field_paths))
            else:
                response.found.CopyFrom(document)
            responses.append(response)
        return responses

    def list_documents(self, request: Message) -> Message:
        """A page of a collection by name; with `show_missing` also names that only have documents below them."""
        _refuse_the_past(request)
        documents = {d.name: d for d in self._store.in_collection(request.parent, request.collection_id)}
        names = list(documents)
        if request.show_missing:
            names += self._store.missing_documents(request.parent, request.collection_id)
        names = sorted(name for name in names if name > request.page_token)
        size = request.page_size or _MAX_PAGE
        response = _ListDocumentsResponse(next_page_token=names[size - 1] if len(names) > size else "")
        for name in names[:size]:
            document = documents.get(name)
            if document is None:
                response.documents.add(name=name)
            else:
                is_masked = request.HasField("mask")
                response.documents.append(project(document, request.mask.field_paths) if is_masked else document)
        return response

    def list_collection_ids(self, request: Message) -> Message:
        """A page of the ids of the collections right below a document or the database's root."""
        ids = [i for i in self._store.collection_ids(request.parent) if i > request.page_token]
        size = request.page_size or _MAX_PAGE
        next_page_token = ids[size - 1] if len(ids) > size else ""
        return _ListCollectionIdsResponse(collection_ids=ids[:size], next_page_token=next_page_token)

    def run_query(self, request: Message) -> list[Message]:
        """One response per document; one empty response when there is none."""
        _refuse_the_past(request)
        _refuse_explain(request)
        query = request.structured_query
        transaction, begun = self._transaction_of(request)
        found = run_query(self._store, request.parent, query)
        if transaction:
            self._transactions.read_query(transaction, request.parent, query, found)
        read_time = timestamp(self._store.now_us())
        responses = [_RunQueryResponse(document=d, read_time=read_time) for d in projected(query, found)]
        if not responses:
            responses = [_RunQueryResponse(read_time=read_time)]
        responses[0].transaction = begun
        return responses

    def run_aggregation_query(self, request: Message) -> list[Message]:
        """One response with every aggregation under its alias."""
        _refuse_the_past(request)
        _refuse_explain(request)
        query = request.structured_aggregation_query
        transaction, begun = self._transaction_of(request)
        found = run_query(self._store, request.parent, query.structured_query)
        if transaction:
            self._transactions.read_query(transaction, request.parent, query.structured_query, found)
        response = _RunAggregationQueryResponse(read_time=timestamp(self._store.now_us()), transaction=begun)
        for alias, value in aggregate(query.aggregations, found).items():
            response.result.aggregate_fields[alias].CopyFrom(value)
        return [response]

    def begin_transaction(self, request: Message) -> Message:
        """Options are accepted; every transaction is optimistic."""
        if request.options.read_only.HasField("read_time"):
            raise RpcError(grpc.StatusCode.UNIMPLEMENTED, _NO_PAST)
        return _BeginTransactionResponse(transaction=self._transactions.begin())

    def rollback(self, request: Message) -> Message:
        self._transactions.forget(request.transaction)
        return new_empty()

    def commit(self, request: Message) -> Message:
        """All writes or none, at one instant.

        Raises: RpcError ABORTED when the transaction read something that has changed, and those of `apply_write`.
        """
        if request.transaction:
            self._transactions.end(request.transaction, verify=bool(request.writes))
        now_us = self._store.now_us()
        with atomically(self._store.connection):
            results = [apply_write(self._store, write, now_us) for write in request.writes]
        return _CommitResponse(write_results=results, commit_time=timestamp(now_us))

    def batch_write(self, request: Message) -> Message:
        """Each write by itself, with a status of its own; no document twice.

        Raises: RpcError INVALID_ARGUMENT.
        """
        names = [written_name(write) for write in request.writes]
        if len(set(names)) < len(names):
            raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, "A document can be written only once in a BatchWrite.")
        response = _BatchWriteResponse()
        for write in request.writes:
            try:
                with atomically(self._store.connection):
                    result = apply_write(self._store, write, self._store.now_us())
            except RpcError as error:
                response.write_results.add()
                code: int = error.status.value[0]
                response.status.add(code=code, message=error.details)
            else:
                response.write_results.append(result)
                response.status.add()
        return response

    def _deletes_and_makes(self, request: Message) -> tuple[int, int]:
        """How many documents a request deletes, and how many it writes that are not there."""
        if "writes" not in {field.name for field in request.DESCRIPTOR.fields}:
            return 0, 0
        written = [written_name(write) for write in request.writes if write.WhichOneof("operation") != "delete"]
        return len(request.writes) - len(written), sum(self._store.version(name) is None for name in written)

    def _transaction_of(self, request: Message) -> tuple[bytes, bytes]:
        """The transaction to read in, empty for none, and its id once more if this request has begun it."""
        if request.WhichOneof("consistency_selector") == "new_transaction":
            begun = self._transactions.begin()
            return begun, begun
        return request.transaction, b""


_NO_PAST = "The embedded emulator keeps no history: read_time is not supported."


def _refuse_the_past(request: Message) -> None:
    if request.HasField("read_time"):
        raise RpcError(grpc.StatusCode.UNIMPLEMENTED, _NO_PAST)


def _refuse_explain(request: Message) -> None:
    if request.HasField("explain_options"):
        raise RpcError(grpc.StatusCode.UNIMPLEMENTED, "The embedded emulator does not explain queries.")


def _resources(request: Message) -> Sequence[str]:
    """The database, parent and documents that a request names, for faults and the call log."""
    fields = {field.name for field in request.DESCRIPTOR.fields}
    names = [getattr(request, field) for field in ("database", "parent", "name") if field in fields]
    if "documents" in fields:
        names += request.documents
    if "writes" in fields:
        names += [written_name(write) for write in request.writes]
    return [name for name in names if name]
