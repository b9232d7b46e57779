"""Firestore's protobuf classes, bare: reading a field of a proto-plus wrapper costs some ten times as much.

The client package has no type stubs for the bare classes, so each alias is `Any` to the type checker; the names say
which message a function expects.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from google.cloud.firestore_v1.types import document, firestore, query, write
from google.protobuf import empty_pb2, timestamp_pb2  # type: ignore[import-untyped,unused-ignore]

Document: TypeAlias = Any
Value: TypeAlias = Any
Write: TypeAlias = Any
WriteResult: TypeAlias = Any
Precondition: TypeAlias = Any
FieldTransform: TypeAlias = Any
StructuredQuery: TypeAlias = Any
Filter: TypeAlias = Any
Timestamp: TypeAlias = Any
Message: TypeAlias = Any

new_document: Any = document.Document.pb()
new_value: Any = document.Value.pb()
new_write_result: Any = write.WriteResult.pb()
new_structured_query: Any = query.StructuredQuery.pb()
new_timestamp: Any = timestamp_pb2.Timestamp
new_empty: Any = empty_pb2.Empty

FieldOperator = query.StructuredQuery.FieldFilter.Operator
UnaryOperator = query.StructuredQuery.UnaryFilter.Operator
CompositeOperator = query.StructuredQuery.CompositeFilter.Operator
Direction = query.StructuredQuery.Direction
ServerValue = write.DocumentTransform.FieldTransform.ServerValue


def message_class(name: str) -> Any:
    """The bare class of one of the service's requests or responses, such as `CommitRequest`."""
    return getattr(firestore, name).pb()


def timestamp(microseconds: int) -> Timestamp:
    """Microseconds since 1970 as a protobuf Timestamp."""
    result = new_timestamp()
    result.FromMicroseconds(microseconds)
    return result
