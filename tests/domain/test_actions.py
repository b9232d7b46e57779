"""The action catalog: which identifiers and parameter values an action accepts."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from cab.domain.configured.actions import Action, Parameter


def action(**changes: Any) -> Action:
    standard = {"id": "crm.deal.update", "title": "Change a deal", "effect": "write", "identifier": "deal/{id}"}
    return Action.model_validate(standard | changes)


@pytest.mark.parametrize(
    "identifier", ["deal/1", "deal/A-b_c.d~e", "deal/" + "x" * 128, "deal/...", "deal/.x", "deal/..x", "deal/1."]
)
def test_one_id_of_plain_characters_fits_the_form(identifier: str) -> None:
    assert action().accepts_identifier(identifier)


@pytest.mark.parametrize(
    "identifier",
    [
        "",
        "deal",
        "deal/",
        "deal/*",
        "deal/{id}",
        "deal/1/notes",
        "deal/1\n",
        "deal/ 1",
        "deal/1 ",
        "deal/..%2f",
        "deal/.",
        "deal/..",
        "deal/é",
        "deal/" + "x" * 129,
        "Deal/1",
        "/deal/1",
        "xdeal/1",
        "deal/1?x=1",
        "deal/1#x",
        "deal/\u202e1",
    ],
)
def test_what_is_not_exactly_one_plain_id_does_not_fit(identifier: str) -> None:
    assert not action().accepts_identifier(identifier)


def test_a_collection_is_taken_literally() -> None:
    listing = action(identifier="deal/*")
    assert listing.accepts_identifier("deal/*")
    for identifier in ("deal/1", "deal/", "deal/**", "*", "deal"):
        assert not listing.accepts_identifier(identifier)


def test_a_dot_in_the_form_is_a_dot() -> None:
    assert not action(identifier="a.b/{id}").accepts_identifier("axb/1")


@pytest.mark.parametrize(
    "identifier", ["deal/{id}/x", "{id}", "*", "deal/*/x", "deal /{id}", "deal/{ID}", "", "deal/x*"]
)
def test_a_malformed_form_stops_the_configuration(identifier: str) -> None:
    with pytest.raises(ValidationError):
        action(identifier=identifier)


FITS: list[tuple[dict[str, Any], Any]] = [
    ({"type": "string"}, ""),
    ({"type": "string"}, "two\nlines\tand a tab"),
    ({"type": "string", "max_length": 3}, "abc"),
    ({"type": "string", "values": ["a", "b"]}, "a"),
    ({"type": "integer"}, 0),
    ({"type": "integer"}, 2**53 - 1),
    ({"type": "integer"}, -(2**53) + 1),
    ({"type": "integer", "minimum": 1, "maximum": 3}, 3),
    ({"type": "boolean"}, False),
]
DOES_NOT_FIT: list[tuple[dict[str, Any], Any]] = [
    ({"type": "string"}, 7),
    ({"type": "string"}, True),
    ({"type": "string"}, "x" * 501),
    ({"type": "string"}, "\x00"),
    ({"type": "string"}, "\r"),
    ({"type": "string"}, "a\u202eb"),
    ({"type": "string"}, "a\u200bb"),
    ({"type": "string"}, "\ud800"),
    ({"type": "string", "max_length": 3}, "abcd"),
    ({"type": "string", "values": ["a", "b"]}, "A"),
    ({"type": "string", "values": ["a", "b"]}, ""),
    ({"type": "string", "values": ["a", "b"]}, "a\n"),
    ({"type": "integer"}, True),
    ({"type": "integer"}, "1"),
    ({"type": "integer"}, 1.0),
    ({"type": "integer"}, 2**53),
    ({"type": "integer"}, -(2**53)),
    ({"type": "integer", "minimum": 1, "maximum": 3}, 4),
    ({"type": "integer", "minimum": 1, "maximum": 3}, 0),
    ({"type": "boolean"}, 0),
    ({"type": "boolean"}, "true"),
]


@pytest.mark.parametrize(("spec", "value"), FITS, ids=repr)
def test_a_value_within_its_bounds_fits(spec: dict[str, Any], value: Any) -> None:
    assert Parameter.model_validate(spec).problem(value) is None


@pytest.mark.parametrize(("spec", "value"), DOES_NOT_FIT, ids=repr)
def test_a_value_of_another_type_or_beyond_its_bounds_does_not_fit(spec: dict[str, Any], value: Any) -> None:
    assert Parameter.model_validate(spec).problem(value)


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "string", "values": ["a"], "default": "b"},
        {"type": "integer", "default": "1"},
        {"type": "integer", "maximum": 3, "default": 4},
        {"type": "boolean", "default": 1},
        {"type": "number"},
        {"type": "string", "pattern": ".*"},
    ],
)
def test_a_parameter_that_contradicts_itself_stops_the_configuration(spec: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Parameter.model_validate(spec)


def test_defaults_are_filled_in_and_never_override_what_was_said() -> None:
    parameters = {"mode": {"type": "string", "default": "append"}, "urgent": {"type": "boolean", "default": False}}
    update = action(parameters=parameters)
    assert update.with_defaults({}) == {"mode": "append", "urgent": False}
    assert update.with_defaults({"mode": "replace"}) == {"mode": "replace", "urgent": False}
