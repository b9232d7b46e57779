"""Fault switches of a double: what goes wrong at which endpoint, for how many requests, and before or after it worked.

`POST /_control/faults` takes one fault, or `{"faults": [...]}`; the next request to the endpoint takes the oldest one
that fits. A fault without `count` stays until it is cleared.

| kind | members | effect |
|---|---|---|
| `status` | `status`, `retry_after` | that status with a plain error body |
| `slow` | `seconds` | waits, then works as always |
| `hang` | | never answers, until cleared or the client leaves |
| `reset` | | headers and half a body, then the connection closes |
| `body` | `body`: `html`, `garbage`, `empty_object`, `large` | 200 with that body |
| `error_200` | `error` | 200 with an OAuth error body |
| `invalid_grant` | `status` (400, 403) | a false `invalid_grant`; nothing was touched |
| `answer` | `answer`, `value` | the endpoint works, its answer is changed; see `ANSWER_CHANGES` |
| other | | what the service itself declares |

`after_commit: true` lets the endpoint do its work first: the provider has rotated, and its answer is lost.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from cab_dev.doubles.strict_input import BadRequest

LARGE_BODY_BYTES = 1024 * 1024

ANSWER_CHANGES = frozenset({"no_refresh_token", "expires_in", "extra_scope", "large", "form_encoded"})
"""Changes of a successful token answer. `expires_in` takes `value`; value "absent" removes the member."""

_COMMON_KINDS = frozenset({"status", "slow", "hang", "reset", "body", "error_200", "invalid_grant", "answer"})
_BODIES = frozenset({"html", "garbage", "empty_object", "large"})
_MEMBERS = frozenset(
    {
        "endpoint",
        "kind",
        "count",
        "after_commit",
        "status",
        "retry_after",
        "seconds",
        "body",
        "error",
        "answer",
        "value",
        "grant_type",
    }
)


@dataclass(kw_only=True)
class Fault:
    """One switch. `remaining` None means until cleared; `grant_type` limits a token-endpoint fault to one grant."""

    endpoint: str
    kind: str
    remaining: int | None
    after_commit: bool
    status: int
    retry_after: int | None
    seconds: float
    body: str
    error: str
    answer: str
    value: Any
    grant_type: str | None

    def describe(self) -> dict[str, Any]:
        return {
            "endpoint": self.endpoint,
            "kind": self.kind,
            "remaining": self.remaining,
            "after_commit": self.after_commit,
        }


def _integer(value: Any, low: int, high: int, name: str) -> int:
    if type(value) is not int or not low <= value <= high:
        raise BadRequest("invalid_request", f"{name} must be an integer from {low} to {high}.")
    return value


def _one_of(value: Any, allowed: Collection[str], name: str) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise BadRequest("invalid_request", f"{name} must be one of: {', '.join(sorted(allowed))}.")
    return value


class FaultBoard:
    """The switches of one service. Not thread-safe: used from the service's event loop only."""

    def __init__(self, endpoints: Collection[str], *, own_kinds: Collection[str] = ()) -> None:
        self._endpoints = tuple(endpoints)
        self._kinds = _COMMON_KINDS | set(own_kinds)
        self._faults: list[Fault] = []
        self._cleared: list[asyncio.Event] = []

    def set_from_json(self, document: Mapping[str, Any]) -> None:
        """Add the fault or faults of a control request. Raises BadRequest without adding any of them."""
        entries = document.get("faults", [document]) if set(document) <= {"faults"} else [document]
        if not isinstance(entries, list):
            raise BadRequest("invalid_request", "faults must be a list.")
        self._faults += [self._parse(entry) for entry in entries]

    def _parse(self, entry: Any) -> Fault:
        if not isinstance(entry, dict) or not set(entry) <= _MEMBERS:
            raise BadRequest("invalid_request", "A fault has unknown members.")
        endpoint = _one_of(entry.get("endpoint", self._endpoints[0]), self._endpoints, "endpoint")
        kind = _one_of(entry.get("kind"), self._kinds, "kind")
        seconds = entry.get("seconds", 1)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 600:
            raise BadRequest("invalid_request", "seconds must be a number from 0 to 600.")
        if type(entry.get("after_commit", False)) is not bool:
            raise BadRequest("invalid_request", "after_commit must be true or false.")
        retry_after = entry.get("retry_after")
        grant_type = entry.get("grant_type")
        if grant_type is not None and not isinstance(grant_type, str):
            raise BadRequest("invalid_request", "grant_type must be a string.")
        error = entry.get("error", "invalid_grant")
        if not isinstance(error, str):
            raise BadRequest("invalid_request", "error must be a string.")
        return Fault(
            endpoint=endpoint,
            kind=kind,
            remaining=_integer(entry["count"], 1, 10**6, "count") if "count" in entry else None,
            after_commit=bool(entry.get("after_commit", False)),
            status=_integer(entry.get("status", 503 if kind == "status" else 400), 400, 599, "status"),
            retry_after=None if retry_after is None else _integer(retry_after, 0, 86400, "retry_after"),
            seconds=float(seconds),
            body=_one_of(entry.get("body", "html"), _BODIES, "body"),
            error=error,
            answer=_one_of(entry.get("answer", "no_refresh_token"), ANSWER_CHANGES, "answer"),
            value=entry.get("value"),
            grant_type=grant_type,
        )

    def describe(self) -> list[dict[str, Any]]:
        return [fault.describe() for fault in self._faults]

    def clear(self) -> None:
        """Remove every fault and let hanging requests go."""
        self._faults.clear()
        for event in self._cleared:
            event.set()
        self._cleared.clear()

    def take(self, endpoint: str, *, grant_type: str | None = None) -> Fault | None:
        """The fault that this request meets, counted down; None when all is well."""
        for fault in self._faults:
            if fault.endpoint == endpoint and fault.grant_type in (None, grant_type):
                if fault.remaining is not None:
                    fault.remaining -= 1
                    if fault.remaining == 0:
                        self._faults.remove(fault)
                return fault
        return None

    async def around(self, fault: Fault | None, request: Request, work: Callable[[], Awaitable[Response]]) -> Response:
        """Run `work` under `fault`: not at all, after a wait, or with its answer thrown away.

        Kinds that only the endpoint understands (`answer`, the service's own) run `work` unchanged.
        """
        if fault is None or fault.kind not in _COMMON_KINDS - {"answer"}:
            return await work()
        if fault.kind == "slow":
            if not fault.after_commit:
                await self._wait(request, fault.seconds)
                return await work()
            response = await work()
            await self._wait(request, fault.seconds)
            return response
        if fault.after_commit:
            await work()
        if fault.kind == "hang":
            await self._wait(request, None)
        return failure_response(fault)

    async def _wait(self, request: Request, seconds: float | None) -> None:
        """Wait that long, or until the faults are cleared, or until the client has gone."""
        cleared = asyncio.Event()
        self._cleared.append(cleared)
        waits = [asyncio.create_task(cleared.wait()), asyncio.create_task(_disconnected(request))]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            if cleared in self._cleared:
                self._cleared.remove(cleared)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class BrokenOffResponse(Response):
    """Announces more bytes than it sends; the server then closes the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"400")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"access_token":"', "more_body": True})


def failure_response(fault: Fault) -> Response:
    """What the client sees instead of the endpoint's own answer."""
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    if fault.kind == "reset":
        return BrokenOffResponse()
    if fault.kind == "error_200":
        return JSONResponse({"error": fault.error})
    if fault.kind == "invalid_grant":
        return JSONResponse({"error": "invalid_grant"}, status_code=fault.status)
    if fault.kind == "body":
        return _odd_body(fault.body)
    status = fault.status if fault.kind == "status" else 503
    return JSONResponse({"error": "temporarily_unavailable"}, status_code=status, headers=headers)


def _odd_body(body: str) -> Response:
    if body == "html":
        return HTMLResponse("<!doctype html><title>Sorry</title><h1>We will be right back</h1>")
    if body == "empty_object":
        return JSONResponse({})
    if body == "large":
        return JSONResponse({"padding": "x" * LARGE_BODY_BYTES})
    return Response(b'{"keys": [\xff\xfe not json', media_type="application/json")
