"""What is hashed has one form, however fast it is written."""

from __future__ import annotations

from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from cab.encoding.canonical_json import canonical

TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.text(st.characters(max_codepoint=127))
INTEGERS = st.integers(-(2**53) + 1, 2**53 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [1.0, -0.0, 1e-5, 1e-7, 1e15, 1e16, 1e21, 1e22]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    TEXT | INTEGERS | FLOATS | st.booleans() | st.none(),
    lambda values: st.lists(values) | st.dictionaries(TEXT, values),
    max_leaves=20,
)


@given(VALUES)
def test_any_value_has_its_rfc_8785_form(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@given(st.lists(INTEGERS | FLOATS))
def test_it_is_the_same_for_who_says_which_numbers_are_in_it(numbers: list[float]) -> None:
    assert canonical({"n": numbers}, floats=numbers) == rfc8785.dumps({"n": numbers})


def test_whole_numbers_cost_no_slow_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are read from canonical text: 5.0 was written 5."""
    monkeypatch.delattr(rfc8785, "dumps")
    assert canonical({"ms": 5}, floats=[5]) == b'{"ms":5}'


def test_every_ascii_character_is_written_as_the_rfc_wants() -> None:
    text = "".join(map(chr, range(128)))
    assert canonical({text: text}) == rfc8785.dumps({text: text})


def test_names_are_sorted_by_utf_16_where_that_makes_a_difference() -> None:
    assert canonical({"\ufb33": 1, "\U0001f600": 2}) == '{"\U0001f600":2,"\ufb33":1}'.encode()


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**63, 2**70])
def test_an_integer_that_not_every_reader_can_hold_is_refused(number: int) -> None:
    with pytest.raises(rfc8785.CanonicalizationError):
        canonical({"n": number})
