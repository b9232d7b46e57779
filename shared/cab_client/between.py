"""Between agents: an assertion travels in the header `CAB-Assertion`, one value, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cab_client.errors import CabError
from cab_client.values import ASSERTION_HEADER, Assertion


class NoAssertion(CabError):
    """The request carries no assertion, more than one, or none that could be one. Answer 401."""

    def __init__(self) -> None:
        super().__init__("assertion_missing", description=f"The request must have one {ASSERTION_HEADER} header.")


def receive_assertion(request: Any) -> Assertion:
    """The assertion of an incoming request: Starlette's or FastAPI's, Flask's or Django's, a WSGI environment, or headers as
    a mapping or pairs. Not verified here: the broker does, when it is exchanged.

    A server that people's browsers reach must drop the header on the way in. Raises: NoAssertion.
    """
    values = list(_values(getattr(request, "headers", request)))
    if len(values) != 1 or "," in values[0]:
        raise NoAssertion
    try:
        return Assertion(values[0].strip())
    except ValueError:
        raise NoAssertion from None


def _values(headers: Any) -> Iterable[str]:
    for name in ("getlist", "get_list", "get_all"):
        if hasattr(headers, name):
            return list(getattr(headers, name)(ASSERTION_HEADER) or ())
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    wanted = (ASSERTION_HEADER.lower(), f"http_{ASSERTION_HEADER.lower().replace('-', '_')}")
    decoded = ((_text(name).lower(), value) for name, value in pairs)
    return [_text(value) for name, value in decoded if name in wanted]


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
