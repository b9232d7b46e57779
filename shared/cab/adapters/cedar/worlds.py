"""Rules for a user of whom no groups are known: which of them may apply, and which must, whatever the groups are.

A rule sees groups only through `in`. So it is asked once for every combination of the groups that it names: what it says in
all of them it says of this user, what it says in some it may say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any, Final

from cedarpy import pst

from cab.adapters.cedar.rules import Rule
from cab.adapters.cedar.schema import GROUP
from cab.adapters.cedar.vocabulary import children

MOST_SETS: Final = 6  # of groups that one rule distinguishes: 64 combinations


def group_worlds(rule: Rule) -> tuple[tuple[str, ...], ...] | None:
    """Every membership that the rule can distinguish, the empty one first. None when there are too many to ask for.

    Groups that the rule names only together, in the same sets, count as one: `principal in [a, b]` asks whether any is there.
    """
    places: dict[str, set[int]] = {}
    for number, (group, place) in enumerate(_named((rule.form.principal, rule.form.resource, rule.form.clauses))):
        places.setdefault(group, set()).add(-number - 1 if place is None else place)
    together: dict[frozenset[int], list[str]] = {}
    for group, where in places.items():
        together.setdefault(frozenset(where), []).append(group)
    sets = list(together.values())
    if len(sets) > MOST_SETS:
        return None
    chosen = (choice for size in range(len(sets) + 1) for choice in combinations(sets, size))
    return tuple(tuple(group for part in choice for group in part) for choice in chosen)


def _named(root: Any) -> Iterator[tuple[str, int | None]]:
    """Every group that is named, with a number for the set it is in."""
    stack: list[tuple[Any, int | None]] = [(root, None)]
    sets = 0
    while stack:
        node, place = stack.pop()
        entity = getattr(node, "type", None)
        if entity is not None and str(entity) == GROUP and isinstance(getattr(node, "id", None), str):
            yield node.id, place
            continue
        if isinstance(node, pst.Set):
            sets += 1
            place = sets
        inner: Iterable[Any] = children(node)
        stack.extend((child, place) for child in inner)
