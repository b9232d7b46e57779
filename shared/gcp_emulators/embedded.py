"""The embedded emulators of one process: one event loop, one port per service for gRPC and REST, one control endpoint."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cab_dev import loopback
from gcp_emulators.call_log import CallLog
from gcp_emulators.control import control_application
from gcp_emulators.faults import FaultBook, Service
from gcp_emulators.wire.one_port import serve
from gcp_emulators.wire.rpc import Gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence

    from gcp_emulators.permissions.table import Table
    from gcp_emulators.pubsub.push import TokenSource
    from gcp_emulators.wire.rpc import Method


class EmulatedService(Protocol):
    """What the emulators have in common."""

    def methods(self) -> Mapping[str, Sequence[Method]]:
        """By the full name of the gRPC service, such as `google.pubsub.v1.Publisher`."""

    def delete_project(self, project: str) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Listening:
    """Where the emulators of this process listen, as host:port."""

    services: Mapping[Service, str]
    control: str


@dataclass(frozen=True)
class Rights:
    """Who may do what, and the port at which each caller is known. For a process with one service."""

    table: Table
    callers: Mapping[str, int]


def build_service(
    service: Service, *, data_dir: str, faults: FaultBook, token_source: TokenSource | None
) -> EmulatedService:
    """One emulator. Only its own client package is imported: a process with one service starts faster."""
    if service == "firestore":
        from gcp_emulators.firestore import FirestoreService

        return FirestoreService(data_dir)
    if service == "pubsub":
        from gcp_emulators.pubsub import PubSubService

        return PubSubService(data_dir, faults, token_source)
    from gcp_emulators.secret_manager import SecretManagerService

    return SecretManagerService(data_dir, faults)


@asynccontextmanager
async def serving(
    ports: Mapping[Service, int],
    *,
    control_port: int,
    data_dir: str,
    token_source: TokenSource | None,
    rights: Rights | None = None,
) -> AsyncIterator[Listening]:
    """Run the emulators named in `ports` in this event loop until the block ends. Port 0 takes a free one.

    With `rights`, each caller has a port of its own as well, where it may do what the table says.

    All ports are bound and answering inside the block; the control endpoint is the last of them, so that its
    `/health` tells that all are ready.

    Raises: OSError when a port is taken.
    """
    faults, calls = FaultBook(), CallLog()
    async with AsyncExitStack() as stack:
        services: dict[Service, EmulatedService] = {}
        addresses: dict[Service, str] = {}
        for name, port in ports.items():
            service = build_service(name, data_dir=data_dir, faults=faults, token_source=token_source)
            services[name] = service
            stack.callback(service.close)
            run = getattr(service, "run", None)  # only Pub/Sub does anything between calls
            if run is not None:
                await stack.enter_async_context(in_background(run()))
            stop, bound = await serve(port, Gateway(name, faults, calls), service.methods())
            stack.push_async_callback(stop)
            addresses[name] = f"{loopback.HOST}:{bound}"
            if rights is not None:
                for caller, caller_port in rights.callers.items():
                    own = Gateway(name, faults, calls, (rights.table, caller))
                    stop, _ = await serve(caller_port, own, service.methods())
                    stack.push_async_callback(stop)
        application = control_application(services, addresses, faults, calls)
        runner, bound = await loopback.serve(application, control_port)
        stack.push_async_callback(runner.cleanup)
        yield Listening(addresses, f"{loopback.HOST}:{bound}")


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` beside the block. When it fails, so does the block: a process that pushes no more must not go on."""
    owner = asyncio.current_task()
    task = asyncio.create_task(work)

    def end_owner(_: asyncio.Task[None]) -> None:
        if owner is not None:
            owner.cancel()

    task.add_done_callback(end_owner)
    try:
        yield
    finally:
        task.remove_done_callback(end_owner)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task  # raises what the work has failed with, if it has
