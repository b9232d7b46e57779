"""Authorization requests that wait for a person: kept on the server, bound to one browser by its cookie.

The cookie is the CSRF protection of the decision form: an id on a form is only worth something in the browser that
was shown that form.
"""

import secrets
from dataclasses import dataclass
from typing import Generic, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from cab_dev.doubles.clock import Clock

WAIT_S = 600
_MAX_WAITING = 1000

T = TypeVar("T")


@dataclass(frozen=True)
class _Waiting(Generic[T]):
    browser: str
    until: float
    value: T


class WaitingRequests(Generic[T]):
    """Values by random id. Each is taken once, by the browser that left it, within ten minutes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[str, _Waiting[T]] = {}

    def leave(self, value: T, *, browser: str) -> str:
        """Keep `value` for `browser`; returns the id for the form. Oldest entries give way when there are too many."""
        while len(self._waiting) >= _MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        request_id = secrets.token_urlsafe(24)
        self._waiting[request_id] = _Waiting(browser, self._clock() + WAIT_S, value)
        return request_id

    def take(self, request_id: str, *, browser: str | None) -> T | None:
        """The value, once; None for an unknown, late or foreign id. A foreign browser does not use it up."""
        waiting = self._waiting.get(request_id)
        if waiting is None or browser is None or not secrets.compare_digest(waiting.browser, browser):
            return None
        del self._waiting[request_id]
        return waiting.value if self._clock() < waiting.until else None


def browser_of(request: Request, cookie: str) -> str | None:
    """The browser's id from our cookie, if it looks like one of ours."""
    value = request.cookies.get(cookie, "")
    return value if len(value) == 43 and value.isascii() else None


def new_browser() -> str:
    return secrets.token_urlsafe(32)


def set_browser_cookie(response: Response, cookie: str, browser: str, *, secure: bool) -> None:
    """A session cookie for this browser; the name differs per service because cookies ignore ports."""
    response.set_cookie(cookie, browser, httponly=True, samesite="lax", secure=secure, path="/")
