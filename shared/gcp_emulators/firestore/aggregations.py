"""COUNT, SUM and AVG over the documents that a query has found.

https://firebase.google.com/docs/firestore/query-data/aggregation-queries
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from gcp_emulators.firestore.values import get_field, null_value, number, number_value
from gcp_emulators.wire.rpc import RpcError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gcp_emulators.firestore.messages import Document, Value

_LARGEST_INTEGER = 2**63 - 1


def aggregate(aggregations: Sequence[Any], documents: Sequence[Document]) -> dict[str, Value]:
    """One value per alias.

    A document counts only if it has every field that any of the aggregations names, for COUNT too. Sums and averages skip
    values that are not numbers; the average of nothing is null.

    Raises: RpcError INVALID_ARGUMENT.
    """
    paths = [_field(aggregation) for aggregation in aggregations]
    counted = [d for d in documents if all(path is None or get_field(d, path) is not None for path in paths)]
    return {
        aggregation.alias or f"field_{index}": _value(aggregation, counted)
        for index, aggregation in enumerate(aggregations, 1)
    }


def _field(aggregation: Any) -> str | None:
    kind = aggregation.WhichOneof("operator")
    if kind not in {"count", "sum", "avg"}:
        raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, "An aggregation needs an operator.")
    return None if kind == "count" else str(getattr(aggregation, kind).field.field_path)


def _value(aggregation: Any, documents: Sequence[Document]) -> Value:
    path = _field(aggregation)
    if path is None:
        limit = aggregation.count.up_to.value if aggregation.count.HasField("up_to") else len(documents)
        return number_value(min(len(documents), limit))
    numbers = [n for document in documents if (n := number(get_field(document, path))) is not None]
    total = sum(numbers)
    if aggregation.WhichOneof("operator") == "sum":
        fits = isinstance(total, float) or abs(total) <= _LARGEST_INTEGER
        return number_value(total if fits else float(total))
    return number_value(float(total) / len(numbers)) if numbers else null_value()
