"""Values are compared and hashed by what they hold, and the type checker lets nobody change one."""

from __future__ import annotations

from dataclasses import field, replace

import pytest

from cab.values import immutable


@immutable
class Point:
    x: int
    y: int = 0
    secret: str = field(default="", repr=False)


def test_a_value_is_compared_and_hashed_by_what_it_holds() -> None:
    assert Point(1) == Point(1, 0)
    assert len({Point(1), Point(1), Point(2)}) == 2


def test_a_value_has_its_members_and_no_others() -> None:
    with pytest.raises(AttributeError):
        Point(1).z = 2  # type: ignore[attr-defined]


def test_another_value_is_made_of_a_value() -> None:
    assert replace(Point(1), y=2) == Point(1, 2)


def test_what_is_secret_is_not_shown() -> None:
    assert "canary" not in repr(Point(1, secret="canary"))


def change() -> None:
    """Never called: `make lint` fails if its type checker lets this pass, because then nothing is left to ignore."""
    Point(1).x = 2  # type: ignore[misc]
