"""Port leases: a port belongs to one stack at a time."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cab_dev.processes.ports import FIRST_FREE_PORT, LAST_FREE_PORT, PortLeases, PortTaken


def test_a_leased_port_is_refused_to_another_stack_until_it_is_given_back(tmp_path: Path) -> None:
    with PortLeases(tmp_path) as one, PortLeases(tmp_path) as other:
        port = one.take_free()
        with pytest.raises(PortTaken):
            other.take(port)
    with PortLeases(tmp_path) as later:
        assert later.take(port) == port


def test_a_port_that_somebody_listens_on_is_not_leased(tmp_path: Path) -> None:
    with PortLeases(tmp_path) as leases, socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(PortTaken):
            leases.take(taken)
        assert leases.take_free(preferred=taken) != taken


def test_free_ports_differ_and_lie_below_the_ephemeral_range(tmp_path: Path) -> None:
    with PortLeases(tmp_path) as leases:
        ports = [leases.take_free() for _ in range(20)]
    assert len(set(ports)) == 20
    assert min(ports) >= FIRST_FREE_PORT
    assert max(ports) <= LAST_FREE_PORT
