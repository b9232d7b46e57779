"""Runs flows over httpx2: one driver for threads, one for asyncio. No redirects, no cookies, bounded answers.

`use_transport` puts another transport under everything that is opened afterwards: the fake broker of `cab_client.testing`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import ssl
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar

import httpx2

from cab_client.credentials import metadata_host
from cab_client.flows import CannotConnect, Flow, NoAnswer, Pause, Reply, Send

T = TypeVar("T")

MAX_ANSWER_BYTES = 4 * 1024 * 1024
_NOTHING = Reply(0, {}, b"")
_override: Any = None


@contextmanager
def use_transport(transport: Any) -> Iterator[None]:
    """`transport` serves both httpx2.BaseTransport and httpx2.AsyncBaseTransport."""
    global _override  # noqa: PLW0603 - agents are module globals of the code under test
    before, _override = _override, transport
    try:
        yield
    finally:
        _override = before


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Read once: it takes longer than an exchange."""
    return httpx2.create_ssl_context()


def client_options() -> dict[str, Any]:
    """What every client of ours is made with."""
    return {"transport": _override, "verify": _certificates(), "follow_redirects": False}


def _driving() -> dict[str, Any]:
    """What the clients to the broker and to the metadata server are made with: no user's cookie for the next one, and no
    proxy hears who the workload is.
    """
    nobodys = CookieJar(policy=DefaultCookiePolicy(allowed_domains=()))
    return client_options() | {"cookies": nobodys, "mounts": {f"all://{metadata_host()}": None}}


class SyncDriver:
    """Runs flows one after another in the calling thread. Safe under threads and after a fork; its connections are kept."""

    def __init__(self) -> None:
        self._kept: tuple[tuple[int, Any], httpx2.Client] | None = None

    def run(self, flow: Flow[T]) -> T:
        failure: BaseException
        try:
            step = next(flow)
            while True:
                reply = self._answer(step)
                step = flow.send(reply) if isinstance(reply, Reply) else flow.throw(reply)
        except StopIteration as ended:
            result: T = ended.value
            return result
        except BaseException as error:  # noqa: BLE001 - raised below
            failure = error
        raise _bare(failure)

    def _answer(self, step: Send | Pause) -> Reply | CannotConnect | NoAnswer:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return _NOTHING
        try:
            return self._send(step)
        except (CannotConnect, NoAnswer) as failed:
            return failed

    def _send(self, send: Send) -> Reply:
        try:
            with self._open().stream(
                send.method, send.url, headers=send.headers, content=send.body, timeout=send.timeout_s
            ) as answer:
                body, end = b"", time.monotonic() + send.timeout_s
                for part in answer.iter_bytes():
                    body = _bounded(body + part, end)
                return _reply(answer, body)
        except httpx2.HTTPError as error:
            raise _failure(error) from None

    def _open(self) -> httpx2.Client:
        owner = (os.getpid(), _override)  # two processes on one connection would read each other's tokens
        kept = self._kept
        if kept is None or kept[0] != owner:
            self._kept = kept = (owner, httpx2.Client(**_driving()))
            weakref.finalize(
                self, _close, kept[1], os.getpid()
            )  # an agent that is simply dropped leaves no socket behind
        return kept[1]

    def close(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            _close(kept[1], kept[0][0])


def _close(client: httpx2.Client, made_in: int) -> None:
    """Not in the child of a fork, where another thread may have held the client's lock for good."""
    if os.getpid() == made_in:
        client.close()


class _OfThread(threading.local):
    client: httpx2.AsyncClient | None = None
    made_for: Any = None


class AsyncDriver:
    """Runs flows under asyncio. One client for each thread's event loop, since connections belong to theirs."""

    def __init__(self) -> None:
        self._mine = _OfThread()

    async def run(self, flow: Flow[T]) -> T:
        failure: BaseException
        try:
            step = next(flow)
            while True:
                reply = await self._answer(step)
                step = flow.send(reply) if isinstance(reply, Reply) else flow.throw(reply)
        except StopIteration as ended:
            result: T = ended.value
            return result
        except BaseException as error:  # noqa: BLE001 - raised below
            failure = error
        raise _bare(failure)

    async def _answer(self, step: Send | Pause) -> Reply | CannotConnect | NoAnswer:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return _NOTHING
        try:
            return await self._send(step)
        except (CannotConnect, NoAnswer) as failed:
            return failed

    async def _send(self, send: Send) -> Reply:
        try:
            async with self._open().stream(
                send.method, send.url, headers=send.headers, content=send.body, timeout=send.timeout_s
            ) as answer:
                body, end = b"", time.monotonic() + send.timeout_s
                async for part in answer.aiter_bytes():
                    body = _bounded(body + part, end)
                return _reply(answer, body)
        except httpx2.HTTPError as error:
            raise _failure(error) from None

    def _open(self) -> httpx2.AsyncClient:
        owner = (os.getpid(), asyncio.get_running_loop(), _override)
        if self._mine.client is None or self._mine.made_for != owner:
            self._mine.client, self._mine.made_for = httpx2.AsyncClient(**_driving()), owner
        return self._mine.client

    async def aclose(self) -> None:
        """Closes what this thread has opened."""
        if self._mine.client is not None:
            await self._mine.client.aclose()
            self._mine.client = None


def _bare(error: BaseException) -> BaseException:
    """Without the frames of the flow and of what was read, whose variables held tokens, and without what they were about:
    of errors, and of a cancelled task too.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _bounded(body: bytes, end: float) -> bytes:
    if len(body) > MAX_ANSWER_BYTES or time.monotonic() > end:  # a timeout of httpx2's is for each part
        raise NoAnswer
    return body


def _reply(answer: httpx2.Response, body: bytes) -> Reply:
    return Reply(answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, body)


def _failure(error: httpx2.HTTPError) -> CannotConnect | NoAnswer:
    unsent = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
    return CannotConnect(str(error) or "no connection in time") if unsent else NoAnswer()
