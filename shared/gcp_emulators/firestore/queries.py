"""Structured queries over the documents of a collection: filters, order, cursors, offset, limit, projection.

https://firebase.google.com/docs/firestore/reference/rpc/google.firestore.v1#structuredquery
No index is needed for any query, unlike production: see docs/emulators.md.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import grpc

from gcp_emulators.firestore.messages import (
    CompositeOperator,
    Direction,
    Document,
    FieldOperator,
    Filter,
    StructuredQuery,
    UnaryOperator,
    Value,
)
from gcp_emulators.firestore.query_limits import check_filter
from gcp_emulators.firestore.values import NAME_FIELD, NAN_KEY, NULL_KEY, get_field, project, sort_key
from gcp_emulators.wire.rpc import RpcError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gcp_emulators.firestore.documents import DocumentStore

Order = tuple[str, bool]  # field path, descending

_RANGES: dict[int, Callable[[Any, Any], bool]] = {
    FieldOperator.LESS_THAN: operator.lt,
    FieldOperator.LESS_THAN_OR_EQUAL: operator.le,
    FieldOperator.GREATER_THAN: operator.gt,
    FieldOperator.GREATER_THAN_OR_EQUAL: operator.ge,
}
_INEQUALITIES = {*_RANGES, FieldOperator.NOT_EQUAL, FieldOperator.NOT_IN}
_ARRAY_RANK = 9


def run_query(store: DocumentStore, parent: str, query: StructuredQuery) -> list[Document]:
    """The documents that match, in order, whole: `projected` cuts them down to the selected fields.

    Raises: RpcError INVALID_ARGUMENT, UNIMPLEMENTED for a vector search.
    """
    if query.HasField("find_nearest"):
        raise RpcError(grpc.StatusCode.UNIMPLEMENTED, "The embedded emulator has no vector search.")
    if query.offset < 0 or query.limit.value < 0:
        raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, "offset and limit must not be negative.")
    check_filter(query.where)
    orders = effective_orders(query)
    found = [
        document
        for document in _candidates(store, parent, query)
        if _matches(query.where, document) and all(get_field(document, path) is not None for path, _ in orders)
    ]
    for path, descending in reversed(orders):
        found.sort(key=_by_field(path), reverse=descending)
    if query.HasField("start_at"):
        found = [d for d in found if _is_from(_compare(d, query.start_at.values, orders), query.start_at.before)]
    if query.HasField("end_at"):
        found = [d for d in found if not _is_from(_compare(d, query.end_at.values, orders), query.end_at.before)]
    end = query.offset + query.limit.value if query.HasField("limit") else None
    return found[query.offset : end]


def projected(query: StructuredQuery, documents: Sequence[Document]) -> list[Document]:
    """The documents as the query's `select` wants them."""
    if not query.HasField("select"):
        return list(documents)
    paths = [field.field_path for field in query.select.fields]
    return [project(document, paths) for document in documents]


def effective_orders(query: StructuredQuery) -> list[Order]:
    """The explicit orders, then the fields under inequalities by name, then the document's name.

    What is added takes the direction of the last explicit order.
    """
    orders = [(order.field.field_path, order.direction == Direction.DESCENDING) for order in query.order_by]
    direction = orders[-1][1] if orders else False
    for path in [*sorted(_inequality_fields(query.where)), NAME_FIELD]:
        if path not in (ordered for ordered, _ in orders):
            orders.append((path, direction))
    return orders


def _candidates(store: DocumentStore, parent: str, query: StructuredQuery) -> Any:
    if len(query.from_) != 1:
        raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, "A query needs exactly one collection selector.")
    selector = query.from_[0]
    if selector.all_descendants:
        return store.in_collection_group(parent, selector.collection_id or None)
    return store.in_collection(parent, selector.collection_id)


def _inequality_fields(condition: Filter) -> set[str]:
    kind = condition.WhichOneof("filter_type")
    if kind == "composite_filter":
        return {path for part in condition.composite_filter.filters for path in _inequality_fields(part)}
    if kind == "field_filter" and condition.field_filter.op in _INEQUALITIES:
        return {condition.field_filter.field.field_path}
    if kind == "unary_filter" and condition.unary_filter.op in {
        UnaryOperator.IS_NOT_NULL,
        UnaryOperator.IS_NOT_NAN,
    }:
        return {condition.unary_filter.field.field_path}
    return set()


def _matches(condition: Filter, document: Document) -> bool:
    kind = condition.WhichOneof("filter_type")
    if kind is None:
        return True
    if kind == "composite_filter":
        parts = (_matches(part, document) for part in condition.composite_filter.filters)
        return any(parts) if condition.composite_filter.op == CompositeOperator.OR else all(parts)
    part = getattr(condition, kind)
    value = get_field(document, part.field.field_path)
    if value is None:
        return False  # a document without the field is in no index of that field
    if kind == "unary_filter":
        return _matches_unary(part.op, sort_key(value))
    return _matches_field(part.op, sort_key(value), sort_key(part.value))


def _matches_unary(op: int, key: tuple[Any, ...]) -> bool:
    wanted = NAN_KEY if op in {UnaryOperator.IS_NAN, UnaryOperator.IS_NOT_NAN} else NULL_KEY
    if op in {UnaryOperator.IS_NAN, UnaryOperator.IS_NULL}:
        return key == wanted
    return key not in {wanted, NULL_KEY}


def _matches_field(op: int, key: tuple[Any, ...], operand: tuple[Any, ...]) -> bool:
    if op in _RANGES:
        return key[0] == operand[0] and _RANGES[op](key, operand)  # of one type; NaN is in no range
    is_array = key[0] == _ARRAY_RANK
    results: dict[int, Callable[[], bool]] = {
        FieldOperator.EQUAL: lambda: key == operand,
        FieldOperator.NOT_EQUAL: lambda: key not in {operand, NULL_KEY},
        FieldOperator.IN: lambda: key in operand[1],
        FieldOperator.NOT_IN: lambda: NULL_KEY not in (key, *operand[1]) and key not in operand[1],
        FieldOperator.ARRAY_CONTAINS: lambda: is_array and operand in key[1],
        FieldOperator.ARRAY_CONTAINS_ANY: lambda: is_array and any(item in key[1] for item in operand[1]),
    }
    if op not in results:
        raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, "The filter's operator is unknown.")
    return results[op]()


def _by_field(path: str) -> Callable[[Document], tuple[Any, ...]]:
    return lambda document: sort_key(get_field(document, path))


def _compare(document: Document, cursor: Sequence[Value], orders: Sequence[Order]) -> int:
    """Where the document stands against a cursor in the query's order: negative before it, 0 on it."""
    for (path, descending), bound in zip(orders, cursor, strict=False):
        key, bound_key = sort_key(get_field(document, path)), sort_key(bound)
        if key != bound_key:
            return (1 if key > bound_key else -1) * (-1 if descending else 1)
    return 0


def _is_from(position: int, before: bool) -> bool:  # noqa: FBT001
    """Whether a position belongs to the part that begins just before, or just after, the cursor."""
    return position > 0 or (position == 0 and before)
