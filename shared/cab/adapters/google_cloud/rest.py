"""Calls to Google's documented REST APIs: JSON on a few kept connections (`cab.adapters.http.connections`).

What Google's clients and gRPC add costs many times the call itself, and their defaults are wrong here: first retry after
2 s, 60 to 600 s in all (docs/decisions/google-over-rest.md). Every call here has a short time budget of its own, and
is retried only where the caller says that doing it twice is harmless.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import random
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

import orjson

from cab.adapters.google_cloud.access_tokens import AccessTokens, NoCredentials
from cab.adapters.http.connections import Answer, Broken, Connections
from cab.ports import Unavailable

_logger = logging.getLogger(__name__)

_ATTEMPTS = 3
_FIRST_PAUSE_S = 0.05  # each later one up to twice as long
_TLS_PORT = 443

_Read = TypeVar("_Read")


class Status(StrEnum):
    """How a call ended that did not succeed: google.rpc.Code, by name."""

    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    UNAUTHENTICATED = "UNAUTHENTICATED"


# What a front end says that answers in place of the API, without an error of the API's own. A 404 of such a one must not
# count as a document that is missing.
_OF_FRONT_ENDS = dict.fromkeys((429, 502, 503, 504), Status.UNAVAILABLE)


NOT_UNDERSTOOD = (LookupError, TypeError, ValueError, AttributeError, RecursionError)
"""What reading JSON of another shape raises."""


class Refused(Exception):
    """The API answered with one of the statuses that the caller asked to see. Carries no text of the API."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


class _Failed(Exception):
    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


class GoogleApi:
    """One API on its own connections, opened at the first call, in the event loop that is then running.

    `what` is the name that `Unavailable` carries and the log shows. When the environment variable `emulator_variable` holds a
    `host:port`, calls go there in clear and without credentials; otherwise to `host` over TLS.
    """

    def __init__(self, what: str, *, host: str, emulator_variable: str, tokens: AccessTokens | None = None) -> None:
        self._what = what
        self._host = host
        self._emulator_variable = emulator_variable
        self._tokens = tokens
        self._connections: Connections | None = None
        self._host_header = host

    async def call(
        self,
        name: str,
        path: str,
        body: Any = None,
        *,
        read: Callable[[Any], _Read],
        load: Callable[[bytes], Any] = orjson.loads,
        budget_s: float,
        retry_on: frozenset[Status] = frozenset(),
        expected: frozenset[Status] = frozenset(),
        attempts: int = _ATTEMPTS,
    ) -> _Read:
        """What `read` makes of the answer's JSON. POST with `body` as JSON, its instants as text with a Z; GET where it is None.

        `name` is the method's, for the log; `path` is URL-encoded. `read` may raise NOT_UNDERSTOOD, and so may `load`, which makes
        JSON of the bytes. `budget_s` bounds the whole: credentials, connecting, every attempt and the pauses between them.
        Raises: Refused for a status in `expected`; Unavailable for all others and when the time is over.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + budget_s
        pause_s = _FIRST_PAUSE_S
        status = Status.DEADLINE_EXCEEDED
        try:
            connections = self._connections or self._open()
            request = _request(path, self._host_header, await self._credentials(deadline), body)
            while True:
                try:
                    return read(_read_json(await connections.ask(request, until=deadline), load))
                except Broken:
                    status = Status.UNAVAILABLE
                except _Failed as failed:
                    status = failed.status
                except NOT_UNDERSTOOD:
                    status = Status.INTERNAL  # an answer that nobody understands
                attempts -= 1
                pause_s *= random.uniform(1.0, 2.0)  # noqa: S311 - spreads retries, guards nothing
                if status not in retry_on or attempts <= 0 or clock() + pause_s >= deadline:
                    break
                await asyncio.sleep(pause_s)
        except TimeoutError:
            status = Status.DEADLINE_EXCEEDED
        except NoCredentials:
            _logger.warning("%s: no access token of this service is available", self._what)
            raise Unavailable(self._what) from None
        if status in expected:
            raise Refused(status)
        # Neither the path nor the API's words: they can quote the request.
        _logger.warning("%s: %s ended with %s", self._what, name, status.name)
        raise Unavailable(self._what)

    async def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        connections, self._connections = self._connections, None
        if connections is not None:
            await connections.close()

    async def _credentials(self, deadline: float) -> bytes:
        if self._tokens is None:
            return b""
        if (fresh := self._tokens.fresh()) is not None:
            return fresh
        async with asyncio.timeout_at(deadline):
            return await self._tokens.lines()

    def _open(self) -> Connections:
        emulator = os.environ.get(self._emulator_variable)
        if emulator:
            emulator = emulator.removeprefix("http://")  # as BigQuery's own clients want it
            self._tokens = None
            self._host_header = emulator
            host, _, port = emulator.rpartition(":")
            self._connections = Connections(host.strip("[]"), int(port), in_clear=True)
        else:
            self._tokens = self._tokens or AccessTokens()
            host, _, port = self._host.partition(":")
            self._connections = Connections(host, int(port or _TLS_PORT))
        return self._connections


def _request(path: str, host: str, credentials: bytes, body: Any) -> bytes:
    """Raises: ValueError for a path that is not URL-encoded."""
    if body is None:
        return b"%s%s\r\n" % (_first_lines("GET", path, host), credentials)
    content = orjson.dumps(body, option=orjson.OPT_UTC_Z)
    return b"%s%scontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        _first_lines("POST", path, host),
        credentials,
        len(content),
        content,
    )


@functools.lru_cache(maxsize=64)
def _first_lines(method: str, path: str, host: str) -> bytes:
    if not path.isascii() or not path.isprintable() or " " in path:
        raise ValueError("a path is URL-encoded")
    return f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n".encode()


def _read_json(answer: Answer, load: Callable[[bytes], Any]) -> Any:
    """Raises: _Failed; ValueError for what is no JSON."""
    if answer.status != 200:
        raise _Failed(_status_of(answer))
    document = load(answer.body)
    if isinstance(document, list):  # the messages of a streaming method; an error may end them
        for part in document:
            if "error" in part:
                raise _Failed(_named(part))
    return document


def _status_of(answer: Answer) -> Status:
    try:
        document = orjson.loads(answer.body)
        return _named(document[0] if isinstance(document, list) else document)
    except (LookupError, TypeError, ValueError):
        return _OF_FRONT_ENDS.get(answer.status, Status.UNKNOWN)


def _named(document: Any) -> Status:
    """Raises: LookupError, TypeError, ValueError for what is no error of the API."""
    return Status(document["error"]["status"])
