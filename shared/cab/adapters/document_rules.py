"""What every adapter of `Documents` accepts, so that code tried on one meets no surprise on another."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cab.adapters.document_indexes import CompositeIndex, needed_index, own_indexes
from cab.ports import Condition, Write

EXPIRY_FIELD = "expire_at"
MAX_FOUND = 1_000
_MAX_ID_BYTES = 1_500


def checked_path(path: str) -> str:
    """`path`, if it is one collection and one id. Raises: ValueError, for a mistake in our own code.

    An id made from outside text must be a digest, or checked before: a slash in it would name another document.
    """
    collection, _, document_id = path.partition("/")
    if "/" in document_id or not _is_id(collection) or not _is_id(document_id):
        raise ValueError("A document path is COLLECTION/ID.")
    return path


def check_writes(writes: Sequence[Write]) -> None:
    """Raises: ValueError when one call would write a document twice, which no two stores order alike."""
    if len(writes) > 1 and len({write.path for write in writes}) < len(writes):
        raise ValueError("One call writes each document at most once.")


def order_field(
    collection: str,
    conditions: Sequence[Condition],
    order_by: str | None,
    *,
    descending: bool,
    limit: int,
    indexes: Collection[CompositeIndex],
) -> str | None:
    """The field that a query is ordered by; None is by id alone. A range condition orders by its own field.

    Raises: ValueError for a query that Firestore does not answer, or not with these composite indexes.
    """
    ranges = {condition.field for condition in conditions if condition.op in {"<", "<=", ">", ">="}}
    if order_by is not None:
        ranges.add(order_by)
    if len(ranges) > 1:
        raise ValueError("A query ranges over and is ordered by one and the same field.")
    if descending and not ranges:
        raise ValueError("A query in descending order names the field to order by.")
    if not 1 <= limit <= MAX_FOUND:
        raise ValueError(f"A query finds 1 to {MAX_FOUND} documents.")
    ordered_by = next(iter(ranges), None)
    index = needed_index(collection, conditions, ordered_by, descending=descending)
    if index is not None and index not in indexes:
        raise ValueError(f"shared/cab/data/firestore_indexes.json lacks {index}.")
    own = own_indexes().get(collection)
    if index is None and own is not None:
        asked = {condition.field for condition in conditions} | ({ordered_by} if ordered_by else set())
        if asked - own:
            raise ValueError(f"By shared/cab/data/firestore_fields.json {collection} has no index of {asked - own}.")
        if descending or any(condition.op == "array_contains" for condition in conditions):
            raise ValueError(f"Indexes of one field of {collection} are in ascending order.")
    return ordered_by


def _is_id(text: str) -> bool:
    return (
        bool(text)
        and text not in {".", ".."}
        and not (text.startswith("__") and text.endswith("__"))  # reserved; our digests never end in "_"
        and (len(text) < _MAX_ID_BYTES // 4 or len(text.encode()) <= _MAX_ID_BYTES)
    )
