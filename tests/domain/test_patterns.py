"""The one wildcard: a trailing `*`, and nothing else is special."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fuzz import fuzz

from cab.domain.text.patterns import all_covered, covered_by_any, covers

words = st.text(alphabet="ab./", max_size=6)
patterns = words | words.map(lambda word: word + "*")


@pytest.mark.parametrize(
    ("pattern", "value", "covered"),
    [
        ("crm.deal.read", "crm.deal.read", True),
        ("crm.deal.read", "crm.deal.reader", False),
        ("crm.deal.read", "crm.deal", False),
        ("crm.deal.*", "crm.deal.read", True),
        ("crm.deal.*", "crm.deal.", True),
        ("crm.deal.*", "crm.deal", False),
        ("crm.deal.*", "crm.deals.read", False),
        ("crm.*", "crm.deal.note.read", True),
        ("deal/*", "deal/1/notes/2", True),
        ("deal/*", "deal/*", True),
        ("deal/1*", "deal/*", False),
        ("deal/1", "deal/*", False),
        ("*", "", True),
        ("*", "anything at all", True),
        ("", "", True),
        ("", "a", False),
        ("CRM.*", "crm.deal", False),
        ("a?c", "abc", False),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
        ("a|b", "a", False),
        ("a", "a\n", False),
        ("a*", "a\nb", True),
    ],
)
def test_a_pattern_covers_its_own_text_or_what_begins_like_it(pattern: str, value: str, covered: bool) -> None:
    assert covers(pattern, value) is covered


@given(st.lists(patterns, max_size=4), st.lists(patterns, max_size=4), words)
@fuzz(400)
def test_whatever_narrower_patterns_cover_the_wider_ones_cover(wide: list[str], narrow: list[str], value: str) -> None:
    """The rule delegation rests on: a task that passes as narrower allows nothing new."""
    if all_covered(wide, narrow) and covered_by_any(narrow, value):
        assert covered_by_any(wide, value)


@given(st.lists(patterns, max_size=4))
@fuzz(60)
def test_patterns_are_within_themselves_and_nothing_is_within_none(some: list[str]) -> None:
    assert all_covered(some, some)
    assert all_covered([], some) is (not some)
