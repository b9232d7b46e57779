"""For whom: the assertion of the request at hand, in a context variable. Never a default user."""

from __future__ import annotations

import contextvars
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar, cast

from cab_client.errors import NoUser
from cab_client.values import Assertion, Secret

P = ParamSpec("P")
R = TypeVar("R")

_current: contextvars.ContextVar[Assertion | None] = contextvars.ContextVar("cab_client_assertion", default=None)


def as_assertion(value: Assertion | str | Secret) -> Assertion:
    return value if isinstance(value, Assertion) else Assertion(value)


@contextmanager
def acting_for(assertion: Assertion | str | Secret) -> Iterator[Assertion]:
    """Everything in the block, and what it awaits, acts for this user. Not around a `yield` of yours: whoever iterates over a
    generator would act for its user between two steps, and after leaving it early.
    """
    current = as_assertion(assertion)
    with _current_is(current):
        yield current


@contextmanager
def _current_is(assertion: Assertion | None) -> Iterator[None]:
    before = _current.set(assertion)
    try:
        yield
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
    """`function` with the user of here and now, for an executor, a thread or another event loop, which begin with none.

    Raises: TypeError for a generator, which runs wherever it is iterated over.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError("bind what iterates over the generator: it runs wherever that is")
    context, user = contextvars.copy_context(), _current.get()

    async def awaited(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with _current_is(user):  # a coroutine runs in the context of whoever awaits it
            return await coroutine

    @functools.wraps(function)
    def bound(*args: P.args, **kwargs: P.kwargs) -> R:
        made = context.copy().run(function, *args, **kwargs)
        return cast("R", awaited(made)) if inspect.iscoroutine(made) else made

    @functools.wraps(function)
    async def bound_coroutine(*args: P.args, **kwargs: P.kwargs) -> Any:
        return await awaited(cast("Coroutine[Any, Any, Any]", function(*args, **kwargs)))

    return cast("Callable[P, R]", bound_coroutine) if inspect.iscoroutinefunction(function) else bound
