"""Which queries need a composite index, and which of those there are.

Firestore answers by itself what has only equalities, or only one field to range over and order by. Equalities together
with an order need an index made beforehand; without it production refuses the query, but no emulator does. So every
adapter of `Documents` refuses what `cab/data/firestore_indexes.json` does not list, and Terraform creates what it lists.

Of our collections only the fields that `cab/data/firestore_fields.json` names have an index of their own: what no query asks by is
written faster and kept for less without, and a time that only grows would bound what its whole collection can be written. Such a time may
be the order of a composite index, whose equal field spreads the writes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from cab.ports import Condition
from cab.values import immutable


@immutable
class CompositeIndex:
    """Equality fields in any sequence, then the field of the order."""

    collection: str
    equal: frozenset[str]
    ordered_by: str
    descending: bool


@cache
def listed_indexes() -> frozenset[CompositeIndex]:
    """The indexes of `cab/data/firestore_indexes.json`, of all databases: collection names do not repeat."""
    text = files("cab").joinpath("data", "firestore_indexes.json").read_text(encoding="utf-8")
    return frozenset(
        CompositeIndex(
            entry["collection"],
            frozenset(field["field_path"] for field in entry["fields"][:-1]),
            entry["fields"][-1]["field_path"],
            entry["fields"][-1]["order"] == "DESCENDING",
        )
        for entry in json.loads(text)
    )


@cache
def own_indexes() -> dict[str, frozenset[str]]:
    """The fields of each of our collections that have an index of their own, in ascending order."""
    text = files("cab").joinpath("data", "firestore_fields.json").read_text(encoding="utf-8")
    return {entry["collection"]: frozenset(entry["indexed"]) for entry in json.loads(text)}


def needed_index(
    collection: str, conditions: Sequence[Condition], ordered_by: str | None, *, descending: bool
) -> CompositeIndex | None:
    """The composite index that a query needs, or None."""
    equal = frozenset(condition.field for condition in conditions if condition.op in {"==", "array_contains"})
    if ordered_by is None or equal <= {ordered_by}:
        return None
    return CompositeIndex(collection, equal, ordered_by, descending)
