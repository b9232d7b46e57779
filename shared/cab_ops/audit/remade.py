"""SQL that makes a published event again from the columns of its row, generated from `AuditEvent`.

Events are published in the order of RFC 8785. So there is one text for what the columns say, and BigQuery can write it:
where it is the text that was kept, byte for byte, the columns say what was published, and nothing else was published.
What cannot be compared so (rows of older functions, rare characters and numbers) is not vouched for, and is judged by
`audit_verification` in Python.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Final, Literal

from cab.adapters.google_cloud.bigquery.audit_schema import COPIES, type_name
from cab.domain.audit import AuditEvent
from cab.encoding.records import RecordMember, members, unwrapped

# As instants are published: microseconds, or none where they are zero.
_INSTANT: Final = """CONCAT('"', REPLACE(FORMAT_TIMESTAMP('%Y-%m-%dT%H:%M:%E6SZ', {column}), '.000000Z', 'Z'), '"')"""
_TEXTS: Final = {
    "STRING": "TO_JSON_STRING({column})",
    "BOOLEAN": "TO_JSON_STRING({column})",
    "INTEGER": "CAST({column} AS STRING)",
    "FLOAT": "REGEXP_REPLACE(CAST({column} AS STRING), r'[.]0$', '')",
    "TIMESTAMP": _INSTANT,
}
# Outside of these a number has other forms, or none in JSON.
_LIMITS: Final = {
    "INTEGER": "{column} BETWEEN -9007199254740991 AND 9007199254740991",
    "FLOAT": "REGEXP_CONTAINS(CAST({column} AS STRING), r'^[0-9]{{1,12}}([.][0-9]{{1,3}})?$')",
}
_HASH: Final = """TO_HEX(SHA256(REPLACE(event_json, CONCAT('"chain":{"hash":"', chain.`hash`, '",'), '"chain":{')))"""


def remade_sql() -> str:
    """The RFC 8785 text of the event that the columns hold: a STRING expression over `events_raw`."""
    return f"CONCAT('{{', {_members(AuditEvent, '')}, '}}')"


def vouched_sql(remade: str) -> str:
    """Whether the row is as it was published, and its hash too: a BOOL expression, never NULL. `remade` names the remade text."""
    conditions = [
        f"{remade} = event_json",
        f"{_HASH} = chain.`hash`",
        *(f"{column} IS NOT DISTINCT FROM {source}" for column, source in COPIES.items()),
        *_conditions(AuditEvent, ""),
    ]
    return "COALESCE({}, FALSE)".format("\n AND ".join(conditions))


def _members(model: type, path: str) -> str:
    texts = [_member(member, path) for member in sorted(members(model), key=lambda member: member.name)]
    return "ARRAY_TO_STRING([{}], ',')".format(",\n".join(texts))  # leaves out what is NULL


def _member(member: RecordMember, path: str) -> str:
    kind, repeated = unwrapped(member.annotation)
    column, key = f"{path}`{member.name}`", f'"{member.name}":'
    if repeated:
        return f"IF(ARRAY_LENGTH({column}) > 0, CONCAT('{key}', TO_JSON_STRING({column})), {_empty(key, '[]')})"
    if type_name(kind) == "RECORD":
        inner = _members(kind, f"{column}.")
        return f"COALESCE(CONCAT('{key}{{', NULLIF({inner}, ''), '}}'), {_empty(key, '{}')})"
    text = _TEXTS[type_name(kind)].format(column=column)
    return f"IF({column} IS NULL, NULL, CONCAT('{key}', {text}))"


def _empty(key: str, value: str) -> str:
    """BigQuery does not tell an empty list from none: both are the same, and are kept as they were published."""
    return f"IF(STRPOS(event_json, '{key}{value}') > 0, '{key}{value}', NULL)"


def _conditions(model: type, path: str) -> Iterator[str]:
    """What an event must be, beyond the types of its columns. Absent members are fine, but for required ones."""
    for member in members(model):
        kind, repeated = unwrapped(member.annotation)
        column = f"{path}`{member.name}`"
        if path and member.is_required:
            yield f"({path.removesuffix('.')} IS NULL OR {column} IS NOT NULL)"
        if repeated:
            continue
        if type_name(kind) == "RECORD":
            yield from _conditions(kind, f"{column}.")
        elif choices := _choices(kind):
            yield "COALESCE({} IN ({}), TRUE)".format(column, ", ".join(f"'{choice}'" for choice in choices))
        elif limit := _LIMITS.get(type_name(kind)):
            yield f"COALESCE({limit.format(column=column)}, TRUE)"


def _choices(kind: Any) -> tuple[str, ...]:
    if typing.get_origin(kind) is Literal:
        return typing.get_args(kind)
    return tuple(kind) if issubclass(kind, StrEnum) else ()
