"""For whom: the assertion of the request at hand, in a context variable. Never a default user."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from cab_client.errors import NoUser
from cab_client.values import Assertion, Secret

P = ParamSpec("P")
R = TypeVar("R")

_current: contextvars.ContextVar[Assertion | None] = contextvars.ContextVar("cab_client_assertion", default=None)


def as_assertion(value: Assertion | str | Secret) -> Assertion:
    return value if isinstance(value, Assertion) else Assertion(value)


@contextmanager
def acting_for(assertion: Assertion | str | Secret) -> Iterator[Assertion]:
    """Everything in the block, and what it awaits, acts for this user."""
    current = as_assertion(assertion)
    before = _current.set(current)
    try:
        yield current
    finally:
        _current.reset(before)


def assertion_of(given: Assertion | str | Secret | None) -> Assertion:
    """The one given, else the current one. Raises: NoUser."""
    if given is not None:
        return as_assertion(given)
    current = _current.get()
    if current is None:
        raise NoUser
    return current


def current_assertion() -> Assertion | None:
    return _current.get()


def bind(function: Callable[P, R]) -> Callable[P, R]:
    """`function` with the user of here and now, for an executor or a thread, which begin with none."""
    context = contextvars.copy_context()

    @functools.wraps(function)
    def bound(*args: P.args, **kwargs: P.kwargs) -> R:
        return context.copy().run(function, *args, **kwargs)

    return bound
