"""Combinations of filters that Firestore refuses.

https://firebase.google.com/docs/firestore/query-data/queries#query_limitations
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import grpc

from gcp_emulators.firestore.messages import CompositeOperator, FieldOperator, Filter, UnaryOperator
from gcp_emulators.wire.rpc import RpcError

MAX_DISJUNCTIONS = 30

_ARRAY_OPERATORS = {FieldOperator.ARRAY_CONTAINS, FieldOperator.ARRAY_CONTAINS_ANY}
_EXPANDED_OPERATORS = {FieldOperator.IN, FieldOperator.ARRAY_CONTAINS_ANY}
_NEGATIONS = {FieldOperator.NOT_EQUAL, FieldOperator.NOT_IN}
_UNARY_NEGATIONS = {UnaryOperator.IS_NOT_NAN, UnaryOperator.IS_NOT_NULL}


def check_filter(condition: Filter) -> None:
    """Raises: RpcError INVALID_ARGUMENT."""
    fields = [part.field_filter.op for part in _leaves(condition) if part.HasField("field_filter")]
    unary = [part.unary_filter.op for part in _leaves(condition) if part.HasField("unary_filter")]
    negations = [op for op in fields if op in _NEGATIONS] + [op for op in unary if op in _UNARY_NEGATIONS]
    if len(negations) > 1:
        _refuse("Only a single 'NOT_EQUAL', 'NOT_IN', 'IS_NOT_NAN', or 'IS_NOT_NULL' filter allowed per query.")
    if FieldOperator.NOT_IN in fields and (_EXPANDED_OPERATORS.intersection(fields) or _has_or(condition)):
        _refuse("'NOT_IN' cannot be used in the same query with 'IN', 'ARRAY_CONTAINS_ANY' or 'OR'.")
    if _combine(condition, of_leaf=_array_filters, of_and=sum, of_or=max) > 1:
        _refuse("A maximum of 1 'ARRAY_CONTAINS' filter is allowed per disjunction.")
    if _combine(condition, of_leaf=_disjunctions, of_and=math.prod, of_or=sum) > MAX_DISJUNCTIONS:
        _refuse(f"The query has more than {MAX_DISJUNCTIONS} disjunctions in disjunctive normal form.")


def _refuse(reason: str) -> None:
    raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, reason)


def _leaves(condition: Filter) -> Iterator[Filter]:
    if condition.HasField("composite_filter"):
        for part in condition.composite_filter.filters:
            yield from _leaves(part)
    else:
        yield condition


def _has_or(condition: Filter) -> bool:
    if not condition.HasField("composite_filter"):
        return False
    composite = condition.composite_filter
    return composite.op == CompositeOperator.OR or any(_has_or(part) for part in composite.filters)


def _combine(
    condition: Filter,
    *,
    of_leaf: Callable[[Filter], int],
    of_and: Callable[[Iterator[int]], int],
    of_or: Callable[[Iterator[int]], int],
) -> int:
    """A number for the whole tree of filters, from the numbers of its leaves."""
    if not condition.HasField("composite_filter"):
        return of_leaf(condition)
    composite = condition.composite_filter
    parts = (_combine(part, of_leaf=of_leaf, of_and=of_and, of_or=of_or) for part in composite.filters)
    return of_or(parts) if composite.op == CompositeOperator.OR else of_and(parts)


def _array_filters(leaf: Filter) -> int:
    return int(leaf.HasField("field_filter") and leaf.field_filter.op in _ARRAY_OPERATORS)


def _disjunctions(leaf: Filter) -> int:
    is_expanded = leaf.HasField("field_filter") and leaf.field_filter.op in _EXPANDED_OPERATORS
    return len(leaf.field_filter.value.array_value.values) if is_expanded else 1
