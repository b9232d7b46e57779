"""Composite indexes: which queries need one, and what the committed list says."""

from __future__ import annotations

import pytest

from cab.adapters.document_indexes import CompositeIndex, listed_indexes, needed_index
from cab.ports import Condition

EQUAL = Condition("tenant", "==", "acme")
RANGE = Condition("due_at", "<=", 1)


@pytest.mark.parametrize(
    ("conditions", "ordered_by"),
    [
        ([], None),
        ([EQUAL], None),
        ([EQUAL, Condition("user", "==", "u")], None),
        ([RANGE], "due_at"),
        ([], "due_at"),
        ([EQUAL], "tenant"),
    ],
)
def test_firestore_answers_these_by_itself(conditions: list[Condition], ordered_by: str | None) -> None:
    assert needed_index("grants", conditions, ordered_by, descending=False) is None


def test_equalities_with_an_order_need_an_index_of_that_order() -> None:
    index = needed_index("grants", [EQUAL, RANGE], "due_at", descending=True)
    assert index == CompositeIndex("grants", frozenset({"tenant"}), "due_at", descending=True)


def test_the_list_holds_what_the_stores_ask() -> None:
    assert listed_indexes() == {
        CompositeIndex("approval_requests", frozenset({"owner"}), "waits_until", descending=True),
        CompositeIndex("approval_requests", frozenset({"asker"}), "waits_until", descending=True),
        CompositeIndex("issued_tokens", frozenset({"owner"}), "issued_at", descending=True),
        CompositeIndex("issued_tokens", frozenset({"sha256"}), "issued_at", descending=True),
        CompositeIndex("grants", frozenset({"due_shard"}), "due_at", descending=False),
    }
