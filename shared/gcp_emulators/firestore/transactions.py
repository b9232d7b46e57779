"""Optimistic transactions: reads are remembered, and a commit fails when any of them would now read otherwise."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from gcp_emulators.firestore.messages import Document, StructuredQuery, new_structured_query
from gcp_emulators.firestore.queries import run_query
from gcp_emulators.wire.rpc import RpcError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gcp_emulators.firestore.documents import DocumentStore

_LIFETIME_S = 270.0  # Firestore's limit for one transaction


@dataclass
class _Transaction:
    expires_at: float
    documents: dict[str, int | None] = field(default_factory=dict)
    queries: dict[tuple[str, bytes], list[tuple[str, int]]] = field(default_factory=dict)


class Transactions:
    """The open transactions. They live in memory: a restart ends them, as an expiry would."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store
        self._open: dict[bytes, _Transaction] = {}

    def begin(self) -> bytes:
        """Open a transaction and return its id."""
        now = time.monotonic()
        self._open = {key: open_ for key, open_ in self._open.items() if open_.expires_at > now}
        transaction_id = uuid.uuid4().bytes
        self._open[transaction_id] = _Transaction(now + _LIFETIME_S)
        return transaction_id

    def read_document(self, transaction_id: bytes, name: str) -> None:
        """Remember which version of a document, if any, the transaction has read first."""
        self._get(transaction_id).documents.setdefault(name, self._store.version(name))

    def read_query(self, transaction_id: bytes, parent: str, query: StructuredQuery, found: Sequence[Document]) -> None:
        """Remember which documents, at which versions, a query has returned to the transaction first."""
        key = parent, query.SerializeToString(deterministic=True)
        self._get(transaction_id).queries.setdefault(key, _versions(found))

    def end(self, transaction_id: bytes, *, verify: bool) -> None:
        """Close a transaction. With `verify`, only if everything it has read is unchanged.

        Raises: RpcError ABORTED, after which the transaction is closed too; INVALID_ARGUMENT when it is not open.
        """
        transaction = self._get(transaction_id)
        del self._open[transaction_id]
        if not verify:
            return
        unchanged = all(
            self._store.version(name) == version for name, version in transaction.documents.items()
        ) and all(
            _versions(run_query(self._store, parent, new_structured_query.FromString(query))) == found
            for (parent, query), found in transaction.queries.items()
        )
        if not unchanged:
            raise RpcError(grpc.StatusCode.ABORTED, "Too much contention on these documents. Please try again.")

    def forget(self, transaction_id: bytes) -> None:
        """Roll back. Unknown ids are fine: the transaction may have expired."""
        self._open.pop(transaction_id, None)

    def _get(self, transaction_id: bytes) -> _Transaction:
        transaction = self._open.get(transaction_id)
        if transaction is None or transaction.expires_at <= time.monotonic():
            raise RpcError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "The referenced transaction has expired or is no longer valid.",
            )
        return transaction


def _versions(documents: Sequence[Document]) -> list[tuple[str, int]]:
    return [(document.name, document.update_time.ToMicroseconds()) for document in documents]
