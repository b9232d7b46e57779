"""Loopback ports for the services of a stack, leased so that several stacks on one machine never pick the same.

A port that is merely free now can be taken by a neighbour before the service that is meant to use it has bound it.
So every stack locks a file per port (`flock`) for as long as it runs; the lock dies with the process. Free ports come
from below the ephemeral range, where the kernel would hand them out as source ports of outgoing connections.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
FIRST_FREE_PORT = 20_000
LAST_FREE_PORT = 31_999  # Linux hands out 32768 and above by itself


class PortTaken(Exception):
    """Somebody listens there, or another stack has leased the port."""

    def __init__(self, port: int) -> None:
        super().__init__(f"port {port} is taken")
        self.port = port


def is_bound(port: int) -> bool:
    """Whether a server could not listen on the loopback port now. Connections in TIME_WAIT do not count."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return True
    return False


class PortLeases:
    """The ports of one stack. A context manager; leaving it, or the end of the process, gives them back."""

    def __init__(self, directory: Path | None = None) -> None:
        """`directory` holds the lock files; by default one per user in the system's folder for temporary files."""
        self._directory = directory or Path(tempfile.gettempdir()) / f"cab-ports-{os.getuid()}"
        self._locks: dict[int, int] = {}

    def __enter__(self) -> Self:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in self._locks.values():
            os.close(descriptor)
        self._locks.clear()

    def take(self, port: int) -> int:
        """Lease exactly this port. Raises: PortTaken."""
        descriptor = os.open(self._directory / str(port), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(descriptor)
            raise PortTaken(port) from exc
        if is_bound(port):
            os.close(descriptor)
            raise PortTaken(port)
        self._locks[port] = descriptor
        return port

    def take_free(self, preferred: int = 0) -> int:
        """Lease `preferred` when it is free, else any free port. Raises: OSError when there is none at all."""
        candidates = [preferred] if preferred else []
        candidates += random.sample(range(FIRST_FREE_PORT, LAST_FREE_PORT + 1), 500)
        for port in candidates:
            try:
                return self.take(port)
            except PortTaken:
                continue
        raise OSError(f"no free port between {FIRST_FREE_PORT} and {LAST_FREE_PORT}")
