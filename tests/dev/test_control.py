"""The control socket of a running stack."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from cab_dev.control import STATE_FILE, ControlFailed, ask, listening


async def test_a_command_reaches_the_stack_and_its_message_comes_back(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    async def handle(request: dict[str, Any]) -> str:
        seen.append(request)
        return "crm restarted"

    async with listening(tmp_path, handle):
        assert await asyncio.to_thread(ask, tmp_path, "restart", "crm") == "crm restarted"
    assert seen == [{"command": "restart", "service": "crm"}]


async def test_a_refusal_comes_back_as_one(tmp_path: Path) -> None:
    async def handle(_: dict[str, Any]) -> str:
        raise ControlFailed("There is no service of that name.")

    async with listening(tmp_path, handle):
        with pytest.raises(ControlFailed, match=r"There is no service of that name\."):
            await asyncio.to_thread(ask, tmp_path, "restart", "nothing")


def test_asking_where_no_stack_runs_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(ControlFailed, match="cab dev up"):
        ask(tmp_path, "restart", "crm")


async def test_the_socket_is_its_owners_alone_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async def handle(_: dict[str, Any]) -> str:
        return ""

    async with listening(tmp_path, handle):
        state = json.loads((tmp_path / STATE_FILE).read_text())
        socket = Path(state["control"])
        assert state["pid"] == os.getpid()
        assert socket.parent.stat().st_mode & 0o077 == 0
    assert not socket.parent.exists()
    assert list(tmp_path.iterdir()) == []
