"""One write applied to one document: precondition, update or delete, field transforms.

https://firebase.google.com/docs/firestore/reference/rpc/google.firestore.v1#write
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from gcp_emulators.firestore.documents import check_document_name
from gcp_emulators.firestore.messages import (
    Document,
    FieldTransform,
    Precondition,
    ServerValue,
    Value,
    Write,
    WriteResult,
    new_document,
    new_value,
    new_write_result,
    timestamp,
)
from gcp_emulators.firestore.values import (
    NAN_KEY,
    delete_field,
    get_field,
    null_value,
    number,
    number_value,
    set_field,
    sort_key,
)
from gcp_emulators.wire.rpc import RpcError

if TYPE_CHECKING:
    from gcp_emulators.firestore.documents import DocumentStore

_ARRAY_TRANSFORMS = {"append_missing_elements", "remove_all_from_array"}  # their result is null, by definition


def written_name(write: Write) -> str:
    """The name of the document that a write touches."""
    operation = write.WhichOneof("operation")
    if operation == "update":
        return str(write.update.name)
    if operation == "transform":
        return str(write.transform.document)
    return str(write.delete)


def apply_write(store: DocumentStore, write: Write, now_us: int) -> WriteResult:
    """Apply one write at the instant `now_us`. The caller holds the SQL transaction.

    A write that changes nothing keeps the document's update time, as in production: a version held elsewhere as a
    precondition stays good.

    Raises: RpcError ALREADY_EXISTS, NOT_FOUND, FAILED_PRECONDITION, INVALID_ARGUMENT.
    """
    name = written_name(write)
    check_document_name(name)
    stored = store.get(name)
    _check_precondition(write.current_document, stored, name)
    result = new_write_result()
    operation = write.WhichOneof("operation")
    if operation == "delete":
        store.delete(name)
        return result
    if operation not in {"update", "transform"}:
        raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, "A write needs an operation.")

    document = new_document(name=name)
    if stored is not None:
        document.CopyFrom(stored)
    if operation == "update":
        _update_fields(document, write)
    transforms = write.transform.field_transforms if operation == "transform" else write.update_transforms
    for transform in transforms:
        value = _transformed(get_field(document, transform.field_path), transform, now_us)
        set_field(document, transform.field_path, value)
        is_array = transform.WhichOneof("transform_type") in _ARRAY_TRANSFORMS
        result.transform_results.append(null_value() if is_array else value)

    if stored is not None and document == stored:
        result.update_time.CopyFrom(stored.update_time)
        return result
    created_us = now_us if stored is None else stored.create_time.ToMicroseconds()
    store.put(document, created_us=created_us, updated_us=now_us)
    result.update_time.CopyFrom(timestamp(now_us))
    return result


def _check_precondition(precondition: Precondition, stored: Document | None, name: str) -> None:
    condition = precondition.WhichOneof("condition_type")
    if condition == "exists":
        if precondition.exists and stored is None:
            raise RpcError(grpc.StatusCode.NOT_FOUND, f"No document to update: {name}")
        if not precondition.exists and stored is not None:
            raise RpcError(grpc.StatusCode.ALREADY_EXISTS, f"Document already exists: {name}")
    elif condition == "update_time" and (stored is None or stored.update_time != precondition.update_time):
        raise RpcError(
            grpc.StatusCode.FAILED_PRECONDITION, "the stored version does not match the required base version"
        )


def _update_fields(document: Document, write: Write) -> None:
    if not write.HasField("update_mask"):
        document.ClearField("fields")
        for key, value in write.update.fields.items():
            document.fields[key].CopyFrom(value)
        return
    for path in write.update_mask.field_paths:
        value = get_field(write.update, path)
        if value is None:
            delete_field(document, path)
        else:
            set_field(document, path, value)


def _transformed(current: Value | None, transform: FieldTransform, now_us: int) -> Value:
    kind = transform.WhichOneof("transform_type")
    operand = getattr(transform, kind)
    if kind == "set_to_server_value":
        if operand != ServerValue.REQUEST_TIME:
            raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, "The server value is unknown.")
        result = new_value()
        result.timestamp_value.CopyFrom(timestamp(now_us // 1000 * 1000))  # server values have milliseconds
        return result
    if kind in _ARRAY_TRANSFORMS:
        return _transformed_array(current, kind, list(operand.values))
    return _transformed_number(current, kind, operand)


def _transformed_number(current: Value | None, kind: str, operand: Value) -> Value:
    given = number(operand)
    if given is None:
        raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, f"The operand of {kind} must be a number.")
    present = number(current)
    if present is None:
        return operand
    if kind == "increment":
        return number_value(present + given)
    for value in (current, operand):
        if sort_key(value) == NAN_KEY:
            return value
    if sort_key(current) == sort_key(operand):
        return current
    larger, smaller = (current, operand) if sort_key(current) > sort_key(operand) else (operand, current)
    return larger if kind == "maximum" else smaller


def _transformed_array(current: Value | None, kind: str, operand: list[Value]) -> Value:
    is_array = current is not None and current.WhichOneof("value_type") == "array_value"
    items = list(current.array_value.values) if current is not None and is_array else []
    if kind == "remove_all_from_array":
        removed = [sort_key(item) for item in operand]
        items = [item for item in items if sort_key(item) not in removed]
    else:
        for item in operand:
            if sort_key(item) not in [sort_key(present) for present in items]:
                items.append(item)
    result = new_value()
    result.array_value.SetInParent()
    result.array_value.values.extend(items)
    return result
