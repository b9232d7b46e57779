"""HTTP clients that can only do what they are for: one origin, no redirects, this token and no other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any

import httpx2

from cab_client.errors import CabError, WrongOrigin
from cab_client.transport import client_options
from cab_client.values import Assertion, Permit

_READS = ("GET", "HEAD", "OPTIONS")


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    port = url.port or {"http": 80, "https": 443, "ws": 80, "wss": 443}.get(url.scheme)
    return ({"ws": "http", "wss": "https"}.get(url.scheme, url.scheme), url.host, port)


class _ByPermit(httpx2.Auth):
    def __init__(self, permit: Permit) -> None:
        self._permit = permit

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        yield self._permit.auth(request)


class _ByAssertion(httpx2.Auth):
    def __init__(self, assertion: Assertion) -> None:
        self._assertion = assertion

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers.update(self._assertion.as_header())
        yield request


class _Locked(httpx2.Client):
    """Sends to the origin of `base_url` alone."""

    def __init__(self, proof: httpx2.Auth, *, base_url: str, timeout_s: float) -> None:
        super().__init__(base_url=base_url, timeout=timeout_s, **client_options())
        self._home = _origin(httpx2.URL(base_url))
        self._proof = proof
        self.last_status: int | None = None

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """As httpx2, but nowhere else, without redirects, and always with this client's own token."""
        if _origin(request.url) != self._home:
            raise WrongOrigin
        answer = super().send(request, **options | {"follow_redirects": False, "auth": self._proof})
        self.last_status = answer.status_code
        return answer


class _AsyncLocked(httpx2.AsyncClient):
    """Sends to the origin of `base_url` alone."""

    def __init__(self, proof: httpx2.Auth, *, base_url: str, timeout_s: float) -> None:
        super().__init__(base_url=base_url, timeout=timeout_s, **client_options())
        self._home = _origin(httpx2.URL(base_url))
        self._proof = proof
        self.last_status: int | None = None

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """As httpx2, but nowhere else, without redirects, and always with this client's own token."""
        if _origin(request.url) != self._home:
            raise WrongOrigin
        answer = await super().send(request, **options | {"follow_redirects": False, "auth": self._proof})
        self.last_status = answer.status_code
        return answer


class _Renewing:
    """Which refusals of a token are worth another token: the first one, of a request that changes nothing."""

    permit: Permit
    _renew: Any
    _has_changed = False

    def _is_refused(self, request: httpx2.Request, answer: httpx2.Response) -> bool:
        self._has_changed |= request.method not in _READS
        return answer.status_code == 401 and request.method in _READS and self._renew is not None

    def _give_up(self, error: CabError) -> None:
        """Raises the error unless this block has changed something: whoever catches it may run the whole block again."""
        if not self._has_changed:
            raise error from None


class AuthorizedClient(_Renewing, _Locked):
    """An `httpx2.Client` for one connection and one permit. Closed with its block.

    When the platform answers a GET, HEAD or OPTIONS with 401, another token is asked for, once, and the request is made
    again; a request that changes something never is.
    """

    def __init__(
        self,
        permit: Permit,
        *,
        base_url: str,
        timeout_s: float,
        renew: Callable[[Permit], Permit | None] | None = None,
    ) -> None:
        self.permit = permit
        self._renew = renew
        super().__init__(_ByPermit(permit), base_url=base_url, timeout_s=timeout_s)

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """See the class. Raises also: what `errors.py` lists, from asking for another token."""
        answer = super().send(request, **options)
        if not self._is_refused(request, answer):
            return answer
        renew, self._renew = self._renew, None
        try:
            another = renew(self.permit)
        except CabError as error:
            self._give_up(error)
            return answer
        if another is None:
            return answer
        answer.close()
        self.permit, self._proof = another, _ByPermit(another)
        return super().send(request, **options)

    def __repr__(self) -> str:
        return f"AuthorizedClient({str(self.base_url)!r}, {self.permit!r})"


class AsyncAuthorizedClient(_Renewing, _AsyncLocked):
    """An `httpx2.AsyncClient` for one connection and one permit, as `AuthorizedClient` is."""

    def __init__(
        self,
        permit: Permit,
        *,
        base_url: str,
        timeout_s: float,
        renew: Callable[[Permit], Awaitable[Permit | None]] | None = None,
    ) -> None:
        self.permit = permit
        self._renew = renew
        super().__init__(_ByPermit(permit), base_url=base_url, timeout_s=timeout_s)

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """See `AuthorizedClient.send`."""
        answer = await super().send(request, **options)
        if not self._is_refused(request, answer):
            return answer
        renew, self._renew = self._renew, None
        try:
            another = await renew(self.permit)
        except CabError as error:
            self._give_up(error)
            return answer
        if another is None:
            return answer
        await answer.aclose()
        self.permit, self._proof = another, _ByPermit(another)
        return await super().send(request, **options)

    def __repr__(self) -> str:
        return f"AsyncAuthorizedClient({str(self.base_url)!r}, {self.permit!r})"


class PeerClient(_Locked):
    """An `httpx2.Client` to another agent, which carries the assertion that was handed on to it."""

    def __init__(self, assertion: Assertion, *, base_url: str, timeout_s: float) -> None:
        super().__init__(_ByAssertion(assertion), base_url=base_url, timeout_s=timeout_s)


class AsyncPeerClient(_AsyncLocked):
    """An `httpx2.AsyncClient` to another agent, which carries the assertion that was handed on to it."""

    def __init__(self, assertion: Assertion, *, base_url: str, timeout_s: float) -> None:
        super().__init__(_ByAssertion(assertion), base_url=base_url, timeout_s=timeout_s)


def outcome_of(status: int | None, *, failed: bool) -> str:
    """What came of a permit, in the broker's words, from the last status that its client saw."""
    if status is None:
        return "unknown" if failed else "not_used"
    if status < 400:
        return "done"
    return "rejected" if status < 500 else "failed"
