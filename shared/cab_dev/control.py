"""The way into a running stack: a Unix socket that only its owner can reach, one JSON line in, one JSON line out.

    {"command": "restart", "service": "crm"}  ->  {"ok": true, "message": "crm restarted"}

The socket lives in a short private folder, because its path may have about a hundred characters at most; where it is
stands in `supervisor.json` of the stack's state folder, together with the supervisor's process id.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

STATE_FILE = "supervisor.json"
_ANSWER_WITHIN_S = 90.0  # a restart waits until the service is ready

Handler = Callable[[dict[str, Any]], Awaitable[str]]


class ControlFailed(Exception):
    """The stack is not running, or refused. The text is a sentence for people."""


@contextlib.asynccontextmanager
async def listening(state_dir: Path, handle: Handler) -> AsyncIterator[None]:
    """Answer requests while the context is open. `handle` returns a message, or raises ControlFailed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer: dict[str, Any]
            try:
                message = await handle(json.loads(await reader.readline()))
                answer = {"ok": True, "message": message}
            except ControlFailed as exc:
                answer = {"ok": False, "message": str(exc)}
            writer.write(json.dumps(answer).encode() + b"\n")
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        finally:
            writer.close()

    folder = Path(tempfile.mkdtemp(prefix="cab-"))  # readable by its owner only
    state = state_dir / STATE_FILE
    try:
        path = folder / "control.sock"
        server = await asyncio.start_unix_server(serve, path)
        state.write_text(json.dumps({"pid": os.getpid(), "control": str(path)}) + "\n", "utf-8")
        async with server:
            yield
    finally:
        state.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def ask(state_dir: Path, command: str, service: str) -> str:
    """Send one command to the stack of `state_dir` and wait for its message. Raises: ControlFailed."""
    try:
        path = json.loads((state_dir / STATE_FILE).read_text("utf-8"))["control"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_ANSWER_WITHIN_S)
            connection.connect(path)
            connection.sendall(json.dumps({"command": command, "service": service}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                answer = json.loads(lines.readline())
    except (OSError, ValueError, KeyError) as exc:
        raise ControlFailed(f"No stack answers in {state_dir}. Start one with `cab dev up`.") from exc
    if not answer["ok"]:
        raise ControlFailed(answer["message"])
    return str(answer["message"])
