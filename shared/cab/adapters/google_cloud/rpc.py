"""Calls to Google APIs over gRPC: Google's message classes and method paths on one bare channel.

What the generated clients add costs more CPU than the call itself, and their defaults are wrong here: first retry after
2 s, 60 to 600 s in all (docs/decisions/bare-grpc-to-google.md). Every call here has a short time budget of its own, and
is retried only where the caller says that doing it twice is harmless.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from cab.adapters.google_cloud.access_tokens import AccessTokens, Metadata, NoCredentials
from cab.ports import Unavailable

_logger = logging.getLogger(__name__)

_ATTEMPTS = 3
_FIRST_PAUSE_S = 0.05  # each later one up to twice as long
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),  # a page of documents of 1 MiB each; the default is 4 MiB
    # A lost server is tried again within a second, not within gRPC's default of two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # also the time that one connection attempt may take
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A connection that died silently is noticed while calls wait on it. Google's own clients use the same period.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),  # one fate per adapter: a test's dead server is not another test's
)


class Refused(Exception):
    """The API answered with one of the statuses that the caller asked to see. Carries no text of the API."""

    def __init__(self, status: grpc.StatusCode) -> None:
        super().__init__(status.name)
        self.status = status


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC: its full path and the class of its response."""

    path: str
    response: Any
    streams_responses: bool = False


class GoogleApi:
    """One API on one channel, opened at the first call, in the event loop that is then running.

    `what` is the name that `Unavailable` carries and the log shows. When the environment variable `emulator_variable` holds a
    `host:port`, calls go there in clear and without credentials; otherwise to `host` over TLS.
    """

    def __init__(self, what: str, *, host: str, emulator_variable: str, tokens: AccessTokens | None = None) -> None:
        self._what = what
        self._host = host
        self._emulator_variable = emulator_variable
        self._tokens = tokens
        self._channel: Any = None
        self._calls: dict[str, Any] = {}

    async def call(
        self,
        method: Method,
        request: Any,
        *,
        budget_s: float,
        metadata: Metadata = (),
        retry_on: frozenset[grpc.StatusCode] = frozenset(),
        expected: frozenset[grpc.StatusCode] = frozenset(),
        attempts: int = _ATTEMPTS,
    ) -> Any:
        """The response, or the list of responses of a streaming method.

        `budget_s` bounds the whole: credentials, connecting, every attempt and the pauses between them.
        Raises: Refused for a status in `expected`; Unavailable for all others and when the time is over.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + budget_s
        call = self._calls.get(method.path) or self._open(method)
        if self._tokens is not None:
            metadata += await self._authorization(self._tokens, budget_s)
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                if method.streams_responses:
                    return [part async for part in call(request, timeout=deadline - clock(), metadata=metadata)]
                return await call(request, timeout=deadline - clock(), metadata=metadata)
            except grpc.aio.AioRpcError as error:
                status = error.code()
            attempts -= 1
            pause_s *= random.uniform(1.0, 2.0)  # noqa: S311 - spreads retries, guards nothing
            if status not in retry_on or attempts <= 0 or clock() + pause_s >= deadline:
                break
            await asyncio.sleep(pause_s)
        if status in expected:
            raise Refused(status)
        # Neither the message nor the details: they can quote the request.
        _logger.warning("%s: %s ended with %s", self._what, method.path, status.name)
        raise Unavailable(self._what)

    async def close(self) -> None:
        """Close the channel. A later call opens a new one."""
        channel, self._channel = self._channel, None
        self._calls.clear()
        if channel is not None:
            await channel.close()

    async def _authorization(self, tokens: AccessTokens, budget_s: float) -> Metadata:
        try:
            async with asyncio.timeout(budget_s):
                return await tokens.metadata()
        except (NoCredentials, TimeoutError):
            _logger.warning("%s: no access token of this service is available", self._what)
            raise Unavailable(self._what) from None

    def _open(self, method: Method) -> Any:
        if self._channel is None:
            emulator = os.environ.get(self._emulator_variable)
            if emulator:
                self._tokens = None
                self._channel = grpc.aio.insecure_channel(emulator, options=_CHANNEL_OPTIONS)
            else:
                self._tokens = self._tokens or AccessTokens()
                credentials = grpc.ssl_channel_credentials()
                self._channel = grpc.aio.secure_channel(self._host, credentials, options=_CHANNEL_OPTIONS)
        make = self._channel.unary_stream if method.streams_responses else self._channel.unary_unary
        call = make(method.path, request_serializer=_serialize, response_deserializer=method.response.FromString)
        self._calls[method.path] = call
        return call


def _serialize(message: Any) -> bytes:
    serialized: bytes = message.SerializeToString()
    return serialized


def routing(parameters: Mapping[str, str]) -> tuple[str, str]:
    """The header by which Google routes a call to the right resource. Values must be URL-encoded."""
    return "x-goog-request-params", "&".join(f"{name}={value}" for name, value in parameters.items())
