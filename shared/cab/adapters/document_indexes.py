"""Which queries need a composite index, and which of those there are.

Firestore answers by itself what has only equalities, or only one field to range over and order by. Equalities together
with an order need an index made beforehand; without it production refuses the query, but no emulator does. So every
adapter of `Documents` refuses what `cab/data/firestore_indexes.json` does not list, and Terraform creates what it lists.

Every field has an index of its own but for those that `cab/data/firestore_fields.json` names: times that only grow, whose index would
bound what a whole collection can be written. They serve as the order of a composite index, whose equal field spreads the writes.
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
def unindexed_fields() -> frozenset[tuple[str, str]]:
    """Collection and field of what has no index of its own."""
    text = files("cab").joinpath("data", "firestore_fields.json").read_text(encoding="utf-8")
    return frozenset((entry["collection"], field) for entry in json.loads(text) for field in entry["unindexed"])


def needed_index(
    collection: str, conditions: Sequence[Condition], ordered_by: str | None, *, descending: bool
) -> CompositeIndex | None:
    """The composite index that a query needs, or None."""
    equal = frozenset(condition.field for condition in conditions if condition.op in {"==", "array_contains"})
    if ordered_by is None or equal <= {ordered_by}:
        return None
    return CompositeIndex(collection, equal, ordered_by, descending)
