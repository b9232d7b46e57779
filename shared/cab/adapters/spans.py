"""Spans: a request, and each thing that it waits for. Nobody records them unless a deployment turns traces on, and nothing is paid then.

What a span may hold is said here once: its name, and the facts of `Fact`. No address, no header, no body and no text of an exception
has a place in it, so no token gets there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Final, Literal, ParamSpec, Protocol, Self, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

Fact = Literal[
    "cab.txn",
    "http.request.method",
    "http.response.status_code",
    "server.address",
]


class Span(Protocol):
    def note(self, name: Fact, value: str | int) -> None: ...


class Recorder(Protocol):
    def span(self, name: str, *, of_request: bool = False) -> AbstractContextManager[Span]:
        """While it is open, the trace of the process (`trace_context.current`) goes on from it, also in what is sent to others."""


class _Unrecorded:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def note(self, name: Fact, value: str | int) -> None:
        """Forgotten."""


_UNRECORDED: Final = _Unrecorded()


class _Recording:
    by: Recorder | None = None


def record_with(recorder: Recorder | None) -> None:
    """From now on, in this process."""
    _Recording.by = recorder


def are_recorded() -> bool:
    return _Recording.by is not None


def of_request(name: str) -> AbstractContextManager[Span]:
    recorder = _Recording.by
    return _UNRECORDED if recorder is None else recorder.span(name, of_request=True)


def waiting_for(name: str) -> AbstractContextManager[Span]:
    """Of one call to somebody else."""
    recorder = _Recording.by
    return _UNRECORDED if recorder is None else recorder.span(name)


def a_wait(name: str) -> Callable[[Callable[_P, Coroutine[Any, Any, _R]]], Callable[_P, Coroutine[Any, Any, _R]]]:
    """Makes each call of a method a span. Stands at what the caller waits for, not at what is sent: calls that meet are sent as one."""

    def around(method: Callable[_P, Coroutine[Any, Any, _R]]) -> Callable[_P, Coroutine[Any, Any, _R]]:
        @functools.wraps(method)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> Coroutine[Any, Any, _R]:
            return method(*args, **kwargs) if _Recording.by is None else recorded(*args, **kwargs)

        async def recorded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with waiting_for(name):
                return await method(*args, **kwargs)

        return call

    return around
