"""Documents in SQLite, addressed by their full name. Databases are apart because their names are part of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import grpc

from gcp_emulators.firestore.messages import Document, new_document, timestamp
from gcp_emulators.storage import open_database, prefix_range
from gcp_emulators.wire.rpc import RpcError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_DOCUMENT_BYTES = 1024 * 1024

_SCHEMA = """
create table if not exists document(
    name text primary key, parent text not null, collection text not null,
    body blob not null, created_us integer not null, updated_us integer not null) without rowid;
create index if not exists document_collection on document(parent, collection);
"""


class DocumentStore:
    """Reads and writes whole documents. Every document carries its create and update time."""

    def __init__(self, data_dir: str) -> None:
        self.connection = open_database(data_dir, "firestore", _SCHEMA)
        (latest_us,) = self.connection.execute("select coalesce(max(updated_us), 0) from document").fetchone()
        self._latest_us = int(latest_us)

    def now_us(self) -> int:
        """Microseconds since 1970, later than every time given out before, also before a restart.

        Update times serve as versions in preconditions, so no two commits may share one.
        """
        self._latest_us = max(self._latest_us + 1, time.time_ns() // 1000)
        return self._latest_us

    def get(self, name: str) -> Document | None:
        row = self.connection.execute("select body from document where name = ?", (name,)).fetchone()
        return None if row is None else new_document.FromString(row[0])

    def version(self, name: str) -> int | None:
        """The update time in microseconds; None when the document does not exist."""
        row = self.connection.execute("select updated_us from document where name = ?", (name,)).fetchone()
        return None if row is None else int(row[0])

    def put(self, document: Document, *, created_us: int, updated_us: int) -> None:
        """Create or replace a document. Sets its times.

        Raises: RpcError INVALID_ARGUMENT when it is larger than Firestore's limit of 1 MiB.
        """
        document.create_time.CopyFrom(timestamp(created_us))
        document.update_time.CopyFrom(timestamp(updated_us))
        if document.ByteSize() > MAX_DOCUMENT_BYTES:
            raise RpcError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Document '{document.name}' cannot be written because its size exceeds the maximum allowed size "
                f"of {MAX_DOCUMENT_BYTES:,} bytes.",
            )
        parent, collection, _ = document.name.rsplit("/", 2)
        self.connection.execute(
            "insert or replace into document values (?, ?, ?, ?, ?, ?)",
            (document.name, parent, collection, document.SerializeToString(), created_us, updated_us),
        )

    def delete(self, name: str) -> None:
        self.connection.execute("delete from document where name = ?", (name,))

    def in_collection(self, parent: str, collection: str) -> Iterable[Document]:
        """The documents right in one collection, by name."""
        rows = self.connection.execute(
            "select body from document where parent = ? and collection = ? order by name", (parent, collection)
        )
        return (new_document.FromString(body) for (body,) in rows)

    def in_collection_group(self, ancestor: str, collection: str | None) -> Iterable[Document]:
        """The documents of all collections with this id, or of all collections, anywhere below `ancestor`."""
        rows = self.connection.execute(
            "select body from document where name >= ?1 and name < ?2 and (?3 is null or collection = ?3)"
            " order by name",
            (*prefix_range(ancestor + "/"), collection),
        )
        return (new_document.FromString(body) for (body,) in rows)

    def collection_ids(self, parent: str) -> list[str]:
        """Ids of the collections right below a document, or at the root, that hold anything at any depth."""
        prefix = parent + "/"
        names = self.connection.execute("select name from document where name >= ? and name < ?", prefix_range(prefix))
        return sorted({name[len(prefix) :].partition("/")[0] for (name,) in names})

    def missing_documents(self, parent: str, collection: str) -> list[str]:
        """Names of documents that do not exist but have documents below them."""
        prefix = f"{parent}/{collection}/"
        names = self.connection.execute(
            "select name from document where name >= ? and name < ?", prefix_range(prefix)
        ).fetchall()
        ancestors = {prefix + name[len(prefix) :].partition("/")[0] for (name,) in names}
        return sorted(ancestors - {name for (name,) in names})

    def delete_project(self, project: str) -> None:
        """Remove every document of every database of a project."""
        self.connection.execute(
            "delete from document where name >= ? and name < ?", prefix_range(f"projects/{project}/")
        )


def check_document_name(name: str) -> None:
    """Refuse what does not name a document: `projects/P/databases/D/documents/COLLECTION/ID[/COLLECTION/ID...]`.

    Raises: RpcError INVALID_ARGUMENT.
    """
    parts = name.split("/")
    root_is_right = parts[0::2][:2] == ["projects", "databases"] and parts[4:5] == ["documents"]
    path = parts[5:]
    if not (root_is_right and all(parts) and path and len(path) % 2 == 0):
        raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, f'Document name "{name}" is not valid.')
