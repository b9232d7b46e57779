"""The methods of the emulated services, and gRPC without generated stubs: message classes come from Google's client packages.

Every call of every emulated service passes through `Gateway`, over gRPC and over REST (`rest`) alike: it writes the call log
and applies faults, so a servicer holds nothing but the behaviour of its API.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from cab_dev.processes.ports import HOST
from gcp_emulators.permissions.table import CALLER, Table, missing

if TYPE_CHECKING:
    from gcp_emulators.call_log import CallLog
    from gcp_emulators.faults import CallFault, FaultBook, Service

MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # Firestore and Pub/Sub accept 10 MiB; the gRPC default is 4 MiB
_STOP_GRACE_S = 0.3


class RpcError(Exception):
    """A call that ends with a gRPC status other than OK."""

    def __init__(self, status: grpc.StatusCode, details: str) -> None:
        super().__init__(status, details)
        self.status = status
        self.details = details


@dataclass(frozen=True)
class Codec:
    """How one message class is read from and written to the wire. `message` is the bare protobuf class."""

    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    message: Any


def proto_plus(message_class: Any) -> Codec:
    """For classes such as `pubsub_v1.types.Topic`: handlers receive and return the wrapped message."""
    return Codec(message_class.deserialize, message_class.serialize, message_class.pb())


def protobuf(message_class: Any) -> Codec:
    """For plain protobuf classes, `some_proto_plus_class.pb()` included: handlers see the bare message."""
    return Codec(message_class.FromString, message_class.SerializeToString, message_class)


@dataclass(frozen=True)
class Method:
    """One RPC method: its codecs, its behaviour and the resource names that a request touches.

    `call` may be a plain or an async function. It returns the response; with `streams_responses` a list of them,
    complete before the first is sent; with `streams_requests` it takes the first request and an iterator of the
    others, and is itself an async iterator of responses. With `knows_deadline` it also takes the seconds that the
    client still waits, or None.
    """

    name: str
    request: Codec
    response: Codec
    call: Callable[..., Any]
    resources: Callable[[Any], Sequence[str]]
    deletes_and_makes: Callable[[Any], tuple[int, int]] = lambda _: (0, 0)  # how many documents
    streams_requests: bool = False
    streams_responses: bool = False
    knows_deadline: bool = False


@dataclass(frozen=True)
class Gateway:
    """What every call of one service passes: the call log, what its caller may do, the faults, then the method itself.

    `caller` with its table of permissions: None for a port that serves the owner, who may do everything.
    """

    service: Service
    faults: FaultBook
    calls: CallLog
    caller: tuple[Table, str] | None = None

    def handlers(self, full_name: str, methods: Iterable[Method]) -> grpc.GenericRpcHandler[Any, Any]:
        """The handlers of one gRPC service, such as `google.pubsub.v1.Publisher`."""
        return grpc.method_handlers_generic_handler(full_name, {m.name: self._handler(m) for m in methods})

    def _handler(self, method: Method) -> grpc.RpcMethodHandler[Any, Any]:
        async def answer_one(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with _ended_by_status(context):
                return await self.perform(method, request, context.time_remaining())

        async def answer_many(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            async with _ended_by_status(context):
                for response in await self.perform(method, request, context.time_remaining()):
                    yield response

        async def converse(
            requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
        ) -> AsyncIterator[Any]:
            first = await anext(requests)
            async with _ended_by_status(context), self._logged(method, first):
                async for response in method.call(first, requests):
                    yield response

        codecs = method.request.decode, method.response.encode
        if method.streams_requests:
            return grpc.stream_stream_rpc_method_handler(converse, *codecs)
        if method.streams_responses:
            return grpc.unary_stream_rpc_method_handler(answer_many, *codecs)
        return grpc.unary_unary_rpc_method_handler(answer_one, *codecs)

    async def perform(
        self, method: Method, request: Any, remaining_s: float | None, *, came_at: float | None = None
    ) -> Any:
        """The response, or the list of responses of a streaming method. `came_at` as in the call log. Raises: RpcError."""
        async with self._logged(method, request, came_at):
            deadline = (remaining_s,) if method.knows_deadline else ()
            response = method.call(request, *deadline)
            if inspect.isawaitable(response):
                response = await response
        return response

    @asynccontextmanager
    async def _logged(self, method: Method, request: Any, came_at: float | None = None) -> AsyncIterator[None]:
        """Log the call and apply faults around the work, which is the body of the `async with`. Raises: RpcError."""
        resources = tuple(method.resources(request))
        deletes, makes = method.deletes_and_makes(request)
        call = self.calls.started(self.service, method.name, resources, deletes, makes, came_at=came_at)
        CALLER.set(self.caller)  # each call runs in a context of its own
        try:
            self._permit(method, request, resources)
            fault = self.faults.for_call(self.service, method.name, resources)
            if fault is not None and fault.when == "before":
                await _suffer(fault)
            yield
            if fault is not None and fault.when == "after":
                await _suffer(fault)
        except RpcError as error:
            call.finished(error.status.name)
            raise
        except asyncio.CancelledError:
            call.finished("CANCELLED")
            raise
        except Exception:
            call.finished("INTERNAL")
            raise
        else:
            call.finished("OK")

    def _permit(self, method: Method, request: Any, resources: Sequence[str]) -> None:
        """Raises: RpcError PERMISSION_DENIED."""
        if self.caller is None:
            return
        refusal = missing(*self.caller, self.service, method.name, request, resources)
        if refusal is not None:
            raise RpcError(grpc.StatusCode.PERMISSION_DENIED, refusal)


async def _suffer(fault: CallFault) -> None:
    if fault.latency_s:
        await asyncio.sleep(fault.latency_s)
    if fault.status is not None:
        raise RpcError(grpc.StatusCode[fault.status], fault.details)


@asynccontextmanager
async def _ended_by_status(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    try:
        yield
    except RpcError as error:
        await context.abort(error.status, error.details)


async def serve_grpc(
    gateway: Gateway, methods: Mapping[str, Sequence[Method]]
) -> tuple[Callable[[], Awaitable[None]], int]:
    """Serve on a free port of 127.0.0.1 without TLS. `methods`: by service. Returns the function that stops it, and the port."""
    server = grpc.aio.server(
        options=(
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        )
    )
    server.add_generic_rpc_handlers(tuple(gateway.handlers(name, of_it) for name, of_it in methods.items()))
    bound = server.add_insecure_port(f"{HOST}:0")

    async def stop() -> None:
        await server.stop(_STOP_GRACE_S)

    try:
        await server.start()
    except BaseException:  # a cancelled start too: gRPC's own threads must not outlive it
        await stop()
        raise
    return stop, bound
