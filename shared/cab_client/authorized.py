"""HTTP clients that can only do what they are for: one origin, no redirects, this token and no other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

import httpx2

from cab_client.errors import CabError, WrongOrigin
from cab_client.transport import client_options
from cab_client.values import Assertion, Permit

_READS = ("GET", "HEAD", "OPTIONS")


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    port = url.port or {"http": 80, "https": 443, "ws": 80, "wss": 443}.get(url.scheme)
    return ({"ws": "http", "wss": "https"}.get(url.scheme, url.scheme), url.host, port)


class _OneOrigin:
    """What both kinds of client share: they send to the origin of `base_url` alone, and prove themselves in one way.

    `last_status`: what was answered to the last request that changes something, or to the last one where none does; None
    where no answer came. `sent`: whether there was a request at all.
    """

    _has_changed = False

    def __init__(self, proof: Callable[[Any], Any], *, base_url: str, timeout_s: float) -> None:
        super().__init__(base_url=base_url, timeout=timeout_s, **client_options())  # type: ignore[call-arg]
        self._home = _origin(httpx2.URL(base_url))
        self._proof = proof
        self.last_status: int | None = None
        self.sent = False

    def _checked(self, request: httpx2.Request, options: Mapping[str, Any]) -> dict[str, Any]:
        if _origin(request.url) != self._home:
            raise WrongOrigin
        self._has_changed |= request.method not in _READS
        self.sent = True
        self._note(request, None)
        return {**options, "follow_redirects": False, "auth": self._proof}

    def _note(self, request: httpx2.Request, status: int | None) -> None:
        if request.method not in _READS or not self._has_changed:
            self.last_status = status


class _Locked(_OneOrigin, httpx2.Client):
    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """As httpx2, but nowhere else, without redirects, and always with this client's own token."""
        answer = super().send(request, **self._checked(request, options))
        self._note(request, answer.status_code)
        return answer


class _AsyncLocked(_OneOrigin, httpx2.AsyncClient):
    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """As httpx2, but nowhere else, without redirects, and always with this client's own token."""
        answer = await super().send(request, **self._checked(request, options))
        self._note(request, answer.status_code)
        return answer


class _Renewing:
    """Which refusals of a token are worth another token: the first one, of a request that changes nothing."""

    _has_changed: bool

    def __init__(
        self, permit: Permit, *, base_url: str, timeout_s: float, renew: Callable[[Permit], Any] | None = None
    ) -> None:
        super().__init__(permit.auth, base_url=base_url, timeout_s=timeout_s)  # type: ignore[call-arg]
        self._renew = renew
        self._take(permit)

    def _take(self, permit: Permit) -> None:
        self.permit = permit
        self._proof = permit.auth

    def _is_refused(self, request: httpx2.Request, answer: httpx2.Response) -> bool:
        return answer.status_code == 401 and request.method in _READS

    def _give_up(self, error: CabError) -> None:
        """Raises the error unless this block has changed something: whoever catches it may run the whole block again."""
        if not self._has_changed:
            raise error from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.base_url)!r}, {self.permit!r})"  # type: ignore[attr-defined]


class AuthorizedClient(_Renewing, _Locked):
    """An `httpx2.Client` for one connection and one permit. Closed with its block.

    When the platform answers a GET, HEAD or OPTIONS with 401, another token is asked for, once, and the request is made
    again, as is every other one that met the same refusal; a request that changes something never is.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._renewing = threading.Lock()

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """See the class. Raises also: what `errors.py` lists, from asking for another token."""
        used = self.permit
        answer = super().send(request, **options)
        if not self._is_refused(request, answer):
            return answer
        with self._renewing:
            if self.permit is used and not self._has_another():
                return answer
        answer.close()
        return super().send(request, **options)

    def _has_another(self) -> bool:
        renew, self._renew = self._renew, None
        try:
            another: Permit | None = renew(self.permit) if renew else None
        except CabError as error:
            self._give_up(error)
            return False
        if another is not None:
            self._take(another)
        return another is not None


class AsyncAuthorizedClient(_Renewing, _AsyncLocked):
    """An `httpx2.AsyncClient` for one connection and one permit, as `AuthorizedClient` is."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._renewing = asyncio.Lock()

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """See `AuthorizedClient.send`."""
        used = self.permit
        answer = await super().send(request, **options)
        if not self._is_refused(request, answer):
            return answer
        async with self._renewing:
            if self.permit is used and not await self._has_another():
                return answer
        await answer.aclose()
        return await super().send(request, **options)

    async def _has_another(self) -> bool:
        renew, self._renew = self._renew, None
        try:
            another: Permit | None = await renew(self.permit) if renew else None
        except CabError as error:
            self._give_up(error)
            return False
        if another is not None:
            self._take(another)
        return another is not None


class _Unshown(httpx2.Headers):
    """httpx2 hides `Authorization` where headers are printed, and does not know of ours."""

    def __repr__(self) -> str:
        return f"<{', '.join(self)}>"


class _ToPeer:
    def __init__(self, assertion: Assertion, *, base_url: str, timeout_s: float) -> None:
        def carrying(request: Any) -> Any:
            request.headers = _Unshown(request.headers)
            request.headers.update(assertion.as_header())
            return request

        super().__init__(carrying, base_url=base_url, timeout_s=timeout_s)  # type: ignore[call-arg]


class PeerClient(_ToPeer, _Locked):
    """An `httpx2.Client` to another agent, which carries the assertion that was handed on to it."""


class AsyncPeerClient(_ToPeer, _AsyncLocked):
    """An `httpx2.AsyncClient` to another agent, which carries the assertion that was handed on to it."""


def outcome_of(status: int | None, *, used: bool) -> str:
    """What came of a token, in the broker's words, from what was answered."""
    if status is None:
        return "unknown" if used else "not_used"
    if status < 400:
        return "done"
    return "rejected" if status < 500 else "failed"
