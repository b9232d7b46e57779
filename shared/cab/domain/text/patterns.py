"""The one wildcard of the broker: `*` at the end of a pattern, also across `.` and `/`. Nothing else is special."""

from __future__ import annotations

from collections.abc import Iterable


def covers(pattern: str, value: str) -> bool:
    """Whether `pattern` allows `value`. A `value` that itself ends in `*` (a collection) is covered only literally or by a wider prefix."""
    if pattern.endswith("*"):
        return value.startswith(pattern[:-1])
    return value == pattern


def covered_by_any(patterns: Iterable[str], value: str) -> bool:
    return any(covers(pattern, value) for pattern in patterns)


def all_covered(patterns: Iterable[str], values: Iterable[str]) -> bool:
    """Whether every value (which may be a pattern itself) is within some pattern."""
    known = tuple(patterns)
    return all(covered_by_any(known, value) for value in values)
