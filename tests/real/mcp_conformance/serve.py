"""call_tool for the conformance suite of the Model Context Protocol: its tools by the suite's names, and a call token put in front.

    python -m tests.real.mcp_conformance.serve [PORT]

The suite sends no Authorization header and asks for tools of fixed names. So a catalog has actions such as `test.simple_text` in front
of a platform that answers what the suite wants to see, and whatever the suite sends gets a call token on its way in. Host and
Origin are passed on as they are, but for the suite's own name of this server, which becomes the broker's.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import warnings
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import uvicorn
from tests.support.calling import call_token, platform_at
from tests.support.web import Sent, json_answer
from tests.support.world import WAREHOUSE, World

from cab.ports import HttpAnswer

CATALOG = """\
      - id: test.simple_text
        title: Simple text
        description: Answers with a text.
        effect: read
        identifier: test/*
        call: {method: GET, path: /simple-text}
      - id: test.error_handling
        title: Error
        description: Always ends in an error.
        effect: read
        identifier: test/*
        call: {method: GET, path: /error}
      - id: test.image_content
        title: Image
        description: Answers with an image.
        effect: read
        identifier: test/*
        call: {method: GET, path: /image, result: {type: image/png}}
      - id: test.audio_content
        title: Audio
        description: Answers with a sound.
        effect: read
        identifier: test/*
        call: {method: GET, path: /audio, result: {type: audio/wav}}
      - id: test.embedded_resource
        title: Resource
        description: Answers with a document.
        effect: read
        identifier: test/*
        call: {method: GET, path: /document, result: {type: application/pdf}}
"""
POLICY = '@id("all") permit (principal, action, resource);'


async def platform(sent: Sent) -> HttpAnswer:
    match sent.path:
        case "/simple-text":
            return HttpAnswer(200, {"content-type": "text/plain"}, b"This is a simple text response for testing.")
        case "/image":
            return HttpAnswer(200, {"content-type": "image/png"}, b"\x89PNG")
        case "/audio":
            return HttpAnswer(200, {"content-type": "audio/wav"}, b"RIFF")
        case "/document":
            return HttpAnswer(200, {"content-type": "application/pdf"}, b"%PDF-1.7")
    return json_answer({"error": "This tool intentionally returns an error for testing"}, 422)


class InFront:
    """Puts the token and the broker's name in."""

    def __init__(self, app: Any, token: str, own: str) -> None:
        self._app = app
        self._token = token
        self._own = own.encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = [(name, value.replace(self._own, b"127.0.0.1:8080")) for name, value in scope["headers"]]
            scope = {**scope, "headers": [*headers, (b"authorization", f"Bearer {self._token}".encode())]}
        await self._app(scope, receive, send)


async def main(port: int) -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        first = World(scratch=Path(scratch))
        folder = first.write_policies(
            POLICY, connections=lambda text: text.replace("  - id: ledger", f"{CATALOG}\n  - id: ledger")
        )
        agents = folder / "agents.yaml"
        agents.write_text(
            agents.read_text("utf-8").replace(
                '"crm.deal.*"]\n    mode: call', '"crm.deal.*", "test.*"]\n    mode: call'
            )
        )
        world = World(folder, scratch=Path(scratch))
        platform_at(world, WAREHOUSE, platform)
        app = InFront(world.function("call_tool"), await call_token(world), f"localhost:{port}")
        await uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning")).serve()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8931))
