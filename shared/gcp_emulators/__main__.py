"""`python -m gcp_emulators`: the embedded emulators as one process, or one process for each."""

from __future__ import annotations

import argparse
import asyncio
import atexit
import gc
import json
import logging
import signal
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cab_dev.identity_client import IdentityClient
from gcp_emulators.embedded import Rights, serving
from gcp_emulators.permissions.table import Table
from gcp_emulators.storage import MEMORY

if TYPE_CHECKING:
    from gcp_emulators.faults import Service


def main() -> None:
    """Serve until SIGTERM or SIGINT. Prints one JSON line with the addresses when ready."""
    atexit.register(gc.freeze)  # looking for garbage one last time takes a third of the CPU of a start
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    arguments = _parser().parse_args()
    ports: dict[Service, int] = {}
    if arguments.firestore_port is not None:
        ports["firestore"] = arguments.firestore_port
    if arguments.pubsub_port is not None:
        ports["pubsub"] = arguments.pubsub_port
    if arguments.secret_manager_port is not None:
        ports["secret_manager"] = arguments.secret_manager_port
    if not ports:
        _parser().error("give the port of at least one service")
    rights = None
    if arguments.rights is not None:
        if len(ports) > 1:
            _parser().error("--rights is for a process with one service")
        rights = Rights(Table(arguments.rights), arguments.callers)
    try:
        asyncio.run(_serve(ports, arguments.control_port, arguments.data_dir, arguments.identity_url, rights))
    except (OSError, sqlite3.Error) as exc:
        sys.exit(f"The emulators cannot start: {exc}")


async def _serve(
    ports: dict[Service, int], control_port: int, data_dir: str, identity_url: str | None, rights: Rights | None
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    token_source = IdentityClient(identity_url).token if identity_url else None
    async with serving(
        ports, control_port=control_port, data_dir=data_dir, token_source=token_source, rights=rights
    ) as listening:
        print(json.dumps({**listening.services, "control": listening.control}), flush=True)
        await stop.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gcp_emulators",
        description="Embedded emulators of Firestore, Pub/Sub and Secret Manager (gRPC, no TLS, loopback only). "
        "A service whose port is left out is not started; port 0 takes a free one.",
    )
    parser.add_argument("--firestore-port", type=int)
    parser.add_argument("--pubsub-port", type=int)
    parser.add_argument("--secret-manager-port", type=int)
    parser.add_argument("--control-port", type=int, default=0, help="health, faults, call log; default: a free one")
    parser.add_argument("--data-dir", default=MEMORY, help="folder for SQLite files; default: %(default)s")
    parser.add_argument("--identity-url", help="the stack's token signer, for the OIDC tokens of pushes")
    parser.add_argument(
        "--rights", type=Path, help="a file that says who may do what, see gcp_emulators/permissions/table.py"
    )
    parser.add_argument(
        "--callers", type=json.loads, default={}, help="JSON: identity -> the port that serves it alone"
    )
    return parser


if __name__ == "__main__":
    main()
