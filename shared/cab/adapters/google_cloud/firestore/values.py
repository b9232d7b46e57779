"""Python values to and from Firestore's value messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from cab.adapters.google_cloud.pubsub.messages import load
from cab.ports import Fields

Value = load("google.cloud.firestore_v1", "document").Value.pb()


def write_fields(target: Any, fields: Mapping[str, Any]) -> None:
    """Fill a message's `fields` map. Raises: TypeError for a value that `Documents` does not hold."""
    for name, value in fields.items():
        write_value(target[name], value)


def write_value(target: Any, value: Any) -> None:
    """Set one empty `Value` message."""
    if value is None:
        target.null_value = 0
    elif isinstance(value, bool):  # before int, of which it is a subclass
        target.boolean_value = value
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, int):
        target.integer_value = value
    elif isinstance(value, datetime):
        _write_timestamp(target, value)
    elif isinstance(value, dict):
        target.map_value.SetInParent()
        write_fields(target.map_value.fields, value)
    elif isinstance(value, list):
        _write_list(target, value)
    elif isinstance(value, bytes):
        target.bytes_value = value
    elif isinstance(value, float):
        target.double_value = value
    else:
        raise TypeError(f"Documents do not hold values of type {type(value).__name__}.")


def _write_list(target: Any, values: list[Any]) -> None:
    target.array_value.SetInParent()
    for item in values:
        if isinstance(item, list):
            raise TypeError("Documents do not hold lists of lists.")
        write_value(target.array_value.values.add(), item)


def _write_timestamp(target: Any, value: datetime) -> None:
    if value.tzinfo is None:
        raise TypeError("Documents hold instants, not datetimes without a zone.")
    target.timestamp_value.FromDatetime(value)


def read_fields(fields: Any) -> Fields:
    """A message's `fields` map as Python values."""
    return {name: read_value(value) for name, value in fields.items()}


def read_value(value: Any) -> Any:
    """One `Value` message as a Python value."""
    return _READERS[value.WhichOneof("value_type")](value)


def _read_timestamp(value: Any) -> datetime:
    instant: datetime = value.timestamp_value.ToDatetime(tzinfo=UTC)
    return instant


_READERS: dict[str | None, Callable[[Any], Any]] = {
    "null_value": lambda value: None,
    "boolean_value": lambda value: value.boolean_value,
    "integer_value": lambda value: value.integer_value,
    "double_value": lambda value: value.double_value,
    "timestamp_value": _read_timestamp,
    "string_value": lambda value: value.string_value,
    "bytes_value": lambda value: value.bytes_value,
    "array_value": lambda value: [read_value(item) for item in value.array_value.values],
    "map_value": lambda value: read_fields(value.map_value.fields),
}
