"""What a name leads to, in place of the machine's resolver, and which addresses are then connected to."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

BY_ADDRESS = pytest.mark.parametrize(
    ("address", "named", "reached"),
    [
        ("10.1.2.3", False, False),
        ("10.1.2.3", True, True),
        ("169.254.169.254", True, False),
        ("127.0.0.1", True, False),
        ("199.36.153.4", False, True),
    ],
)
"""`named`: the host is one of those that may have addresses inside the organisation's network."""


def leading_to(monkeypatch: pytest.MonkeyPatch, address: str) -> list[tuple[str, int, str, bool]]:
    """Every connection that is tried from now on, none of which comes about: address, port, name in TLS, is that checked."""
    loop = asyncio.get_running_loop()
    tried: list[tuple[str, int, str, bool]] = []

    async def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    async def connect(_: Any, host: str, port: int, **options: Any) -> Any:
        tried.append((host, port, options["server_hostname"], options["ssl"].check_hostname))
        raise OSError

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    monkeypatch.setattr(loop, "create_connection", connect)
    return tried
