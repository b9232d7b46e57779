"""Fields of JSON bodies that more than one service of Acme takes."""

from datetime import date
from typing import Any

from cab_dev.doubles.strict_input import BadRequest


def text_of(value: Any, name: str, limit: int) -> str:
    """Text of 1 to `limit` characters. Raises BadRequest."""
    if not isinstance(value, str) or not 1 <= len(value) <= limit:
        raise BadRequest("invalid_request", f"{name} must be text of 1 to {limit} characters.")
    return value


def calendar_day(value: Any, name: str) -> date:
    """A day written YYYY-MM-DD. Raises BadRequest."""
    try:
        if isinstance(value, str) and len(value) == 10:
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise BadRequest("invalid_request", f"{name} must be a date, YYYY-MM-DD.")
